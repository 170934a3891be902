"""The engine's intermediate form: a frozen program that passes rewrite.

A pass decides first and applies afterwards: it is a function from :class:`Program` to
:class:`Program`, and the graph that it reads never changes under it. Tensors keep the indices
of the model's, so that every step can be traced back to the model and checked against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit.engines.aot.lowering import Node
from edgekit.graph import Model, Tensor

#: Characters of a tensor's name in a message.
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Instruction:
    """One step of a program: an operator of the model, or several that a pass fused."""

    kind: str
    #: indices of the model's operators that it stands for
    ops: tuple[int, ...]
    #: tensors by index, -1 where an optional one is absent
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    #: the fused instructions, in order, where ``kind`` is a fusion
    parts: tuple[Instruction, ...] = ()


@dataclass(frozen=True)
class Program:
    """What is to run: instructions in order over tensors as they will be in memory.

    ``tensors`` may have fewer channels than the model's; ``channels`` then says which of the
    model's channels (along the last axis) are left.
    """

    model: Model
    tensors: Mapping[int, Tensor] = field(repr=False)
    steps: tuple[Instruction, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    channels: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    #: a tensor that is another one's memory under a different shape: view -> viewed
    views: Mapping[int, int] = field(default_factory=dict)
    #: where a view starts in what it views, in bytes; 0 where it is not named
    view_offsets: Mapping[int, int] = field(default_factory=dict)
    #: tensors that are some rows (axis 1) of a model's tensor: -> (tensor, first row, end)
    rows: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    #: rolling buffers (homes) and the model's tensor whose rows pass through them
    windows: Mapping[int, int] = field(default_factory=dict)
    #: place of each step on the planner's time line; steps of one place repeat in turn with
    #: those of the places beside it. Empty: every step has a place of its own
    slots: tuple[int, ...] = ()
    #: slots (first, last) that a home must survive, besides those that touch it
    spans: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    #: inputs that are not in the arena; a pointer to each is
    apart: frozenset[int] = frozenset()
    #: inputs that the caller puts there row by row: FEED steps stand where it does
    fed: frozenset[int] = frozenset()
    #: stages in strips: first slot, end, rows per turn
    stages: tuple[tuple[int, int, int], ...] = ()
    #: stages' outputs that may lie over a stage's input: (output, input) -> greatest shift
    shares: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def offset(self, tensor: int) -> int:
        """Where ``tensor`` starts in its home, in bytes."""
        total = 0
        while tensor in self.views:
            total += self.view_offsets.get(tensor, 0)
            tensor = self.views[tensor]
        return total

    def origin(self, tensor: int) -> int:
        """The model's tensor that ``tensor`` holds, or some rows of it."""
        if tensor in self.rows:
            return self.rows[tensor][0]
        return self.windows.get(tensor, tensor)

    def slot(self, position: int) -> int:
        """Where the step at ``position`` is on the planner's time line."""
        return self.slots[position] if self.slots else position

    def home(self, tensor: int) -> int:
        """The tensor whose memory ``tensor`` is in."""
        while tensor in self.views:
            tensor = self.views[tensor]
        return tensor

    def node(self, step: Instruction) -> Node:
        """The step with its tensors, as the lowering of an operator wants it."""
        return Node(
            kind=step.kind,
            ops=step.ops,
            inputs=tuple(self.tensors[i] if i >= 0 else None for i in step.inputs),
            outputs=tuple(self.tensors[i] for i in step.outputs),
            options=step.options,
            parts=tuple(self.node(part) for part in step.parts),
        )

    def place(self, step: Instruction) -> str:
        """Where a step is, for messages: ``operator 7 DEPTHWISE_CONV_2D 'block3/dw'``."""
        if not step.ops:
            return f"{step.kind} '{self.tensors[step.outputs[0]].name}'"
        ops = [self.model.ops[index] for index in step.ops]
        op = next((op for op in ops if op.kind == step.kind), ops[-1])
        name = self.model.tensors[op.outputs[0]].name if op.outputs else ""
        if len(name) > _LONGEST_NAME:
            # A converter joins the names of everything that it fused; the first says enough.
            name = name.partition(";")[0][:_LONGEST_NAME] + "..."
        return f"operator {op.index} {op.kind}" + (f" '{name}'" if name else "")

    def consumers(self, tensor: int) -> tuple[Instruction, ...]:
        return tuple(step for step in self.steps if tensor in step.inputs)

    def producer(self, tensor: int) -> Instruction | None:
        return next((step for step in self.steps if tensor in step.outputs), None)

    def with_steps(self, steps: tuple[Instruction, ...]) -> Program:
        return replace(self, steps=steps)


def program_of(model: Model) -> Program:
    """The model's main graph as it is."""
    return Program(
        model=model,
        tensors={tensor.index: tensor for tensor in model.tensors},
        steps=tuple(
            Instruction(op.kind, (op.index,), op.inputs, op.outputs, op.options) for op in model.ops
        ),
        inputs=model.inputs,
        outputs=model.outputs,
    )
