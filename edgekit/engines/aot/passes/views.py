"""RESHAPE, SQUEEZE and EXPAND_DIMS vanish: the result is the same bytes in the same place."""

from __future__ import annotations

from dataclasses import replace

from edgekit.engines.aot.ir import Instruction, Program
from edgekit.engines.aot.passes.simplify import SHAPE_ONLY


def run(program: Program) -> Program:
    for step in program.steps:
        if _vanishes(program, step):
            program = _apply(program, step)
    return program


def _vanishes(program: Program, step: Instruction) -> bool:
    if step.kind not in SHAPE_ONLY:
        return False
    before, after = program.tensors[step.inputs[0]], program.tensors[step.outputs[0]]
    if before.is_constant or before.dtype != after.dtype or before.nbytes != after.nbytes:
        return False
    # An output that is an input must be copied: the two have places of their own.
    return not (after.index in program.outputs and program.home(before.index) in program.inputs)


def _apply(program: Program, view: Instruction) -> Program:
    source, result = view.inputs[0], view.outputs[0]
    home = program.home(source)
    # The operator is accounted to the step that makes the bytes, or else to a reader of them.
    owner = program.producer(home) or next(iter(program.consumers(result)), None)
    steps = tuple(
        replace(step, ops=tuple(sorted({*step.ops, *view.ops}))) if step is owner else step
        for step in program.steps
        if step is not view
    )
    return replace(program, steps=steps, views={**program.views, result: source})
