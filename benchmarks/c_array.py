"""How fast a model becomes a C array: megabytes of model per second, best of some runs.

::

    python benchmarks/c_array.py [megabytes]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from edgekit.engines.tflm.carray import array_lines

RUNS = 5


def main() -> None:
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    data = os.urandom(int(megabytes * 1e6))
    for _ in array_lines(data[:1000]):  # makes the table
        pass
    with tempfile.TemporaryDirectory() as folder:
        measure(data, "text in memory", None)
        measure(data, "text in a file", Path(folder) / "model_data.c")


def measure(data: bytes, title: str, path: Path | None) -> None:
    """Prints how fast the text is made."""
    megabytes = len(data) / 1e6
    seconds, size = [], 0
    for _ in range(RUNS):
        start = time.perf_counter()
        size = generate(data, path)
        seconds.append(time.perf_counter() - start)
    best = min(seconds)
    print(
        f"{title}: {megabytes / best:,.0f} MB of model per second, measured, best of {RUNS} "
        f"({best * 1e3:.1f} ms for {megabytes:g} MB, {size / 1e6:.1f} MB of C)"
    )


def generate(data: bytes, path: Path | None) -> int:
    """Makes the text, block by block, and returns its size in bytes."""
    if path is None:
        return sum(len(block) for block in array_lines(data))
    with path.open("wb") as file:
        return sum(file.write(block) for block in array_lines(data))


if __name__ == "__main__":
    main()
