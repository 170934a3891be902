"""The portable kernels on Cortex-M4: at most half of the instructions of TFLM's reference kernels
(gcc -O2), the published output, and little code."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

from instructions import measure

#: Model, instructions of TFLM's reference kernels at -O2, hash of the output on the input of the
#: published baseline.
MODELS = [
    ("kws_dscnn_int8", 43_040_594, "ccc32d71"),
    ("ic_resnet_int8", 107_403_213, "d08a0ace"),
    ("vww_mobilenet_int8", 100_250_935, "3a5f7f09"),
    ("ad_autoencoder_int8", 1_952_330, "7d469e9e"),
]


@pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
)
@pytest.mark.parametrize(("name", "reference", "output_hash"), MODELS)
def test_half_of_the_reference(
    name: str, reference: int, output_hash: str, mlperf: Path, tmp_path: Path
) -> None:
    count = measure(mlperf / f"{name}.tflite", "cortex-m4", tmp_path, portable=True)
    assert count.output_hash == output_hash
    assert sum(count.steps) <= reference // 2
    assert count.code_bytes < 20_000
