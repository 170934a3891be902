"""From a program and its kernels to buffers, and from their offsets to a ``Plan``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgekit.engines.aot import plan as planner
from edgekit.engines.aot import select
from edgekit.engines.aot.ir import Instruction, Program
from edgekit.engines.aot.lowering import CTYPE_BYTES, CTYPES, Kernel
from edgekit.engines.aot.lowering import Literal as Number
from edgekit.graph import Tensor
from edgekit.records import Buffer, Plan, Step, TensorView

#: Alignment of every buffer: word loads are cheap for kernels that can use them.
_WORD = 4


@dataclass(frozen=True)
class Layout:
    """A planned program: what each step calls, with its buffers' places."""

    program: Program
    #: per step, with the literals that the plan's overlaps ask for
    kernels: tuple[Kernel, ...]
    plan: Plan
    #: offset by tensor (a view's is its home's)
    offsets: dict[int, int]
    #: offset of each step's scratch, 0 where it has none
    scratch: tuple[int, ...]
    align_bytes: int


def arrange(
    program: Program, kernels: Sequence[Kernel], *, keep_input: bool, overlap: bool
) -> Layout:
    """Plans the arena.

    Args:
        program: after all passes.
        kernels: one per step.
        keep_input: the model's inputs outlive the inference.
        overlap: make use of the kernels' permissions; without it all live buffers lie apart.
    """
    buffers, problem = problem_of(program, kernels, keep_input=keep_input, overlap=overlap)
    solution = planner.solve(problem)
    placed = tuple(
        replace(b, offset=offset) for b, offset in zip(buffers, solution.offsets, strict=True)
    )
    homes = {b.tensor: b.offset for b in placed if b.role != "scratch"}
    offsets = {
        index: homes[program.home(index)]
        for index in program.tensors
        if program.home(index) in homes
    }
    scratch = [0] * len(kernels)
    for b in placed:
        if b.role == "scratch":
            scratch[b.first] = b.offset
    final = tuple(
        _walking(program, step, kernel, offsets)
        for step, kernel in zip(program.steps, kernels, strict=True)
    )
    result = Plan(
        arena_bytes=solution.nbytes,
        arena_lower_bound_bytes=solution.lower_bound,
        arena_optimal=solution.optimal,
        steps=tuple(
            _step(program, index, step, kernel, offsets)
            for index, (step, kernel) in enumerate(zip(program.steps, final, strict=True))
        ),
        buffers=placed,
        inputs=tuple(_view(program, index, offsets) for index in program.inputs),
        outputs=tuple(_view(program, index, offsets) for index in program.outputs),
    )
    align = max((item.align for item in problem.items), default=_WORD)
    return Layout(program, final, result, offsets, tuple(scratch), align)


def problem_of(
    program: Program, kernels: Sequence[Kernel], *, keep_input: bool, overlap: bool
) -> tuple[list[Buffer], planner.Problem]:
    """The buffers (their offsets still 0) and what the planner must know of them."""
    buffers = _buffers(program, kernels, keep_input)
    problem = planner.Problem(
        items=tuple(
            planner.Item(b.nbytes, b.first, b.last, align)
            for b, align in zip(buffers, _alignments(program, kernels, buffers), strict=True)
        ),
        permissions=_permissions(program, kernels, buffers, keep_input) if overlap else (),
    )
    return buffers, problem


def _activation(program: Program, index: int) -> bool:
    return index >= 0 and not program.tensors[index].is_constant


def _buffers(program: Program, kernels: Sequence[Kernel], keep_input: bool) -> list[Buffer]:
    """Every buffer with its lifetime; offsets are still 0."""
    final = max(len(program.steps) - 1, 0)
    first: dict[int, int] = {program.home(index): 0 for index in program.inputs}
    last: dict[int, int] = dict(first)
    for position, step in enumerate(program.steps):
        for index in (*step.inputs, *step.outputs):
            if _activation(program, index):
                home = program.home(index)
                first.setdefault(home, position)
                last[home] = position
    inputs = {program.home(index) for index in program.inputs}
    outputs = {program.home(index) for index in program.outputs}
    for home in outputs | (inputs if keep_input else set()):
        first.setdefault(home, 0)
        last[home] = final
    buffers = []
    for home in sorted(first, key=lambda h: (first[h], h)):
        tensor = program.tensors[home]
        role: Literal["input", "output", "activation"] = "activation"
        if home in inputs or home in outputs:
            role = "input" if home in inputs else "output"
        buffers.append(Buffer(tensor.name, role, 0, tensor.nbytes, first[home], last[home], home))
    for position, kernel in enumerate(kernels):
        if kernel.scratch_bytes:
            name = f"scratch of step {position}"
            buffers.append(Buffer(name, "scratch", 0, kernel.scratch_bytes, position, position))
    return buffers


def _alignments(
    program: Program, kernels: Sequence[Kernel], buffers: Sequence[Buffer]
) -> list[int]:
    wanted: dict[int, int] = {}
    for step, kernel in zip(program.steps, kernels, strict=True):
        for index in (*step.inputs, *step.outputs):
            if _activation(program, index):
                home = program.home(index)
                element = CTYPE_BYTES[CTYPES[program.tensors[index].dtype]]
                wanted[home] = max(wanted.get(home, _WORD), kernel.align_bytes, element)
    return [
        kernels[b.first].scratch_align if b.role == "scratch" else wanted.get(b.tensor, _WORD)
        for b in buffers
    ]


def _permissions(
    program: Program, kernels: Sequence[Kernel], buffers: Sequence[Buffer], keep_input: bool
) -> tuple[planner.Permission, ...]:
    """Which outputs may lie over which dying inputs."""
    # The caller reads these after the last step: they do not die in it.
    lasting = {program.home(index) for index in program.outputs}
    lasting |= {program.home(index) for index in program.inputs} if keep_input else set()
    place = {b.tensor: i for i, b in enumerate(buffers) if b.role != "scratch"}
    found = []
    for position, (step, kernel) in enumerate(zip(program.steps, kernels, strict=True)):
        for slot, index in enumerate(step.outputs):
            out = place[program.home(index)]
            if buffers[out].first != position or program.home(index) in program.inputs:
                continue
            dying: dict[int, list[int]] = {}
            for use, tensor in enumerate(step.inputs):
                if _activation(program, tensor):
                    dying.setdefault(place[program.home(tensor)], []).append(use)
            for item, uses in dying.items():
                if item == out or buffers[item].last != position:
                    continue
                if buffers[item].tensor in lasting:
                    continue
                groups = tuple(
                    tuple(
                        planner.Range(o.min_shift, o.max_shift, o.multiple)
                        for o in kernel.overlaps
                        if o.input == use and o.output == slot
                    )
                    for use in uses
                )
                if all(groups):
                    found.append(planner.Permission(out, item, groups))
    return tuple(found)


def _walking(
    program: Program, step: Instruction, kernel: Kernel, offsets: dict[int, int]
) -> Kernel:
    """The kernel with the literals (such as its direction) that its overlaps ask for."""
    literals: dict[str, int] = {}
    for slot, tensor in enumerate(step.inputs):
        for out_slot, out in enumerate(step.outputs):
            if not _activation(program, tensor):
                continue
            shift = offsets[out] - offsets[tensor]
            apart = shift >= program.tensors[tensor].nbytes or -shift >= program.tensors[out].nbytes
            options = [o for o in kernel.overlaps if o.input == slot and o.output == out_slot]
            if apart or not options:
                continue
            literals.update(next(o for o in options if o.allows(shift)).literals)
    if not literals:
        return kernel
    return replace(
        kernel,
        args=tuple(
            replace(arg, value=literals[arg.name])
            if isinstance(arg, Number) and arg.name in literals
            else arg
            for arg in kernel.args
        ),
    )


def _step(
    program: Program, index: int, step: Instruction, kernel: Kernel, offsets: dict[int, int]
) -> Step:
    out = program.tensors[step.outputs[0]]
    return Step(
        index=index,
        kind=step.kind,
        name=out.name,
        ops=step.ops,
        tensor=out.index,
        offset=offsets[out.index],
        nbytes=out.nbytes,
        macs=select.macs(program, step),
        kernel=kernel.function,
        channels=program.channels.get(out.index),
        layout=kernel.output_layout,
        scratch_bytes=kernel.scratch_bytes,
        weights_bytes=sum(table.nbytes for table in kernel.tables),
        shape=out.shape,
    )


def _view(program: Program, index: int, offsets: dict[int, int]) -> TensorView:
    tensor: Tensor = program.tensors[index]
    quantization = tensor.quantization
    return TensorView(
        name=tensor.name,
        tensor=index,
        offset=offsets[index],
        nbytes=tensor.nbytes,
        dtype=tensor.dtype,
        shape=tensor.shape,
        scale=quantization.scale if quantization else None,
        zero_point=quantization.zero_point if quantization else 0,
    )
