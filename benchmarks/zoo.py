"""The zoo's architectures at their default settings, on a virtual board.

::

    python benchmarks/zoo.py [--target nucleo-l4r5zi] [--model ds_cnn …] [--models FOLDER]
                             [--markdown] [--json OUT.json]

Each is built with random weights that are made as training leaves them (statistics of the data
in the batch normalisations, biases that are not zero), converted to int8 by ``edgekit convert``
and run by ``edgekit run``, every output and step compared with TFLM. Parameters, MACs and the
file's size are those of the model; instructions are simulated and exact; arena, code and weights
are bytes of the built firmware. ``FOLDER`` keeps the models; those it has are not made again.
``--markdown`` prints the table of docs/zoo.md. The exit code is 7 where an output differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import untuned

from edgekit import zoo
from edgekit.console import print_table


def build(name: str, folder: Path) -> dict[str, Any]:
    """Makes a model and its int8 file in ``folder``; what is known before it runs."""
    known, path = folder / f"{name}.json", folder / f"{name}.tflite"
    if not (known.exists() and path.exists()):
        from edgekit.zoo import _costs

        rng = np.random.default_rng(untuned.SEED)
        model = zoo.build(name, seed=untuned.SEED)
        costs = _costs.costs(model)
        data = untuned.samples(model.input_shape[1:], rng)
        untuned.as_trained(model, data, rng)
        with tempfile.TemporaryDirectory() as scratch:
            saved = Path(scratch) / f"{name}.keras"
            zoo.save(model, saved)
            untuned.convert_file(saved, path, data)
        facts = {
            "architecture": name,
            "input": "x".join(map(str, model.input_shape[1:])),
            "parameters": costs.parameters,
            "macs": costs.macs,
            "estimated_file_bytes": costs.int8_bytes,
            "file_bytes": path.stat().st_size,
        }
        known.write_text(json.dumps(facts), encoding="utf-8")
    found: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
    return found


def measure(name: str, folder: Path, target: str) -> dict[str, Any]:
    """A row: the model's own figures and those of its firmware."""
    row = build(name, folder)
    print(f"{name} on {target}", file=sys.stderr, flush=True)
    report = untuned.run(folder / f"{name}.tflite", target, 2)
    memory = report["memory"]
    return row | {
        "target": target,
        "arena_bytes": memory["arena_bytes"],
        "code_bytes": memory["code_bytes"],
        "weights_bytes": memory["weights_bytes"],
        "instructions": report["instructions"],
        "equal_to_tflm": report["outputs"]["match"],
    }


HEADINGS = (
    "architecture", "input", "parameters", "MACs", "int8 file", "arena", "code + weights",
    "instructions", "per MAC", "equal to TFLM",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[Any]:
    return [
        row["architecture"], row["input"], row["parameters"], row["macs"], row["file_bytes"],
        row["arena_bytes"], row["code_bytes"] + row["weights_bytes"], row["instructions"],
        row["instructions"] / row["macs"], "yes" if row["equal_to_tflm"] else "NO",
    ]  # fmt: skip


def show(rows: list[dict[str, Any]], target: str) -> None:
    print_table(
        [*HEADINGS[:2], *((name, "right") for name in HEADINGS[2:9]), HEADINGS[9]],
        [cells(row) for row in rows],
        title=f"the zoo's default models on {target}: instructions simulated, exact; bytes",
    )


def markdown(rows: list[dict[str, Any]]) -> None:
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + "---|" * 2 + "--:|" * 7 + "---|")
    for row in rows:
        texts = [
            f"{cell:,}" if isinstance(cell, int) else f"{cell:.2f}" if isinstance(cell, float)
            else str(cell)
            for cell in cells(row)
        ]  # fmt: skip
        print("| " + " | ".join(texts) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="nucleo-l4r5zi")
    parser.add_argument("--model", action="append", choices=zoo.names())
    parser.add_argument("--models", type=Path, help="folder that keeps the models")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.models or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [measure(name, folder, asked.target) for name in asked.model or zoo.names()]
    if asked.markdown:
        markdown(rows)
    else:
        show(rows, asked.target)
    if asked.json:
        document = {"schema_version": 1, "rows": rows}
        asked.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    wrong = [row["architecture"] for row in rows if not row["equal_to_tflm"]]
    for name in wrong:
        print(f"{name} differs from TFLM", file=sys.stderr)
    return 7 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
