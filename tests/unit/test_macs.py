"""MACs and bytes against hand counts, and against the published table to the unit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tflite_builder import TfliteBuilder

from edgekit.graph import read_model
from edgekit.graph.geometry import window_axis
from edgekit.graph.macs import model_cost, op_cost

MODELS = {
    "KWS": "kws_dscnn",
    "IC": "ic_resnet",
    "VWW": "vww_mobilenet",
    "AD": "ad_autoencoder",
}


def reference_rows(shared: Path, task: str) -> list[list[str]]:
    text = (shared / "reference" / "mlperf_tiny_models.md").read_text(encoding="utf-8")
    section = text.split(f"## {task} - ")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if re.match(r"\| \d+ \|", line)
    ]


@pytest.mark.parametrize("task", MODELS)
def test_every_operator_equals_the_table(shared: Path, mlperf: Path, task: str) -> None:
    model = read_model(mlperf / f"{MODELS[task]}_int8.tflite")
    rows = reference_rows(shared, task)
    assert len(rows) == len(model.ops)
    for row, op in zip(rows, model.ops, strict=True):
        cost = op_cost(model.main, op)
        # A cell is empty where there is nothing to count.
        macs, inside, weights, bias, around = (int(cell or 0) for cell in row[6:11])
        assert row[1] == op.kind
        assert (cost.macs, cost.inside_macs) == (macs, inside)
        assert (cost.weights_bytes, cost.bias_bytes) == (weights, bias)
        assert cost.activation_bytes == around


@pytest.mark.parametrize(
    ("task", "macs", "inside", "weights", "bias"),
    [
        ("KWS", 2656768, 2562432, 22016, 2352),
        ("IC", 12501632, 11574592, 77360, 1384),
        ("VWW", 7489664, 7399464, 208112, 10952),
        ("AD", 264192, 264192, 264192, 6688),
    ],
)
def test_totals(mlperf: Path, task: str, macs: int, inside: int, weights: int, bias: int) -> None:
    cost = model_cost(read_model(mlperf / f"{MODELS[task]}_int8.tflite"))
    found = (cost.macs, cost.inside_macs, cost.weights_bytes, cost.bias_bytes)
    assert found == (macs, inside, weights, bias)


def test_shared_constant_counts_once() -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4), scale=0.5)
    w = builder.constant(np.ones((4, 4), np.int8), scale=0.1)
    y = builder.tensor((1, 4), scale=0.5)
    z = builder.tensor((1, 4), scale=0.5)
    builder.op("FULLY_CONNECTED", [x, w, -1], [y])
    builder.op("FULLY_CONNECTED", [y, w, -1], [z])
    cost = model_cost(read_model(builder.build([x], [z])))
    assert cost.macs == 32
    assert cost.weights_bytes == 16
    assert [op.weights_bytes for op in cost.ops] == [16, 16]


def test_inside_counts_every_tap(seed: int) -> None:
    chance = np.random.default_rng(seed)
    for _ in range(500):
        size, kernel = int(chance.integers(1, 20)), int(chance.integers(1, 8))
        stride, dilation = int(chance.integers(1, 5)), int(chance.integers(1, 4))
        axis = window_axis(size, kernel, stride, dilation, str(chance.choice(["SAME", "VALID"])))
        assert axis.inside == int(axis.taps().sum())
        assert axis.padded == (not axis.taps().all())


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "out", "before"),
    [
        (49, 10, 2, "SAME", 25, 4),
        (10, 4, 2, "SAME", 5, 1),
        (96, 3, 2, "SAME", 48, 0),
        (6, 3, 2, "SAME", 3, 0),
        (3, 3, 1, "SAME", 3, 1),
        (8, 3, 2, "VALID", 3, 0),
        (2, 3, 1, "VALID", 0, 0),
    ],
)
def test_windows(size: int, kernel: int, stride: int, padding: str, out: int, before: int) -> None:
    axis = window_axis(size, kernel, stride, 1, padding)
    assert (axis.out, axis.before) == (out, before)
