"""Prints the exact instructions of each step of a model on a Cortex-M, kernels alone.

::

    python tests/bench/instructions.py MODEL.tflite [--core cortex-m4] [--portable] [--cc ...]

The generated C is compiled, linked at fixed addresses without any runtime and run in Unicorn
on the input of the published baseline (xorshift32). Counts are of executed instructions;
code is .text and .rodata without the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.records import Plan

FLASH, RAM = 0x0800_0000, 0x2000_0000
TARGETS = {
    "cortex-m4": "nucleo-l4r5zi",
    "cortex-m0plus": "nucleo-g0b1re",
    "cortex-m7": "nucleo-h7a3zi-q",
    "cortex-m33": "nucleo-u575zi-q",
}


def baseline_input(nbytes: int) -> bytes:
    """xorshift32 bytes as in the published baseline."""
    state, found = 0x12345678, bytearray()
    for _ in range(nbytes):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        found.append(state >> 24)
    return bytes(found)


def fnv1a(data: bytes) -> int:
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def link(folder: Path, prefix: str, core: str, flags: list[str]) -> Path:
    compiler = shutil.which("arm-none-eabi-gcc")
    if compiler is None:
        raise SystemExit("arm-none-eabi-gcc is missing")
    elf = folder / "bench.elf"
    command = [
        compiler, "-O2", f"-mcpu={core}", "-mthumb", "-std=c11", "-ffunction-sections",
        "-fdata-sections", "-nostartfiles", f"-I{folder}", f"-I{folder}/kernels",
        f"-Wl,-Ttext={FLASH:#x},-Tdata={RAM + 0x80000:#x},--entry={prefix}_invoke,--gc-sections",
        "-Wl,--no-warn-rwx-segments", *flags, str(folder / f"{prefix}.c"), "-o", str(elf),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return elf


def symbols(elf: Path) -> dict[str, tuple[int, int]]:
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        return {s.name: (s["st_value"], s["st_size"]) for s in table.iter_symbols()}


@dataclasses.dataclass(frozen=True)
class Count:
    """One inference: instructions per step, the output's FNV-1a hash, bytes of code."""

    steps: tuple[int, ...]
    output_hash: str
    code_bytes: int
    plan: Plan


def run(elf: Path, plan: Plan, prefix: str, inputs: bytes) -> Count:
    import capstone
    import unicorn
    from elftools.elf.elffile import ELFFile
    from unicorn import arm_const

    mu = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    mu.mem_map(FLASH, 4 << 20)
    mu.mem_map(RAM, 2 << 20)
    with elf.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments():
            if segment["p_type"] == "PT_LOAD":
                mu.mem_write(segment["p_paddr"], segment.data())
    names = symbols(elf)
    decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    lengths: dict[tuple[int, int], int] = {}
    count = 0

    def on_block(_: Any, address: int, size: int, __: Any) -> None:
        nonlocal count
        key = (address, size)
        if key not in lengths:
            lengths[key] = sum(1 for _ in decoder.disasm(bytes(mu.mem_read(*key)), address))
        count += lengths[key]

    mu.hook_add(unicorn.UC_HOOK_BLOCK, on_block)
    arena, stop = RAM, FLASH + (4 << 20) - 4
    mu.mem_write(arena + plan.inputs[0].offset, inputs)
    steps = []
    for step in plan.steps:
        count = 0
        mu.reg_write(arm_const.UC_ARM_REG_SP, RAM + (1 << 20))
        mu.reg_write(arm_const.UC_ARM_REG_R0, arena)
        mu.reg_write(arm_const.UC_ARM_REG_LR, stop | 1)
        mu.emu_start(names[f"{prefix}_s{step.index}"][0] | 1, stop)
        steps.append(count)
    output = bytes(mu.mem_read(arena + plan.outputs[0].offset, plan.outputs[0].nbytes))
    table = re.compile(rf"{prefix}_s\d+_.*")
    code = sum(s for n, (a, s) in names.items() if a and not table.fullmatch(n))
    return Count(tuple(steps), f"{fnv1a(output):08x}", code, plan)


def measure(
    path: Path, core: str, folder: Path, *, portable: bool = False, flags: Sequence[str] = ()
) -> Count:
    """Compiles the model into ``folder`` and runs it once on the baseline's input."""
    from edgekit.engines import aot
    from edgekit.engines.aot import emit
    from edgekit.graph import read_model
    from edgekit.targets import load_target

    target = load_target(TARGETS[core])
    if portable:
        target = dataclasses.replace(target, isa=(), core="portable")
    model = read_model(path)
    prefix = emit.prefix_of(model.name)
    artifact = aot.compile(model, target, folder / "c", command="bench", options={})
    if artifact.plan is None:
        raise SystemExit("the engine made no plan")
    elf = link(folder / "c", prefix, core, list(flags))
    return run(elf, artifact.plan, prefix, baseline_input(model.input_tensors[0].nbytes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--core", default="cortex-m4", choices=TARGETS)
    parser.add_argument("--portable", action="store_true")
    parser.add_argument("--keep", type=Path, help="write the C here and leave it")
    parser.add_argument("flags", nargs="*", help="more flags for the compiler, after --")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp())
    count = measure(
        arguments.model, arguments.core, folder, portable=arguments.portable, flags=arguments.flags
    )
    for step, instructions in zip(count.plan.steps, count.steps, strict=True):
        ratio = f"{instructions / step.macs:6.2f}" if step.macs else "      "
        print(
            f"{step.index:3} {step.kind:20} {step.macs:9} {instructions:10} {ratio} {step.kernel}"
        )
    macs, total = sum(step.macs for step in count.plan.steps), sum(count.steps)
    print(f"    {'total':20} {macs:9} {total:10} {total / max(1, macs):6.2f}")
    print(f"    output hash {count.output_hash}, arena {count.plan.arena_bytes} bytes")
    print(f"    code {count.code_bytes} bytes")
    if not arguments.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
