"""Prints the exact instructions of each step of a model on a Cortex-M55 in QEMU, kernels alone.

::

    python tests/bench/instructions_m55.py MODEL.tflite... [--compiler zig]

As instructions.py, which has no core with MVE: the input is that of the published baseline.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "kernels"), str(TESTS / "bench")]

import helium  # noqa: E402
from instructions import baseline_input, fnv1a  # noqa: E402

MAIN = r"""
#include "%(prefix)s.h"
extern const int8_t input[];
__asm__(".section .rodata\n.balign 16\ninput: .incbin \"input.bin\"\n.text\n");
static int8_t __attribute__((aligned(16))) arena[%(arena)d];
static void __attribute__((noinline)) nothing(int8_t *p, uint32_t i) {
    __asm__ volatile("" : : "r"(p), "r"(i));
}
int main(void) {
    memcpy(arena + %(in)d, input, %(in_bytes)d);
    for (uint32_t i = 0; i <= %(steps)du; i++) {
        uint32_t start = ticks();
        nothing(arena, i);
        const uint32_t empty = ticks() - start;
        start = ticks();
        if (i < %(steps)du) %(prefix)s_step(arena, i);
        const uint32_t used = ticks() - start - empty;
        if (i < %(steps)du) emit(&used, 4);
    }
    emit(arena + %(out)d, %(out_bytes)d);
    memcpy(arena + %(in)d, input, %(in_bytes)d);
    uint32_t start = ticks();
    %(prefix)s_invoke(arena);
    const uint32_t used = ticks() - start;
    emit(&used, 4);
    return 0;
}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--compiler", default="gcc", choices=helium.COMPILERS)
    parser.add_argument("--brief", action="store_true", help="totals only")
    parser.add_argument("--keep", type=Path, help="write the C here and leave it")
    arguments = parser.parse_args()
    for path in arguments.models:
        with tempfile.TemporaryDirectory() as scratch:
            bench(path, arguments.keep or Path(scratch), arguments.compiler, arguments.brief)


def bench(path: Path, folder: Path, compiler: str, brief: bool) -> int:
    from edgekit.engines import aot
    from edgekit.engines.aot import emit
    from edgekit.graph import read_model
    from edgekit.targets import load_target

    model = read_model(path)
    prefix = emit.prefix_of(model.name)
    target = load_target(helium.TARGET)
    plan = aot.compile(model, target, folder / "c", command="bench", options={}).plan
    assert plan is not None
    inputs = baseline_input(model.input_tensors[0].nbytes)
    (folder / "input.bin").write_bytes(inputs)
    (given,), (made,) = plan.inputs, plan.outputs
    numbers = {
        "prefix": prefix, "arena": plan.arena_bytes, "steps": len(plan.steps),
        "in": given.offset, "in_bytes": given.nbytes,
        "out": made.offset, "out_bytes": made.nbytes,
    }  # fmt: skip
    source = helium.RUNTIME + (folder / "c" / f"{prefix}.c").read_text() + MAIN % numbers
    flags = [f"-I{folder / 'c'}", f"-I{folder / 'c' / 'kernels'}", "-Wno-unused-function"]
    found = helium.execute(source, folder, compiler, flags)
    counts = [round(t / helium.TICKS) for t in struct.unpack_from(f"<{len(plan.steps)}I", found)]
    output = found[4 * len(counts) : 4 * len(counts) + made.nbytes]
    (ticks,) = struct.unpack_from("<I", found, 4 * len(counts) + made.nbytes)
    total = round(ticks / helium.TICKS)
    for step, count in zip(plan.steps, counts, strict=True):
        if not brief:
            ratio = f"{count / step.macs:6.3f}" if step.macs else "      "
            print(f"{step.index:3} {step.kind:20} {step.macs:9} {count:9} {ratio} {step.kernel}")
    macs = sum(step.macs for step in plan.steps)
    print(
        f"{path.stem}: {total:,} instructions, {total / max(1, macs):.3f} per MAC, arena"
        f" {plan.arena_bytes:,}, output hash {fnv1a(output):08x}"
    )
    return total


if __name__ == "__main__":
    main()
