"""Scales and zero points, and numbers in them: the arithmetic of affine quantisation.

``real = scale * (q - zero_point)``. Scales are worked out in double precision and kept as
float32, which is what the file holds and kernels compute with.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgekit.graph.fixedpoint import INTEGER_RANGES
from edgekit.graph.model import Quantization

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals = NDArray[np.float64]

#: Half of the largest int32: biases beyond it leave sums no room.
BIAS_LIMIT = (2**31 - 1) // 2
#: Weights smaller than this have the scale of this (TensorFlow's quantiser does so as well).
SMALLEST_WEIGHT = 5e-7
#: Symmetric weights leave out -128, so that a product of two fits and negation is exact.
WEIGHT_LIMIT = 127
#: int16 steps per step of an int8 tensor whose values are widened: all 256 steps from any
#: zero point fit (255 * 128 < 32768), and the conversion is exact.
WIDENING = 128


def float32(value: float) -> float:
    """The nearest float32, as a Python float."""
    import numpy as np

    return float(np.float32(value))


def affine(low: float, high: float, dtype: str = "int8") -> Quantization:
    """The quantisation of a range, which is widened to hold 0 and nudged so that 0 is exact.

    The arithmetic is float32, as in TensorFlow's quantiser (``DownCastScale``), so that the
    same ranges give the same bits. int16 is symmetric.

    Raises:
        ValueError: the range is not finite, or its ends are the wrong way round.
    """
    import numpy as np

    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"a range from {low} to {high}")
    if dtype == "int16":
        largest = max(abs(low), abs(high))
        return Quantization((float32(largest / 32767) if largest > 0 else 1.0,), (0,))
    bottom, top = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    smallest, largest_q = INTEGER_RANGES[dtype]
    scale = float((top - bottom) / np.float32(largest_q - smallest))
    # A range of nothing, or of denormals that divide away, has any scale.
    if scale < 1e-30:
        return Quantization((1.0,), (smallest,))
    zero_point = smallest - _round_away(float(bottom) / scale)
    return Quantization((scale,), (min(max(zero_point, smallest), largest_q),))


def _round_away(value: float) -> int:
    """C's ``round``: halves go away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def weight_scales(largest: Reals) -> Reals:
    """Scales (float32 values) of symmetric weights whose largest magnitudes are given."""
    import numpy as np

    scales: Reals = np.maximum(np.asarray(largest, np.float64), SMALLEST_WEIGHT) / WEIGHT_LIMIT
    return scales.astype(np.float32).astype(np.float64)


def with_room_for_bias(scales: Reals, input_scale: float, bias: Reals) -> tuple[Reals, Reals]:
    """Scales of weights and of their bias, raised where the bias would not fit 31 bits.

    The bias has the product of the scales of weights and input. Where a channel's weights are
    so small that its bias would not fit, both are raised until it is :data:`BIAS_LIMIT`.
    """
    import numpy as np

    magnitudes = np.abs(np.asarray(bias, np.float64)).reshape(-1)
    if scales.size == 1:
        magnitudes = magnitudes.max(keepdims=True)
    products = (scales.astype(np.float32) * np.float32(input_scale)).astype(np.float64)
    tight = magnitudes > products * BIAS_LIMIT
    needed = magnitudes / BIAS_LIMIT
    raised = np.where(tight, needed / input_scale, scales)
    of_bias = np.where(tight, needed, products)
    return (
        raised.astype(np.float32).astype(np.float64),
        of_bias.astype(np.float32).astype(np.float64),
    )


def quantize(values: NDArray[Any], quantization: Quantization, dtype: str) -> NDArray[Any]:
    """Real values as integers of ``dtype``: to the nearest, halves away from zero, saturated.

    A per-channel quantisation works along its axis. Values are multiplied in float32 with the
    reciprocal of their scale, as TensorFlow's quantiser does: a division rounds a few
    constants in ten thousand otherwise.
    """
    import numpy as np

    scales, points = shaped(quantization, values.ndim)
    with np.errstate(over="ignore"):
        scaled = values.astype(np.float32) * (np.float32(1) / np.asarray(scales, np.float32))
    exact = scaled.astype(np.float64) + points
    rounded = np.trunc(exact + np.copysign(0.5, exact))
    # The largest int64 is no double; biases are far from it.
    low, high = INTEGER_RANGES.get(dtype, (-(2**62), 2**62))
    result: NDArray[Any] = np.clip(rounded, low, high).astype(dtype)
    return result


def dequantize(values: NDArray[Any], quantization: Quantization) -> Reals:
    """Integers as real values."""
    import numpy as np

    scales, points = shaped(quantization, values.ndim)
    result: Reals = (values.astype(np.float64) - points) * scales
    return result


def shaped(quantization: Quantization, rank: int) -> tuple[Any, Any]:
    """Scales and zero points in a shape that broadcasts against a tensor of ``rank``."""
    import numpy as np

    if not quantization.per_channel:
        return quantization.scale, quantization.zero_point
    shape = [1] * rank
    shape[quantization.axis] = -1
    return (
        np.array(quantization.scales, np.float64).reshape(shape),
        np.array(quantization.zero_points, np.float64).reshape(shape),
    )
