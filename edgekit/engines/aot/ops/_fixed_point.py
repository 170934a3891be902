"""The integer arithmetic of TensorFlow Lite and gemmlowp on the host, for tables.

Scalars are Python integers that stand for int32 (or int16) values. Names of the functions
reproduced: gemmlowp/fixedpoint/fixedpoint.h and TensorFlow Lite's kernels/internal/common.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgekit.engines.aot.lowering import Table

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
INT16_MIN, INT16_MAX = -(1 << 15), (1 << 15) - 1


def wrap(x: int) -> int:
    """``x`` modulo 2^32, as a signed number."""
    return ((x + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def saturate(x: int, low: int = INT32_MIN, high: int = INT32_MAX) -> int:
    return min(max(x, low), high)


def multiply_high(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul on int32."""
    return saturate((a * b + (1 << 30)) >> 31)


def shift_right(x: int, exponent: int) -> int:
    """RoundingDivideByPOT: half away from zero."""
    if exponent == 0:
        return x
    half = 1 << (exponent - 1)
    return (x + half - (x < 0)) >> exponent


def shift_left(x: int, exponent: int) -> int:
    """SaturatingRoundingMultiplyByPOT for a positive exponent."""
    return saturate(x << exponent)


def requantize(x: int, multiplier: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier with double rounding."""
    high = multiply_high(wrap(x << max(shift, 0)), multiplier)
    return shift_right(high, max(-shift, 0))


def round_away(x: float) -> int:
    """C's round(): half away from zero."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def exp_on_negative_values(x: int) -> int:
    """exp of ``x`` <= 0 in Q5.26, as Q0.31."""
    # exp on (-1/4, 0] by a Taylor expansion around -1/8, then a factor for each bit.
    quarter = 1 << 24
    reduced = (x & (quarter - 1)) - quarter
    a = (reduced << 5) + (1 << 28)
    a2 = multiply_high(a, a)
    a3 = multiply_high(a2, a)
    a4 = multiply_high(a2, a2)
    quartic = shift_right(a4, 2)
    polynomial = shift_right(multiply_high(quartic + a3, 715827883) + a2, 1)
    result = saturate(1895147668 + multiply_high(1895147668, a + polynomial))
    remainder = reduced - x
    for exponent, factor in (
        (-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308),
        (2, 39332535), (3, 720401), (4, 242),
    ):  # fmt: skip
        if remainder & (1 << (26 + exponent)):
            result = multiply_high(result, factor)
    return INT32_MAX if x == 0 else result


def _reciprocal_start(x: int) -> tuple[int, int]:
    """Half of (1 + x) for ``x`` in Q0.31, and 1 / that in Q2.29 by Newton's method."""
    half = (x + INT32_MAX + 1) >> 1
    y = 1515870810 + multiply_high(half, -1010580540)
    for _ in range(3):
        error = (1 << 29) - multiply_high(half, y)
        y = wrap(y + shift_left(multiply_high(y, error), 2))
    return half, y


def logistic(x: int) -> int:
    """The logistic function of ``x`` in Q4.27, as Q0.31 (gemmlowp's logistic)."""
    if x == 0:
        return 1 << 30
    # Rescale<5>: one integer bit more.
    exponential = exp_on_negative_values(shift_right(-abs(x), 1))
    _, y = _reciprocal_start(exponential)
    positive = shift_left(y, 1)
    return positive if x > 0 else INT32_MAX - positive


def tanh(x: int) -> int:
    """tanh of ``x`` in Q4.27, as Q0.31 (gemmlowp's tanh)."""
    if x == 0:
        return 0
    # exp(-2|x|): the raw value read with one integer bit more is twice the number.
    exponential = exp_on_negative_values(-abs(x))
    _, y = _reciprocal_start(exponential)
    # (1 - a) / (1 + a) = 2 / (1 + a) - 1
    positive = shift_left(y - (1 << 29), 2)
    return positive if x > 0 else -positive


def inverse_square_root(x: int) -> tuple[int, int]:
    """1 / sqrt(x) of a positive integer as (multiplier, shift) of :func:`requantize`
    (GetInvSqrtQuantizedMultiplierExp): Newton's method in Q3.28 after shifting by bit pairs."""
    if x <= 1:
        return INT32_MAX, 0
    places = 11
    while x >= 1 << 29:
        x //= 4
        places += 1
    pairs = (31 - x.bit_length()) // 2 - 1
    places -= pairs
    scaled = (x << 2 * pairs) >> 1
    half = shift_right(scaled, 1)
    three_halves = (1 << 28) + (1 << 27)
    y = 1 << 28
    for _ in range(5):
        cube = shift_left(multiply_high(multiply_high(y, y), y), 6)
        y = shift_left(multiply_high(three_halves, y) - multiply_high(half, cube), 3)
    y = multiply_high(y, 1518500250)
    if places < 0:
        y, places = y << -places, 0
    return y, -places


def byte_table(function: Callable[[int], int]) -> Table:
    """The 256 answers of a function of an int8, in the order ek_lookup_s8 wants."""
    values = [function(x) for x in (*range(128), *range(-128, 0))]
    return Table("table", "int8_t", np.array(values, np.int64).astype(np.int8), align_bytes=1)
