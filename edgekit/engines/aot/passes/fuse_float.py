"""DEQUANTIZE, float operators of one tensor, QUANTIZE: a function of a byte, so a table.

Converters leave such chains where an operator has no int8 form (NEG, for one). Each answer is
computed as the reference computes it, in float32: exact for operators that IEEE 754 defines.
"""

from __future__ import annotations

from dataclasses import replace

from edgekit.engines.aot.ir import Instruction, Program

#: Float operators whose every result IEEE 754 defines: any machine gives the same bits.
EXACT = ("NEG", "ABS", "SQUARE", "SQRT", "RELU", "RELU6", "FLOOR", "CEIL")


def run(program: Program) -> Program:
    for step in program.steps:
        chain = _chain(program, step)
        if chain is not None:
            program = _apply(program, chain)
    return program


def _chain(program: Program, last: Instruction) -> tuple[Instruction, ...] | None:
    """The steps from a DEQUANTIZE to the QUANTIZE ``last``, if nobody else reads in between."""
    if last.kind != "QUANTIZE" or program.tensors[last.outputs[0]].dtype != "int8":
        return None
    chain = [last]
    while chain[0].kind != "DEQUANTIZE":
        between = chain[0].inputs[0]
        front = program.producer(between)
        if (
            front is None
            or front.kind not in (*EXACT, "DEQUANTIZE")
            or between in program.outputs
            or len(program.consumers(between)) != 1
        ):
            return None
        chain.insert(0, front)
    first = program.tensors[chain[0].inputs[0]]
    return tuple(chain) if first.dtype == "int8" and not first.is_constant else None


def _apply(program: Program, chain: tuple[Instruction, ...]) -> Program:
    fused = Instruction(
        kind="FLOAT_TABLE",
        ops=tuple(sorted({op for step in chain for op in step.ops})),
        inputs=chain[0].inputs[:1],
        outputs=chain[-1].outputs,
        parts=chain,
    )
    steps = (fused if step is chain[-1] else step for step in program.steps)
    gone = {id(step) for step in chain[:-1]}
    return replace(program, steps=tuple(step for step in steps if id(step) not in gone))
