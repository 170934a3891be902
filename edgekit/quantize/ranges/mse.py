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
            top = high * _search(partial(_shrunk_high, error, bottom, high))
        if low < 0:
            bottom = low * _search(partial(_shrunk_low, error, low, top))
        if low == 0 or high == 0:
            break
    return bottom, top


_Error = Callable[[float, float], float]


def _shrunk_high(error: _Error, bottom: float, high: float, share: float) -> float:
    return error(bottom, high * share)


def _shrunk_low(error: _Error, low: float, top: float, share: float) -> float:
    return error(low * share, top)


def _search(error: Callable[[float], float]) -> float:
    """The share from :data:`_SMALLEST` to 1 with the least error; of equals the largest."""
    import numpy as np

    coarse = np.linspace(1.0, _SMALLEST, _COARSE)
    best = float(coarse[int(np.argmin([error(float(s)) for s in coarse]))])
    width = (1.0 - _SMALLEST) / (_COARSE - 1)
    fine = np.linspace(min(best + width, 1.0), max(best - width, _SMALLEST), _FINE)
    return float(fine[int(np.argmin([error(float(s)) for s in fine]))])


def weight_magnitudes(rows: Reals) -> Reals:
    """The largest magnitude that each row's scale holds."""
    import numpy as np

    largest: Reals = np.abs(rows).max(axis=1)
    best, least = largest.copy(), np.full(largest.shape, np.inf)
    for share in np.linspace(1.0, 0.3, _COARSE + _FINE):
        scales = parameters.weight_scales(largest * share)[:, None]
        limit = parameters.WEIGHT_LIMIT
        error = ((np.clip(np.rint(rows / scales), -limit, limit) * scales - rows) ** 2).sum(axis=1)
        better = error < least
        best[better], least[better] = (largest * share)[better], error[better]
    return best
