"""A PAD in front of convolutions becomes their own padding.

Exact because PAD fills with the zero point, and a convolution's padding contributes nothing:
(zero point + input offset) * weight = 0.
"""

from __future__ import annotations

from dataclasses import replace

from edgekit.engines.aot.ir import Instruction, Program

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def run(program: Program) -> Program:
    for step in program.steps:
        pads = _pads(program, step)
        if pads is not None:
            program = _apply(program, step, pads)
    return program


def _pads(program: Program, step: Instruction) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) if the step is a PAD that its consumers can take over."""
    if step.kind != "PAD" or step.outputs[0] in program.outputs:
        return None
    data, amounts = (program.tensors[i] for i in step.inputs[:2])
    output = program.tensors[step.outputs[0]]
    if len(data.shape) != 4 or not amounts.is_constant or data.dtype != "int8":
        return None
    if data.quantization != output.quantization:
        return None
    rows = amounts.data().reshape(-1, 2)
    if rows.shape != (4, 2) or rows[0].any() or rows[3].any() or (rows < 0).any():
        return None
    consumers = program.consumers(output.index)
    if not consumers or not all(
        user.kind in _CONVOLUTIONS
        and user.inputs.count(output.index) == 1
        and user.inputs[0] == output.index
        and user.options.get("padding") == "VALID"
        for user in consumers
    ):
        return None
    top, bottom, left, right = (int(n) for n in rows[1:3].reshape(-1))
    return top, bottom, left, right


def _apply(program: Program, pad: Instruction, pads: tuple[int, int, int, int]) -> Program:
    steps = []
    for step in program.steps:
        if step is pad:
            continue
        if pad.outputs[0] in step.inputs:
            step = replace(
                step,
                ops=(*pad.ops, *step.ops),
                inputs=(pad.inputs[0], *step.inputs[1:]),
                options={**step.options, "padding": "EXPLICIT", "pads": pads},
            )
        steps.append(step)
    return program.with_steps(tuple(steps))
