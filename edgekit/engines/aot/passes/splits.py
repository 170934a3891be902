"""SPLIT, SPLIT_V and UNPACK become steps that each take one piece.

A piece is a run along one axis: every output of a split is a step of its own, so that pieces that
nobody reads cost nothing and the others lie where the plan wants them.
"""

from __future__ import annotations

from dataclasses import replace

from edgekit.engines.aot.ir import Instruction, Program
from edgekit.graph import Tensor


def run(program: Program) -> Program:
    steps: list[Instruction] = []
    for step in program.steps:
        steps += _pieces(program, step) or (step,)
    return program.with_steps(tuple(steps))


def _pieces(program: Program, step: Instruction) -> tuple[Instruction, ...]:
    """The steps that replace a split, or none where it is not one (or not a constant one)."""
    if step.kind == "UNPACK":
        data = program.tensors[step.inputs[0]]
        axis = int(step.options.get("axis", 0)) % len(data.shape)
        sizes = [1] * len(step.outputs)
        return _cut(step, data.index, axis, sizes)
    if step.kind == "SPLIT":
        where, data = (program.tensors[i] for i in step.inputs[:2])
        if not where.is_constant or not data.shape:
            return ()
        axis = _number(where) % len(data.shape)
        return _cut(step, data.index, axis, _sizes(program, step, axis))
    if step.kind == "SPLIT_V":
        data, _, where = (program.tensors[i] for i in step.inputs[:3])
        if not where.is_constant or not data.shape:
            return ()
        axis = _number(where) % len(data.shape)
        return _cut(step, data.index, axis, _sizes(program, step, axis))
    return ()


def _sizes(program: Program, step: Instruction, axis: int) -> list[int]:
    return [program.tensors[index].shape[axis] for index in step.outputs]


def _cut(step: Instruction, data: int, axis: int, sizes: list[int]) -> tuple[Instruction, ...]:
    found = []
    begin = 0
    for output, size in zip(step.outputs, sizes, strict=True):
        found.append(
            replace(
                step,
                kind="SPLIT",
                inputs=(data,),
                outputs=(output,),
                options={"axis": axis, "begin": begin, "size": size},
            )
        )
        begin += size
    return tuple(found)


def _number(tensor: Tensor) -> int:
    return int(tensor.data().reshape(-1)[0])
