"""Runs single kernels on a Cortex-M55 in QEMU (mps3-an547) and compares them with TFLM.

All cases of a test become one image and one start of QEMU: the image holds the kernels as
functions ``call<i>(inputs…, scratch, out)`` and a table of runs. For each run it fills a region
of RAM with guard bytes, copies the inputs in, makes the call, and writes the region and the
executed instructions to semihosting's standard output, where this module checks them.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cortexm import LIBRARY
from kernel_harness import FIRMWARE, GUARD, WARNINGS, Case, _argument, _ctype, _number, _shifts

from edgekit.engines import aot
from edgekit.engines.aot import emit, ops
from edgekit.engines.aot.lowering import Input, Kernel
from edgekit.graph import read_model
from edgekit.records import Plan
from edgekit.targets import load_target

TARGET = "corstone-300"
RAM, RAM_BYTES = 0x2100_0000, 4 << 20
#: Regions of runs begin here, below the stack.
REGION = RAM + 0x1000
#: An instruction lasts 2**SHIFT ns; the system counter runs at 32 MHz.
SHIFT = 7
TICKS = 32e6 * (1 << SHIFT) / 1e9

COMPILERS = {
    "gcc": ["arm-none-eabi-gcc", "-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"],
    "zig": [
        sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi",
        "-mcpu=cortex_m55",
    ],
}  # fmt: skip

LINKER_SCRIPT = """
ENTRY(reset)
SECTIONS {
    .vectors 0 : { KEEP(*(.vectors)) }
    .text 0x01000000 : { *(.text*) *(.rodata*) }
    .bss 0x21000000 (NOLOAD) : { *(.data*) *(.bss*) *(COMMON) }
    /DISCARD/ : { *(.ARM.*) }
}
"""

#: Start-up, the instruction counter, and semihosting (Arm IHI 0059).
RUNTIME = r"""
#include <stdint.h>
#define REGISTER(address) (*(volatile uint32_t *)(address))
int main(void);
void reset(void);
void fault(void);
void *memset(void *, int, __SIZE_TYPE__);
void *memcpy(void *, const void *, __SIZE_TYPE__);
static inline int semihost(int operation, const void *block) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
static void leave(int code) {
    const uint32_t block[2] = {0x20026u, (uint32_t)code};
    semihost(0x20, block);
    for (;;) {
    }
}
static uint32_t handle;
static void emit(const void *data, uint32_t nbytes) {
    const uint32_t block[3] = {handle, (uint32_t)(uintptr_t)data, nbytes};
    if (semihost(0x05, block) != 0) leave(9);
}
static inline uint32_t ticks(void) { return REGISTER(0x58100008u); }
void fault(void) { leave(8); }
void reset(void) {
    REGISTER(0xE000ED88u) |= 0xFu << 20;
    REGISTER(0x58100000u) = 1u;
    __asm__ volatile("dsb\nisb");
    const uint32_t block[3] = {(uint32_t)(uintptr_t)":tt", 4u, 3u};
    handle = (uint32_t)semihost(0x01, block);
    leave(main());
}
typedef void (*vector_t)(void);
__attribute__((section(".vectors"), used)) const vector_t vectors[16] = {
    (vector_t)(uintptr_t)0x21400000u, reset, fault, fault, fault, fault, fault, fault,
};
"""

MAIN = r"""
typedef void (*function_t)(uint32_t, uint32_t, uint32_t, uint32_t);
typedef struct {
    function_t call;
    uint32_t arguments[4];
    uint32_t bytes;
    struct { uint32_t from, to, bytes; } copies[2];
} run_t;
extern const run_t runs[];
extern const uint32_t run_count;
extern const uint8_t blob[];
__asm__(".section .rodata\n.balign 16\nblob: .incbin \"blob.bin\"\n.text\n");
int main(void) {
    uint8_t *const region = (uint8_t *)0x21001000u;
    for (uint32_t i = 0; i < run_count; i++) {
        const run_t *run = &runs[i];
        memset(region, 0xA5, run->bytes);
        for (uint32_t c = 0; c < 2; c++) {
            memcpy((void *)(uintptr_t)run->copies[c].to, blob + run->copies[c].from,
                   run->copies[c].bytes);
        }
        const uint32_t start = ticks();
        run->call(run->arguments[0], run->arguments[1], run->arguments[2], run->arguments[3]);
        const uint32_t used = ticks() - start;
        emit(&used, 4);
        emit(region, run->bytes);
    }
    return 0;
}
"""


@dataclass
class Run:
    """One call: what goes where, and what must come out."""

    job: int
    kernel: Kernel
    note: str
    expected: bytes
    arguments: list[int] = field(default_factory=list)
    copies: list[tuple[int, bytes]] = field(default_factory=list)
    nbytes: int = 0
    out: int = 0
    guards: list[tuple[int, str]] = field(default_factory=list)
    instructions: float = 0.0


def missing() -> str | None:
    """Why nothing here can run."""
    for program in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


def special(case: Case) -> list[Kernel]:
    """The case's kernels that need MVE."""
    module = ops.find(case.node.kind)
    assert module is not None
    found: tuple[Kernel, ...] = module.lower(case.node, load_target(TARGET))
    return [kernel for kernel in found if "mve" in kernel.requires]


def check_helium(cases: Sequence[Case], tmp_path: Path, *, compiler: str = "gcc") -> list[Run]:
    """Runs every MVE kernel of every case, alone and overlapping as it allows."""
    jobs = [(case, kernel) for case in cases for kernel in special(case)]
    runs = [
        run
        for index, (case, kernel) in enumerate(jobs)
        for position, (inputs, expected) in enumerate(zip(case.runs, case.expected, strict=True))
        for overlap in (None, *_shifts(case, kernel))
        if (run := _run(index, case, kernel, inputs, expected[0], overlap, position)) is not None
    ]
    output = execute(_source(jobs, runs, tmp_path), tmp_path, compiler)
    at = 0
    for run in runs:
        (used,) = struct.unpack_from("<I", output, at)
        run.instructions = used / TICKS
        region = output[at + 4 : at + 4 + run.nbytes]
        at += 4 + run.nbytes
        _compare(run, region)
    assert at == len(output)
    return runs


def execute(source: str, folder: Path, compiler: str = "gcc", flags: Sequence[str] = ()) -> bytes:
    """Builds one C file with RUNTIME and runs it; what it wrote to standard output."""
    path, elf, script = folder / "helium.c", folder / "helium.elf", folder / "helium.ld"
    path.write_text(source)
    script.write_text(LINKER_SCRIPT)
    folders = [f"-I{FIRMWARE}/{name}" for name in ("include", "kernels", "runtime/libc")]
    subprocess.run(
        [*COMPILERS[compiler], *WARNINGS, "-O2", "-ffreestanding", "-fno-builtin", *folders,
         *flags, f"-Wa,-I{folder}", f"-Wl,-T,{script}", "-Wl,-e,reset", "-nostdlib", str(path),
         *map(str, LIBRARY), *(["-lgcc"] if compiler == "gcc" else []), "-o", str(elf)],
        check=True, cwd=folder,
    )  # fmt: skip
    result = subprocess.run(
        ["qemu-system-arm", "-machine", "mps3-an547", "-kernel", str(elf), "-display", "none",
         "-monitor", "none", "-serial", "none", "-icount", f"shift={SHIFT},sleep=off",
         "-semihosting-config", "enable=on,target=native"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, (result.returncode, result.stderr.decode()[-2000:])
    return result.stdout


@dataclass(frozen=True)
class ModelRun:
    """A model on the M55: its outputs for each input, and executed instructions."""

    plan: Plan
    outputs: list[bytes]
    #: of each step, on the first input
    steps: list[int]
    #: of one inference
    instructions: int


MODEL_MAIN = r"""
#include "%(prefix)s.h"
extern const uint8_t inputs[];
__asm__(".section .rodata\n.balign 16\ninputs: .incbin \"inputs.bin\"\n.text\n");
static int8_t __attribute__((aligned(16))) arena[%(arena)d];
static void __attribute__((noinline)) nothing(int8_t *p, uint32_t i) {
    __asm__ volatile("" : : "r"(p), "r"(i));
}
int main(void) {
    memcpy(arena + %(in)d, inputs, %(in_bytes)d);
    for (uint32_t i = 0; i < %(steps)du; i++) {
        uint32_t start = ticks();
        nothing(arena, i);
        const uint32_t empty = ticks() - start;
        start = ticks();
        %(prefix)s_step(arena, i);
        const uint32_t used = ticks() - start - empty;
        emit(&used, 4);
    }
    for (uint32_t run = 0; run < %(runs)du; run++) {
        memcpy(arena + %(in)d, inputs + run * %(in_bytes)du, %(in_bytes)d);
        const uint32_t start = ticks();
        %(prefix)s_invoke(arena);
        const uint32_t used = ticks() - start;
        emit(&used, 4);
        emit(arena + %(out)d, %(out_bytes)d);
    }
    return 0;
}
"""


def run_model(
    path: Path, inputs: Sequence[bytes], folder: Path, *, compiler: str = "gcc"
) -> ModelRun:
    """Compiles a model of one input and one output for the target and runs it."""
    model = read_model(path)
    prefix = emit.prefix_of(model.name)
    target = load_target(TARGET)
    plan = aot.compile(model, target, folder / "c", command="test", options={}).plan
    assert plan is not None
    (folder / "inputs.bin").write_bytes(b"".join(inputs))
    (given,), (made,) = plan.inputs, plan.outputs
    numbers = {
        "prefix": prefix, "arena": plan.arena_bytes, "steps": len(plan.steps),
        "runs": len(inputs), "in": given.offset, "in_bytes": given.nbytes,
        "out": made.offset, "out_bytes": made.nbytes,
    }  # fmt: skip
    source = RUNTIME + (folder / "c" / f"{prefix}.c").read_text() + MODEL_MAIN % numbers
    flags = [f"-I{folder / 'c'}", f"-I{folder / 'c' / 'kernels'}", "-Wno-unused-function"]
    found = execute(source, folder, compiler, flags)
    steps = [round(t / TICKS) for t in struct.unpack_from(f"<{len(plan.steps)}I", found)]
    at, outputs, totals = 4 * len(steps), [], []
    for _ in inputs:
        totals.append(round(struct.unpack_from("<I", found, at)[0] / TICKS))
        outputs.append(found[at + 4 : at + 4 + made.nbytes])
        at += 4 + made.nbytes
    return ModelRun(plan, outputs, steps, totals[0])


def _run(
    index: int, case: Case, kernel: Kernel, inputs: tuple[np.ndarray, ...], expected: np.ndarray,
    overlap: tuple[int, int] | None, position: int,
) -> Run | None:  # fmt: skip
    cursor = REGION
    want = np.ascontiguousarray(expected).tobytes()
    note = f"{case.note}: {kernel.function} run {position} overlap {overlap}"
    run = Run(index, kernel, note, want)

    def place(nbytes: int, align: int, what: str, skew: int = 0) -> int:
        nonlocal cursor
        start = -(-(cursor + GUARD - skew) // max(align, 16)) * max(align, 16) + skew
        run.guards += [(start - GUARD, what), (start + nbytes, what)]
        cursor = start + nbytes + GUARD
        return start

    (op,) = case.model.ops
    # Odd addresses, where the kernel takes them.
    skew = (index % 4 * 5) // kernel.align_bytes * kernel.align_bytes
    out = None
    for i, tensor in enumerate(case.node.inputs):
        if tensor is None or tensor.is_constant:
            continue
        if overlap is not None and overlap[0] == i:
            shift = overlap[1]
            low = min(0, shift)
            if shift % kernel.align_bytes:
                return None
            both = place(max(tensor.nbytes, shift + len(want)) - low, 1, "output", skew)
            address, out = both - low, both - low + shift
        else:
            address = place(tensor.nbytes, kernel.align_bytes, "input", skew)
        data = np.ascontiguousarray(inputs[list(case.model.inputs).index(op.inputs[i])]).tobytes()
        run.copies.append((address, data))
        run.arguments.append(address)
    scratch = place(kernel.scratch_bytes, kernel.scratch_align, "scratch")
    run.out = out if out is not None else place(len(want), kernel.align_bytes, "output", skew)
    run.arguments += [scratch, run.out]
    run.nbytes = cursor - REGION
    return run


def _compare(run: Run, region: bytes) -> None:
    have = np.frombuffer(region, np.int8)[run.out - REGION :][: len(run.expected)]
    want = np.frombuffer(run.expected, np.int8)
    wrong = np.flatnonzero(have != want)
    literals = [a for a in run.kernel.args if hasattr(a, "value")]
    assert not wrong.size, (
        f"{run.note}: {wrong.size} of {want.size} differ, first at {wrong[:5]}: "
        f"{have[wrong[:5]]} for {want[wrong[:5]]}; {literals}"
    )
    for address, what in run.guards:
        guard = region[address - REGION :][:GUARD]
        assert guard == b"\xa5" * GUARD, f"{run.note} writes beside its {what}"


def _source(jobs: Sequence[tuple[Case, Kernel]], runs: Sequence[Run], folder: Path) -> str:
    text = [RUNTIME, MAIN]
    text += [f'#include "{h}"\n' for h in sorted({kernel.header for _, kernel in jobs})]
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
        head = f"static void call{index}({', '.join([*inputs, 'void *scratch', 'void *out'])})"
        text.append(f"__attribute__((noinline)) {head} {{\n    (void)scratch;\n")
        text.append(f"    {kernel.function}({arguments});\n}}\n")
    blob = bytearray()
    places: dict[bytes, int] = {}
    table_text = []
    for run in runs:
        copies = []
        for address, data in run.copies:
            if data not in places:
                places[data] = len(blob)
                blob += data
            copies.append(f"{{{places[data]}, {address}u, {len(data)}}}")
        values = ", ".join(f"{a}u" for a in run.arguments)
        table_text.append(
            f"    {{(function_t)(uintptr_t)call{run.job}, {{{values}}}, {run.nbytes},"
            f" {{{', '.join(copies)}}}}},\n"
        )
    (folder / "blob.bin").write_bytes(bytes(blob) or b"\0")
    text.append(f"const run_t runs[] = {{\n{''.join(table_text)}}};\n")
    text.append(f"const uint32_t run_count = {len(runs)};\n")
    return "".join(text)
