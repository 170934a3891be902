"""The frozen result of all decisions: a scale and zero point for everything, before writing.

A :class:`Plan` adds numbers to a :class:`~edgekit.quantize.scheme.Scheme`: the parameters of
every group of activations and of every constant. ``edgekit.quantize.write`` turns it into a
file, ``edgekit.quantize.simulate`` into a float graph that computes with the same rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.model import Graph, Quantization
from edgekit.graph.reader import shown
from edgekit.quantize import parameters
from edgekit.quantize.policy import FORMS, RULES, Form
from edgekit.quantize.scheme import Constant, Group, Scheme, Slot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.quantize.calibrate import Values

    Reals = NDArray[np.float64]

#: Gives the largest magnitude that the scale of each row of weights has to hold.
Magnitudes = Callable[["Reals"], "Reals"]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is needed to write or simulate the integer model.

    ``groups`` has, for each group of the scheme, its quantisation in the form that it is
    stored in and in the other one, which operators may want. ``integers`` are weights whose
    rounding was chosen; the others are rounded to the nearest.
    """

    scheme: Scheme
    groups: tuple[Mapping[Form, Quantization], ...]
    constants: Mapping[Slot, Quantization]
    integers: Mapping[Slot, NDArray[Any]]

    def stored(self, tensor: int) -> tuple[Form, Quantization]:
        """How an activation is kept in memory."""
        group, form = self.scheme.stored(tensor)
        return form, self.groups[group][form]

    def read(self, slot: Slot) -> Quantization:
        """How an operator takes the activation at one of its inputs."""
        group, form = self.scheme.reads[slot]
        return self.groups[group][form]

    def written(self, slot: Slot) -> Quantization:
        """How an operator gives the activation at one of its outputs."""
        group, form = self.scheme.writes[slot]
        return self.groups[group][form]


def largest_magnitude(rows: Reals) -> Reals:
    """The largest magnitude of each row [channels, n]: the usual choice for weights."""
    import numpy as np

    result: Reals = np.abs(rows).max(axis=1)
    return result


def make_plan(
    graph: Graph,
    scheme: Scheme,
    ranges: Mapping[int, tuple[float, float]],
    magnitudes: Magnitudes = largest_magnitude,
    integers: Mapping[Slot, NDArray[Any]] | None = None,
) -> Plan:
    """Works out all parameters.

    Args:
        graph: the prepared graph.
        scheme: its scheme.
        ranges: smallest and largest real value by tensor; those that the scheme's groups name.
        magnitudes: what the weights of one channel, a row, need their scale to hold.
        integers: weights that were rounded already; their scales must be those of
            ``magnitudes``.

    Raises:
        ModelError: a range is missing or not finite.
    """
    groups = tuple(
        group_parameters(group, *group_range(graph, scheme, number, ranges))
        for number, group in enumerate(scheme.groups)
    )
    return with_constants(graph, Plan(scheme, groups, {}, {}), magnitudes, integers)


def with_constants(
    graph: Graph,
    plan: Plan,
    magnitudes: Magnitudes = largest_magnitude,
    integers: Mapping[Slot, NDArray[Any]] | None = None,
) -> Plan:
    """The plan with the parameters of the constants worked out for its groups."""
    found: dict[Slot, Quantization] = {}
    for slot, constant in plan.scheme.constants.items():
        form = plan.scheme.forms[slot[0]]
        if constant.role == "weights":
            found.update(linear_parameters(graph, plan, slot, magnitudes))
        elif constant.role == "member":
            found[slot] = plan.groups[constant.group or 0][form]
        elif constant.role == "operand":
            values = graph.tensors[constant.tensor].data()
            found[slot] = parameters.affine(float(values.min()), float(values.max()), form)
        elif (slot[0], weights_place(graph, slot[0])) not in plan.scheme.constants:
            # Weights that are an activation: their scale is their group's.
            found[slot] = _product(plan, slot[0], data_place(graph.ops[slot[0]].kind),
                                   plan.read((slot[0], weights_place(graph, slot[0]))))  # fmt: skip
    return replace(plan, constants=found, integers=dict(integers or {}))


def group_parameters(group: Group, low: float, high: float) -> Mapping[Form, Quantization]:
    """A group's quantisation in both forms for a range of real values."""
    found: dict[Form, Quantization] = dict(group.fixed or {})
    if group.form == "int8":
        found.setdefault("int8", parameters.affine(low, high, "int8"))
        found.setdefault("int16", widened(found["int8"]))
    elif "int8" in found:
        found.setdefault("int16", widened(found["int8"]))
    else:
        found = {form: parameters.affine(low, high, form) for form in FORMS}
    return found


def widened(stored: Quantization) -> Quantization:
    """The int16 quantisation into which an int8 tensor converts without error."""
    return Quantization((parameters.float32(stored.scale / parameters.WIDENING),), (0,))


def linear_parameters(
    graph: Graph, plan: Plan, slot: Slot, magnitudes: Magnitudes
) -> dict[Slot, Quantization]:
    """The scales of the weights at ``slot`` and of the bias beside them."""
    import numpy as np

    op, constant = graph.ops[slot[0]], plan.scheme.constants[slot]
    rows = weight_rows(graph.tensors[constant.tensor].data().astype(np.float64), constant)
    scales = parameters.weight_scales(magnitudes(rows))
    zeros, axis = (0,) * scales.size, constant.axis or 0
    bias = bias_slot(graph, op.index)
    if bias is None:
        return {slot: Quantization(tuple(scales.tolist()), zeros, axis)}
    data = data_place(op.kind)
    if plan.scheme.forms[op.index] == "int16":
        weights = Quantization(tuple(scales.tolist()), zeros, axis)
        return {slot: weights, bias: _product(plan, op.index, data, weights)}
    values = graph.tensors[op.inputs[bias[1]]].data().astype(np.float64)
    scales, of_bias = parameters.with_room_for_bias(
        scales, plan.read((op.index, data)).scale, values
    )
    return {
        slot: Quantization(tuple(scales.tolist()), zeros, axis),
        bias: Quantization(tuple(of_bias.tolist()), zeros, 0),
    }


def _product(plan: Plan, op: int, data: int, weights: Quantization) -> Quantization:
    import numpy as np

    products = np.array(weights.scales, np.float32) * np.float32(plan.read((op, data)).scale)
    return Quantization(tuple(float(s) for s in products), (0,) * products.size, 0)


def weight_rows(values: Reals, constant: Constant) -> Reals:
    """Weights as rows that have one scale each: [channels, n], or [1, n]."""
    import numpy as np

    if constant.axis is None:
        return values.reshape(1, -1)
    moved: Reals = np.moveaxis(values, constant.axis, 0)
    return moved.reshape(moved.shape[0], -1)


def bias_slot(graph: Graph, op: int) -> Slot | None:
    """Where an operator has its bias, if it has one."""
    at = RULES[graph.ops[op].kind].bias
    inputs = graph.ops[op].inputs
    return (op, at) if at is not None and len(inputs) > at and inputs[at] >= 0 else None


def data_place(kind: str) -> int:
    """The place of a linear operator's activation among its inputs."""
    return 2 if kind == "TRANSPOSE_CONV" else 0


def weights_place(graph: Graph, op: int) -> int:
    """The place of a linear operator's weights among its inputs."""
    found = RULES[graph.ops[op].kind].weights
    if found is None:
        raise ValueError(f"{graph.ops[op].kind} has no weights")
    return found


def constant_dtype(scheme: Scheme, slot: Slot) -> str:
    """The type in which a constant is stored."""
    role, form = scheme.constants[slot].role, scheme.forms[slot[0]]
    if role == "weights":
        return "int8"
    if role == "bias":
        return "int32" if form == "int8" else "int64"
    return form


def constant_values(graph: Graph, plan: Plan, slot: Slot) -> NDArray[Any]:
    """A constant's integers."""
    import numpy as np

    if slot in plan.integers:
        return plan.integers[slot]
    constant = plan.scheme.constants[slot]
    values = graph.tensors[constant.tensor].data()
    quantized = parameters.quantize(values, plan.constants[slot], constant_dtype(plan.scheme, slot))
    if constant.role == "weights":
        limit = parameters.WEIGHT_LIMIT
        clipped: NDArray[Any] = np.clip(quantized, -limit, limit)
        return clipped
    return quantized


def group_range(
    graph: Graph, scheme: Scheme, number: int, ranges: Mapping[int, tuple[float, float]]
) -> tuple[float, float]:
    """The range of a group: that of its tensors, and of constants that join it.

    Raises:
        ModelError: a range is missing or not finite.
    """

    group = scheme.groups[number]
    if group.fixed:
        return 0.0, 0.0
    lows, highs = [], []
    for index in group.ranged:
        if index not in ranges:
            raise ModelError(f"'{shown(graph.tensors[index].name)}' was not calibrated")
        low, high = ranges[index]
        _check_finite(graph, index, low, high)
        lows.append(low)
        highs.append(high)
    for (op, _), constant in scheme.constants.items():
        # What is padded with is saturated: it may be the lowest number there is.
        if constant.group == number and graph.ops[op].kind != "PADV2":
            values = graph.tensors[constant.tensor].data()
            lows.append(float(values.min()))
            highs.append(float(values.max()))
    return min(lows), max(highs)


def check_ranges(graph: Graph, scheme: Scheme, values: Mapping[int, Values]) -> None:
    """Refuses values without a range, before anything is made of them.

    Raises:
        ModelError: a tensor that is to be quantised has NaN or infinity among its values.
    """
    for group in scheme.groups:
        for index in () if group.fixed else group.ranged:
            if index in values:
                _check_finite(graph, index, values[index].low, values[index].high)


def _check_finite(graph: Graph, index: int, low: float, high: float) -> None:
    import math

    if not (math.isfinite(low) and math.isfinite(high)):
        raise ModelError(
            f"'{shown(graph.tensors[index].name)}' has values from {low:g} to {high:g}",
            fix="look for a division by zero or an overflow in the float model",
        )
