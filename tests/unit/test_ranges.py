"""Ranges contain every value that TFLM computes, and what is dead does not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_builder import TfliteBuilder

from edgekit.graph import Model, read_model
from edgekit.graph.fixedpoint import quantize_multiplier, requantize
from edgekit.graph.ranges import channel_liveness, forward_ranges, live_macs
from edgekit.runtimes.tflm import TflmRunner

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def remaining(model: Model) -> tuple[int, int]:
    channels = channel_liveness(model.main)
    left = [live_macs(model.main, op, channels) for op in model.ops if op.kind in WEIGHTED]
    return sum(macs for macs, _ in left), sum(weights for _, weights in left)


def test_vww_loses_half(mlperf: Path) -> None:
    model = read_model(mlperf / "vww_mobilenet_int8.tflite")
    channels = channel_liveness(model.main)
    pointwise = [
        int(channels[op.outputs[0]].live.sum())
        for op in model.ops
        if op.kind == "CONV_2D" and op.index >= 10
    ]
    assert pointwise == [60, 106, 57, 30, 19, 15, 25, 31, 22]
    assert remaining(model) == (3_727_313, 29_066)


@pytest.mark.parametrize(
    ("name", "macs"), [("kws_dscnn", 2656768), ("ic_resnet", 12501632), ("ad_autoencoder", 264192)]
)
def test_others_lose_nothing(mlperf: Path, name: str, macs: int) -> None:
    model = read_model(mlperf / f"{name}_int8.tflite")
    assert remaining(model)[0] == macs


def check_contained(model: Model, inputs: list[np.ndarray]) -> int:
    """Every activation lies in its channel's interval; how many channels are constant."""
    runner = TflmRunner(model.raw, keep_tensors=True)
    found = forward_ranges(model.main)
    indices = [index for op in model.ops for index in op.outputs if index in found]
    for values in inputs:
        runner.invoke(values)
        for index in indices:
            low, high = found[index]
            actual = runner.tensor(index).reshape(-1, low.size).astype(np.int64)
            assert (actual >= low).all() and (actual <= high).all(), model.tensors[index]
    return sum(int((found[i][0] == found[i][1]).sum()) for i in indices)


def extremes(chance: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    def full(value: int) -> np.ndarray:
        return np.full(shape, value, np.int8)

    coarse = chance.choice(np.array([-128, 127], np.int8), shape)
    uniform = [chance.integers(-128, 128, shape).astype(np.int8) for _ in range(3)]
    return [full(-128), full(127), full(0), coarse, *uniform]


def test_vww_values_are_contained(mlperf: Path, seed: int) -> None:
    model = read_model(mlperf / "vww_mobilenet_int8.tflite")
    chance = np.random.default_rng(seed)
    assert check_contained(model, extremes(chance, (1, 96, 96, 3))) > 1000


class RandomGraph:
    """A chain of random int8 operators with narrow ranges, so that channels get stuck."""

    def __init__(self, chance: np.random.Generator) -> None:
        self.chance = chance
        self.builder = TfliteBuilder()
        self.shape = (1, int(chance.integers(3, 7)), int(chance.integers(3, 7)), 4)
        self.quantization = self.random_quantization()
        self.first = self.builder.tensor(self.shape, **self.quantization)
        self.current = self.first

    def random_quantization(self) -> dict[str, Any]:
        return {
            "scale": float(self.chance.uniform(0.01, 0.2)),
            "zero_point": int(self.chance.integers(-128, 128)),
        }

    def push(self, kind: str, inputs: list[int], shape: tuple[int, ...], **options: Any) -> None:
        same = options.pop("same", False)
        if not same:
            self.quantization = self.random_quantization()
        out = self.builder.tensor(shape, **self.quantization)
        self.builder.op(kind, inputs, [out], **options)
        self.current, self.shape = out, shape

    def weighted(self, depthwise: bool) -> None:
        chance, channels = self.chance, self.shape[3]
        count = channels if depthwise else int(chance.integers(2, 7))
        kernel = int(chance.integers(1, 4))
        inner = (1, kernel, kernel, count) if depthwise else (count, kernel, kernel, channels)
        weights = chance.integers(-127, 128, inner).astype(np.int8)
        weights[chance.random(inner) < 0.3] = 0
        scales = chance.uniform(0.001, 0.05, count)
        data_scale = self.quantization["scale"]
        w = self.builder.constant(weights, scale=scales, axis=3 if depthwise else 0)
        # Biases far below or above the range make channels constant.
        bias = (chance.normal(0, 8, count) / (scales * data_scale)).astype(np.int32)
        b = self.builder.constant(bias, scale=scales * data_scale)
        padding, stride = str(chance.choice(["SAME", "VALID"])), int(chance.integers(1, 3))
        if padding == "VALID" and kernel > min(self.shape[1:3]):
            padding = "SAME"
        extent = kernel if padding == "VALID" else 1
        height, width = (-(-(size - extent + 1) // stride) for size in self.shape[1:3])
        options: dict[str, Any] = {"depth_multiplier": 1} if depthwise else {}
        self.push(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [self.current, w, b],
            (1, height, width, count),
            padding=padding,
            stride_h=stride,
            stride_w=stride,
            dilation_h_factor=1,
            dilation_w_factor=1,
            fused_activation_function=str(chance.choice(["NONE", "RELU", "RELU6"])),
            **options,
        )

    def step(self) -> None:
        chance, current, shape = self.chance, self.current, self.shape
        kind = str(
            chance.choice(
                ["conv", "dw", "ADD", "SUB", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RELU",
                 "QUANTIZE", "CONCATENATION", "PAD", "MEAN", "MAXIMUM", "MINIMUM",
                 "RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"]
            )
        )  # fmt: skip
        builder = self.builder
        if kind in ("conv", "dw"):
            self.weighted(kind == "dw")
        elif kind in ("ADD", "SUB", "MUL"):
            other = builder.constant(
                chance.integers(-128, 128, (shape[3],)).astype(np.int8),
                **self.random_quantization(),
            )
            operand = current if chance.random() < 0.3 else other
            activation = str(chance.choice(["NONE", "RELU"]))
            self.push(kind, [current, operand], shape, fused_activation_function=activation)
        elif kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            self.push(kind, [current], shape, same=True, padding="SAME", stride_h=1, stride_w=1,
                      filter_height=2, filter_width=2)  # fmt: skip
        elif kind in ("RELU", "QUANTIZE"):
            self.push(kind, [current], shape)
        elif kind in ("MAXIMUM", "MINIMUM"):
            values = chance.integers(-128, 128, (1, 1, 1, shape[3])).astype(np.int8)
            other = builder.constant(values, **self.quantization)
            self.push(kind, [current, other], shape, same=True)
        elif kind == "CONCATENATION":
            if shape[3] > 12:
                return
            axis = int(chance.choice([1, 3]))
            wide = tuple(2 * d if i == axis else d for i, d in enumerate(shape))
            self.push(kind, [current, current], wide, same=True, axis=axis)
        elif kind == "PAD":
            around = chance.integers(0, 2, (4, 2)).astype(np.int32)
            around[0] = 0
            pads = builder.constant(around)
            wide = tuple(d + int(p.sum()) for d, p in zip(shape, around, strict=True))
            self.push(kind, [current, pads], wide, same=True)
        elif kind == "MEAN":
            axes = builder.constant(np.array([1, 2], np.int32))
            self.push(kind, [current, axes], (1, 1, 1, shape[3]), same=True, keep_dims=True)
        else:
            if max(shape[1:3]) > 12:
                return
            size = builder.constant(np.array([shape[1] * 2, shape[2] + 1], np.int32))
            wide = (1, shape[1] * 2, shape[2] + 1, shape[3])
            self.push(kind, [current, size], wide, same=True)

    def finish(self) -> bytes:
        elements = int(np.prod(self.shape))
        target = self.builder.constant(np.array([1, elements], np.int32))
        self.push("RESHAPE", [self.current, target], (1, elements), same=True)
        weights = self.chance.integers(-127, 128, (3, elements)).astype(np.int8)
        per_channel = self.chance.random() < 0.5
        scales = self.chance.uniform(0.001, 0.01, 3 if per_channel else 1)
        w = self.builder.constant(weights, scale=scales)
        bias = self.chance.integers(-1000, 1000, 3).astype(np.int32)
        b = self.builder.constant(bias, scale=scales * self.quantization["scale"])
        self.push("FULLY_CONNECTED", [self.current, w, b], (1, 3))
        return self.builder.build([self.first], [self.current])


@pytest.mark.slow
def test_random_graphs(seed: int, sample: float) -> None:
    """Containment, and: other values in channels that nothing reads change no output."""
    constant = unread = 0
    for number in range(int(400 * sample)):
        chance = np.random.default_rng([seed, number])
        graph = RandomGraph(chance)
        for _ in range(int(chance.integers(2, 7))):
            graph.step()
        model = read_model(graph.finish(), f"random {number}")
        inputs = extremes(chance, model.input_tensors[0].shape)
        constant += check_contained(model, inputs)
        unread += check_unread(model, inputs, chance)
    assert constant > 100 * sample
    assert unread > 20 * sample


def check_unread(model: Model, inputs: list[np.ndarray], chance: np.random.Generator) -> int:
    """Gives channels that nothing reads another value of their range; the outputs must stay."""
    channels = channel_liveness(model.main)
    changed = bytearray(model.raw)
    count = 0
    for op in model.ops:
        if op.kind not in WEIGHTED:
            continue
        found = channels[op.outputs[0]]
        dead = np.flatnonzero(~found.read & ~found.constant)
        data, weights, bias = (model.tensors[i] for i in op.inputs)
        output = model.tensors[op.outputs[0]]
        raws = (weights.raw or b"", bias.raw or b"")
        if not dead.size or any(model.raw.count(raw) != 1 for raw in raws):
            continue
        values, biases = weights.data().copy(), bias.data().copy()
        scales = np.broadcast_to(np.array(weights.quantization.scales), (found.count,))
        for channel in dead:
            wanted = int(chance.integers(found.low[channel], found.high[channel] + 1))
            real = data.scale * scales[channel] / output.scale
            accumulator = round((wanted - output.zero_point) / real)
            multiplier, shift = quantize_multiplier(real)
            got = int(requantize(np.array(accumulator), multiplier, shift)) + output.zero_point
            if abs(accumulator) < 1 << 30 and found.low[channel] <= got <= found.high[channel]:
                biases[channel] = accumulator
                values[(..., channel) if op.kind == "DEPTHWISE_CONV_2D" else channel] = 0
                count += 1
        for raw, new in zip(raws, (values, biases), strict=True):
            at = model.raw.index(raw)
            changed[at : at + len(raw)] = new.tobytes()
    if count:
        before, after = TflmRunner(model.raw), TflmRunner(bytes(changed))
        for sample in inputs:
            assert before.invoke(sample)[0].tobytes() == after.invoke(sample)[0].tobytes()
    return count


def test_unread_channels_of_vww(mlperf: Path, seed: int) -> None:
    model = read_model(mlperf / "vww_mobilenet_int8.tflite")
    chance = np.random.default_rng(seed)
    assert check_unread(model, extremes(chance, (1, 96, 96, 3))[2:], chance) > 5


def test_constants_that_padding_breaks_must_be_stored() -> None:
    """A constant other than zero in front of a convolution that pads is no bias."""
    builder = TfliteBuilder()
    x = builder.tensor((1, 4, 4, 2), scale=0.5)
    w = builder.constant(np.array([[[[0, 0]]], [[[1, 1]]]], np.int8), scale=[0.1, 0.1])
    bias = builder.constant(np.array([200, 0], np.int32), scale=[0.05, 0.05])
    hidden = builder.tensor((1, 4, 4, 2), scale=0.5)
    w2 = builder.constant(np.ones((1, 3, 3, 2), np.int8), scale=[0.1])
    y = builder.tensor((1, 4, 4, 1), scale=0.5)
    window = {"stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
    builder.op("CONV_2D", [x, w, bias], [hidden], padding="SAME", **window)
    builder.op("CONV_2D", [hidden, w2, -1], [y], padding="SAME", **window)
    model = read_model(builder.build([x], [y]))
    found = channel_liveness(model.main)[hidden]
    assert found.constant.tolist() == [True, False]
    assert found.low[0] == 20
    assert found.fill.tolist() == [True, False]
    assert found.live.tolist() == [False, True]


def test_float_graphs_have_no_channels(mlperf: Path) -> None:
    model = read_model(mlperf / "ic_resnet_float.tflite")
    assert channel_liveness(model.main) == {}


def test_requantisation_rounds_as_tflm(seed: int) -> None:
    multiplier, shift = quantize_multiplier(0.5)
    assert (multiplier, shift) == (1 << 30, 0)
    values = np.array([1, -1, 3, -3, 5, -5, 0])
    # The doubling high multiply takes halves up, the shift takes them away from zero.
    assert requantize(values, multiplier, shift).tolist() == [1, 0, 2, -1, 3, -2, 0]
    assert requantize(2 * values, multiplier, -1).tolist() == [1, -1, 2, -2, 3, -3, 0]
    assert quantize_multiplier(0.0) == (0, 0)
    assert quantize_multiplier(2.0**-40) == (0, 0)
    with pytest.raises(ValueError, match="multiplier"):
        quantize_multiplier(-1.0)
