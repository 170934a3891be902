"""Whole models on a Cortex-M55 in QEMU: outputs, instructions and arena."""

from __future__ import annotations

from pathlib import Path

import helium
import numpy as np
import pytest
from helium import run_model

from edgekit.graph import read_model
from edgekit.runtimes.tflm import TflmRunner

pytestmark = pytest.mark.skipif(helium.missing() is not None, reason=str(helium.missing()))

#: Most instructions of one inference and bytes of the arena that are allowed.
CEILINGS = {
    "kws_dscnn_int8": (1_200_000, 12_000),
    "ic_resnet_int8": (3_700_000, 37_000),
    "vww_mobilenet_int8": (2_400_000, 42_000),
    "ad_autoencoder_int8": (115_000, 1_536),
}
DIGITS = Path(helium.FIRMWARE).parent / "edgekit" / "examples" / "digits" / "digits_int8.tflite"


def check(path: Path, seed: int, folder: Path, compiler: str) -> helium.ModelRun:
    tensor = read_model(path).input_tensors[0]
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(-128, 128, tensor.shape).astype(np.int8) for _ in range(2)]
    inputs.append(rng.choice(np.array([-128, 127], np.int8), tensor.shape))
    run = run_model(path, [i.tobytes() for i in inputs], folder, compiler=compiler)
    runner = TflmRunner(path.read_bytes())
    for given, output in zip(inputs, run.outputs, strict=True):
        assert output == runner.invoke(given)[0].tobytes()
    return run


@pytest.mark.parametrize("name", CEILINGS)
def test_model(name: str, mlperf: Path, seed: int, tmp_path: Path) -> None:
    run = check(mlperf / f"{name}.tflite", seed, tmp_path, "gcc")
    print(f"{name}: {run.instructions:,} instructions, arena {run.plan.arena_bytes:,} B")
    assert run.instructions <= CEILINGS[name][0]
    assert run.plan.arena_bytes <= CEILINGS[name][1]


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_digits(compiler: str, seed: int, tmp_path: Path) -> None:
    check(DIGITS, seed, tmp_path, compiler)


def test_model_with_clang(mlperf: Path, seed: int, tmp_path: Path) -> None:
    check(mlperf / "vww_mobilenet_int8.tflite", seed, tmp_path, "zig")
