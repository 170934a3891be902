"""PACK of many inputs along axis 1 becomes steps that each join some of them.

What the kernels take is limited; an unrolled recurrent layer that returns its sequence joins one
tensor per time step. The parts are rows of the whole, each in its place. (CONCATENATION has the
same limit in TFLM, without which there would be nothing to compare with.)
"""

from __future__ import annotations

from dataclasses import replace

from edgekit.engines.aot.ir import Instruction, Program
from edgekit.engines.aot.ops.concatenation import MOST_INPUTS


def run(program: Program) -> Program:
    """The last pass: the steps of a join follow each other, and together make what others read."""
    steps: list[Instruction] = []
    tensors, rows = dict(program.tensors), dict(program.rows)
    views, offsets = dict(program.views), dict(program.view_offsets)
    for step in program.steps:
        if not _divides(program, step):
            steps.append(step)
            continue
        whole = program.tensors[step.outputs[0]]
        row_bytes = whole.nbytes // whole.shape[1]
        at = 0
        for start in range(0, len(step.inputs), MOST_INPUTS):
            inputs = step.inputs[start : start + MOST_INPUTS]
            count = sum(program.tensors[i].nbytes for i in inputs) // row_bytes
            part = max(tensors) + 1
            shape = (whole.shape[0], count, *whole.shape[2:])
            tensors[part] = replace(whole, index=part, shape=shape)
            views[part], offsets[part] = whole.index, at * row_bytes
            rows[part] = (whole.index, at, at + count)
            steps.append(replace(step, inputs=inputs, outputs=(part,)))
            at += count
    return replace(
        program, tensors=tensors, rows=rows, views=views, view_offsets=offsets, steps=tuple(steps)
    )


def _divides(program: Program, step: Instruction) -> bool:
    if step.kind != "PACK" or len(step.inputs) <= MOST_INPUTS:
        return False
    whole = program.tensors[step.outputs[0]]
    axis = int(step.options.get("axis", 0))
    if len(whole.shape) < 2 or whole.shape[0] != 1 or axis % len(whole.shape) != 1:
        return False
    # A view of a view is where its home is; rows are counted from the whole's own start.
    return whole.index not in program.views and all(i >= 0 for i in step.inputs)
