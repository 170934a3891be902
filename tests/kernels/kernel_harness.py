"""Runs the lowering of single operators on the host and compares them with TFLM.

All cases of a test become one C program, which is compiled once. The program gives each case
buffers of exactly its sizes, so that the sanitizers see any access beside them (they include
guard bytes for builds without sanitizers), and runs it a second time with the output
overlapping the input as far as the kernel says it may.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.engines.aot import ops
from edgekit.engines.aot.lowering import (
    Data,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Overlap,
    Scratch,
    Unsupported,
)
from edgekit.graph import Model, read_model
from edgekit.runtimes.tflm import TflmRunner

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-std=c11")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
GUARD = 16

PRELUDE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define GUARD %d
static unsigned char *take(size_t nbytes) {
    unsigned char *p = malloc(nbytes + 1);
    if (fread(p, 1, nbytes, stdin) != nbytes) exit(3);
    return p;
}
static unsigned char *fresh(size_t nbytes) {
    unsigned char *p = malloc(nbytes + 2 * GUARD);
    memset(p, 0xA5, nbytes + 2 * GUARD);
    return p + GUARD;
}
static void check(const unsigned char *p, size_t nbytes, int index, const char *what) {
    for (int i = 0; i < GUARD; ++i) {
        if (p[-1 - i] != 0xA5 || p[nbytes + (size_t)i] != 0xA5) {
            fprintf(stderr, "case %%d writes beside its %%s\n", index, what);
            exit(4);
        }
    }
}
"""


@dataclass
class Case:
    """A model of one operator with inputs for several runs, and what TFLM makes of them."""

    model_bytes: bytes
    runs: list[tuple[np.ndarray, ...]]
    note: str = ""
    expected: list[list[np.ndarray]] = field(default_factory=list)
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        self.model = read_model(self.model_bytes)
        runner = TflmRunner(self.model_bytes)
        self.expected = [runner.invoke(*run) for run in self.runs]

    @property
    def node(self) -> Node:
        (op,) = self.model.ops
        tensors = self.model.tensors
        return Node(
            kind=op.kind,
            ops=(0,),
            inputs=tuple(tensors[i] if i >= 0 else None for i in op.inputs),
            outputs=tuple(tensors[i] for i in op.outputs),
            options=op.options,
        )

    def kernels(self) -> tuple[Kernel, ...]:
        module = ops.find(self.node.kind)
        assert module is not None, self.node.kind
        try:
            found: tuple[Kernel, ...] = module.lower(self.node, None)
        except Unsupported as reason:
            raise AssertionError(f"{self.note}: refused: {reason}") from None
        return tuple(k for k in found if not k.requires and not k.cores)


def check_cases(cases: Sequence[Case], tmp_path: Path, *, sanitize: bool = False) -> None:
    """Compiles all kernels of all cases, runs them, and compares every byte with TFLM."""
    jobs = [(case, kernel) for case in cases for kernel in case.kernels()]
    assert jobs, "no cases"
    flags = ("-O1", "-g", *SANITIZERS) if sanitize else ("-O2",)
    compiler = os.environ.get("EDGEKIT_HOST_CC", "gcc")
    chunks = [jobs[i : i + 40] for i in range(0, len(jobs), 40)]
    for number, chunk in enumerate(chunks):
        source = tmp_path / f"cases{number}.c"
        program = tmp_path / f"cases{number}"
        source.write_text(_program(chunk))
        subprocess.run(
            [compiler, *WARNINGS, *flags, f"-I{FIRMWARE}/include", f"-I{FIRMWARE}/kernels",
             str(source), "-o", str(program)],
            check=True,
        )  # fmt: skip
        data = b"".join(array.tobytes() for case, _ in chunk for run in case.runs for array in run)
        result = subprocess.run(
            [str(program)], input=data, capture_output=True, check=False,
            env={"ASAN_OPTIONS": "detect_leaks=0"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr.decode()[-3000:]
        _compare(chunk, result.stdout)


def _compare(jobs: Sequence[tuple[Case, Kernel]], output: bytes) -> None:
    at = 0
    for case, kernel in jobs:
        for run, expected in enumerate(case.expected):
            for which in ("apart", *(f"overlapping {s}" for _, s in _shifts(case, kernel))):
                want = expected[0].tobytes()
                have = output[at : at + len(want)]
                at += len(want)
                if have != want:
                    dtype = expected[0].dtype
                    a, b = np.frombuffer(have, dtype), np.frombuffer(want, dtype)
                    wrong = np.flatnonzero(a != b)
                    raise AssertionError(
                        f"{case.note}: {kernel.function} run {run} ({which}): {len(wrong)} of "
                        f"{len(b)} differ, first at {wrong[:5]}: {a[wrong[:5]]} for "
                        f"{b[wrong[:5]]}; {[a for a in kernel.args if isinstance(a, Literal)]}"
                    )
    assert at == len(output)


def _shifts(case: Case, kernel: Kernel) -> list[tuple[int, int]]:
    """(input, shift) pairs at the limits of what the kernel allows."""
    found: list[tuple[int, int]] = []
    node = case.node
    for overlap in kernel.overlaps:
        tensor = node.inputs[overlap.input]
        if tensor is None or tensor.is_constant:
            continue
        found += [(overlap.input, s) for s in _limits(overlap, tensor.nbytes, node.output.nbytes)]
    return found


def _limits(overlap: Overlap, in_bytes: int, out_bytes: int) -> list[int]:
    low = overlap.min_shift if overlap.min_shift is not None else -out_bytes
    high = overlap.max_shift if overlap.max_shift is not None else in_bytes
    candidates = {high, high - 1, 0, low, low + 1, overlap.multiple, -overlap.multiple}
    shifts = {c - c % overlap.multiple for c in candidates}
    return sorted(s for s in shifts if overlap.allows(s))[-4:]


def _program(jobs: Sequence[tuple[Case, Kernel]]) -> str:
    headers = sorted({kernel.header for _, kernel in jobs})
    parts = [PRELUDE % GUARD, *(f'#include "{h}"\n' for h in headers)]
    calls = []
    for index, (case, kernel) in enumerate(jobs):
        parts.append(_case(index, case, kernel))
        calls.append(f"    case{index}();\n")
    parts.append("int main(void) {\n" + "".join(calls) + "    return 0;\n}\n")
    return "".join(parts)


def _case(index: int, case: Case, kernel: Kernel) -> str:
    node = case.node
    text = []
    for table in kernel.tables:
        values = ",".join(_number(v) for v in np.asarray(table.values).reshape(-1))
        text.append(f"static const {table.ctype} k{index}_{table.name}[] = {{{values}}};\n")
    constants = {i: t for i, t in enumerate(node.inputs) if t is not None and t.is_constant}
    for i, tensor in constants.items():
        if any(isinstance(a, Input) and a.index == i for a in kernel.args):
            values = ",".join(_number(v) for v in tensor.data().reshape(-1))
            text.append(f"static const {_ctype(tensor.dtype)} k{index}_in{i}[] = {{{values}}};\n")
    inputs = [i for i, t in enumerate(node.inputs) if t is not None and not t.is_constant]
    # One call with buffers of its own, then one per overlap that is tried.
    text.append(f"static void __attribute__((noinline)) call{index}(")
    text.append(", ".join([*(f"void *in{i}" for i in inputs), "void *scratch", "void *out"]))
    arguments = ", ".join(_argument(a, index, node, constants) for a in kernel.args)
    text.append(f") {{\n    (void)scratch;\n    {kernel.function}({arguments});\n}}\n")
    out_bytes = node.output.nbytes
    text.append(f"static void case{index}(void) {{\n")
    graph_inputs = list(case.model.inputs)
    (op,) = case.model.ops
    text.append(f"for (int run = 0; run < {len(case.runs)}; ++run) {{\n")
    for position, tensor_index in enumerate(graph_inputs):
        nbytes = case.model.tensors[tensor_index].nbytes
        text.append(f"unsigned char *g{position} = take({nbytes});\n")
    source = {i: graph_inputs.index(op.inputs[i]) for i in inputs}
    for overlap in (None, *_shifts(case, kernel)):
        text.append("{\n")
        text.append(f"unsigned char *scratch = fresh({kernel.scratch_bytes});\n")
        names = []
        shared = None
        for i in inputs:
            tensor = node.inputs[i]
            assert tensor is not None
            nbytes = tensor.nbytes
            if overlap is not None and overlap[0] == i:
                shift = overlap[1]
                low, high = min(0, shift), max(nbytes, shift + out_bytes)
                text.append(f"unsigned char *both = fresh({high - low});\n")
                text.append(f"unsigned char *in{i} = both + {-low};\n")
                text.append(f"unsigned char *out = both + {shift - low};\n")
                shared = f'check(both, {high - low}, {index}, "output");\n'
            else:
                text.append(f"unsigned char *in{i} = malloc({nbytes});\n")
            text.append(f"memcpy(in{i}, g{source[i]}, {nbytes});\n")
            names.append(f"in{i}")
        if overlap is None:
            text.append(f"unsigned char *out = fresh({out_bytes});\n")
            shared = f'check(out, {out_bytes}, {index}, "output");\n'
        text.append(f"call{index}({', '.join([*names, 'scratch', 'out'])});\n")
        text.append(f"fwrite(out, 1, {out_bytes}, stdout);\n{shared}")
        text.append(f'check(scratch, {kernel.scratch_bytes}, {index}, "scratch");\n')
        text.append("}\n")
    text.append("}\n}\n")
    return "".join(text)


def _argument(argument: Any, index: int, node: Node, constants: dict[int, Any]) -> str:
    if isinstance(argument, Input):
        if argument.index in constants:
            return f"k{index}_in{argument.index}"
        tensor = node.inputs[argument.index]
        assert tensor is not None
        return f"(const {_ctype(tensor.dtype)} *)in{argument.index}"
    if isinstance(argument, Output):
        return f"({_ctype(node.outputs[argument.index].dtype)} *)out"
    if isinstance(argument, Scratch):
        return f"({argument.ctype} *)scratch"
    if isinstance(argument, Data):
        return f"k{index}_{argument.table}"
    assert isinstance(argument, Literal)
    return _number(argument.value)


def _number(value: Any) -> str:
    value = int(value)
    if value == -(1 << 31):
        return "(-2147483647 - 1)"
    return f"{value}u" if value > 0x7FFFFFFF else str(value)


def _ctype(dtype: str) -> str:
    return "float" if dtype == "float32" else f"{dtype}_t"
