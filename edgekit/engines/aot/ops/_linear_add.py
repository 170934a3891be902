"""ADD and SUB as one weighted sum: a search for constants that give TFLM's every result.

TFLM brings both inputs to a common scale and their sum to the output's, with a rounding each.
There are only 65,536 pairs of inputs: for factors near the real ones every pair bounds the
bias from both sides, and a bias within all the bounds is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.graph.fixedpoint import requantize

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Fraction bits that are tried, finest first; products of an int8 stay within 32 bits.
_FRACTION_BITS = (23, 22, 21, 20, 19, 18, 16)
#: Factors tried on either side of the nearest ones.
_REACH = 2


@dataclass(frozen=True)
class LinearAdd:
    """``clamp((a * factor_a + b * factor_b + bias) >> q)`` for every pair of inputs."""

    factor_a: int
    factor_b: int
    bias: int
    q: int


def linear_add(
    zero_a: int, zero_b: int, zero: int, pairs: Sequence[tuple[int, int]], sign: int, low: int,
    high: int,
) -> LinearAdd | None:  # fmt: skip
    """Constants that are proven for all pairs, ``None`` where none were found.

    Args:
        zero_a, zero_b, zero: zero points of the inputs and the output.
        pairs: multiplier and shift of both inputs and of the output, as TFLM has them.
        sign: 1 adds, -1 subtracts.
        low, high: the clamp.
    """
    return _search(zero_a, zero_b, zero, tuple(pairs), sign, low, high)


@lru_cache(maxsize=64)
def _search(
    zero_a: int, zero_b: int, zero: int, pairs: tuple[tuple[int, int], ...], sign: int, low: int,
    high: int,
) -> LinearAdd | None:  # fmt: skip
    x = np.arange(-128, 128, dtype=np.int64)
    results = answers(zero_a, zero_b, zero, pairs, sign, low, high)
    real_a, real_b = (
        multiplier * 2.0 ** (shift - 31) * 2.0**20 * pairs[2][0] * 2.0 ** (pairs[2][1] - 31)
        for multiplier, shift in pairs[:2]
    )
    around = sorted(range(-_REACH, _REACH + 1), key=abs)
    for q in _FRACTION_BITS:
        near_a, near_b = round(real_a * 2**q), round(sign * real_b * 2**q)
        # Every partial sum stays within 32 bits, whatever the order of the additions.
        room = (1 << 31) - 1 - 128 * (abs(near_a) + abs(near_b) + 2 * _REACH)
        if room < 0:
            continue
        # What a pair's bounds are without the bias, as far as they do not depend on factors.
        least = np.where(results > low, results << q, -(1 << 60))
        most = np.where(results < high, (results + 1) << q, 1 << 60)
        for step_a in around:
            for step_b in around:
                factor_a, factor_b = near_a + step_a, near_b + step_b
                sums = (x * factor_a)[:, None] + (x * factor_b)[None, :]
                first, last = int((least - sums).max()), int((most - sums).min()) - 1
                if first > last:
                    continue
                bias = max(min((first + last) // 2, room), -room)
                if first <= bias <= last:
                    return LinearAdd(factor_a, factor_b, bias, q)
    return None


def answers(
    zero_a: int, zero_b: int, zero: int, pairs: Sequence[tuple[int, int]], sign: int, low: int,
    high: int,
) -> NDArray[Any]:  # fmt: skip
    """TFLM's results [a, b] for inputs from -128 to 127."""
    x = np.arange(-128, 128, dtype=np.int64)
    scaled_a = requantize((x - zero_a) << 20, *pairs[0])
    scaled_b = requantize((x - zero_b) << 20, *pairs[1])
    raw = requantize(scaled_a[:, None] + sign * scaled_b[None, :], *pairs[2])
    result: NDArray[Any] = np.clip(raw + zero, low, high)
    return result
