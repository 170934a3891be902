"""Removes steps whose results nobody reads."""

from __future__ import annotations

from edgekit.engines.aot.ir import Instruction, Program


def run(program: Program) -> Program:
    needed = set(program.outputs)
    kept: list[Instruction] = []
    for step in reversed(program.steps):
        if needed & set(step.outputs) or not step.outputs:
            kept.append(step)
            needed.update(step.inputs)
    return program.with_steps(tuple(reversed(kept)))
