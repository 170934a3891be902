"""Which values the channels of a graph's tensors can take, and which channels matter.

Two passes over an integer graph. Forward, every channel of every activation gets an interval
that contains its value for *every* input of the model: interval arithmetic with TFLM's own
requantisation at the ends, which is monotone, so that the ends are exact. A channel whose
interval is one value is constant. Backward, a channel is read if an operator that matters reads
it with a weight that is not zero. What is constant or unread need not be computed.

A channel is an index along a tensor's last axis (NHWC). Operators without a rule take every
value of their type, and read every channel, so that the analysis is sound for any graph; in a
float graph nothing is found.

    channels = channel_liveness(model.main)
    channels[op.outputs[0]].live          # bool per channel: must be computed
    channels[op.outputs[0]].constant      # bool per channel: always .low
    channels[op.outputs[0]].fill          # bool per channel: constant, and must be stored
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.graph.fixedpoint import (
    INT32_MAX,
    INT32_MIN,
    INTEGER_RANGES,
    activation_range,
    doubling_high_multiply,
    quantize_multiplier,
    requantize,
    rounding_shift_right,
)
from edgekit.graph.geometry import Axis, windows
from edgekit.graph.model import Graph, Op, Quantization, Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Mask = NDArray[np.bool_]
    Interval = tuple[Ints, Ints]


@dataclass(frozen=True, eq=False)
class Channels:
    """What is known of a tensor's channels. Arrays have one element per channel.

    ``low`` and ``high`` bound the stored integers (inclusive) over all positions and all inputs
    of the model. ``read``: something that matters reads the channel. The three masks that a
    code generator needs:

    * ``live``: read and not constant; must be computed.
    * ``fill``: constant with the value ``low``, and a reader cannot take the value into its
      bias (it pads with something else, or it is no convolution); must be stored, once.
    * neither: need not exist. Where it is ``constant`` and read, the readers (convolutions and
      fully connected operators) add ``weight * (low - zero_point)`` to their bias.
    """

    tensor: int
    low: Ints
    high: Ints
    read: Mask
    fill: Mask

    @property
    def constant(self) -> Mask:
        mask: Mask = self.low == self.high
        return mask

    @property
    def live(self) -> Mask:
        mask: Mask = self.read & ~self.constant
        return mask

    @property
    def stored(self) -> Mask:
        """``live`` or ``fill``: the channels that take memory."""
        mask: Mask = self.live | self.fill
        return mask

    @property
    def count(self) -> int:
        return int(self.low.size)


def channel_liveness(graph: Graph) -> Mapping[int, Channels]:
    """Analyses a graph for every input of its types; see the module's text.

    Returns:
        An entry for every integer activation (int8, uint8, int16, …) by tensor index. Tensors
        of other types have none: all of their channels are live.
    """
    if sum(_width(tensor) for tensor in graph.tensors) > _MAX_ALL_CHANNELS:
        return {}
    return _Analysis(graph).run()


def forward_ranges(graph: Graph) -> Mapping[int, Interval]:
    """The forward pass alone: ``(low, high)`` of every integer tensor's channels."""
    if sum(_width(tensor) for tensor in graph.tensors) > _MAX_ALL_CHANNELS:
        return {}
    analysis = _Analysis(graph)
    analysis.forward()
    return analysis.ranges


def live_macs(graph: Graph, op: Op, channels: Mapping[int, Channels]) -> tuple[int, int]:
    """MACs and weights (elements) of a convolution or fully connected operator that are left.

    Counted like :func:`edgekit.graph.macs.op_macs`, over live outputs and stored inputs.
    """
    import numpy as np

    data, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    out = graph.tensors[op.outputs[0]]
    outputs = channels[out.index].live if out.index in channels else np.ones(_width(out), bool)
    if data.index in channels:
        inputs = channels[data.index].stored
    else:
        inputs = np.ones(_width(data), bool)
    if op.kind == "FULLY_CONNECTED":
        depth = weights.shape[1]
        kept = int(np.count_nonzero(_spread(inputs, depth))) if inputs.size <= depth else depth
        left = int(np.count_nonzero(outputs)) * kept
        return left * (out.elements // weights.shape[0]), left
    taps = weights.shape[1] * weights.shape[2]
    if op.kind == "DEPTHWISE_CONV_2D":
        left = taps * int(np.count_nonzero(outputs))
    else:
        groups = max(1, data.shape[3] // weights.shape[3])
        per_group = np.count_nonzero(inputs.reshape(groups, -1), axis=1)
        left = taps * int(np.count_nonzero(outputs.reshape(groups, -1), axis=1) @ per_group)
    return left * (out.elements // out.shape[-1]), left


#: Operators whose only effect is their outputs. Anything else always matters.
_PURE = frozenset(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_TO
    CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
    ELU EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND
    GELU GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL
    LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
    MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY
    REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT SELECT_V2 SHAPE SIN SLICE SOFTMAX
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE TRANSPOSE_CONV UNPACK ZEROS_LIKE
    """.split()
)

#: Operators that compute each output channel from the same channel of their inputs.
_CHANNELWISE = frozenset(
    """
    ABS ADD AVERAGE_POOL_2D CAST DEQUANTIZE ELU EXP GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC
    MAXIMUM MAX_POOL_2D MINIMUM MUL NEG QUANTIZE RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR ROUND RSQRT SQRT SQUARE SQUARED_DIFFERENCE SUB TANH
    """.split()
)


#: What a rule runs into where a graph breaks the operator's own rules (shapes that do not fit,
#: scales of zero): nothing is then known of the result, which is sound.
_BROKEN = (ValueError, IndexError, KeyError, ArithmeticError)
#: Beyond this many channels a tensor is treated as one channel.
_MAX_CHANNELS = 1 << 20
#: Beyond this many channels in all tensors together nothing is analysed.
_MAX_ALL_CHANNELS = 1 << 25
#: Elements of weights and windows that the rules look at, at most.
_MAX_WORK = 1 << 30


class _Analysis:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ranges: dict[int, Interval] = {}
        self.read: dict[int, Mask] = {}
        self.fill: dict[int, Mask] = {}
        self.work = 0

    def run(self) -> Mapping[int, Channels]:
        self.forward()
        self.backward()
        return {
            index: Channels(index, low, high, self.read[index], self.fill[index])
            for index, (low, high) in self.ranges.items()
            if not self.graph.tensors[index].is_constant
        }

    def forward(self) -> None:
        for tensor in self.graph.tensors:
            if tensor.is_constant:
                _put(self.ranges, tensor.index, _constant_range(tensor))
            else:
                _put(self.ranges, tensor.index, _full_range(tensor))
        for op in self.graph.ops:
            rule = _FORWARD.get(op.kind)
            if rule is None:
                continue
            output = self.graph.tensors[op.outputs[0]] if op.outputs else None
            if output is None or output.index not in self.ranges or output.is_variable:
                continue
            try:
                found = rule(self, op)
                if found is not None:
                    self.ranges[output.index] = _within(found, _full_range(output))
            except _BROKEN:
                continue

    def spend(self, work: int) -> None:
        """Counts elements that a rule looks at; hostile files share one constant a thousandfold.

        Raises:
            ValueError: it is more than any real model needs.
        """
        self.work += work
        if self.work > _MAX_WORK:
            raise ValueError("too much work for one graph")

    def backward(self) -> None:
        import numpy as np

        for tensor in self.graph.tensors:
            count = _width(tensor)
            self.read[tensor.index] = np.zeros(count, bool)
            self.fill[tensor.index] = np.zeros(count, bool)
        for index in self.graph.outputs:
            self._require(index)
        for tensor in self.graph.tensors:
            if tensor.is_variable:
                self._require(tensor.index)
        for op in reversed(self.graph.ops):
            if op.kind not in _PURE:
                for index in op.inputs:
                    if index >= 0:
                        self._require(index)
                continue
            if not any(self._varies(index).any() for index in op.outputs):
                # Nothing that it computes matters, or all of it is known.
                continue
            rule = _BACKWARD.get(op.kind)
            try:
                if rule is not None and len(op.outputs) == 1 and rule(self, op):
                    continue
            except _BROKEN:
                rule = None
            for index in op.inputs:
                if index >= 0:
                    self._require(index)

    def _require(self, index: int) -> None:
        """Everything in the tensor must be there."""
        self.read[index][:] = True
        self.fill[index] |= self._constant(index)

    def _constant(self, index: int) -> Mask:
        import numpy as np

        found = self.ranges.get(index)
        if found is None:
            return np.zeros(self.read[index].size, bool)
        mask: Mask = found[0] == found[1]
        return mask

    def _varies(self, index: int) -> Mask:
        mask: Mask = self.read[index] & ~self._constant(index)
        return mask

    def _stored(self, index: int) -> Mask:
        mask: Mask = self._varies(index) | self.fill[index]
        return mask


_Forward = Callable[[_Analysis, Op], "Interval | None"]
_Backward = Callable[[_Analysis, Op], bool]


def _put(ranges: dict[int, Interval], index: int, interval: Interval | None) -> None:
    if interval is not None:
        ranges[index] = interval


def _width(tensor: Tensor) -> int:
    if not tensor.shape or tensor.shape[-1] > _MAX_CHANNELS:
        return 1
    return tensor.shape[-1]


def _full_range(tensor: Tensor) -> Interval | None:
    import numpy as np

    limits = INTEGER_RANGES.get(tensor.dtype)
    if limits is None:
        return None
    count = _width(tensor)
    return np.full(count, limits[0], np.int64), np.full(count, limits[1], np.int64)


def _constant_range(tensor: Tensor) -> Interval | None:
    import numpy as np

    if tensor.dtype not in INTEGER_RANGES or not tensor.elements:
        return None
    try:
        values = tensor.data().astype(np.int64).reshape(-1, _width(tensor))
    except ValueError:
        # Sparse constants have no plain array: any value of the type.
        return _full_range(tensor)
    return values.min(axis=0), values.max(axis=0)


def _within(found: Interval, limits: Interval | None) -> Interval:
    import numpy as np

    if limits is None or found[0].shape != limits[0].shape:
        raise ValueError("an interval of another shape")
    return (
        np.clip(found[0], limits[0], limits[1]),
        np.clip(found[1], limits[0], limits[1]),
    )


def _quantization(tensor: Tensor) -> Quantization:
    if tensor.quantization is None:
        raise ValueError(f"tensor {tensor.index} is not quantised")
    return tensor.quantization


def _same_quantization(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.quantization == b.quantization


def _spread(mask: NDArray[Any], count: int) -> NDArray[Any]:
    """A per-channel array for ``count`` flattened elements, channels innermost."""
    import numpy as np

    if mask.size == 0 or count % mask.size:
        raise ValueError(f"{count} elements of {mask.size} channels")
    return np.tile(mask, count // mask.size)


# --- convolutions and fully connected operators -----------------------------------------------


def _products(weights: NDArray[Any], low: Ints, high: Ints) -> tuple[Any, Any]:
    """Bounds of ``sum(weights * x)`` over the last axis; float64, exact below 2**53."""
    import numpy as np

    positive = np.maximum(weights, 0).astype(np.float64)
    negative = np.minimum(weights, 0).astype(np.float64)
    a, b = low.astype(np.float64), high.astype(np.float64)
    return positive @ a + negative @ b, positive @ b + negative @ a


def _padding_classes(vertical: Axis, horizontal: Axis) -> list[NDArray[Any]]:
    """``[kernel_h, kernel_w]`` masks of the taps inside the input, one per kind of position."""
    import numpy as np

    rows = np.unique(vertical.taps(), axis=0)
    columns = np.unique(horizontal.taps(), axis=0)
    return [row[:, None] & column[None, :] for row in rows for column in columns]


def _accumulator_to_output(
    low: NDArray[Any],
    high: NDArray[Any],
    multipliers: list[tuple[int, int]],
    output: Tensor,
    activation: str,
) -> Interval | None:
    """Requantises bounds of accumulators (one per output channel) as TFLM does."""
    import numpy as np

    if not (np.abs(low) < 2.0**53).all() or not (np.abs(high) < 2.0**53).all():
        return None
    a, b = np.rint(low).astype(np.int64), np.rint(high).astype(np.int64)
    multiplier = np.array([m for m, _ in multipliers], np.int64)
    shift = np.array([s for _, s in multipliers], np.int64)
    left = 2.0 ** np.maximum(shift, 0)
    if (a * left < INT32_MIN).any() or (b * left > INT32_MAX).any():
        # The accumulator may wrap around: anything can come out.
        return None
    minimum, maximum = activation_range(activation, output.dtype, _quantization(output))
    zero_point = output.zero_point
    return (
        np.clip(requantize(a, multiplier, shift) + zero_point, minimum, maximum),
        np.clip(requantize(b, multiplier, shift) + zero_point, minimum, maximum),
    )


def _bias(analysis: _Analysis, op: Op, count: int) -> Ints:
    import numpy as np

    if len(op.inputs) < 3 or op.inputs[2] < 0:
        return np.zeros(count, np.int64)
    values: Ints = analysis.graph.tensors[op.inputs[2]].data().astype(np.int64).reshape(-1)
    if values.size != count:
        raise ValueError(f"{values.size} biases for {count} channels")
    return values


def _channel_multipliers(
    data: Tensor, weights: Tensor, output: Tensor, count: int
) -> list[tuple[int, int]]:
    scales = _quantization(weights).scales
    if len(scales) not in (1, count):
        raise ValueError(f"{len(scales)} scales for {count} channels")
    each = scales if len(scales) == count else scales * count
    return [quantize_multiplier(data.scale * s / output.scale) for s in each]


def _conv_parts(analysis: _Analysis, op: Op) -> tuple[Tensor, Tensor, Tensor, list[NDArray[Any]]]:
    tensors = analysis.graph.tensors
    data, weights, output = (
        tensors[op.inputs[0]],
        tensors[op.inputs[1]],
        tensors[op.outputs[0]],
    )
    if data.dtype != "int8" or output.dtype != "int8" or weights.dtype not in ("int8", "int4"):
        raise ValueError("not an int8 convolution")
    if len(weights.shape) != 4 or weights.raw is None:
        raise ValueError("weights that are no constant")
    kernel = (weights.shape[1], weights.shape[2])
    vertical, horizontal = windows(data.shape, kernel, op.options)
    taps = vertical.out * vertical.kernel + horizontal.out * horizontal.kernel
    analysis.spend(weights.elements + taps)
    if output.shape[1:3] != (vertical.out, horizontal.out):
        raise ValueError("an output shape that the window does not give")
    return data, weights, output, _padding_classes(vertical, horizontal)


def _hull(
    taps_low: NDArray[Any], taps_high: NDArray[Any], bias: Ints, classes: list[NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bounds of the accumulators over all kinds of positions; taps are ``[out, kh, kw]``."""
    import numpy as np

    low = np.min([(taps_low * inside).sum(axis=(1, 2)) for inside in classes], axis=0)
    high = np.max([(taps_high * inside).sum(axis=(1, 2)) for inside in classes], axis=0)
    return low + bias, high + bias


def _groups(data: Tensor, weights: Tensor) -> int:
    """Groups of a convolution: each reads a share of the inputs, and makes one of the outputs."""
    count, depth = weights.shape[0], weights.shape[3]
    groups = data.shape[3] // depth
    if groups < 1 or groups * depth != data.shape[3] or count < groups or count % groups:
        raise ValueError("groups that do not divide the channels")
    return groups


def _forward_conv(analysis: _Analysis, op: Op) -> Interval | None:
    import numpy as np

    data, weights, output, classes = _conv_parts(analysis, op)
    low, high = analysis.ranges[data.index]
    low, high = low - data.zero_point, high - data.zero_point
    values = weights.data()
    count, depth = weights.shape[0], weights.shape[3]
    groups = _groups(data, weights)
    per_group = count // groups
    bounds = [
        _products(
            values[g * per_group : (g + 1) * per_group],
            low[g * depth : (g + 1) * depth],
            high[g * depth : (g + 1) * depth],
        )
        for g in range(groups)
    ]
    acc_low, acc_high = _hull(
        np.concatenate([b[0] for b in bounds]),
        np.concatenate([b[1] for b in bounds]),
        _bias(analysis, op, count),
        classes,
    )
    multipliers = _channel_multipliers(data, weights, output, count)
    return _accumulator_to_output(acc_low, acc_high, multipliers, output, _activation(op))


def _forward_depthwise(analysis: _Analysis, op: Op) -> Interval | None:
    import numpy as np

    data, weights, output, classes = _conv_parts(analysis, op)
    low, high = analysis.ranges[data.index]
    count = weights.shape[3]
    if weights.shape[0] != 1 or count % data.shape[3]:
        raise ValueError("a depthwise filter of another shape")
    times = count // data.shape[3]
    low = np.repeat(low - data.zero_point, times)[:, None, None]
    high = np.repeat(high - data.zero_point, times)[:, None, None]
    values = weights.data()[0].transpose(2, 0, 1).astype(np.int64)
    products = np.stack([values * low, values * high])
    acc_low, acc_high = _hull(
        products.min(axis=0), products.max(axis=0), _bias(analysis, op, count), classes
    )
    multipliers = _channel_multipliers(data, weights, output, count)
    return _accumulator_to_output(acc_low, acc_high, multipliers, output, _activation(op))


def _forward_fully_connected(analysis: _Analysis, op: Op) -> Interval | None:
    import numpy as np

    data, weights, output = _fully_connected_parts(analysis, op)
    count, depth = weights.shape
    low, high = (_spread(bound, depth) for bound in analysis.ranges[data.index])
    low, high = low - data.zero_point, high - data.zero_point
    values = weights.data().astype(np.int64) - weights.zero_point
    acc_low, acc_high = _products(values, low, high)
    bias = _bias(analysis, op, count)
    if _quantization(weights).per_channel:
        multipliers = _channel_multipliers(data, weights, output, count)
    else:
        # in double, as TFLM does; TensorFlow Lite multiplies these two in float32
        product = data.scale * weights.scale
        multipliers = [quantize_multiplier(product / output.scale)] * count
    return _accumulator_to_output(
        acc_low + bias, acc_high + bias, multipliers, output, _activation(op)
    )


def _fully_connected_parts(analysis: _Analysis, op: Op) -> tuple[Tensor, Tensor, Tensor]:
    tensors = analysis.graph.tensors
    data, weights, output = (
        tensors[op.inputs[0]],
        tensors[op.inputs[1]],
        tensors[op.outputs[0]],
    )
    if data.dtype != "int8" or output.dtype != "int8" or weights.dtype not in ("int8", "int4"):
        raise ValueError("not an int8 operator")
    if len(weights.shape) != 2 or weights.raw is None or op.options.get("weights_format", 0):
        raise ValueError("weights that are no plain constant")
    if _width(output) != weights.shape[0]:
        raise ValueError("an output of another shape")
    analysis.spend(weights.elements)
    return data, weights, output


def _activation(op: Op) -> str:
    return str(op.options.get("fused_activation_function", "NONE"))


def _read_weights(
    analysis: _Analysis, data: Tensor, used: Mask, *, padded: bool, biases: bool = True
) -> None:
    """Marks the channels of ``data`` that weights read, and those that must be stored.

    A constant that is not zero cannot go into the bias of a convolution that pads, because at
    the edges zeros take its place.
    """
    constant = analysis._constant(data.index)
    analysis.read[data.index] |= used
    if padded:
        low = analysis.ranges[data.index][0]
        analysis.fill[data.index] |= used & constant & (low != data.zero_point)
    elif not biases:
        analysis.fill[data.index] |= used & constant


def _backward_conv(analysis: _Analysis, op: Op) -> bool:
    import numpy as np

    data, weights, output, classes = _conv_parts(analysis, op)
    computed = analysis._varies(output.index)
    groups = _groups(data, weights)
    per_group = weights.shape[0] // groups
    values = weights.data() != 0
    used = np.concatenate(
        [
            values[g * per_group : (g + 1) * per_group][
                computed[g * per_group : (g + 1) * per_group]
            ].any(axis=(0, 1, 2))
            for g in range(groups)
        ]
    )
    _read_weights(analysis, data, used, padded=not all(c.all() for c in classes))
    return True


def _backward_depthwise(analysis: _Analysis, op: Op) -> bool:
    data, weights, output, classes = _conv_parts(analysis, op)
    computed = analysis._varies(output.index)
    used = computed & (weights.data()[0] != 0).any(axis=(0, 1))
    used = used.reshape(data.shape[3], -1).any(axis=1)
    _read_weights(analysis, data, used, padded=not all(c.all() for c in classes))
    return True


def _backward_fully_connected(analysis: _Analysis, op: Op) -> bool:
    import numpy as np

    data, weights, output = _fully_connected_parts(analysis, op)
    computed = analysis._varies(output.index)
    values = weights.data().astype(np.int64) != weights.zero_point
    used = values[computed].any(axis=0).reshape(-1, _width(data)).any(axis=0)
    _read_weights(analysis, data, used, padded=False)
    return True


# --- element by element ------------------------------------------------------------------------


def _forward_add(analysis: _Analysis, op: Op) -> Interval | None:
    return _sum(analysis, op, subtract=False)


def _forward_sub(analysis: _Analysis, op: Op) -> Interval | None:
    return _sum(analysis, op, subtract=True)


def _sum(analysis: _Analysis, op: Op, *, subtract: bool) -> Interval | None:
    """ADD and SUB of int8 (TFLM's ``AddElementwise``: both inputs at a common scale, 20 bits)."""
    import numpy as np

    tensors = analysis.graph.tensors
    one, two, output = tensors[op.inputs[0]], tensors[op.inputs[1]], tensors[op.outputs[0]]
    if not one.dtype == two.dtype == output.dtype == "int8":
        return None
    left_shift = 20
    common = 2 * max(one.scale, two.scale)

    def term(values: Ints, tensor: Tensor) -> Ints:
        multiplier, shift = quantize_multiplier(tensor.scale / common)
        scaled = doubling_high_multiply((values - tensor.zero_point) << left_shift, multiplier)
        return rounding_shift_right(scaled, -shift)

    multiplier, shift = quantize_multiplier(common / ((1 << left_shift) * output.scale))
    if shift > 0:
        return None
    minimum, maximum = activation_range(_activation(op), "int8", _quantization(output))

    def total(first: Ints, second: Ints) -> Ints:
        both = first - second if subtract else first + second
        scaled = rounding_shift_right(doubling_high_multiply(both, multiplier), -shift)
        clipped: Ints = np.clip(scaled + output.zero_point, minimum, maximum)
        return clipped

    (a, b), (c, d) = analysis.ranges[one.index], analysis.ranges[two.index]
    if subtract:
        c, d = d, c
    return (
        total(term(a, one), term(c, two)),
        total(term(b, one), term(d, two)),
    )


def _forward_mul(analysis: _Analysis, op: Op) -> Interval | None:
    import numpy as np

    tensors = analysis.graph.tensors
    one, two, output = tensors[op.inputs[0]], tensors[op.inputs[1]], tensors[op.outputs[0]]
    if not one.dtype == two.dtype == output.dtype == "int8":
        return None
    (a, b), (c, d) = analysis.ranges[one.index], analysis.ranges[two.index]
    a, b, c, d = a - one.zero_point, b - one.zero_point, c - two.zero_point, d - two.zero_point
    corners = np.stack([a * c, a * d, b * c, b * d])
    multiplier = quantize_multiplier(one.scale * two.scale / output.scale)
    return _accumulator_to_output(
        corners.min(axis=0),
        corners.max(axis=0),
        [multiplier],
        output,
        _activation(op),
    )


def _forward_extremum(analysis: _Analysis, op: Op) -> Interval | None:
    import numpy as np

    tensors = analysis.graph.tensors
    one, two, output = tensors[op.inputs[0]], tensors[op.inputs[1]], tensors[op.outputs[0]]
    if not (_same_quantization(one, output) and _same_quantization(two, output)):
        return None
    pick = np.maximum if op.kind == "MAXIMUM" else np.minimum
    (a, b), (c, d) = analysis.ranges[one.index], analysis.ranges[two.index]
    return pick(a, c), pick(b, d)


def _forward_rescale(analysis: _Analysis, op: Op) -> Interval | None:
    """QUANTIZE between integers, and RELU and its kin as operators of their own."""
    tensors = analysis.graph.tensors
    data, output = tensors[op.inputs[0]], tensors[op.outputs[0]]
    if data.dtype != "int8" or output.dtype != "int8":
        return None
    low, high = analysis.ranges[data.index]
    activation = "NONE" if op.kind == "QUANTIZE" else op.kind
    if op.kind == "RELU6" and not _same_quantization(data, output):
        # TFLM's RELU6 clamps without rescaling; other kernels differ.
        return None
    multiplier = quantize_multiplier(data.scale / output.scale)
    return _accumulator_to_output(
        low - data.zero_point, high - data.zero_point, [multiplier], output, activation
    )


def _forward_pool(analysis: _Analysis, op: Op) -> Interval | None:
    # A maximum, or a rounded mean of elements, lies between the elements.
    import numpy as np

    tensors = analysis.graph.tensors
    data, output = tensors[op.inputs[0]], tensors[op.outputs[0]]
    if not _same_quantization(data, output):
        return None
    minimum, maximum = activation_range(_activation(op), output.dtype, _quantization(output))
    low, high = analysis.ranges[data.index]
    return np.clip(low, minimum, maximum), np.clip(high, minimum, maximum)


def _forward_resize(analysis: _Analysis, op: Op) -> Interval | None:
    tensors = analysis.graph.tensors
    data, output = tensors[op.inputs[0]], tensors[op.outputs[0]]
    if not _same_quantization(data, output):
        return None
    low, high = analysis.ranges[data.index]
    # Interpolation in fixed point may round past the elements it lies between.
    slack = 1 if op.kind == "RESIZE_BILINEAR" else 0
    return low - slack, high + slack


def _forward_mean(analysis: _Analysis, op: Op) -> Interval | None:
    tensors = analysis.graph.tensors
    data, axes, output = tensors[op.inputs[0]], tensors[op.inputs[1]], tensors[op.outputs[0]]
    if not _same_quantization(data, output):
        return None
    rank = len(data.shape)
    reduced = {int(axis) % rank for axis in axes.data().reshape(-1)}
    low, high = analysis.ranges[data.index]
    if rank - 1 in reduced or _width(output) != low.size:
        return None
    return low - 1, high + 1


# --- moving data -------------------------------------------------------------------------------


def _forward_reshape(analysis: _Analysis, op: Op) -> Interval | None:
    tensors = analysis.graph.tensors
    data, output = tensors[op.inputs[0]], tensors[op.outputs[0]]
    if data.dtype != output.dtype or data.elements != output.elements:
        return None
    low, high = analysis.ranges[data.index]
    count = _width(output)
    if count % low.size == 0:
        return _spread(low, count), _spread(high, count)
    if low.size % count == 0:
        return low.reshape(-1, count).min(axis=0), high.reshape(-1, count).max(axis=0)
    return low.min().repeat(count), high.max().repeat(count)


def _backward_reshape(analysis: _Analysis, op: Op) -> bool:
    data, output = analysis.graph.tensors[op.inputs[0]], analysis.graph.tensors[op.outputs[0]]
    if data.elements != output.elements:
        return False
    for masks in (analysis.read, analysis.fill):
        new, old = masks[output.index], masks[data.index]
        if new.size % old.size == 0:
            old |= new.reshape(-1, old.size).any(axis=0)
        elif old.size % new.size == 0:
            old |= _spread(new, old.size)
        else:
            old |= new.any()
    return True


def _forward_concatenation(analysis: _Analysis, op: Op) -> Interval | None:
    import numpy as np

    tensors = analysis.graph.tensors
    output = tensors[op.outputs[0]]
    parts = [tensors[index] for index in op.inputs]
    if not all(_same_quantization(part, output) for part in parts):
        return None
    ranges = [analysis.ranges[part.index] for part in parts]
    if _concatenates_channels(op, output):
        return np.concatenate([r[0] for r in ranges]), np.concatenate([r[1] for r in ranges])
    return np.min([r[0] for r in ranges], axis=0), np.max([r[1] for r in ranges], axis=0)


def _concatenates_channels(op: Op, output: Tensor) -> bool:
    return int(op.options.get("axis", 0)) % len(output.shape) == len(output.shape) - 1


def _backward_concatenation(analysis: _Analysis, op: Op) -> bool:
    output = analysis.graph.tensors[op.outputs[0]]
    at = 0
    channels = _concatenates_channels(op, output)
    for index in op.inputs:
        size = analysis.read[index].size
        chosen = slice(at, at + size) if channels else slice(None)
        analysis.read[index] |= analysis.read[output.index][chosen]
        if channels:
            analysis.fill[index] |= analysis.fill[output.index][chosen]
            at += size
        else:
            # A part may be constant where the whole is not: it then has to be there.
            analysis.fill[index] |= analysis._constant(index) & analysis._stored(output.index)
    return True


def _forward_pad(analysis: _Analysis, op: Op) -> Interval | None:
    import numpy as np

    tensors = analysis.graph.tensors
    data, output = tensors[op.inputs[0]], tensors[op.outputs[0]]
    if not _same_quantization(data, output):
        return None
    paddings = tensors[op.inputs[1]].data().reshape(len(data.shape), 2)
    if op.kind == "PADV2":
        filler = int(tensors[op.inputs[2]].data().reshape(-1)[0])
    else:
        filler = output.zero_point
    low, high = analysis.ranges[data.index]
    if paddings[:-1].any():
        low, high = np.minimum(low, filler), np.maximum(high, filler)
    around = (int(paddings[-1][0]), int(paddings[-1][1]))
    return (
        np.pad(low, around, constant_values=filler),
        np.pad(high, around, constant_values=filler),
    )


def _backward_pad(analysis: _Analysis, op: Op) -> bool:
    tensors = analysis.graph.tensors
    data, output = tensors[op.inputs[0]], tensors[op.outputs[0]]
    paddings = tensors[op.inputs[1]].data().reshape(len(data.shape), 2)
    first = int(paddings[-1][0])
    chosen = slice(first, first + _width(data))
    wanted = analysis.read[output.index][chosen]
    if wanted.size != analysis.read[data.index].size:
        return False
    analysis.read[data.index] |= wanted
    # A channel that is constant but for the padding around it has to be there.
    stored = analysis._stored(output.index)[chosen]
    analysis.fill[data.index] |= analysis._constant(data.index) & stored
    return True


def _backward_channelwise(analysis: _Analysis, op: Op) -> bool:
    output = analysis.graph.tensors[op.outputs[0]]
    wanted = analysis._varies(output.index)
    for index in op.inputs:
        if index < 0 or (analysis.graph.tensors[index].is_constant):
            continue
        size = analysis.read[index].size
        if size == wanted.size:
            mine = wanted
        elif size == 1:
            mine = wanted.any().reshape(1)
        else:
            return False
        analysis.read[index] |= mine
        analysis.fill[index] |= mine & analysis._constant(index)
    return True


_FORWARD: dict[str, _Forward] = {
    "CONV_2D": _forward_conv,
    "DEPTHWISE_CONV_2D": _forward_depthwise,
    "FULLY_CONNECTED": _forward_fully_connected,
    "ADD": _forward_add,
    "SUB": _forward_sub,
    "MUL": _forward_mul,
    "MAXIMUM": _forward_extremum,
    "MINIMUM": _forward_extremum,
    "QUANTIZE": _forward_rescale,
    "RELU": _forward_rescale,
    "RELU6": _forward_rescale,
    "AVERAGE_POOL_2D": _forward_pool,
    "MAX_POOL_2D": _forward_pool,
    "MEAN": _forward_mean,
    "RESIZE_BILINEAR": _forward_resize,
    "RESIZE_NEAREST_NEIGHBOR": _forward_resize,
    "RESHAPE": _forward_reshape,
    "SQUEEZE": _forward_reshape,
    "EXPAND_DIMS": _forward_reshape,
    "CONCATENATION": _forward_concatenation,
    "PAD": _forward_pad,
    "PADV2": _forward_pad,
}

_BACKWARD: dict[str, _Backward] = {
    "CONV_2D": _backward_conv,
    "DEPTHWISE_CONV_2D": _backward_depthwise,
    "FULLY_CONNECTED": _backward_fully_connected,
    "RESHAPE": _backward_reshape,
    "SQUEEZE": _backward_reshape,
    "EXPAND_DIMS": _backward_reshape,
    "CONCATENATION": _backward_concatenation,
    "PAD": _backward_pad,
    "PADV2": _backward_pad,
    **dict.fromkeys(_CHANNELWISE, _backward_channelwise),
}
