"""The MLPerf Tiny models stay below their ceilings on every core; counts are of gcc 12.2."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import layers
import mlperf_tiny

VERSION = "12.2"


def compiler_version() -> str:
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc is None:
        return ""
    result = subprocess.run([gcc, "-dumpfullversion"], capture_output=True, text=True, check=True)
    return result.stdout.strip()


pytestmark = pytest.mark.skipif(
    not compiler_version().startswith(VERSION),
    reason=f"the ceilings are those of arm-none-eabi-gcc {VERSION}",
)


@pytest.mark.parametrize("core", list(mlperf_tiny.PUBLISHED["cores"]))
@pytest.mark.parametrize("name", list(mlperf_tiny.PUBLISHED["models"]))
def test_ceilings(
    mlperf: Path, shared: Path, name: str, core: str, record_property: Callable[[str, object], None]
) -> None:
    (row,) = mlperf_tiny.measure(mlperf, [name], [core])
    limit, aim = row["must"].get("instructions"), row["aim"]
    record_property(
        "figures",
        f"{name:4} {core:14} {row['instructions']:>12,} instructions (must {limit:,}, aim {aim:,})"
        f"  arena {row['arena_bytes']:>6,}  code {row['code_bytes']:>6,}"
        f"  code+weights {row['code_and_weights_bytes']:>7,}",
    )
    assert row["equal_to_tflm"] is True
    assert mlperf_tiny.crossed(row) == []
    if core in layers.COLUMN:
        baseline = shared / "reference" / "tflm_baseline.md"
        steps = layers.compare(mlperf, baseline, row)
        assert [s for s in steps if s["instructions"] > s["tflm_cmsis_nn"]] == []


def test_baseline_input() -> None:
    """The first bytes of the recipe, computed by hand from the seed."""
    assert np.array_equal(mlperf_tiny.baseline_input(1).view(np.uint8), [0x87])
