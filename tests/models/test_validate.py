"""``edgekit validate``: accuracy on real data, the worst operator, limits and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.graph import read_model
from edgekit.quality.agreement import compare_runtimes
from edgekit.quality.dataset import read_dataset
from edgekit.quality.layers import layer_errors
from edgekit.quality.metrics import accuracy
from edgekit.quality.synthetic import synthetic_inputs
from edgekit.runtimes import open_runner


@pytest.mark.parametrize(
    ("name", "data", "right", "rule"),
    [
        ("kws_dscnn", "kws01", 629, "quantized: x as it is"),
        ("vww_mobilenet", "vww01", 601, "image: x - 128"),
    ],
)
def test_published_accuracy(
    shared: Path, mlperf: Path, name: str, data: str, right: int, rule: str
) -> None:
    model = read_model(mlperf / f"{name}_int8.tflite")
    dataset = read_dataset(shared / "data" / f"{data}.npz", model)
    with open_runner("tflm", model.raw) as runner:
        found = accuracy(runner.invoke, dataset, model, "top1")
    assert (found.right, found.samples) == (right, 700)
    assert dataset.rules == (rule,)


def test_missed_limit_is_code_7_and_one_document(shared: Path, mlperf: Path) -> None:
    command = [
        sys.executable, "-m", "edgekit", "validate", str(mlperf / "kws_dscnn_int8.tflite"),
        "--data", str(shared / "data" / "kws01.npz"), "--count", "20", "--samples", "2",
        "--min-top1", "1.0", "--json",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 7, result.stderr
    document = json.loads(result.stdout)
    assert document["passed"] is False
    assert document["limits"][0]["name"] == "min-top1"
    assert document["accuracy"]["samples"] == 20
    assert "--min-top1" in result.stderr


def test_planted_culprit_is_found(mlperf: Path) -> None:
    """One operator's weights are damaged: it leads the list."""
    model = read_model(mlperf / "ic_resnet_int8.tflite")
    reference = read_model(mlperf / "ic_resnet_float.tflite")
    inputs = synthetic_inputs(model, 2)
    for victim in (4, 8):
        weights = model.tensors[model.ops[victim].inputs[1]]
        raw = weights.raw or b""
        assert model.raw.count(raw) == 1
        damaged = np.roll(weights.data(), 1, axis=0).tobytes()
        broken = read_model(model.raw.replace(raw, damaged), "broken")
        found = layer_errors(broken, reference, inputs)
        assert found.ops[0].op == victim
        assert found.unmatched == ()
    clean = layer_errors(model, reference, inputs)
    assert all(op.sqnr_db is None or op.sqnr_db > 5 for op in clean.ops)


def test_saturated_range_is_named(mlperf: Path) -> None:
    model = read_model(mlperf / "ic_resnet_int8.tflite")
    reference = read_model(mlperf / "ic_resnet_float.tflite")
    tensor = model.tensors[model.ops[1].outputs[0]]
    scale = np.float32(tensor.scale).tobytes()
    assert model.raw.count(scale) == 1
    narrow = model.raw.replace(scale, np.float32(tensor.scale / 8).tobytes())
    found = layer_errors(read_model(narrow, "narrow"), reference, synthetic_inputs(model, 2))
    reasons = {op.op: op.reason for op in found.ops}
    assert reasons[1].startswith("saturated range")


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["kws_dscnn", "ad_autoencoder"])
def test_reference_kernels_agree(mlperf: Path, name: str) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    model = read_model(mlperf / f"{name}_int8.tflite")
    found = compare_runtimes(model, synthetic_inputs(model, 2))
    assert found.agree and found.first is None


@pytest.mark.tensorflow
def test_first_difference_is_located(mlperf: Path) -> None:
    """XNNPACK's and the optimised kernels' rounding differs in the autoencoder."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    model = read_model(mlperf / "ad_autoencoder_int8.tflite")
    found = compare_runtimes(model, synthetic_inputs(model, 2), two="litert")
    assert not found.agree
    assert found.first is not None and found.first.kind == "FULLY_CONNECTED"
    assert found.first.values[0] != found.first.values[1]
