"""From a program and its kernels to buffers, and from their offsets to a ``Plan``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgekit.engines.aot import plan as planner
from edgekit.engines.aot import select
from edgekit.engines.aot.ir import Instruction, Program
from edgekit.engines.aot.lowering import CTYPE_BYTES, CTYPES, Kernel
from edgekit.engines.aot.lowering import Literal as Number
from edgekit.engines.aot.patches import FEED
from edgekit.graph import Tensor
from edgekit.records import Buffer, Feed, Plan, Step, StripStage, TensorView

#: Room for the pointer to an input that is not in the arena, on any host.
_POINTER_BYTES = 8

#: Alignment of every buffer: word loads are cheap for kernels that can use them.
_WORD = 4


@dataclass(frozen=True)
class Layout:
    """A planned program: what each step calls, with its buffers' places."""

    program: Program
    #: per step, with the literals that the plan's overlaps ask for
    kernels: tuple[Kernel, ...]
    plan: Plan
    #: offset by tensor (a view's is where it starts in its home)
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
        + (0 if program.home(index) in program.apart else program.offset(index))
        for index in program.tensors
        if program.home(index) in homes
    }
    working = {b.first: b.offset for b in placed if b.role == "scratch"}
    scratch = [
        working[program.slot(position)] if kernel.scratch_bytes else 0
        for position, kernel in enumerate(kernels)
    ]
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
        buffers=_by_steps(program, placed),
        inputs=tuple(_view(program, index, offsets) for index in program.inputs),
        outputs=tuple(_view(program, index, offsets) for index in program.outputs),
        stages=tuple(_stage(program, *stage) for stage in sorted(program.stages)),
        feeds=tuple(_feeds(program, offsets)),
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
    """Every buffer with its lifetime in slots; offsets are still 0."""
    final = max((program.slot(i) for i in range(len(program.steps))), default=0)
    first: dict[int, int] = {
        program.home(index): 0 for index in program.inputs if index not in program.fed
    }
    last: dict[int, int] = dict(first)
    for position, step in enumerate(program.steps):
        slot = program.slot(position)
        for index in (*step.inputs, *step.outputs):
            if _activation(program, index):
                home = program.home(index)
                first[home] = min(first.get(home, slot), slot)
                last[home] = max(last.get(home, slot), slot)
    for home, (start, end) in program.spans.items():
        first[home], last[home] = min(first[home], start), max(last[home], end)
    inputs = {program.home(index) for index in program.inputs}
    outputs = {program.home(index) for index in program.outputs}
    for home in outputs | program.apart | (inputs if keep_input else set()):
        first.setdefault(home, 0)
        last[home] = final
    buffers = []
    for home in sorted(first, key=lambda h: (first[h], h)):
        tensor = program.tensors[home]
        role: Literal["input", "output", "activation"] = "activation"
        if home in inputs or home in outputs:
            role = "input" if home in inputs else "output"
        nbytes = _POINTER_BYTES if home in program.apart else tensor.nbytes
        buffers.append(Buffer(tensor.name, role, 0, nbytes, first[home], last[home], home))
    working: dict[int, int] = {}
    for position, kernel in enumerate(kernels):
        slot = program.slot(position)
        working[slot] = max(working.get(slot, 0), kernel.scratch_bytes)
    for slot, nbytes in sorted(working.items()):
        if nbytes:
            name = f"scratch of step {_positions(program, slot)[0]}"
            buffers.append(Buffer(name, "scratch", 0, nbytes, slot, slot))
    return buffers


def _positions(program: Program, slot: int) -> tuple[int, int]:
    """The first and the last step of a slot."""
    if not program.slots:
        return slot, slot
    found = [i for i, other in enumerate(program.slots) if other == slot]
    return found[0], found[-1]


def _by_steps(program: Program, buffers: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """The buffers with lifetimes in steps, and the model's tensors in the place of windows."""
    if not program.slots:
        return tuple(buffers)
    return tuple(
        replace(
            b,
            first=_positions(program, b.first)[0],
            last=_positions(program, b.last)[1],
            tensor=program.origin(b.tensor) if b.tensor >= 0 else b.tensor,
        )
        for b in buffers
    )


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
    wanted.update((home, max(wanted.get(home, 1), _POINTER_BYTES)) for home in program.apart)
    working: dict[int, int] = {}
    for position, kernel in enumerate(kernels):
        slot = program.slot(position)
        working[slot] = max(working.get(slot, 1), kernel.scratch_align)
    return [
        working[b.first] if b.role == "scratch" else wanted.get(b.tensor, _WORD) for b in buffers
    ]


def _permissions(
    program: Program, kernels: Sequence[Kernel], buffers: Sequence[Buffer], keep_input: bool
) -> tuple[planner.Permission, ...]:
    """Which outputs may lie over which dying inputs."""
    # The caller reads these after the last step: they do not die in it.
    lasting = {program.home(index) for index in program.outputs}
    lasting |= {program.home(index) for index in program.inputs} if keep_input else set()
    lasting |= program.apart
    place = {b.tensor: i for i, b in enumerate(buffers) if b.role != "scratch"}
    # None: a step of the slot does not permit it
    found: dict[tuple[int, int], list[tuple[planner.Range, ...]] | None] = {}
    for position, (step, kernel) in enumerate(zip(program.steps, kernels, strict=True)):
        slot = program.slot(position)
        for number, index in enumerate(step.outputs):
            out = place[program.home(index)]
            if buffers[out].first != slot or program.home(index) in program.inputs:
                continue
            dying: dict[int, list[int]] = {}
            for use, tensor in enumerate(step.inputs):
                if _activation(program, tensor):
                    dying.setdefault(place[program.home(tensor)], []).append(use)
            for item, uses in dying.items():
                if item == out or buffers[item].last != slot or buffers[item].tensor in lasting:
                    continue
                groups = [_ranges(program, step, kernel, use, number) for use in uses]
                before = found.setdefault((out, item), [])
                if before is None or not all(groups):
                    found[out, item] = None
                else:
                    before.extend(g for g in groups if g not in before)
    for (output, into), shift in program.shares.items():
        if into not in lasting:
            found[place[output], place[into]] = [(planner.Range(high=shift),)]
    return tuple(
        planner.Permission(out, item, tuple(groups))
        for (out, item), groups in found.items()
        if groups
    )


def _ranges(
    program: Program, step: Instruction, kernel: Kernel, use: int, number: int
) -> tuple[planner.Range, ...]:
    """A kernel's permissions as differences of the homes' offsets."""
    apart = program.offset(step.outputs[number]) - program.offset(step.inputs[use])
    return tuple(
        planner.Range(
            None if o.min_shift is None else o.min_shift - apart,
            None if o.max_shift is None else o.max_shift - apart,
            o.multiple,
        )
        for o in kernel.overlaps
        if o.input == use and o.output == number and apart % o.multiple == 0
    )


def _walking(
    program: Program, step: Instruction, kernel: Kernel, offsets: dict[int, int]
) -> Kernel:
    """The kernel with the literals (such as its direction) that its overlaps ask for."""
    literals: dict[str, int] = {}
    for slot, tensor in enumerate(step.inputs):
        for out_slot, out in enumerate(step.outputs):
            if not _activation(program, tensor) or program.home(tensor) in program.apart:
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


def _stage(program: Program, start: int, stop: int, rows: int) -> StripStage:
    positions = [i for i in range(len(program.steps)) if start <= program.slot(i) < stop]
    moved = macs = 0
    whole: dict[int, int] = {}
    for step in (program.steps[i] for i in positions):
        out = program.tensors[step.outputs[0]]
        if step.kind == "MOVE":
            moved += out.nbytes
            continue
        count = select.macs(program, step)
        macs += count
        height = program.tensors[program.origin(out.index)].shape[1]
        whole[program.origin(out.index)] = count // out.shape[1] * height
    return StripStage(
        first=positions[0],
        end=positions[-1] + 1,
        rows=rows,
        macs=macs,
        model_macs=sum(whole.values()),
        moved_bytes=moved,
    )


def _feeds(program: Program, offsets: dict[int, int]) -> Iterator[Feed]:
    """What the caller writes before which step."""
    for index, step in enumerate(program.steps):
        if step.kind != FEED:
            continue
        rows = program.tensors[step.outputs[0]]
        whole = program.tensors[program.origin(rows.index)]
        first = program.rows[rows.index][1] if rows.index in program.rows else 0
        yield Feed(
            step=index,
            input=program.inputs.index(whole.index),
            first_row=first,
            rows=rows.shape[1],
            start=first * (whole.nbytes // whole.shape[1]),
            offset=offsets[rows.index],
            nbytes=rows.nbytes,
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
        tensor=program.origin(out.index),
        offset=offsets[out.index],
        nbytes=out.nbytes,
        macs=select.macs(program, step),
        kernel=kernel.function,
        channels=program.channels.get(program.origin(out.index)),
        layout=kernel.output_layout,
        scratch_bytes=kernel.scratch_bytes,
        weights_bytes=sum(table.nbytes for table in kernel.tables),
        shape=out.shape,
        rows=program.rows[out.index][1:] if out.index in program.rows else None,
    )


def _view(program: Program, index: int, offsets: dict[int, int]) -> TensorView:
    tensor: Tensor = program.tensors[index]
    quantization = tensor.quantization
    return TensorView(
        name=tensor.name,
        tensor=index,
        offset=0 if index in program.fed else offsets[index],
        nbytes=tensor.nbytes,
        dtype=tensor.dtype,
        shape=tensor.shape,
        scale=quantization.scale if quantization else None,
        zero_point=quantization.zero_point if quantization else 0,
        apart=program.home(index) in program.apart,
        fed=index in program.fed,
    )
