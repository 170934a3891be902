"""Constant folding: an operator whose inputs are all known is replaced by its result.

TFLM itself computes the result (once, with all inputs at zero), so that it is exact for every
operator. A SHAPE is known as well, since every shape in a program is; and the operators that
only change a shape do not read their second operand, because the result's shape is known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgekit.engines.aot.ir import Program
from edgekit.graph import Model, Tensor

#: Operators whose result depends on the first input alone once its shape is known.
SHAPE_ONLY = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


def run(program: Program) -> Program:
    steps = tuple(
        replace(step, inputs=step.inputs[:1]) if step.kind in SHAPE_ONLY else step
        for step in program.steps
    )
    program = program.with_steps(steps)
    known: set[int] = {index for index, t in program.tensors.items() if t.is_constant}
    folded = []
    for step in program.steps:
        inputs = [i for i in step.inputs if i >= 0]
        if step.kind == "SHAPE" or (inputs and known.issuperset(inputs)):
            folded.append(step)
            known.update(step.outputs)
    # A graph output has to be written by every inference, known or not.
    folded = [step for step in folded if not set(step.outputs) & set(program.outputs)]
    if not folded:
        return program
    needed = {i for step in program.steps if step not in folded for i in step.inputs}
    wanted = [i for step in folded for i in step.outputs if i in needed]
    if not wanted:
        return program
    values = _evaluate(program.model, wanted)
    tensors = {**program.tensors, **values}
    return replace(
        program,
        tensors=tensors,
        steps=tuple(step for step in program.steps if step not in folded),
    )


def _evaluate(model: Model, wanted: list[int]) -> dict[int, Tensor]:
    from edgekit.runtimes.tflm import TflmRunner

    with TflmRunner(model.raw, keep_tensors=True) as runner:
        runner.invoke(*(np.zeros(t.shape, t.dtype) for t in model.input_tensors))
        found = {}
        for index in wanted:
            value = np.ascontiguousarray(runner.tensor(index))
            found[index] = replace(model.tensors[index], raw=value.tobytes())
    return found
