"""Ranges from the smallest to the largest value: nothing seen is clipped.

The default, and what TensorFlow's converter does (Jacob et al., 2018). A single outlier widens
the steps of all values.
"""

from __future__ import annotations

from edgekit.quantize.calibrate import Values
from edgekit.quantize.policy import Form

HISTOGRAMS = False
DEFAULT = None
LIMITS = (0.0, 0.0)


def activation_range(values: Values, form: Form, argument: float) -> tuple[float, float]:
    return values.low, values.high
