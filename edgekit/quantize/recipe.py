"""What is to be done to a model, as data: one frozen record, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.errors import UsageError
from edgekit.quantize.equalize import By
from edgekit.quantize.mixed import MixedTarget
from edgekit.quantize.policy import Form
from edgekit.quantize.ranges import RangeSetting
from edgekit.quantize.ranges import parse as parse_ranges

Rounding = Literal["nearest", "adaptive"]


@dataclass(frozen=True)
class Recipe:
    """Techniques and their settings; they are combined in the order of the pipeline.

    ``ranges`` and ``weight_ranges`` are settings of :mod:`edgekit.quantize.ranges`; without
    the latter weights are treated as ``ranges`` says, if that says anything about weights.
    ``int16_layers`` are operators (by number or by the name of their result) whose results are
    kept in int16; ``mixed`` lets :mod:`edgekit.quantize.mixed` choose them. ``sensitivity``
    measures every layer of the result.
    """

    form: Form = "int8"
    ranges: str = "minmax"
    weight_ranges: str | None = None
    equalize: By | None = None
    replace_relu6: bool = False
    bias_correction: bool = False
    rounding: Rounding = "nearest"
    rounding_iterations: int = 1_000
    seed: int = 0
    mixed: MixedTarget | None = None
    int16_layers: tuple[str, ...] = ()
    per_tensor_dense: bool = False
    sensitivity: bool = False

    def check(self) -> None:
        """Raises UsageError where settings make no sense, alone or together."""
        parse_ranges(self.ranges)
        if self.weight_ranges is not None:
            setting = parse_ranges(self.weight_ranges)
            if self.weight_ranges != "minmax" and not setting.is_for_weights:
                raise UsageError(
                    f"'{self.weight_ranges}' is no way to choose the ranges of weights",
                    fix="minmax or mse",
                )
        if self.replace_relu6 and self.equalize is None:
            raise UsageError("RELU6 is only replaced for equalisation", fix="--equalize weights")
        if self.rounding_iterations < 1:
            raise UsageError("adaptive rounding needs at least one iteration")
        if self.form == "int16" and (self.mixed or self.int16_layers):
            raise UsageError("with int16x8 all activations are in int16 already")
        if self.mixed and self.int16_layers:
            raise UsageError("int16 layers are either given or chosen, not both")

    @property
    def activation_setting(self) -> RangeSetting:
        return parse_ranges(self.ranges)

    @property
    def weight_setting(self) -> RangeSetting:
        if self.weight_ranges is not None:
            return parse_ranges(self.weight_ranges)
        return self.activation_setting

    def techniques(self) -> tuple[str, ...]:
        """The techniques that are not the default, as a report names them."""
        found = []
        if self.form == "int16":
            found.append("16-bit activations")
        if self.ranges != "minmax":
            found.append(f"ranges by {self.activation_setting}")
        if self.weight_ranges not in (None, "minmax", self.ranges):
            found.append(f"ranges of weights by {self.weight_ranges}")
        if self.equalize is not None:
            relu6 = ", RELU6 replaced" if self.replace_relu6 else ""
            found.append(f"equalisation of {self.equalize}{relu6}")
        if self.mixed is not None:
            found.append("int16 where it helps")
        if self.int16_layers:
            found.append(f"{len(self.int16_layers)} layers in int16")
        if self.rounding == "adaptive":
            found.append(f"adaptive rounding ({self.rounding_iterations} iterations)")
        if self.bias_correction:
            found.append("bias correction")
        return tuple(found)


def parse_mixed(text: str) -> MixedTarget:
    """``sqnr=30``, ``accuracy=0.9``, ``layers=4``, ``macs=0.2``, several with commas.

    Raises:
        UsageError: it is none of these, or a number is out of range.
    """
    limits = {
        "sqnr": (-50.0, 200.0),
        "accuracy": (0.0, 1.0),
        "layers": (1.0, 10_000.0),
        "macs": (0.0, 1.0),
    }
    found: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        low, high = limits.get(key, (1.0, 0.0))
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise UsageError(
                f"'{part.strip()}' is no target for int16",
                fix="sqnr=DB, accuracy=SHARE, layers=COUNT or macs=SHARE, several with commas",
            )
        found[key] = number
    return MixedTarget(
        sqnr_db=found.get("sqnr"),
        accuracy=found.get("accuracy"),
        most_macs=found.get("macs", 1.0),
        most_layers=int(found["layers"]) if "layers" in found else None,
    )
