"""Ranges that minimise the mean squared error of rounding and clipping together.

A grid search over ranges, the finer around the best of the coarse ones, on the histogram of the
values; for weights on the weights themselves, for each scale (Choukroun et al., "Low-bit
Quantization of Neural Networks for Efficient Inference", 2019; Nagel et al., "A White Paper on
Neural Network Quantization", 2021, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from edgekit.graph.fixedpoint import INTEGER_RANGES
from edgekit.quantize import parameters
from edgekit.quantize.calibrate import Values
from edgekit.quantize.policy import Form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals = NDArray[np.float64]

HISTOGRAMS = True
DEFAULT = None
LIMITS = (0.0, 0.0)

#: Shares of the full range that are tried; the finer grid is around the best of these.
_COARSE = 40
_FINE = 20
#: Ranges below this share clip more than any rounding could cost.
_SMALLEST = 0.05
_ROUNDS = 2
#: The same of weights, which are few and searched for all channels at once.
_COARSE_WEIGHTS = 60
_FINE_WEIGHTS = 60
_SMALLEST_WEIGHTS = 0.3


def activation_range(values: Values, form: Form, argument: float) -> tuple[float, float]:
    """The ends are searched in turn, since each moves the steps of the other side."""
    import numpy as np

    found = values.histogram
    if found is None or not values.low < values.high:
        return values.low, values.high
    used = np.flatnonzero(found.counts)
    centres, counts = found.centres[used], found.counts[used]
    low, high = min(values.low, 0.0), max(values.high, 0.0)

    def error(bottom: float, top: float) -> float:
        if not bottom < top:
            return float("inf")
        steps = parameters.affine(bottom, top, form)
        smallest, largest = INTEGER_RANGES[form]
        q = np.clip(np.rint(centres / steps.scale) + steps.zero_point, smallest, largest)
        difference = (q - steps.zero_point) * steps.scale - centres
        return float(counts @ (difference * difference))

    bottom, top = low, high
    for _ in range(_ROUNDS):
        if high > 0:
            top = _search(partial(error, bottom), high, top)
        if low < 0:
            bottom = _search(partial(_with_top, error, top), low, bottom)
        if low == 0 or high == 0:
            break
    return bottom, top


def _with_top(error: Callable[[float, float], float], top: float, bottom: float) -> float:
    return error(bottom, top)


def _search(error: Callable[[float], float], full: float, found: float) -> float:
    """The end of a range with the least error, from :data:`_SMALLEST` of ``full`` to all of it;
    never one that is worse than ``found``, and of equals the widest."""
    import numpy as np

    tried: dict[float, float] = {end: error(end) for end in (full, found)}

    def best() -> float:
        return min(tried.items(), key=lambda item: (item[1], -abs(item[0])))[0]

    width = abs(full) * (1.0 - _SMALLEST) / (_COARSE - 1)
    tried.update((float(e), error(float(e))) for e in np.linspace(full, full * _SMALLEST, _COARSE))
    coarse = abs(best())
    fine = np.linspace(
        min(coarse + width, abs(full)), max(coarse - width, abs(full) * _SMALLEST), _FINE
    )
    tried.update((float(e), error(float(e))) for e in np.copysign(fine, full))
    return best()


def weight_magnitudes(rows: Reals) -> Reals:
    """The largest magnitude that each row's scale holds.

    The errors are those of the scales as float32. The largest magnitude itself is the first
    that is tried: the result is never worse than it.
    """
    import numpy as np

    largest: Reals = np.abs(rows).max(axis=1)
    best, least = np.ones(largest.shape), np.full(largest.shape, np.inf)

    def try_shares(shares: Reals) -> None:
        scales = parameters.weight_scales(largest * shares)[:, None]
        limit = parameters.WEIGHT_LIMIT
        error = ((np.clip(np.rint(rows / scales), -limit, limit) * scales - rows) ** 2).sum(axis=1)
        better = error < least
        best[better], least[better] = shares[better], error[better]

    coarse = np.linspace(1.0, _SMALLEST_WEIGHTS, _COARSE_WEIGHTS)
    for share in coarse:
        try_shares(np.full(largest.shape, share))
    # The error jumps where a value changes its step: the fine grid has to be fine.
    around, width = best.copy(), (1.0 - _SMALLEST_WEIGHTS) / (_COARSE_WEIGHTS - 1)
    for offset in np.linspace(width, -width, _FINE_WEIGHTS):
        try_shares(np.clip(around + offset, _SMALLEST_WEIGHTS, 1.0))
    return largest * best
