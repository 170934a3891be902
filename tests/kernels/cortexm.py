"""Runs single kernels on a Cortex-M in Unicorn and compares them with TFLM.

The kernels of all cases become one image of functions, ``call<i>(inputs…, scratch, out)``; the
harness puts inputs, scratch and output into the simulated RAM between guard bytes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kernel_harness import FIRMWARE, GUARD, WARNINGS, Case, _argument, _ctype, _number, _shifts

from edgekit.engines.aot import ops
from edgekit.engines.aot.lowering import Input, Kernel
from edgekit.targets import Target, load_target

FLASH, RAM, STACK_TOP, RETURN = 0x0800_0000, 0x2000_0000, 0x2010_0000, 0x0800_0001 + 0xF0_0000
TARGETS = {"cortex-m4": "nucleo-l4r5zi", "cortex-m0plus": "nucleo-g0b1re"}
COMPILERS = {
    "gcc": lambda core: ["arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb"],
    "zig": lambda core: [
        sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi",
        f"-mcpu={core.replace('-', '_')}",
    ],
}  # fmt: skip

LINKER_SCRIPT = (
    "SECTIONS { . = 0x08000000; .text : { KEEP(*(.text*)) *(.rodata*) } /DISCARD/ : { *(.ARM.*) } }"
)

#: What clang calls for loops that copy and for 64-bit products on a core without them.
LIBRARY = sorted((FIRMWARE / "runtime" / "libc").glob("*.c"))


def check_on_core(
    cases: Sequence[Case],
    core: str,
    tmp_path: Path,
    *,
    compiler: str = "gcc",
    portable: bool = False,
) -> dict[str, int]:
    """Runs every kernel that is special to ``core`` (or those that are ``portable``), alone and
    overlapping as it allows.

    Returns:
        How many runs each kernel function had.
    """
    target = load_target(TARGETS[core])
    jobs = [
        (case, kernel)
        for case in cases
        for kernel in (case.kernels() if portable else _special(case, target))
    ]
    counts: dict[str, int] = {}
    for first in range(0, len(jobs), 40):
        chunk = jobs[first : first + 40]
        machine = Machine(core, _build(chunk, core, compiler, tmp_path))
        for index, (case, kernel) in enumerate(chunk):
            for run, expected in zip(case.runs, case.expected, strict=True):
                for overlap in (None, *_shifts(case, kernel)):
                    _check(machine, index, case, kernel, run, expected[0], overlap)
            counts[kernel.function] = counts.get(kernel.function, 0) + len(case.runs)
    return counts


def _special(case: Case, target: Target) -> list[Kernel]:
    module = ops.find(case.node.kind)
    assert module is not None
    return [
        kernel
        for kernel in module.lower(case.node, target)
        if (kernel.requires or kernel.cores)
        and all(target.has(extension) for extension in kernel.requires)
        and (not kernel.cores or target.core in kernel.cores)
    ]


def _build(jobs: Sequence[tuple[Case, Kernel]], core: str, compiler: str, folder: Path) -> Path:
    text = [f'#include "{h}"\n' for h in sorted({kernel.header for _, kernel in jobs})]
    for index, (case, kernel) in enumerate(jobs):
        node = case.node
        for table in kernel.tables:
            values = ",".join(_number(v) for v in np.asarray(table.values).reshape(-1))
            text.append(
                f"static const {table.ctype} __attribute__((aligned({table.align_bytes})))"
                f" k{index}_{table.name}[] = {{{values}}};\n"
            )
        constants = {i: t for i, t in enumerate(node.inputs) if t is not None and t.is_constant}
        for i, tensor in constants.items():
            if any(isinstance(a, Input) and a.index == i for a in kernel.args):
                values = ",".join(_number(v) for v in tensor.data().reshape(-1))
                text.append(
                    f"static const {_ctype(tensor.dtype)} k{index}_in{i}[] = {{{values}}};\n"
                )
        inputs = [f"void *in{i}" for i, t in enumerate(node.inputs) if t and not t.is_constant]
        arguments = ", ".join(_argument(a, index, node, constants) for a in kernel.args)
        text.append(f"void call{index}({', '.join([*inputs, 'void *scratch', 'void *out'])});\n")
        text.append(f"void call{index}({', '.join([*inputs, 'void *scratch', 'void *out'])}) {{\n")
        text.append(f"    (void)scratch;\n    {kernel.function}({arguments});\n}}\n")
    source, elf = folder / "kernels.c", folder / "kernels.elf"
    source.write_text("".join(text))
    script = folder / "flash.ld"
    script.write_text(LINKER_SCRIPT)
    libgcc = ["-nostdlib", "-lgcc"] if compiler == "gcc" else []
    folders = [f"-I{FIRMWARE}/{name}" for name in ("include", "kernels", "runtime/libc")]
    subprocess.run(
        [*COMPILERS[compiler](core), *WARNINGS, "-O2", "-ffreestanding", *folders,
         f"-Wl,-T,{script}", "-Wl,-e,call0", "-fno-builtin", str(source), *map(str, LIBRARY),
         *libgcc, "-o", str(elf)],
        check=True,
    )  # fmt: skip
    return elf


class Machine:
    """A CPU with flash and RAM, into which functions of an image are called."""

    def __init__(self, core: str, elf: Path) -> None:
        import unicorn
        from elftools.elf.elffile import ELFFile
        from unicorn import arm_const

        self._const: Any = arm_const
        self.cpu: Any = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB)
        model = {"cortex-m4": "M4", "cortex-m0plus": "M0"}[core]
        self.cpu.ctl_set_cpu_model(getattr(arm_const, f"UC_CPU_ARM_CORTEX_{model}"))
        self.cpu.mem_map(0, 0x1000)  # what lies below the image's first segment
        self.cpu.mem_map(FLASH - 0x10000, 0x1000000)
        self.cpu.mem_map(RAM, STACK_TOP - RAM)
        with elf.open("rb") as stream:
            image = ELFFile(stream)
            for segment in image.iter_segments("PT_LOAD"):
                if segment["p_filesz"] and segment["p_vaddr"] >= FLASH - 0x10000:
                    self.cpu.mem_write(segment["p_vaddr"], segment.data())
            table = image.get_section_by_name(".symtab")
            self.symbols = {s.name: s["st_value"] for s in table.iter_symbols()}

    def call(self, function: str, *arguments: int) -> None:
        c = self._const
        kept = [c.UC_ARM_REG_R4 + i for i in range(8)]
        for i, register in enumerate(kept):
            self.cpu.reg_write(register, 0x11110000 + i)
        stack = STACK_TOP - 64
        self.cpu.reg_write(c.UC_ARM_REG_SP, stack)
        for i, value in enumerate(arguments[4:]):
            self.cpu.mem_write(stack + 4 * i, value.to_bytes(4, "little"))
        self.cpu.reg_write(c.UC_ARM_REG_LR, RETURN)
        for register, value in zip(
            (c.UC_ARM_REG_R0, c.UC_ARM_REG_R1, c.UC_ARM_REG_R2, c.UC_ARM_REG_R3),
            arguments, strict=False,
        ):  # fmt: skip
            self.cpu.reg_write(register, value)
        self.cpu.emu_start(self.symbols[function] | 1, RETURN & ~1)
        assert [self.cpu.reg_read(r) for r in kept] == [0x11110000 + i for i in range(8)], (
            f"{function} does not keep the registers that it must"
        )
        assert self.cpu.reg_read(c.UC_ARM_REG_SP) == stack


def _check(
    machine: Machine, index: int, case: Case, kernel: Kernel, run: tuple[np.ndarray, ...],
    expected: np.ndarray, overlap: tuple[int, int] | None,
) -> None:  # fmt: skip
    cursor = RAM + 64
    guards: list[tuple[int, str]] = []

    def place(nbytes: int, align: int, what: str) -> int:
        nonlocal cursor
        start = -(-(cursor + GUARD) // max(align, 8)) * max(align, 8)
        machine.cpu.mem_write(start - GUARD, b"\xa5" * (nbytes + 2 * GUARD))
        guards.extend([(start - GUARD, what), (start + nbytes, what)])
        cursor = start + nbytes + GUARD
        return start

    (op,) = case.model.ops
    node, out_bytes = case.node, case.node.output.nbytes
    arguments, out = [], None
    for i, tensor in enumerate(node.inputs):
        if tensor is None or tensor.is_constant:
            continue
        if overlap is not None and overlap[0] == i:
            shift = overlap[1]
            low = min(0, shift)
            # Offsets keep the alignment that the kernel asks for.
            if shift % kernel.align_bytes:
                return
            both = place(max(tensor.nbytes, shift + out_bytes) - low, 8, "output")
            pad = -low % kernel.align_bytes
            if pad:
                return
            address, out = both - low, both - low + shift
        else:
            address = place(tensor.nbytes, 8, "input")
        data = run[list(case.model.inputs).index(op.inputs[i])].tobytes()
        machine.cpu.mem_write(address, data)
        arguments.append(address)
    scratch = place(kernel.scratch_bytes, kernel.scratch_align, "scratch")
    out = out if out is not None else place(out_bytes, 8, "output")
    machine.call(f"call{index}", *arguments, scratch, out)
    have = np.frombuffer(bytes(machine.cpu.mem_read(out, out_bytes)), np.int8)
    want = np.ascontiguousarray(expected).reshape(-1).view(np.int8)
    wrong = np.flatnonzero(have != want)
    assert not wrong.size, (
        f"{case.note}: {kernel.function} overlap {overlap}: {wrong.size} of {want.size} differ, "
        f"first at {wrong[:5]}: {have[wrong[:5]]} for {want[wrong[:5]]}"
    )
    for address, what in guards:
        guard = bytes(machine.cpu.mem_read(address, GUARD))
        assert guard == b"\xa5" * GUARD, f"{case.note}: {kernel.function} writes beside its {what}"
