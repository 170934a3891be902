"""TFLM's integer arithmetic on arrays: multipliers, requantisation, activation ranges.

The formulas are those of TensorFlow Lite's ``quantization_util`` and gemmlowp's fixed point, as
the ``tflite-micro`` wheel is built: double rounding (a saturating rounding doubling high
multiply, then a rounding shift to the right). Every result equals the C++ code's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph.model import Quantization

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

#: Smallest and largest value of the integer types of activations.
INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int32": (INT32_MIN, INT32_MAX),
    "bool": (0, 1),
}


def quantize_multiplier(real: float) -> tuple[int, int]:
    """``real`` as ``multiplier * 2**(shift - 31)`` with a multiplier of 31 bits (or 0, 0).

    Raises:
        ValueError: ``real`` is negative or not finite.
    """
    if not 0.0 <= real < math.inf:
        raise ValueError(f"a multiplier of {real}")
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    # Halves go away from zero, as C's round(); the fraction is positive here.
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return INT32_MAX, 30
    return multiplier, shift


def requantize(values: NDArray[Any], multiplier: Any, shift: Any) -> NDArray[Any]:
    """``values * multiplier * 2**(shift - 31)`` as TFLM rounds it (int64 in and out).

    Args:
        values: int32 values in an int64 array; the caller makes sure that a left shift by
            ``shift`` stays within 32 bits.
        multiplier: of 31 bits, from :func:`quantize_multiplier`; broadcasts against ``values``.
        shift: left if positive; broadcasts against ``values``.
    """
    import numpy as np

    shifts = np.asarray(shift, np.int64)
    shifted = np.asarray(values, np.int64) << np.maximum(shifts, 0)
    return rounding_shift_right(doubling_high_multiply(shifted, multiplier), np.maximum(-shifts, 0))


def doubling_high_multiply(a: NDArray[Any], b: Any) -> NDArray[Any]:
    """gemmlowp's ``SaturatingRoundingDoublingHighMul``: ``a * b / 2**31``, rounded."""
    import numpy as np

    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # C divides towards zero.
    result = np.where(nudged >= 0, nudged >> 31, -((-nudged) >> 31))
    clamped: NDArray[Any] = np.minimum(result, INT32_MAX)
    return clamped


def rounding_shift_right(values: NDArray[Any], exponent: Any) -> NDArray[Any]:
    """gemmlowp's ``RoundingDivideByPOT``: halves go away from zero."""
    import numpy as np

    exponents = np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponents) - 1
    threshold = (mask >> 1) + (values < 0)
    shifted: NDArray[Any] = (values >> exponents) + ((values & mask) > threshold)
    return shifted


def activation_range(activation: str, dtype: str, quantization: Quantization) -> tuple[int, int]:
    """The clamp of a fused activation, in the output's integers.

    Raises:
        KeyError: the type has no integer range.
        ValueError: the activation has no range (``TANH``, ``SIGN_BIT``).
    """
    import numpy as np

    low, high = INTEGER_RANGES[dtype]
    scale, zero_point = np.float32(quantization.scale), quantization.zero_point

    def quantized(real: float) -> int:
        with np.errstate(all="ignore"):
            ratio = float(np.float32(real) / scale)
        if not math.isfinite(ratio):
            return low if ratio < 0 else high
        return zero_point + int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))

    limits = {
        "NONE": (None, None),
        "RELU": (0.0, None),
        "RELU6": (0.0, 6.0),
        "RELU_N1_TO_1": (-1.0, 1.0),
        "RELU_0_TO_1": (0.0, 1.0),
    }
    if activation not in limits:
        raise ValueError(f"the fused activation {activation} has no range")
    bottom, top = limits[activation]
    return (
        low if bottom is None else max(low, quantized(bottom)),
        high if top is None else min(high, quantized(top)),
    )
