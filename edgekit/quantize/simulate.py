"""The integer model as a float graph whose values lie where the integers do.

:class:`Rounder` is the base: it knows which values are rounded and how, by its subclasses'
parameters. int8 operators can be computed with the very arithmetic of TensorFlow Lite Micro
(:mod:`edgekit.quantize.exact`), or in floating point with the straight-through estimator, where
gradients are wanted. :class:`Simulator` takes its parameters from a plan. Parts of the graph may
be left float: that is how the influence of single layers is found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgekit.graph.model import Graph, Op
from edgekit.quantize.exact import (
    EXACT,
    EXACT_INT16,
    Integers,
    Steps,
    requantized,
    rounded_away,
    steps_of,
)
from edgekit.quantize.execute import Executor, Observer
from edgekit.quantize.operators import Call
from edgekit.quantize.plan import Plan, constant_values
from edgekit.quantize.scheme import Scheme, Slot

#: Operators that only move values: what they give is on their operand's steps already.
MOVES = frozenset(
    """
    RESHAPE SQUEEZE EXPAND_DIMS TRANSPOSE UNPACK SPLIT SPLIT_V SLICE STRIDED_SLICE PAD GATHER
    GATHER_ND TILE BROADCAST_TO REVERSE_V2 SPACE_TO_DEPTH DEPTH_TO_SPACE SPACE_TO_BATCH_ND
    BATCH_TO_SPACE_ND RESIZE_NEAREST_NEIGHBOR MAX_POOL_2D REDUCE_MAX REDUCE_MIN MIRROR_PAD
    CONCATENATION PACK MAXIMUM MINIMUM SELECT SELECT_V2
    """.split()
)


def on_steps(tf: Any, values: Any, steps: Steps) -> Any:
    """Real values rounded to the steps of a quantisation and saturated.

    The gradient passes where a value lies within the range and stops outside of it (the
    straight-through estimator as Jacob et al., 2018, use it).
    """
    inside = tf.clip_by_value(values, steps.low, steps.high)
    exact = rounded_away(tf, inside / steps.scale) * steps.scale
    return inside + tf.stop_gradient(exact - inside)


class Rounder(Executor):
    """A float graph of which parts are rounded.

    Args:
        graph: the prepared float graph.
        scheme: how it is quantised.
        only: operators that round (their constants and results); by default all of them.
        inputs_round: whether the graph's inputs are rounded as well.
    """

    def __init__(
        self,
        graph: Graph,
        scheme: Scheme,
        *,
        only: Collection[int] | None = None,
        inputs_round: bool = True,
    ) -> None:
        super().__init__(graph)
        self.scheme = scheme
        self.only = None if only is None else frozenset(only)
        self.inputs_round = inputs_round
        #: int8 operators compute as the kernels do; off where gradients are wanted
        self.exact = True

    def group_steps(self, group: int, form: str) -> Steps:
        """A group's quantisation in one of its forms."""
        raise NotImplementedError

    def constant_steps(self, slot: Slot) -> Steps:
        """A constant's quantisation; scales per channel in a shape that broadcasts."""
        raise NotImplementedError

    def integers(self, slot: Slot) -> Any:
        """A constant's integers, minus their zero point, in float32 (biases in float64)."""
        raise NotImplementedError

    def rounds(self, op: int) -> bool:
        """Whether an operator's constants and results are rounded."""
        return op in self.scheme.forms and (self.only is None or op in self.only)

    def on_steps(self, value: Any, group: int, form: str) -> Any:
        """A value on the steps of a group in one of its forms."""
        return on_steps(self.tf, value, self.group_steps(group, form))

    def keep(self, index: int, value: Any) -> Any:
        """A value as tensor ``index`` is stored."""
        return self.on_steps(value, *self.scheme.stored(index))

    def enter(self, index: int, value: Any) -> Any:
        if not self.inputs_round or index not in self.scheme.group_of:
            return value
        return self.keep(index, value)

    def read(self, slot: Slot, value: Any) -> Any:
        if slot not in self.scheme.reads or not self.rounds(slot[0]):
            return value
        tensor = self.graph.ops[slot[0]].inputs[slot[1]]
        stored, wanted = self.scheme.stored(tensor), self.scheme.reads[slot]
        return value if stored == wanted else self._converted(value, stored, wanted)

    def write(self, slot: Slot, value: Any) -> Any:
        if slot not in self.scheme.writes or not self.rounds(slot[0]):
            return value
        op = self.graph.ops[slot[0]]
        # What is moved is on its steps already, if what gave it rounds.
        if op.kind not in MOVES or self.only is not None:
            value = self.on_steps(value, *self.scheme.writes[slot])
        return self._stored(slot, value)

    def _stored(self, slot: Slot, value: Any) -> Any:
        stored = self.scheme.stored(self.graph.ops[slot[0]].outputs[slot[1]])
        given = self.scheme.writes[slot]
        return value if given == stored else self._converted(value, given, stored)

    def _converted(self, value: Any, source: tuple[int, str], target: tuple[int, str]) -> Any:
        """What a QUANTIZE operator between two forms or groups makes of a value."""
        if self.exact and self.only is None:
            steps = self.group_steps(*source), self.group_steps(*target)
            return requantized(self.tf, value, *steps)
        return self.on_steps(value, *target)

    def constant(self, slot: Slot) -> Any:
        if slot not in self.scheme.constants or not self.rounds(slot[0]):
            return super().constant(slot)
        steps = self.constant_steps(slot)
        values = self.integers(slot)
        return self.tf.cast(values, self.tf.float32) * steps.scale

    def step(
        self, op: Op, values: Mapping[int, Any], samples: Any, observer: Observer | None = None
    ) -> list[Any]:
        exactly = (
            self.exact
            and op.kind in EXACT
            and self.rounds(op.index)
            and (self.scheme.forms[op.index] == "int8" or op.kind in EXACT_INT16)
            and self._on_steps(op)
        )
        if not exactly:
            return super().step(op, values, samples, observer)
        if observer is not None:
            observer(op, self._before_activation(op, values, samples))
        found = EXACT[op.kind](self._integers(op, values, samples))
        return [self._stored((op.index, at), value) for at, value in enumerate(found)]

    def _on_steps(self, op: Op) -> bool:
        """Whether all operands are rounded, so that they are integers."""
        if self.only is None:
            return self.inputs_round
        return False

    def _before_activation(self, op: Op, values: Mapping[int, Any], samples: Any) -> Any:
        operands = [
            None if i < 0 else self.read((op.index, at), values[i]) if i in values
            else self.constant((op.index, at))
            for at, i in enumerate(op.inputs)
        ]  # fmt: skip
        return self.compute(Call(self.tf, self.graph, op, operands, samples))[0]

    def _integers(self, op: Op, values: Mapping[int, Any], samples: Any) -> Integers:
        tf = self.tf
        centred: list[Any] = []
        steps: list[Steps | None] = []
        for at, index in enumerate(op.inputs):
            slot = (op.index, at)
            found: Steps | None = None
            if index < 0:
                value = None
            elif slot in self.scheme.constants:
                found, value = self.constant_steps(slot), self.integers(slot)
                if self.scheme.constants[slot].axis is not None:
                    # Along the last axis of the result, whatever it is of the weights.
                    found = found._replace(scale=tf.reshape(found.scale, [-1]))
            elif slot in self.scheme.reads:
                found = self.group_steps(*self.scheme.reads[slot])
                value = rounded_away(tf, self.read(slot, values[index]) / found.scale)
            else:
                value = values.get(index)
            centred.append(value)
            steps.append(found)
        result = self.group_steps(*self.scheme.writes[op.index, 0])
        return Integers(Call(tf, self.graph, op, centred, samples), centred, steps, result)


class Simulator(Rounder):
    """Computes what the integer model of a plan computes.

    Args:
        graph: the prepared float graph.
        plan: its plan.
        only: operators that round; by default all of them.
        inputs_round: whether the graph's inputs are rounded as well.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        *,
        only: Collection[int] | None = None,
        inputs_round: bool = True,
    ) -> None:
        super().__init__(graph, plan.scheme, only=only, inputs_round=inputs_round)
        self.plan = plan
        self._made: dict[Slot, Any] = {}
        self._real: dict[Slot, Any] = {}

    def group_steps(self, group: int, form: str) -> Steps:
        import numpy as np

        found = self.plan.groups[group][form]  # type: ignore[index]
        return steps_of(np.float32(found.scale), np.float32(found.zero_point), form)

    def constant_steps(self, slot: Slot) -> Steps:
        import numpy as np

        found = self.plan.constants[slot]
        constant = self.scheme.constants[slot]
        if constant.axis is None:
            scale: Any = np.array(found.scales, np.float32).reshape(-1 if found.per_channel else ())
        else:
            rank = len(self.graph.tensors[constant.tensor].shape)
            shape = [1] * rank
            shape[constant.axis] = -1
            scale = np.array(found.scales, np.float32).reshape(shape)
        return steps_of(scale, np.float32(found.zero_point), "int8")

    def integers(self, slot: Slot) -> Any:
        import numpy as np

        if slot not in self._made:
            bias = self.scheme.constants[slot].role == "bias"
            values = constant_values(self.graph, self.plan, slot)
            values = values.astype(np.float64 if bias else np.float32)
            values = values - self.plan.constants[slot].zero_point
            with self.tf.init_scope():
                self._made[slot] = self.tf.constant(values.reshape(-1) if bias else values)
        return self._made[slot]

    def constant(self, slot: Slot) -> Any:
        if slot not in self.scheme.constants or not self.rounds(slot[0]):
            return super().constant(slot)
        if slot not in self._real:
            with self.tf.init_scope():
                self._real[slot] = self.tf.constant(super().constant(slot))
        return self._real[slot]

    def update(self, graph: Graph, plan: Plan, op: int) -> None:
        """Takes over a graph and a plan in which only one operator's constants differ."""
        self.graph, self.plan, self.scheme = graph, plan, plan.scheme
        for made in (self._made, self._real):
            for slot in [slot for slot in made if slot[0] == op]:
                del made[slot]
