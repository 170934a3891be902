"""TensorFlow Lite Micro's integer arithmetic, in TensorFlow: equal results, step for step.

A float model of the rounding would agree with the kernels in all but one value in a thousand,
and a step there becomes several where later layers amplify it. Sums are exact in float32 up to
2^24 (float64 beyond), requantisation is gemmlowp's, in 64-bit integers. Scales may be constants
or tensors that are still being learnt. There are no gradients through these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from edgekit.graph.fixedpoint import INTEGER_RANGES
from edgekit.quantize.operators import OPERATORS, Call

#: Products up to which sums stay below 2^24 whenever weights and inputs are not all extreme.
_FLOAT32_PRODUCTS = 1024
_ADD_SHIFTS = {"int8": 20, "int16": 15}
_DIFFERENCE_SHIFT = 7


class Steps(NamedTuple):
    """A quantisation as TensorFlow computes with it: scalars, or a scale per channel.

    ``low`` and ``high`` are the smallest and largest real value that it holds.
    """

    scale: Any
    zero_point: Any
    form: str
    low: Any
    high: Any


def steps_of(scale: Any, zero_point: Any, form: str) -> Steps:
    """Steps from a scale and a zero point."""
    smallest, largest = INTEGER_RANGES.get(form, (-(2**31), 2**31 - 1))
    return Steps(
        scale, zero_point, form, (smallest - zero_point) * scale, (largest - zero_point) * scale
    )


@dataclass(frozen=True, eq=False)
class Integers:
    """One operator's operands as steps from their zero points (float32), and its result's steps.

    ``steps`` has one entry per input, ``None`` where it is no real number.
    """

    call: Call
    centred: Sequence[Any]
    steps: Sequence[Steps | None]
    result: Steps

    @property
    def tf(self) -> Any:
        return self.call.tf

    def scale(self, at: int) -> Any:
        """An operand's scale in double precision."""
        found = self.steps[at]
        if found is None:
            raise ValueError(f"input {at} of {self.call.op.kind} is no real number")
        return self.tf.cast(found.scale, self.tf.float64)

    @property
    def result_scale(self) -> Any:
        return self.tf.cast(self.result.scale, self.tf.float64)


def rounded_away(tf: Any, values: Any) -> Any:
    """To the nearest integer, halves away from zero, as the kernels round."""
    return tf.sign(values) * tf.floor(tf.abs(values) + 0.5)


def quantize_multiplier(tf: Any, real: Any) -> tuple[Any, Any]:
    """Positive factors as ``multiplier * 2**(shift - 31)``, int64; see
    :func:`edgekit.graph.fixedpoint.quantize_multiplier`."""
    real = tf.convert_to_tensor(real, tf.float64)
    shift = tf.floor(tf.math.log(real) / tf.math.log(tf.constant(2.0, tf.float64))) + 1
    # The logarithm may be off by one next to a power of two.
    fraction = real * tf.pow(tf.constant(2.0, tf.float64), -shift)
    shift = tf.where(fraction >= 1, shift + 1, tf.where(fraction < 0.5, shift - 1, shift))
    fraction = real * tf.pow(tf.constant(2.0, tf.float64), -shift)
    multiplier = tf.floor(fraction * 2.0**31 + 0.5)
    full = multiplier >= 2.0**31
    multiplier, shift = tf.where(full, multiplier / 2, multiplier), tf.where(full, shift + 1, shift)
    none = (shift < -31) | (real <= 0)
    most = shift > 30
    multiplier = tf.where(none, 0.0, tf.where(most, 2.0**31 - 1, multiplier))
    shift = tf.where(none, 0.0, tf.where(most, 30.0, shift))
    return tf.cast(multiplier, tf.int64), tf.cast(shift, tf.int64)


def requantize(tf: Any, values: Any, multiplier: Any, shift: Any) -> Any:
    """``values * multiplier * 2**(shift - 31)`` in int64, rounded twice as TFLM does."""
    bits = tf.bitwise
    zero = tf.zeros_like(shift)
    left, right = tf.maximum(shift, zero), tf.maximum(-shift, zero)
    one = tf.ones_like(shift)
    high = bits.right_shift(values * bits.left_shift(one, left) * multiplier + (1 << 30),
                            tf.constant(31, tf.int64))  # fmt: skip
    half = bits.right_shift(bits.left_shift(one, right), one)
    below = tf.cast(high < 0, tf.int64) * tf.minimum(half, one)
    return bits.right_shift(high + half - below, tf.zeros_like(high) + right)


def scaled(tf: Any, values: Any, real: Any) -> Any:
    """int64 values times a real factor, as TFLM rounds it."""
    return requantize(tf, values, *quantize_multiplier(tf, real))


def scaled_wide(tf: Any, values: Any, real: Any) -> Any:
    """Wide sums (of int16 activations) times a real factor: TFLM keeps 15 bits of the factor
    and rounds once."""
    multiplier, shift = quantize_multiplier(tf, real)
    bits = tf.bitwise
    one = tf.ones_like(shift)
    reduced = tf.where(
        multiplier < 0x7FFF0000, bits.right_shift(multiplier + (1 << 15), 16 * one), 0x7FFF * one
    )
    total = 15 - shift
    half = bits.left_shift(one, total - 1)
    return bits.right_shift(values * reduced + half, tf.zeros_like(values) + total)


def requantized(tf: Any, values: Any, source: Steps, target: Steps) -> Any:
    """What a QUANTIZE operator makes of integers of one kind: real values on the target's steps."""
    low, high = INTEGER_RANGES[target.form]
    centred = tf.cast(rounded_away(tf, values / source.scale), tf.int64)
    real = tf.cast(source.scale, tf.float64) / tf.cast(target.scale, tf.float64)
    steps = tf.cast(scaled(tf, centred, real), tf.float32) + target.zero_point
    return (tf.clip_by_value(steps, float(low), float(high)) - target.zero_point) * target.scale


def _result(ints: Integers, steps: Any) -> list[Any]:
    """Steps from the result's zero point as real values, clamped by the fused activation."""
    tf, result = ints.tf, ints.result
    low, high = (tf.constant(v, tf.float32) for v in INTEGER_RANGES[result.form])
    zero = tf.cast(result.zero_point, tf.float32)
    name = str(ints.call.op.options.get("fused_activation_function", "NONE"))
    bottom, top = {
        "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)
    }.get(name, (None, None))  # fmt: skip
    if bottom is not None:
        low = tf.maximum(low, zero + rounded_away(tf, bottom / result.scale))
    if top is not None:
        high = tf.minimum(high, zero + rounded_away(tf, top / result.scale))
    clamped = tf.clip_by_value(tf.cast(steps, tf.float32) + zero, low, high)
    return [(clamped - zero) * result.scale]


def _linear(ints: Integers) -> list[Any]:
    """Sums of products, a bias, a factor per channel."""
    tf, call = ints.tf, ints.call
    at, bias_at = (2, 3) if call.op.kind == "TRANSPOSE_CONV" else (0, 2)
    sums = _sums(ints)
    bias = ints.centred[bias_at] if len(call.inputs) > bias_at else None
    if bias is not None:
        sums = sums + tf.cast(tf.reshape(bias, [-1]), tf.int64)
    real = ints.scale(at) * ints.scale(1) / ints.result_scale
    if ints.result.form == "int16":
        return _result(ints, scaled_wide(tf, sums, real))
    return _result(ints, scaled(tf, sums, real))


def _sums(ints: Integers) -> Any:
    """The operator's sums of products without a bias, in int64."""
    tf, call = ints.tf, ints.call
    products = call.graph.tensors[call.op.inputs[1]].elements
    if call.op.kind == "BATCH_MATMUL":
        products = call.shape(call.op.inputs[0])[-2 if call.option("adj_x", False) else -1]
    elif call.op.kind == "DEPTHWISE_CONV_2D":
        products //= call.shape(call.op.inputs[1])[3]
    else:
        products //= call.shape(call.op.inputs[1])[0]
    narrow = products <= _FLOAT32_PRODUCTS and ints.result.form == "int8"
    dtype = tf.float32 if narrow else tf.float64
    operands = [None if x is None else tf.cast(x, dtype) for x in ints.centred]
    for at in range(2 if call.op.kind != "TRANSPOSE_CONV" else 3, len(operands)):
        operands[at] = None
    return tf.cast(OPERATORS[call.op.kind](replace(call, inputs=operands)), tf.int64)


def _batch_matmul(ints: Integers) -> list[Any]:
    real = ints.scale(0) * ints.scale(1) / ints.result_scale
    return _result(ints, scaled(ints.tf, _sums(ints), real))


def _add(ints: Integers) -> list[Any]:
    tf, (a, b) = ints.tf, ints.centred
    twice = 2 * tf.maximum(ints.scale(0), ints.scale(1))
    shift = 1 << _ADD_SHIFTS[ints.result.form]
    first = scaled(tf, tf.cast(a, tf.int64) * shift, ints.scale(0) / twice)
    second = scaled(tf, tf.cast(b, tf.int64) * shift, ints.scale(1) / twice)
    total = first - second if ints.call.op.kind == "SUB" else first + second
    return _result(ints, scaled(tf, total, twice / (shift * ints.result_scale)))


def _mul(ints: Integers) -> list[Any]:
    tf, (a, b) = ints.tf, ints.centred
    product = tf.cast(a, tf.int64) * tf.cast(b, tf.int64)
    return _result(ints, scaled(tf, product, ints.scale(0) * ints.scale(1) / ints.result_scale))


def _squared_difference(ints: Integers) -> list[Any]:
    tf, (a, b) = ints.tf, ints.centred
    twice = 2 * tf.maximum(ints.scale(0), ints.scale(1))
    shift = 1 << _DIFFERENCE_SHIFT
    first = scaled(tf, tf.cast(a, tf.int64) * shift, ints.scale(0) / twice)
    second = scaled(tf, tf.cast(b, tf.int64) * shift, ints.scale(1) / twice)
    real = twice * twice / ((1 << (2 * _DIFFERENCE_SHIFT)) * ints.result_scale)
    return _result(ints, scaled(tf, (first - second) ** 2, real))


def _mean(ints: Integers) -> list[Any]:
    tf, call = ints.tf, ints.call
    axes = [int(a) for a in call.parameter(1).reshape(-1)]
    keep = call.option("keep_dims", False)
    total = tf.cast(tf.reduce_sum(ints.centred[0], axis=axes, keepdims=keep), tf.int64)
    multiplier, shift = quantize_multiplier(tf, ints.scale(0) / ints.result_scale)
    if call.op.kind == "MEAN":
        shape = call.shape(call.op.inputs[0])
        count = 1
        for axis in {a % len(shape) for a in axes}:
            count *= shape[axis]
        # The division by the count goes into the multiplier, with as many bits as fit.
        room = tf.minimum(tf.constant(min(count.bit_length() - 1, 32), tf.int64), 31 + shift)
        multiplier = tf.bitwise.left_shift(multiplier, room) // count
        shift = shift - room
    return _result(ints, requantize(tf, total, multiplier, shift))


def _relu(ints: Integers) -> list[Any]:
    tf = ints.tf
    positive = tf.maximum(ints.centred[0], 0.0)
    real = ints.scale(0) / ints.result_scale
    return _result(ints, scaled(tf, tf.cast(positive, tf.int64), real))


def _leaky_relu(ints: Integers) -> list[Any]:
    tf = ints.tf
    x = tf.cast(ints.centred[0], tf.int64)
    # The kernel computes both factors in float32.
    ratio = ints.steps[0].scale / ints.result.scale  # type: ignore[union-attr]
    slope = ints.steps[0].scale * float(ints.call.option("alpha", 0.0)) / ints.result.scale  # type: ignore[union-attr]
    above = scaled(tf, x, tf.cast(ratio, tf.float64))
    below = scaled(tf, x, tf.cast(slope, tf.float64))
    return _result(ints, tf.where(x >= 0, above, below))


def _average_pool(ints: Integers) -> list[Any]:
    """Means of the steps with their zero point, rounded away from zero."""
    tf, call = ints.tf, ints.call
    zero = tf.cast(ints.result.zero_point, tf.float32)
    steps = ints.centred[0] + zero
    pooled = OPERATORS["AVERAGE_POOL_2D"](replace(call, inputs=[steps]))
    # The mean is a fraction with the window's count below: halves must stay halves.
    count = int(call.option("filter_height", 1)) * int(call.option("filter_width", 1))
    if call.option("padding", "SAME") == "VALID":
        pooled = rounded_away(tf, pooled * count) / count
    return _result(ints, rounded_away(tf, pooled) - zero)


EXACT: Mapping[str, Callable[[Integers], list[Any]]] = {
    "CONV_2D": _linear,
    "DEPTHWISE_CONV_2D": _linear,
    "FULLY_CONNECTED": _linear,
    "TRANSPOSE_CONV": _linear,
    "BATCH_MATMUL": _batch_matmul,
    "ADD": _add,
    "SUB": _add,
    "MUL": _mul,
    "SQUARED_DIFFERENCE": _squared_difference,
    "MEAN": _mean,
    "SUM": _mean,
    "RELU": _relu,
    "LEAKY_RELU": _leaky_relu,
    "AVERAGE_POOL_2D": _average_pool,
}

#: Operators whose 16x8 form is computed exactly as well.
EXACT_INT16 = frozenset(
    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED ADD SUB MUL AVERAGE_POOL_2D RELU".split()
)
