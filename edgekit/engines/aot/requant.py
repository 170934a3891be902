"""Requantisation in two instructions: a search for constants that give TFLM's every result.

TFLM brings an accumulator to the output's scale with two roundings (a doubling high multiply,
then a shift; see :func:`edgekit.graph.fixedpoint.requantize`), which takes five instructions or
more. The result is a non-decreasing staircase of the accumulator with at most 255 steps, and so
is ``(add + (((acc + delta) * mult) >> 32)) >> q``, which takes two (SMMLA, SSAT with a shift).
Two such staircases are equal on a range exactly if they are equal at its ends and every step is
at the same accumulator. For a multiplier near ``real * 2**(32 + q)`` each step bounds
``delta * mult + add * 2**32`` from both sides; whatever lies within all the bounds is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.graph.fixedpoint import requantize

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Multipliers tried on either side of the nearest one.
_MULTIPLIER_REACH = 24
#: Accumulator offsets tried, nearest to zero first.
_DELTAS: NDArray[Any] = np.array(sorted(range(-(1 << 15), 1 << 15), key=abs), dtype=np.int64)


@dataclass(frozen=True)
class LinearRequantization:
    """Constants of every channel: ``out = (add + (((acc + delta) * mult) >> 32)) >> q``."""

    q: int
    delta: NDArray[Any]
    mult: NDArray[Any]
    add: NDArray[Any]


def linear_requantization(
    low: NDArray[Any], high: NDArray[Any], multiplier: NDArray[Any], shift: NDArray[Any],
    zero_point: int, q: int, *, clamp: tuple[int, int] = (-128, 127), high_bits: int = 32,
    mult_bits: int = 31, acc_bits: int = 31,
) -> LinearRequantization | None:  # fmt: skip
    """Searches exact constants for an int8 output.

    Args:
        low, high: smallest and largest accumulator of each channel (int64 arrays, shape [C]).
        multiplier, shift: TFLM's, of each channel.
        zero_point: of the output.
        q: fraction bits kept before the last shift.
        clamp: what the result is clamped to in the end; steps outside do not matter.
        high_bits: bits of the product that the first shift drops; 32 for a core with a high
            multiply. The module's formula is for 32.
        mult_bits, acc_bits: ``mult < 2**mult_bits`` and ``|acc + delta| < 2**acc_bits``.

    Returns:
        The constants, proven for every accumulator between ``low`` and ``high``; ``None`` where
        a channel has none (typically when results on both sides of the zero point occur, since
        TFLM rounds halves away from zero).
    """
    channels = []
    for first, last, factor, places in zip(low, high, multiplier, shift, strict=True):
        found = _channel(
            int(first), int(last), int(factor), int(places), zero_point,
            _Form(q, high_bits, 1 << mult_bits, 1 << acc_bits, *clamp),
        )  # fmt: skip
        if found is None:
            return None
        channels.append(found)
    delta, mult, add = np.array(channels, np.int64).reshape(-1, 3).T
    return LinearRequantization(q, delta, mult, add)


@dataclass(frozen=True)
class _Form:
    q: int
    high_bits: int
    mult_limit: int
    acc_limit: int
    floor: int
    ceiling: int


@lru_cache(maxsize=1 << 14)
def _channel(
    low: int, high: int, multiplier: int, shift: int, zero_point: int, form: _Form
) -> tuple[int, int, int] | None:
    def result(acc: NDArray[Any]) -> NDArray[Any]:
        return np.clip(requantize(acc, multiplier, shift) + zero_point, form.floor, form.ceiling)

    first, last = (int(value) for value in result(np.array([low, high])))
    if first == last:
        return 0, 0, first << form.q
    values = np.arange(first + 1, last + 1, dtype=np.int64)
    steps = _steps(result, values, low, high)
    unit = 1 << form.high_bits
    nearest = round(multiplier * 2.0 ** (shift - 31 + form.high_bits + form.q))
    for offset in sorted(range(-_MULTIPLIER_REACH, _MULTIPLIER_REACH + 1), key=abs):
        mult = nearest + offset
        if not 0 < mult < form.mult_limit:
            continue
        floor = values << (form.high_bits + form.q)
        least = int(np.max(floor - steps * mult))
        most = int(np.min(floor - (steps - 1) * mult)) - 1
        if least > most:
            continue
        # add * unit must lie in [least, most] - delta * mult.
        need = (_DELTAS * mult - least) % unit
        fits = need <= most - least
        if not fits.any():
            continue
        # need = what least - delta * mult lacks to the next lower multiple, so round up from it.
        delta = int(_DELTAS[int(fits.argmax())])
        add = -((delta * mult - least) >> form.high_bits)
        found = delta, mult, add
        if _proven(found, form, result, steps, low, high):
            return found
    return None


def _steps(result: Any, values: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """For every value the smallest accumulator in (low, high] whose result reaches it."""
    below = np.full(values.shape, low, np.int64)
    above = np.full(values.shape, high, np.int64)
    while (above - below > 1).any():
        middle = (below + above) >> 1
        reached = result(middle) >= values
        above = np.where(reached, middle, above)
        below = np.where(reached, below, middle)
    return above


def _proven(
    found: tuple[int, int, int], form: _Form, result: Any, steps: NDArray[Any], low: int, high: int
) -> bool:
    """Whether both staircases agree at the ends and on both sides of every step."""
    delta, mult, add = found
    points = np.concatenate([steps, steps - 1, [low, high]])
    raw = (add + (((points + delta) * mult) >> form.high_bits)) >> form.q
    inside = np.abs(points + delta).max() < form.acc_limit and abs(add) < 1 << 30
    return bool(inside and (np.clip(raw, form.floor, form.ceiling) == result(points)).all())
