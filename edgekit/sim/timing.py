"""From executed instructions to cycles on silicon, with the error that such a figure has.

The models are linear in features of the executed code. Their form and constants were fitted
to public MLPerf Tiny firmware (STMicroelectronics X-CUBE-AI, Bosch HALE) whose cycles on real
boards are published; the error that a model carries is the mean relative error on runtime
families that the fit has not seen, and where there are too few families to leave one out, on
rows that the fit has not seen. The first terms of Cortex-M4 are those of its Technical
Reference Manual (instruction timings: a load 2 cycles, pipelined after another one; LDM 1 + N;
division 2 to 12; VDIV and VSQRT 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.targets import Target

#: Features that only the stream of executed blocks and reads gives.
DYNAMIC_FEATURES = (
    "taken_total",
    "flash_data_lines8",
    "flash_data_lines16",
    "flash_data_lines32",
    "flash_cache_misses",
    "read_bytes_flash",
)


@dataclass(frozen=True)
class CoreModel:
    """Cycles of a core as weights by feature."""

    core: str
    weights: Mapping[str, float]
    #: mean relative error on code that the fit has not seen
    error: float
    #: on which boards it was fitted
    fitted_on: str
    #: data cache in front of the flash (sets, ways, bytes of a line), where the model has one
    cache: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Cycles:
    """An estimate of cycles. ``error`` is relative (0.035 = 3.5 %); ``basis`` says whose
    memory-system constants were used."""

    value: int
    error: float
    basis: str


MODELS = {
    "cortex-m4": CoreModel(
        "cortex-m4",
        {
            "instructions": 1,
            "ld_run_ends": 1,
            "ldm_regs": 1,
            "stm_regs": 1,
            "vldm_regs": 1,
            "vstm_regs": 1,
            "ld_double": 2,
            "st_double": 1,
            "div": 5,
            "fp_mac": 2,
            "fp_div": 13,
            "fp_sqrt": 13,
            "taken_total": 3.1,
            "flash_data_lines8": 2.27,
            "n32_unaligned": 0.16,
        },
        0.035,
        "STM32L4R5 at 120 MHz",
    ),
    "cortex-m33": CoreModel(
        "cortex-m33",
        {
            "instructions": 1,
            "taken_total": 3.2,
            "ld_then_use": 0.86,
            "ldm_regs": 0.67,
            "flash_data_lines8": 1.44,
        },
        0.046,
        "STM32U575 and STM32U385",
    ),
    "cortex-m7": CoreModel(
        "cortex-m7",
        {"m7_static_dual_issue_cycles": 1.21, "flash_cache_misses": 7.2},
        0.034,
        "STM32H7A3 and STM32F746",
        cache=(128, 4, 32),
    ),
    "cortex-m0plus": CoreModel(
        "cortex-m0plus",
        {
            "instructions": 1,
            "ld_word": 1,
            "ld_half": 1,
            "ld_byte": 1,
            "ld_literal": 1,
            "st_word": 1,
            "st_half": 1,
            "st_byte": 1,
            "ldm_regs": 1,
            "stm_regs": 1,
            "call": 1,
            # one cycle of the manual and 1.8 of the fit
            "taken_total": 1 + 1.8,
            "flash_data_lines8": 1.8,
        },
        0.045,
        "STM32G0B1",
    ),
}

#: Cycles of the manual that a model adds to the weight a target file states for a feature.
_MANUAL = {("cortex-m0plus", "taken_total"): 1.0}


def model_for(target: Target) -> CoreModel | None:
    """The target's model with its board's constants, or ``None`` when its core has none."""
    core = MODELS.get(str(target.timing.get("model", "")))
    if core is None:
        return None
    weights = dict(core.weights)
    for feature, value in target.timing.get("constants", {}).items():
        weights[feature] = float(value) + _MANUAL.get((core.core, feature), 0.0)
    cache = core.cache
    stated = target.timing.get("cache")
    if stated:
        cache = (int(stated["sets"]), int(stated["ways"]), int(stated["line_bytes"]))
    return CoreModel(core.core, weights, core.error, core.fitted_on, cache)


def basis_of(target: Target) -> str:
    """Whose memory-system constants an estimate for ``target`` uses, for a reader."""
    core = MODELS[str(target.timing["model"])]
    if target.timing.get("basis") == "board":
        return f"{core.core} model with the constants of {target.name}"
    return (
        f"{core.core} model with the memory constants of {core.fitted_on}; "
        f"{target.name} has none of its own"
    )


def cycles_of(features: Mapping[str, float], model: CoreModel) -> float:
    """Cycles as a model sees them.

    Raises:
        KeyError: a feature that the model needs was not counted.
    """
    return sum(weight * features[name] for name, weight in model.weights.items() if weight)


def estimate_cycles(features: Mapping[str, float], target: Target) -> Cycles | None:
    """Cycles of what was executed, or ``None`` when the target's core has no model."""
    model = model_for(target)
    if model is None or not features:
        return None
    return Cycles(round(cycles_of(features, model)), model.error, basis_of(target))
