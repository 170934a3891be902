"""Data adaptation, metrics, the synthetic input, and runtimes that crash or refuse."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_builder import TfliteBuilder

from edgekit.errors import EdgekitError, ModelError, UsageError
from edgekit.graph import Model, read_model
from edgekit.quality.dataset import adapt, read_dataset
from edgekit.quality.metrics import accuracy, area_under_curve
from edgekit.quality.synthetic import digest, fnv1a32, synthetic_inputs, xorshift_bytes
from edgekit.quality.validation import Request, validate
from edgekit.runtimes import open_runner
from edgekit.runtimes.process import RunnerProcess
from edgekit.runtimes.tflm import TflmRunner


def identity(
    shape: tuple[int, ...] = (1, 4), scale: float = 0.5, zero_point: int = 0, dtype: str = "int8"
) -> Model:
    builder = TfliteBuilder()
    quantization: dict[str, Any] = (
        {} if dtype == "float32" else {"scale": scale, "zero_point": zero_point}
    )
    x = builder.tensor(shape, dtype=dtype, **quantization)
    y = builder.tensor(shape, dtype=dtype, **quantization)
    target = builder.constant(np.array(shape, np.int32))
    builder.op("RESHAPE", [x, target], [y])
    return read_model(builder.build([x], [y]), "identity")


def save(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


def test_adaptation_rules() -> None:
    pixels = np.arange(0, 256, dtype=np.uint8).reshape(64, 1, 4)
    for scale, zero_point in ((1 / 255, -128), (1.0, -128), (2 / 255, -1), (1 / 128, 0)):
        tensor = identity(scale=scale, zero_point=zero_point).input_tensors[0]
        got, rule = adapt(pixels, tensor, "auto")
        assert rule == "image: x - 128"
        assert got.dtype == np.int8
        assert (got.astype(int) == pixels.astype(int) - 128).all()
    odd = identity(scale=0.3, zero_point=5).input_tensors[0]
    with pytest.raises(ModelError, match="not clear"):
        adapt(pixels, odd, "auto")
    assert adapt(pixels, odd, "image")[1] == "image: x - 128"
    floats = identity(dtype="float32").input_tensors[0]
    assert np.allclose(adapt(pixels, floats, "image")[0], pixels / 255)
    got, rule = adapt(pixels, odd, "image", ((127.5,), (127.5,)))
    assert "metadata" in rule
    assert got.reshape(-1)[0] == max(-128, round(-1 / 0.3) + 5)


def test_real_values_are_rounded_away_from_zero_and_saturate() -> None:
    tensor = identity(scale=0.5, zero_point=3).input_tensors[0]
    got, rule = adapt(np.array([[[0.25, -0.25, 1e9, -1e9]]]), tensor, "auto")
    assert got.tolist() == [[[4, 2, 127, -128]]]
    assert rule.startswith("real: x, quantised")
    with pytest.raises(ModelError, match="not finite"):
        adapt(np.array([[[0.0, np.nan, 0, 0]]]), tensor, "real")


def test_data_that_do_not_fit(tmp_path: Path) -> None:
    model = identity()
    x = np.zeros((3, 4), np.int8)
    assert len(read_dataset(save(tmp_path, x=x), model)) == 3
    cases: list[tuple[dict[str, Any], str]] = [
        ({"z": x}, "no 'x'"),
        ({"x": np.zeros((3, 5), np.int8)}, "samples of shape"),
        ({"x": x, "y": np.zeros(2)}, "'y' has the shape"),
        ({"x": np.zeros((0, 4), np.int8)}, "no samples"),
        ({"x": np.array([{}], dtype=object)}, "cannot be read"),
    ]
    for arrays, message in cases:
        with pytest.raises(ModelError, match=message):
            read_dataset(save(tmp_path, **arrays), model)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    for name in ("bad.npz", "none.npz"):
        with pytest.raises(ModelError):
            read_dataset(tmp_path / name, model)


def test_metrics_take_any_function(tmp_path: Path) -> None:
    """The hook for devices: a function from inputs to outputs is all that is needed."""
    model = identity(shape=(1, 2))
    x = np.array([[1, 0], [0, 1], [3, 2], [0, 9]], np.int8)
    dataset = read_dataset(save(tmp_path, x=x, y=np.array([0, 1, 1, 1])), model)
    seen = []
    found = accuracy(lambda values: [values], dataset, model, "top1", seen.append)
    assert (found.value, found.right, len(seen)) == (0.75, 3, 4)
    assert accuracy(lambda values: [values], dataset, model, "auc").value == 1.0
    with pytest.raises(ModelError, match="shape"):
        accuracy(lambda values: [values], dataset, model, "mse")


def test_reconstruction_over_windows(tmp_path: Path) -> None:
    model = identity(shape=(1, 4), scale=1.0)
    x = np.arange(24, dtype=np.int8).reshape(3, 2, 4)
    dataset = read_dataset(save(tmp_path, x=x, y=np.array([0, 1, 0])), model)
    assert (len(dataset), dataset.windows) == (3, 2)
    wrong = accuracy(lambda v: [v + 2 * np.int8(v.max() == 15)], dataset, model, "auc")
    assert wrong.value == 1.0
    # One of the two windows is off by 2 everywhere: (4 + 0) / 2.
    assert wrong.scores.tolist() == [0.0, 2.0, 0.0]


def test_area_under_curve_equals_pair_counting(seed: int) -> None:
    chance = np.random.default_rng(seed)
    for _ in range(50):
        scores = chance.integers(0, 6, 30).astype(float)
        labels = np.r_[0, 1, chance.integers(0, 2, 28)]
        positive, negative = scores[labels == 1], scores[labels == 0]
        wins = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
        assert area_under_curve(scores, labels) == pytest.approx(wins)


def test_limits_need_data_and_one_metric() -> None:
    from edgekit.console import progress

    with pytest.raises(UsageError, match="needs data"):
        validate(identity(), Request(metric="top1"), progress)
    with pytest.raises(UsageError, match="one metric"):
        validate(identity(), Request(metric="auc", limits={"min_top1": 0.5}), progress)


def test_synthetic_recipe() -> None:
    state, wanted = 0x12345678, []
    for _ in range(4):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        wanted.append(state >> 24)
    assert list(xorshift_bytes(4)[0]) == wanted
    # Known answers of FNV-1a with 32 bits.
    assert (fnv1a32(b""), fnv1a32(b"a")) == (0x811C9DC5, 0xE40C292C)
    assert digest([np.frombuffer(b"foobar", np.uint8)]) == "bf9cf968"
    first, second = synthetic_inputs(identity(), 2)
    assert first[0].tobytes() + second[0].tobytes() == xorshift_bytes(8)[0]
    with pytest.raises(UsageError):
        synthetic_inputs(identity(), 1, 0)


def test_isolated_runner_equals_the_one_in_process() -> None:
    model = identity()
    values = np.array([[1, -2, 3, -4]], np.int8)
    with open_runner("tflm", model.raw, keep_tensors=True) as runner:
        assert runner.invoke(values)[0].tolist() == values.tolist()
        assert runner.tensor(model.outputs[0]).tolist() == values.tolist()
        assert len(runner.time([values], 3)) == 3
        for wrong in (values.astype(np.int16), values[:, :2]):
            with pytest.raises(UsageError, match="takes int8"):
                runner.invoke(wrong)
        with pytest.raises(UsageError, match="no tensor"):
            runner.tensor(99)
    direct = TflmRunner(model.raw)
    assert direct.invoke(values)[0].tolist() == values.tolist()
    assert (direct.arena_bytes or 0) > 0


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_crash_and_hang_are_errors_of_the_model() -> None:
    runner = RunnerProcess("tflm", identity().raw)
    os.kill(runner._child.pid, signal.SIGSEGV)
    with runner, pytest.raises(ModelError, match="crashed on this model .SIGSEGV."):
        runner.invoke(np.zeros((1, 4), np.int8))
    runner = RunnerProcess("tflm", identity().raw, timeout_s=0.5)
    os.kill(runner._child.pid, signal.SIGSTOP)
    with runner, pytest.raises(ModelError, match="did not finish"):
        runner.invoke(np.zeros((1, 4), np.int8))


def test_unsupported_operator_is_named() -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4), dtype="float32")
    y = builder.tensor((1, 4), dtype="float32")
    builder.op("COS", [x], [y])
    z = builder.tensor((1, 4), dtype="float32")
    builder.op("RELU_N1_TO_1", [y], [z])
    for isolated in (True, False):
        with pytest.raises(EdgekitError, match="RELU_N1_TO_1") as caught:
            open_runner("tflm", builder.build([x], [z]), isolated=isolated)
        assert isinstance(caught.value, ModelError)
        assert caught.value.where == "operator 1"
