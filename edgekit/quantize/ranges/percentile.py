"""Ranges that leave out the outermost values: a share of them at either end is clipped.

``percentile=99.99`` leaves out a ten-thousandth of the values at either end (Wu et al., "Integer
Quantization for Deep Learning Inference", 2020, section 3.4). Weights keep their largest
magnitude.
"""

from __future__ import annotations

from edgekit.quantize.calibrate import Values
from edgekit.quantize.policy import Form

HISTOGRAMS = True
DEFAULT = 99.99
LIMITS = (50.0, 100.0)


def activation_range(values: Values, form: Form, argument: float) -> tuple[float, float]:
    import numpy as np

    found = values.histogram
    if found is None or found.counts.sum() == 0 or argument >= 100:
        return values.low, values.high
    share = np.cumsum(found.counts) / found.counts.sum()
    outside = 1 - argument / 100
    first = int(np.searchsorted(share, outside, side="right"))
    last = int(np.searchsorted(share, 1 - outside, side="left"))
    centres, half = found.centres, found.width / 2
    last = min(last, centres.size - 1)
    # The ends of the bins: a value that all samples share must not be cut by half a bin.
    low = max(float(centres[min(first, last)]) - half, values.low)
    high = min(float(centres[last]) + half, values.high)
    return (low, high) if low < high else (values.low, values.high)
