"""The timing models against published cycles of public firmware on real boards."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from edgekit.sim.timing import MODELS, cycles_of, estimate_cycles, model_for
from edgekit.targets import Target

_CORES = {
    "Cortex-M4": ("cortex-m4", 0.03, 13),
    "Cortex-M33": ("cortex-m33", 0.03, 17),
    "Cortex-M7": ("cortex-m7", 0.04, 9),
    "Cortex-M0+": ("cortex-m0plus", 0.06, 8),
}


def _target(model: str, **timing: object) -> Target:
    return Target("board", "Board", "mcu", timing={"model": model, **timing})


@pytest.mark.parametrize("core", _CORES)
def test_models_reproduce_silicon(shared: Path, core: str) -> None:
    name, limit, count = _CORES[core]
    errors = []
    with (shared / "reference" / "silicon_calibration.csv").open() as file:
        for row in csv.DictReader(file):
            if row["core"] != core:
                continue
            # the F746 has a data cache of 4 KB, the H7A3 of 16 KB
            size = "32x4x32" if "F746" in row["board"] else "128x4x32"
            features = {key: float(value) for key, value in row.items() if _is_number(value)}
            features["flash_cache_misses"] = features.get(f"cache_Dflash_{size}_miss", 0.0)
            features["fp_sqrt"] = 0.0
            cycles = cycles_of(features, MODELS[name])
            errors.append(abs(cycles / features["published_cycles"] - 1))
    assert len(errors) == count
    assert sum(errors) / count <= limit
    assert max(errors) <= 3 * limit


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def test_constants_of_a_board_replace_those_of_the_core() -> None:
    target = _target("cortex-m4", basis="board", constants={"taken_total": 5})
    model = model_for(target)
    assert model is not None
    assert model.weights["taken_total"] == 5
    assert model.weights["flash_data_lines8"] == 2.27
    features = dict.fromkeys(model.weights, 0) | {"instructions": 100, "taken_total": 10}
    estimate = estimate_cycles(features, target)
    assert estimate is not None
    assert (estimate.value, estimate.error) == (150, 0.035)
    assert "constants of board" in estimate.basis


def test_a_board_without_constants_says_whose_it_uses() -> None:
    features = dict.fromkeys(MODELS["cortex-m0plus"].weights, 1)
    estimate = estimate_cycles(features, _target("cortex-m0plus", basis="core"))
    assert estimate is not None
    assert "none of its own" in estimate.basis


def test_the_manual_s_cycle_of_a_branch_is_added_on_m0plus() -> None:
    stated = model_for(_target("cortex-m0plus", constants={"taken_total": 1.8}))
    assert stated is not None
    assert stated.weights["taken_total"] == MODELS["cortex-m0plus"].weights["taken_total"]


def test_a_core_without_a_model_has_no_cycles() -> None:
    assert estimate_cycles({"instructions": 5}, Target("b", "B", "mcu")) is None
    assert estimate_cycles({}, _target("cortex-m4")) is None
