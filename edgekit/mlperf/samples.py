"""Inputs as MLPerf Tiny's runner sends them: from its own folders, or from ``.npz`` files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.mlperf.benchmarks import Benchmark

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The truth of a data set: one line for each file, without a heading.
TRUTH = "y_labels.csv"


@dataclass(frozen=True)
class Sample:
    """One file of a data set: its windows are one inference each; its class, if it has one."""

    file: str
    classes: int
    label: int | None
    windows: tuple[bytes, ...]
    bytes_to_send: int | None = None
    stride: int | None = None


def read_samples(path: Path, benchmark: Benchmark, limit: int | None = None) -> list[Sample]:
    """A data set: a folder with ``y_labels.csv``, or an ``.npz`` file with ``x`` and ``y``.

    ``x`` has the numbers that the runner sends: int8 features (kws01), uint8 pixels (ic01, vww01),
    float32 features (ad01, where a sample may hold several inputs in a row).

    Raises:
        ModelError: it cannot be read, or is not for this benchmark.
    """
    if path.is_dir():
        found = _read_folder(path, benchmark, limit)
    else:
        found = _read_npz(path, benchmark, limit)
    if not found:
        raise ModelError("the data hold no samples", str(path))
    return found


def random_samples(benchmark: Benchmark, count: int, seed: int) -> list[Sample]:
    """Random inputs without classes: the time of an inference does not depend on its input."""
    import numpy as np

    generator = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        if benchmark.input == "float32":
            data = generator.normal(-10.0, 20.0, benchmark.elements).astype("<f4").tobytes()
        else:
            data = generator.integers(0, 256, benchmark.elements, dtype=np.uint8).tobytes()
        samples.append(Sample(f"random_{seed}_{index}", benchmark.outputs, None, (data,)))
    return samples


def _read_npz(path: Path, benchmark: Benchmark, limit: int | None) -> list[Sample]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x", "y") if key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"the data cannot be read: {reason}", str(path), "numpy.savez(path, x=..., y=...)"
        ) from None
    if "x" not in arrays:
        raise ModelError("the data hold no 'x'", str(path))
    x: NDArray[Any] = arrays["x"]
    if x.dtype.name != benchmark.input or x.ndim < 2 or x[0].size % benchmark.elements:
        raise ModelError(
            f"{benchmark.name} takes {benchmark.elements:,} values of {benchmark.input}; 'x' is "
            f"{x.dtype.name} of shape {list(x.shape)}",
            str(path),
        )
    labels = arrays.get("y")
    if labels is not None and labels.size != len(x):
        raise ModelError(f"'y' has {labels.size} labels for {len(x)} samples", str(path))
    rows = x.astype(x.dtype.newbyteorder("<")).reshape(len(x), -1, benchmark.elements)[:limit]
    if rows.shape[1] > 1 and not benchmark.reconstructs:
        raise ModelError(f"{benchmark.name} takes one input for each sample", str(path))
    # two classes, normal and not, where the output is an error
    classes = max(benchmark.outputs, 2)
    return [
        Sample(
            f"{path.stem}_{index:06d}",
            classes,
            None if labels is None else int(labels.reshape(-1)[index]),
            tuple(window.tobytes() for window in row),
            benchmark.input_bytes if benchmark.stride_bytes else None,
            benchmark.input_bytes if benchmark.stride_bytes else None,
        )
        for index, row in enumerate(rows)
    ]


def _read_folder(path: Path, benchmark: Benchmark, limit: int | None) -> list[Sample]:
    samples: list[Sample] = []
    try:
        with open(path / TRUTH, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if limit is not None and len(samples) == limit:
                    break
                fields = [field.strip() for field in row]
                if not any(fields) or (number == 1 and fields[:1] == ["file"]):
                    continue
                samples.append(_sample(path, benchmark, fields, number))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the data cannot be read: {error}", str(path / TRUTH)) from None
    return samples


def _sample(folder: Path, benchmark: Benchmark, fields: Sequence[str], number: int) -> Sample:
    where = f"{TRUTH}:{number}"
    try:
        name, classes, label = fields[0], int(fields[1]), int(fields[2])
        size = int(fields[3]) if len(fields) > 3 and fields[3] else benchmark.input_bytes
        stride = int(fields[4]) if len(fields) > 4 and fields[4] else benchmark.stride_bytes
    except (IndexError, ValueError):
        raise ModelError(
            f"'{','.join(fields)}' is not file,classes,label[,bytes_to_send,stride]", where
        ) from None
    if Path(name).name != name:
        raise ModelError(f"the file '{name}' is not in the folder itself", where)
    content = (folder / name).read_bytes()
    windowed = benchmark.stride_bytes > 0
    if size != benchmark.input_bytes or (windowed and stride < 1):
        raise ModelError(f"{benchmark.name} is sent {benchmark.input_bytes:,} bytes", where)
    if len(content) < size or (not windowed and len(content) != size):
        raise ModelError(
            f"{name} has {len(content):,} bytes; {benchmark.name} takes {size:,}", where
        )
    starts = range(0, len(content) - size + 1, stride) if windowed else range(1)
    windows = tuple(content[start : start + size] for start in starts)
    if not windowed:
        return Sample(name, classes, label, windows)
    return Sample(name, classes, label, windows, size, stride)
