"""Prints the exact instructions of each step of models on a Cortex-M55 in QEMU, kernels alone.

::

    python tests/bench/instructions_m55.py MODEL.tflite... [--compiler zig] [--brief]

As instructions.py, whose emulator has no core with MVE: the input is that of the published
baseline, the counts are of executed instructions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "kernels"), str(TESTS / "bench")]

import helium  # noqa: E402
from instructions import baseline_input, fnv1a  # noqa: E402

from edgekit.graph import read_model  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--compiler", default="gcc", choices=helium.COMPILERS)
    parser.add_argument("--brief", action="store_true", help="totals only")
    parser.add_argument("--keep", type=Path, help="write the C here and leave it")
    arguments = parser.parse_args()
    for path in arguments.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.keep or Path(scratch)
            bench(path, folder, arguments.compiler, brief=arguments.brief)


def bench(path: Path, folder: Path, compiler: str, *, brief: bool) -> None:
    inputs = baseline_input(read_model(path).input_tensors[0].nbytes)
    run = helium.run_model(path, [inputs], folder, compiler=compiler)
    for step, count in zip(run.plan.steps, run.steps, strict=True):
        if not brief:
            ratio = f"{count / step.macs:6.3f}" if step.macs else "      "
            print(f"{step.index:3} {step.kind:20} {step.macs:9} {count:9} {ratio} {step.kernel}")
    macs = sum(step.macs for step in run.plan.steps)
    print(
        f"{path.stem}: {run.instructions:,} instructions, {run.instructions / macs:.3f} per MAC,"
        f" arena {run.plan.arena_bytes:,}, output hash {fnv1a(run.outputs[0]):08x}"
    )


if __name__ == "__main__":
    main()
