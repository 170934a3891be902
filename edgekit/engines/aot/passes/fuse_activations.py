"""RELU and its kin become the clamp of the operator in front.

Exact where both sides have the same quantisation: the activation's own requantisation is then
by one, and what remains of it is the clamp.
"""

from __future__ import annotations

from dataclasses import replace

from edgekit.engines.aot.ir import Instruction, Program

_ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1")
_CLAMPING = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "ADD",
    "SUB",
    "MUL",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
)


def run(program: Program) -> Program:
    for step in program.steps:
        front = _front(program, step)
        if front is not None:
            program = _apply(program, front, step)
    return program


def _front(program: Program, step: Instruction) -> Instruction | None:
    """The step that can take over the activation ``step``."""
    if step.kind not in _ACTIVATIONS:
        return None
    before, after = program.tensors[step.inputs[0]], program.tensors[step.outputs[0]]
    front = program.producer(before.index)
    if (
        front is None
        or front.kind not in _CLAMPING
        or front.options.get("fused_activation_function", "NONE") != "NONE"
        or before.index in program.outputs
        or len(program.consumers(before.index)) != 1
        or before.dtype != "int8"
        or after.dtype != "int8"
        or before.quantization != after.quantization
    ):
        return None
    return front


def _apply(program: Program, front: Instruction, activation: Instruction) -> Program:
    fused = replace(
        front,
        ops=(*front.ops, *activation.ops),
        outputs=activation.outputs,
        options={**front.options, "fused_activation_function": activation.kind},
    )
    return program.with_steps(
        tuple(fused if step is front else step for step in program.steps if step is not activation)
    )
