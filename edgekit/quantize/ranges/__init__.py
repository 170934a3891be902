"""How the range that integers span is chosen from the values that were seen: one file per way.

``ranges/percentile.py`` is ``percentile``. A file defines::

    HISTOGRAMS: bool            # whether activation_range looks at histograms
    DEFAULT: float | None       # the argument where none is given; None if it takes none
    LIMITS: tuple[float, float] # what the argument may be
    def activation_range(values: Values, form: Form, argument: float) -> tuple[float, float]
    def weight_magnitudes(rows) # optional: the largest magnitude to hold, by row of weights

16-bit activations have steps to spare: their range is always that of the values.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.errors import UsageError
from edgekit.quantize.calibrate import Values
from edgekit.quantize.plan import Magnitudes, largest_magnitude
from edgekit.quantize.scheme import Scheme


def names() -> tuple[str, ...]:
    """The ways there are, sorted."""
    folder = Path(__file__).parent
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))


@dataclass(frozen=True)
class RangeSetting:
    """A way to choose ranges and its argument: ``percentile=99.99``."""

    name: str
    argument: float

    def __str__(self) -> str:
        return self.name if self._module().DEFAULT is None else f"{self.name}={self.argument:g}"

    def _module(self) -> Any:
        return _module(self.name)

    @property
    def needs_histograms(self) -> bool:
        return bool(self._module().HISTOGRAMS)

    def activations(
        self, scheme: Scheme, values: Mapping[int, Values]
    ) -> dict[int, tuple[float, float]]:
        """The range of every tensor that was calibrated."""
        found: dict[int, tuple[float, float]] = {}
        for index, seen in values.items():
            _, form = scheme.stored(index)
            found[index] = (
                (seen.low, seen.high)
                if form == "int16"
                else self._module().activation_range(seen, form, self.argument)
            )
        return found

    @property
    def magnitudes(self) -> Magnitudes:
        """What a row of weights needs its scale to hold."""
        function: Magnitudes = getattr(self._module(), "weight_magnitudes", largest_magnitude)
        return function

    @property
    def is_for_weights(self) -> bool:
        """Whether it chooses for weights other than their largest magnitude."""
        return hasattr(self._module(), "weight_magnitudes")


def parse(text: str) -> RangeSetting:
    """``minmax``, ``percentile=99.99``, …

    Raises:
        UsageError: there is no such way, or its argument is none.
    """
    name, equals, argument = text.partition("=")
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        raise UsageError(
            f"there is no way '{name}' to choose ranges",
            fix=f"'{close[0]}'" if close else f"one of: {', '.join(names())}",
        )
    module = _module(name)
    if module.DEFAULT is None:
        if equals:
            raise UsageError(f"'{name}' takes no argument", fix=name)
        return RangeSetting(name, 0.0)
    low, high = module.LIMITS
    try:
        value = float(argument) if equals else module.DEFAULT
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise UsageError(
            f"'{argument}' is no argument of '{name}'",
            fix=f"a number from {low:g} to {high:g}: {name}={module.DEFAULT:g}",
        )
    return RangeSetting(name, value)


def _module(name: str) -> ModuleType | Any:
    return importlib.import_module(f"{__name__}.{name}")
