"""Every step of the MLPerf Tiny models beside the operators of TFLM with CMSIS-NN it replaces.

::

    python benchmarks/layers.py MODELS BASELINE.md [--core cortex-m4] [--model kws …]

``BASELINE.md`` holds the published per-layer table (section "Per layer"). Instructions of both
sides are exact; ours come from a fresh ``edgekit run``. The exit code is 7 when a step takes
more instructions than what it replaces.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import mlperf_tiny

from edgekit.console import print_table
from edgekit.engines import aot
from edgekit.graph import read_model
from edgekit.targets import load_target

#: Column of the baseline's table, by core.
COLUMN = {"cortex-m4": 7, "cortex-m55": 8}


def baseline_layers(path: Path, core: str) -> dict[tuple[str, int], int]:
    """Instructions of TFLM with CMSIS-NN by (model, operator)."""
    found = {}
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            inside = "Per layer" in line
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if inside and len(cells) == 9 and cells[1].isdigit():
            figure = cells[COLUMN[core]].split(" ")[0].replace(",", "")
            if figure.isdigit():
                found[cells[0], int(cells[1])] = int(figure)
    return found


def compare(models: Path, baseline: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per step of a measurement by :func:`mlperf_tiny.measure`."""
    name, core = row["model"], row["core"]
    theirs = baseline_layers(baseline, core)
    (target,) = mlperf_tiny.PUBLISHED["cores"][core]
    model = read_model(models / mlperf_tiny.PUBLISHED["models"][name]["file"])
    plan = aot.decide(model, load_target(target)).plan
    return [
        {
            "model": name, "core": core, "step": step.index, "kind": step.kind,
            "ops": list(step.ops), "kernel": step.kernel, "instructions": measured["instructions"],
            "tflm_cmsis_nn": sum(theirs.get((name, op), 0) for op in step.ops),
        }
        for step, measured in zip(plan.steps, row["ops"], strict=True)
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, help="folder with the int8 models")
    parser.add_argument("baseline", type=Path, help="the published figures (Markdown)")
    parser.add_argument("--core", choices=list(COLUMN), default="cortex-m4")
    parser.add_argument("--model", action="append", choices=list(mlperf_tiny.PUBLISHED["models"]))
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    asked = parser.parse_args()
    rows = []
    names = asked.model or list(mlperf_tiny.PUBLISHED["models"])
    for row in mlperf_tiny.measure(asked.models, names, [asked.core]):
        rows += compare(asked.models, asked.baseline, row)
    print_table(
        ["model", ("step", "right"), "operator", ("replaces", "right"), "kernel",
         ("instructions", "right"), ("TFLM+CMSIS-NN", "right"), ("ratio", "right")],
        [
            [r["model"], r["step"], r["kind"], ", ".join(map(str, r["ops"])), r["kernel"],
             r["instructions"], r["tflm_cmsis_nn"], r["tflm_cmsis_nn"] / r["instructions"]]
            for r in rows
        ],
        title=f"one inference on {asked.core}: instructions, exact",
    )  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps({"schema_version": 1, "rows": rows}, indent=2) + "\n")
    slower = [r for r in rows if r["instructions"] > r["tflm_cmsis_nn"]]
    for r in slower:
        print(f"{r['model']} step {r['step']} {r['kind']} is slower", file=sys.stderr)
    return 7 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
