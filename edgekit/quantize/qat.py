"""Quantization-aware training: the float graph with variables for constants, rounding as it goes.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018): the forward pass rounds where the integer model does, the backward pass lets
gradients through as if it had not. What is rounded, and how, is the scheme's: the same decisions
that the writer follows. Batch norms are folded into the weights and stay so; training is
fine-tuning with frozen statistics (Krishnamoorthi, 2018, section 3.2.2).

Ranges of activations are kept from the calibration (``fixed``), follow a moving average of the
batches' (``average``, Jacob et al.), or are learnt: ``pact`` learns where values are clipped (Choi
et al., 2018, for both ends), ``lsq`` the size of a step (Esser et al., 2020). Scales of weights
follow their largest magnitude (``max``) or are learnt (``lsq``).

A call with ``training=False`` computes with the kernels' integer arithmetic, and
:meth:`FakeQuantModel.export` writes the file that TensorFlow Lite Micro computes the same with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import UsageError
from edgekit.graph.fixedpoint import INTEGER_RANGES
from edgekit.graph.model import Graph, Model, Quantization
from edgekit.quantize import parameters
from edgekit.quantize.exact import Steps, rounded_away, steps_of
from edgekit.quantize.plan import (
    Plan,
    bias_slot,
    constant_dtype,
    data_place,
    group_parameters,
    group_range,
    make_plan,
)
from edgekit.quantize.policy import FORMS, RULES, Form
from edgekit.quantize.prepare import constant
from edgekit.quantize.scheme import Scheme, Slot, decide
from edgekit.quantize.simulate import Rounder, on_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.quantize.write import Io

ActivationRanges = Literal["fixed", "average", "pact", "lsq"]
WeightRanges = Literal["max", "lsq"]
#: The last operators before whose results losses are better computed.
_FINAL_ACTIVATIONS = ("SOFTMAX", "LOGISTIC")


@dataclass(frozen=True)
class QatSettings:
    """How training quantises.

    ``average_decay`` is the share of the old range that a batch leaves. After
    ``freeze_after_epochs`` ranges change no more. The first ``delay_steps`` steps leave
    activations float. ``int16``, ``per_tensor`` and ``per_tensor_dense`` are those of
    :func:`edgekit.quantize.scheme.decide`.
    """

    form: Form = "int8"
    activation_ranges: ActivationRanges = "average"
    weight_ranges: WeightRanges = "max"
    average_decay: float = 0.99
    freeze_after_epochs: int | None = None
    delay_steps: int = 0
    int16: Collection[int] = field(default_factory=tuple)
    per_tensor: Collection[int] = field(default_factory=tuple)
    per_tensor_dense: bool = False


class FakeQuantModel(Rounder):
    """A trainable quantised model.

    Args:
        model: a prepared float model (:func:`edgekit.quantize.prepare.prepare`).
        ranges: smallest and largest value by tensor, from a calibration.
        settings: how training quantises.
        masks: by weight tensor, an array of its shape: weights where it is zero stay zero.
        clusters: by weight tensor, an array of integers of its shape: weights with the same
            number stay equal. One number for weights of several channels stays one value in
            the file only if the operator is ``per_tensor``.

    Raises:
        ModelError: the model has no integer form, or a range is missing.
        UsageError: a mask or clusters do not fit their tensor.
    """

    def __init__(
        self,
        model: Model,
        ranges: Mapping[int, tuple[float, float]],
        settings: QatSettings | None = None,
        *,
        masks: Mapping[int, NDArray[Any]] | None = None,
        clusters: Mapping[int, NDArray[Any]] | None = None,
    ) -> None:
        self.settings = settings or QatSettings()
        graph = model.main
        scheme = decide(
            graph,
            form=self.settings.form,
            int16=self.settings.int16,
            per_tensor=self.settings.per_tensor,
            per_tensor_dense=self.settings.per_tensor_dense,
        )
        super().__init__(graph, scheme)
        self.model = model
        self._observed: dict[int, list[tuple[Any, Any]]] = {}
        self._training = False
        self._values = _Constants(self, masks or {}, clusters or {})
        self._ranges = _Ranges(self, ranges)
        #: what an optimiser may change
        self.trainable: list[Any] = [*self._values.variables, *self._ranges.trainable]
        #: everything that a checkpoint has to hold, in a fixed order
        self.state: list[Any] = [*self.trainable, *self._values.fixed, *self._ranges.fixed]

    @property
    def final_activation(self) -> str | None:
        """``SOFTMAX`` or ``LOGISTIC`` if the first output comes from one, else ``None``."""
        producer = self.graph.producer(self.graph.outputs[0])
        return producer.kind if producer and producer.kind in _FINAL_ACTIVATIONS else None

    def __call__(
        self, inputs: Sequence[Any], training: bool = False, *, logits: bool = False
    ) -> list[Any]:
        """The outputs as real values, for a batch of real inputs [N, …].

        Args:
            inputs: one tensor per input of the model.
            training: with gradients and, where they are averaged, updates of ranges; without,
                with the kernels' integer arithmetic and no gradients.
            logits: give what the final SOFTMAX or LOGISTIC takes instead of the first output.
        """
        outputs = list(self.graph.outputs)
        if logits:
            producer = self.graph.producer(outputs[0])
            if producer is None or self.final_activation is None:
                raise UsageError("the model's first output does not come from a SOFTMAX")
            outputs[0] = producer.inputs[0]
        if not self.batched and inputs[0].shape[0] is None:
            raise UsageError(
                "this model computes sample by sample: its inputs need a fixed batch size",
                self.model.name,
            )
        self._training, self.exact = training, not training
        self._observed = {}
        self.forget()
        try:
            results = self.run(inputs, outputs=outputs)
            if training:
                self._ranges.update(self._observed)
        finally:
            # Tensors of a traced function are of no use outside of it.
            self.forget()
            self._observed = {}
        return results

    def forget(self) -> None:
        """Drops what was worked out from the variables as they were."""
        self._ranges.made = {}
        self._values.steps_made, self._values.integers_made = {}, {}

    def on_step(self, step: int) -> None:
        """To be called before step ``step`` (from 0) of the training."""
        self._ranges.on_step(step)

    def on_epoch(self, epoch: int) -> None:
        """To be called before epoch ``epoch`` (from 0) of the training."""
        self._ranges.on_epoch(epoch)

    def weights(self) -> dict[int, NDArray[Any]]:
        """The current values of all trainable constants by tensor, in float32."""
        return {index: self._values.value(index).numpy() for index in self._values.made}

    def float_graph(self) -> Graph:
        """The float graph with the trained constants."""
        tensors = list(self.graph.tensors)
        for index, values in self.weights().items():
            tensors[index] = constant(tensors[index], values)
        return replace(self.graph, tensors=tuple(tensors))

    def plan(self) -> Plan:
        """The parameters and integers as they are now."""
        import numpy as np

        self.forget()
        groups = tuple(
            {form: _quantization(self.group_steps(number, form)) for form in FORMS}
            for number in range(len(self.scheme.groups))
        )
        constants, integers = {}, {}
        for slot, found in self.scheme.constants.items():
            steps = self.constant_steps(slot)
            constants[slot] = _quantization(steps, found.axis or 0)
            centred = np.asarray(self.integers(slot), np.float64)
            values = np.rint(centred + constants[slot].zero_point)
            shape = self.graph.tensors[found.tensor].shape
            integers[slot] = values.astype(constant_dtype(self.scheme, slot)).reshape(shape)
        self.forget()
        return Plan(self.scheme, groups, constants, integers)

    def export(
        self,
        io: Io | None = None,
        *,
        description: str = "",
        metadata: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """The integer model as a ``.tflite`` file; see :func:`edgekit.quantize.write`."""
        from edgekit.quantize.write import write_quantized

        return write_quantized(
            self.float_graph(), self.plan(), io, description=description, metadata=metadata
        )

    # What is rounded how -----------------------------------------------------------------

    def group_steps(self, group: int, form: str) -> Steps:
        return self._ranges.steps(group, form)

    def keep(self, index: int, value: Any) -> Any:
        self._observe(index, value)
        group, form = self.scheme.stored(index)
        return self._ranges.rounded(value, group, form)

    def write(self, slot: Slot, value: Any) -> Any:
        if slot in self.scheme.writes:
            self._observe(self.graph.ops[slot[0]].outputs[slot[1]], value)
        return super().write(slot, value)

    def on_steps(self, value: Any, group: int, form: str) -> Any:
        return self._ranges.rounded(value, group, form)

    def _observe(self, index: int, value: Any) -> None:
        group = self.scheme.group_of.get(index)
        if self._training and group is not None and index in self.scheme.groups[group].ranged:
            tf = self.tf
            value = tf.stop_gradient(value)
            self._observed.setdefault(group, []).append(
                (tf.reduce_min(value), tf.reduce_max(value))
            )

    def constant_steps(self, slot: Slot) -> Steps:
        return self._values.steps(slot)

    def integers(self, slot: Slot) -> Any:
        return self._values.integers(slot)

    def constant(self, slot: Slot) -> Any:
        if slot not in self.scheme.constants:
            return super().constant(slot)
        return self._values.rounded(slot)


class _Constants:
    """Variables for weights, biases and operands, and their rounding."""

    def __init__(
        self,
        owner: FakeQuantModel,
        masks: Mapping[int, NDArray[Any]],
        clusters: Mapping[int, NDArray[Any]],
    ) -> None:
        self.owner, self.tf = owner, owner.tf
        self.made: dict[int, Any] = {}
        self.masks: dict[int, Any] = {}
        self.assignments: dict[int, tuple[Any, tuple[int, ...]]] = {}
        self.variables: list[Any] = []
        self.fixed: list[Any] = []
        self.learnt: dict[Slot, Any] = {}
        self.steps_made: dict[Slot, Steps] = {}
        self.integers_made: dict[Slot, Any] = {}
        graph, roles = owner.graph, owner.scheme.constants
        for slot, found in roles.items():
            tensor = graph.tensors[found.tensor]
            # Scalars among operands and members are parts of formulas, not learnt values.
            trains = found.role in ("weights", "bias") or tensor.elements > 1
            if trains and found.tensor not in self.made:
                self._make(found.tensor, masks.get(found.tensor), clusters.get(found.tensor))
            if found.role == "weights" and owner.settings.weight_ranges == "lsq":
                scales = self._largest(slot) / parameters.WEIGHT_LIMIT
                self.learnt[slot] = self._variable(scales, f"scale_{slot[0]}")
        unknown = sorted((set(masks) | set(clusters)) - set(self.made))
        if unknown:
            raise UsageError(f"tensor {unknown[0]} holds no weights of this model")

    def _variable(self, values: Any, name: str) -> Any:
        variable = self.tf.Variable(values, dtype=self.tf.float32, name=name)
        self.variables.append(variable)
        return variable

    def _make(self, index: int, mask: NDArray[Any] | None, clusters: NDArray[Any] | None) -> None:
        import numpy as np

        tensor = self.owner.graph.tensors[index]
        values = tensor.data()
        for what, array in (("mask", mask), ("clusters", clusters)):
            if array is not None and array.shape != tensor.shape:
                raise UsageError(
                    f"the {what} of '{tensor.name}' have the shape {list(array.shape)}, the "
                    f"weights {list(tensor.shape)}"
                )
        if mask is not None:
            self.masks[index] = self.tf.constant((mask != 0).astype(np.float32))
            values = values * (mask != 0)
        if clusters is not None:
            numbers, assignment = np.unique(clusters, return_inverse=True)
            assignment = assignment.reshape(-1)
            counts = np.bincount(assignment, minlength=numbers.size)
            values = np.bincount(assignment, values.reshape(-1), numbers.size) / counts
            self.assignments[index] = (
                self.tf.constant(assignment.astype(np.int32)), tensor.shape,
            )  # fmt: skip
        self.made[index] = self._variable(values.astype(np.float32), f"constant_{index}")

    def value(self, index: int) -> Any:
        """A constant's current real values."""
        tf = self.tf
        if index not in self.made:
            return tf.constant(self.owner.graph.tensors[index].data())
        values = self.made[index]
        if index in self.assignments:
            # The gradient of a gather is the sum over a cluster.
            assignment, shape = self.assignments[index]
            values = tf.reshape(tf.gather(values, assignment), shape)
        if index in self.masks:
            values = values * self.masks[index]
        return tf.convert_to_tensor(values)

    def _largest(self, slot: Slot) -> Any:
        """The largest magnitudes of the weights that share a scale, [channels] or []."""
        tf, found = self.tf, self.owner.scheme.constants[slot]
        values = tf.abs(self.value(found.tensor))
        axes = [a for a in range(len(values.shape)) if a != found.axis]
        return tf.maximum(
            tf.reduce_max(values, axis=axes if found.axis is not None else None),
            parameters.SMALLEST_WEIGHT,
        )

    def _weight_scales(self, slot: Slot) -> tuple[Any, Any]:
        """Scales of the weights at ``slot`` and of the bias beside them, [channels] or []."""
        tf, owner = self.tf, self.owner
        op = owner.graph.ops[slot[0]]
        if slot in self.learnt:
            scales = tf.maximum(tf.abs(self.learnt[slot]), parameters.SMALLEST_WEIGHT / 127)
        else:
            scales = tf.stop_gradient(self._largest(slot)) / parameters.WEIGHT_LIMIT
        source = owner.group_steps(*owner.scheme.reads[op.index, data_place(op.kind)])
        products = scales * tf.stop_gradient(source.scale)
        bias = bias_slot(owner.graph, op.index)
        if bias is None or owner.scheme.forms[op.index] != "int8":
            return scales, products
        # As parameters.with_room_for_bias: in double precision.
        values = tf.stop_gradient(self.value(op.inputs[bias[1]]))
        magnitudes = tf.abs(tf.cast(tf.reshape(values, [-1]), tf.float64))
        if scales.shape.rank == 0:
            magnitudes = tf.reduce_max(magnitudes)
        of_bias = tf.cast(tf.stop_gradient(products), tf.float64)
        tight = magnitudes > of_bias * parameters.BIAS_LIMIT
        needed = magnitudes / parameters.BIAS_LIMIT
        raised = tf.cast(needed / tf.cast(source.scale, tf.float64), tf.float32)
        return (
            tf.where(tight, tf.stop_gradient(raised), scales),
            tf.where(tight, tf.cast(needed, tf.float32), products),
        )

    def steps(self, slot: Slot) -> Steps:
        if slot not in self.steps_made:
            self._make_steps(slot)
        return self.steps_made[slot]

    def _make_steps(self, slot: Slot) -> None:
        """Works out the steps of a constant; those of weights and their bias together."""
        tf, owner = self.tf, self.owner
        found, form = owner.scheme.constants[slot], owner.scheme.forms[slot[0]]
        if found.role == "member":
            self.steps_made[slot] = owner.group_steps(found.group or 0, form)
            return
        if found.role == "operand":
            values = tf.stop_gradient(self.value(found.tensor))
            low, high = tf.reduce_min(values), tf.reduce_max(values)
            self.steps_made[slot] = affine_steps(tf, low, high, form)
            return
        op = owner.graph.ops[slot[0]]
        weights = (op.index, RULES[op.kind].weights or 0)
        bias = bias_slot(owner.graph, op.index)
        if weights in owner.scheme.constants:
            scales, of_bias = self._weight_scales(weights)
            axis = owner.scheme.constants[weights].axis
            if axis is not None:
                shape = [1] * len(owner.graph.tensors[op.inputs[weights[1]]].shape)
                shape[axis] = -1
                scales = tf.reshape(scales, shape)
            limit = parameters.WEIGHT_LIMIT * scales
            self.steps_made[weights] = Steps(scales, 0.0, "int8", -limit, limit)
        else:
            both = [owner.group_steps(*owner.scheme.reads[op.index, at])
                    for at in (data_place(op.kind), weights[1])]  # fmt: skip
            of_bias = both[0].scale * both[1].scale
        if bias is not None:
            # No real bias comes near the ends of its type.
            self.steps_made[bias] = Steps(of_bias, 0.0, form, None, None)

    def integers(self, slot: Slot) -> Any:
        if slot not in self.integers_made:
            self.integers_made[slot] = self._round(slot)
        return self.integers_made[slot]

    def _round(self, slot: Slot) -> Any:
        tf, found = self.tf, self.owner.scheme.constants[slot]
        steps = self.steps(slot)
        values = tf.stop_gradient(self.value(found.tensor))
        # As the writer does: in float32, with the reciprocal.
        reciprocal = 1.0 / steps.scale
        if found.role == "bias":
            return rounded_away(tf, tf.cast(tf.reshape(values, [-1]) * reciprocal, tf.float64))
        if found.role == "weights":
            limit = float(parameters.WEIGHT_LIMIT)
            return tf.clip_by_value(rounded_away(tf, values * reciprocal), -limit, limit)
        low, high = INTEGER_RANGES[steps.form]
        zero = steps.zero_point
        scaled = rounded_away(tf, values * reciprocal + zero)
        return tf.clip_by_value(scaled, float(low), float(high)) - zero

    def rounded(self, slot: Slot) -> Any:
        """A constant's real values on its steps, with the straight-through gradient."""
        tf, found = self.tf, self.owner.scheme.constants[slot]
        values = self.value(found.tensor)
        steps = self.steps(slot)
        if found.role == "bias":
            shape = values.shape
            exact = tf.cast(self.integers(slot), tf.float32) * tf.reshape(steps.scale, [-1])
            return values + tf.stop_gradient(tf.reshape(exact, shape) - values)
        if slot in self.learnt:
            count = self.owner.graph.tensors[found.tensor].elements / (
                1 if found.axis is None else int(self.learnt[slot].shape[0])
            )
            return learnt_steps(
                tf, values, steps.scale, 0.0, -parameters.WEIGHT_LIMIT, parameters.WEIGHT_LIMIT,
                count,
            )  # fmt: skip
        exact = tf.cast(self.integers(slot), tf.float32) * steps.scale
        return values + tf.stop_gradient(exact - values)


class _Ranges:
    """Ranges or scales of the groups of activations, and how they change."""

    def __init__(self, owner: FakeQuantModel, ranges: Mapping[int, tuple[float, float]]) -> None:
        self.owner, self.tf = owner, owner.tf
        self.kind = owner.settings.activation_ranges
        self.made: dict[tuple[int, str], Steps] = {}
        plan = make_plan(owner.graph, owner.scheme, ranges)
        groups = owner.scheme.groups
        tf = self.tf
        self.constant: dict[int, Mapping[Form, Quantization]] = {
            number: group_parameters(group, 0.0, 0.0)
            for number, group in enumerate(groups)
            if group.fixed
        }
        lows, highs, scales, points = [], [], [], []
        for number, (group, found) in enumerate(zip(groups, plan.groups, strict=True)):
            low, high = group_range(owner.graph, owner.scheme, number, ranges)
            lows.append(low)
            highs.append(high)
            scales.append(found[group.form].scale)
            points.append(float(found[group.form].zero_point))
        learns = self.kind in ("pact", "lsq")

        def variable(values: list[float], name: str, trainable: bool) -> Any:
            return tf.Variable(values, dtype=tf.float32, name=name, trainable=trainable)

        self.lows = variable(lows, "lows", self.kind == "pact")
        self.highs = variable(highs, "highs", self.kind == "pact")
        self.scales = variable(scales, "scales", self.kind == "lsq")
        self.points = variable(points, "zero_points", False)
        self.frozen = tf.Variable(False, trainable=False, name="frozen")
        self.active = tf.Variable(owner.settings.delay_steps == 0, trainable=False, name="active")
        everything = [self.lows, self.highs, self.scales, self.points]
        self.trainable = [v for v in everything if v.trainable] if learns else []
        self.fixed = [v for v in everything if not v.trainable] + [self.frozen, self.active]

    def _current(self, variable: Any) -> Any:
        """Learnt values; their gradient stops once ranges are frozen."""
        if not variable.trainable:
            return variable
        return self.tf.where(self.frozen, self.tf.stop_gradient(variable), variable)

    def steps(self, group: int, form: str) -> Steps:
        if not self.made:
            self._make()
        if (group, form) not in self.made:
            self.made[group, form] = self._converted(group, form)
        return self.made[group, form]

    def _make(self) -> None:
        """All groups' steps in the form that they are stored in, at once."""
        tf, groups = self.tf, self.owner.scheme.groups
        for number, known in self.constant.items():
            for form, found in known.items():
                scale = tf.constant(found.scale, tf.float32)
                self.made[number, form] = steps_of(scale, float(found.zero_point), form)
        for form in FORMS:
            mine = [i for i, g in enumerate(groups) if g.form == form and i not in self.constant]
            if not mine:
                continue
            if self.kind == "lsq":
                scales = tf.maximum(tf.abs(tf.gather(self._current(self.scales), mine)), 1e-30)
                together = steps_of(scales, tf.gather(self.points, mine), form)
            else:
                together = affine_steps(
                    tf, tf.gather(self._current(self.lows), mine),
                    tf.gather(self._current(self.highs), mine), form,
                )  # fmt: skip
            parts = [tf.unstack(tf.broadcast_to(x, [len(mine)]))
                     for x in (*together[:2], *together[3:])]  # fmt: skip
            for number, scale, zero, low, high in zip(mine, *parts, strict=True):
                self.made[number, form] = Steps(scale, zero, form, low, high)

    def _converted(self, group: int, form: str) -> Steps:
        """A group's steps in the form that it is not stored in."""
        tf = self.tf
        stored = self.made[group, self.owner.scheme.groups[group].form]
        if form == "int16":
            return steps_of(stored.scale / parameters.WIDENING, 0.0, form)
        low = tf.maximum(self.lows[group], stored.low)
        return affine_steps(tf, low, tf.minimum(self.highs[group], stored.high), form)

    def rounded(self, value: Any, group: int, form: str) -> Any:
        tf, steps = self.tf, self.steps(group, form)

        def round_() -> Any:
            if self.kind == "lsq" and group not in self.constant and not self.owner.exact:
                low, high = INTEGER_RANGES[form]
                count = 1
                for size in value.shape[1:]:
                    count *= int(size or 1)
                return learnt_steps(
                    tf, value, steps.scale, steps.zero_point, low, high, float(count)
                )
            return on_steps(tf, value, steps)

        if self.owner.settings.delay_steps == 0 or self.owner.exact:
            return round_()
        return tf.cond(self.active, round_, lambda: tf.identity(value))

    def update(self, observed: Mapping[int, Sequence[tuple[Any, Any]]]) -> None:
        """Moves the averages towards the ranges of a batch."""
        if self.kind != "average":
            return
        tf, decay = self.tf, self.owner.settings.average_decay
        lows, highs = tf.unstack(self.lows), tf.unstack(self.highs)
        for group, seen in observed.items():
            if group in self.constant:
                continue
            low = tf.reduce_min([lo for lo, _ in seen])
            high = tf.reduce_max([hi for _, hi in seen])
            lows[group] = decay * lows[group] + (1 - decay) * low
            highs[group] = decay * highs[group] + (1 - decay) * high
        self.lows.assign(tf.where(self.frozen, self.lows, tf.stack(lows)))
        self.highs.assign(tf.where(self.frozen, self.highs, tf.stack(highs)))

    def on_step(self, step: int) -> None:
        if step >= self.owner.settings.delay_steps:
            self.active.assign(True)

    def on_epoch(self, epoch: int) -> None:
        after = self.owner.settings.freeze_after_epochs
        if after is not None and epoch >= after:
            self.frozen.assign(True)


def affine_steps(tf: Any, low: Any, high: Any, form: str) -> Steps:
    """:func:`edgekit.quantize.parameters.affine` on tensors; gradients reach both ends."""
    if form == "int16":
        largest = tf.maximum(tf.abs(low), tf.abs(high))
        return steps_of(tf.where(largest > 0, largest / 32767, 1.0), 0.0, form)
    bottom, top = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
    smallest, largest_q = INTEGER_RANGES[form]
    scale = (top - bottom) / float(largest_q - smallest)
    empty = scale < 1e-30
    scale = tf.where(empty, 1.0, scale)
    exact = smallest - bottom / scale
    nearest = smallest - rounded_away(tf, bottom / scale)
    nearest = tf.clip_by_value(nearest, float(smallest), float(largest_q))
    zero = exact + tf.stop_gradient(nearest - exact)
    return steps_of(scale, tf.where(empty, float(smallest), zero), form)


def learnt_steps(
    tf: Any, values: Any, scale: Any, zero_point: Any, low: int, high: int, count: float
) -> Any:
    """Rounding whose scale is learnt as well: LSQ (Esser et al., 2020, equations 1 to 3).

    The scale's gradient is divided by the root of ``count`` values times the number of steps,
    so that it is of the size of the weights'.
    """
    share = 1.0 / float(count * max(high, 1)) ** 0.5
    slow = scale * share + tf.stop_gradient(scale - scale * share)
    steps = tf.clip_by_value(values / slow + zero_point, float(low), float(high))
    exact = tf.clip_by_value(rounded_away(tf, values / slow) + zero_point, float(low), float(high))
    return (steps + tf.stop_gradient(exact - steps) - zero_point) * slow


def trainable_model(
    model: Model,
    inputs: Sequence[Sequence[NDArray[Any]]],
    settings: QatSettings | None = None,
    *,
    ranges: str = "minmax",
    keep_zeros: bool = False,
    keep_clusters: bool = False,
    isolated: bool = True,
) -> FakeQuantModel:
    """A float ``.tflite`` model ready for quantization-aware training.

    Args:
        model: the float model, prepared or not.
        inputs: calibration samples with a batch of 1, from which ranges start.
        settings: how training quantises.
        ranges: how the first ranges are chosen; see :mod:`edgekit.quantize.ranges`.
        keep_zeros: weights that are zero stay zero (sparsity-preserving training).
        keep_clusters: weights that are equal stay equal (cluster-preserving training); see
            :func:`value_clusters`.
        isolated: calibrate in a process of its own.

    Raises:
        ModelError: the model has no integer form, or the samples do not fit it.
        UsageError: there is no such way to choose ranges.
    """
    from edgekit.quantize.calibrate import calibrate
    from edgekit.quantize.prepare import prepare
    from edgekit.quantize.quantizer import check_inputs
    from edgekit.quantize.ranges import parse

    settings = settings or QatSettings()
    setting = parse(ranges)
    prepared = prepare(model, isolated=isolated)
    check_inputs(prepared, inputs)
    graph = prepared.main
    scheme = decide(
        graph, form=settings.form, int16=settings.int16, per_tensor=settings.per_tensor,
        per_tensor_dense=settings.per_tensor_dense,
    )  # fmt: skip
    values = calibrate(
        prepared, inputs, scheme.group_of, histograms=setting.needs_histograms, isolated=isolated
    )
    return FakeQuantModel(
        prepared,
        setting.activations(scheme, values),
        settings,
        masks=zero_masks(graph, scheme) if keep_zeros else None,
        clusters=value_clusters(graph, scheme) if keep_clusters else None,
    )


def zero_masks(graph: Graph, scheme: Scheme) -> dict[int, NDArray[Any]]:
    """Masks that keep the zeros among weights: for training a pruned model."""
    import numpy as np

    return {
        index: (graph.tensors[index].data() != 0).astype(np.float32)
        for index in {scheme.constants[slot].tensor for slot in scheme.weights()}
    }


def value_clusters(graph: Graph, scheme: Scheme, most: int = 256) -> dict[int, NDArray[Any]]:
    """Clusters of equal weights: for training a model whose weights share values.

    Batch norms that were folded have scaled each channel: equal values are looked for in the
    whole tensor first, then in each channel. Tensors with more than ``most`` different
    values, in all or in a channel, are left out.
    """
    import numpy as np

    found: dict[int, NDArray[Any]] = {}
    for slot in scheme.weights():
        index = scheme.constants[slot].tensor
        values = graph.tensors[index].data()
        distinct, numbers = np.unique(values, return_inverse=True)
        if distinct.size <= most and distinct.size < values.size:
            found[index] = numbers.reshape(values.shape)
            continue
        axis = RULES[graph.ops[slot[0]].kind].axis
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        by_row = [np.unique(row, return_inverse=True) for row in rows]
        if rows.shape[1] == 1 or any(d.size > most or d.size == rows.shape[1] for d, _ in by_row):
            continue
        offsets = np.cumsum([0, *(d.size for d, _ in by_row)])[:-1]
        joined = np.stack([n.reshape(-1) + o for (_, n), o in zip(by_row, offsets, strict=True)])
        moved = joined.reshape(np.moveaxis(values, axis, 0).shape)
        found[index] = np.moveaxis(moved, 0, axis)
    return found


def _quantization(steps: Steps, axis: int = 0) -> Quantization:
    import numpy as np

    scales = np.atleast_1d(np.asarray(steps.scale, np.float32)).reshape(-1)
    point = int(np.rint(np.asarray(steps.zero_point)))
    return Quantization(tuple(float(s) for s in scales), (point,) * scales.size, axis)
