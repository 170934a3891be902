"""Random networks of all operators through the whole engine: every step equals TFLM's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import choices, conv_output, zero_point
from tflite_builder import TfliteBuilder

from edgekit.engines import aot
from edgekit.engines.aot.host import HostRunner, StepReference
from edgekit.graph import read_model
from edgekit.targets import load_target


class Network:
    """Grows a model operator by operator; every tensor has NHWC shape and its quantisation."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.b = TfliteBuilder()
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.quantization: dict[int, tuple[float, int]] = {}
        self.kinds: list[str] = []

    def tensor(self, shape: tuple[int, ...], scale: float, zero: int) -> int:
        index = self.b.tensor(shape, scale=scale, zero_point=zero)
        self.shapes[index], self.quantization[index] = shape, (scale, zero)
        return index

    def op(self, kind: str, inputs: list[int], output: int, **options: Any) -> int:
        self.kinds.append(kind)
        self.b.op(kind, inputs, [output], **options)
        return output

    def any_scale(self) -> float:
        return float(np.float32(np.exp(self.rng.uniform(-4, -2))))

    def weights(self, shape: tuple[int, ...], channel_axis: int) -> np.ndarray:
        values = np.clip(self.rng.normal(0, 40, shape).round(), -127, 127).astype(np.int8)
        if self.rng.random() < 0.4:
            # Channels whose weights are all zero are constant: they and their readers shrink.
            dead = self.rng.random(shape[channel_axis]) < 0.4
            values[(slice(None),) * channel_axis + (dead,)] = 0
        return values

    def convolution(self, x: int, kind: str) -> int:
        rng = self.rng
        _, h, w, c = self.shapes[x]
        padding = choices(rng, "SAME", "SAME", "VALID")
        kh, kw = (int(rng.integers(1, 4)) for _ in range(2))
        if padding == "VALID":
            kh, kw = min(kh, h), min(kw, w)
        stride = int(choices(rng, 1, 1, 2))
        depthwise = kind == "DEPTHWISE_CONV_2D"
        multiplier = int(choices(rng, 1, 1, 2)) if depthwise else 1
        out_c = c * multiplier if depthwise else int(rng.integers(1, 9))
        shape = (1, kh, kw, out_c) if depthwise else (out_c, kh, kw, c)
        axis = 3 if depthwise else 0
        values = self.weights(shape, axis)
        scale, _ = self.quantization[x]
        scales = [float(np.float32(s)) for s in np.exp(rng.uniform(-7, -5, out_c))]
        weights = self.b.constant(values, scale=scales, zero_point=0, axis=axis)
        bias = rng.integers(-3000, 3000, out_c).astype(np.int32)
        operands = [x, weights, self.b.constant(bias, scale=[scale * s for s in scales])]
        act = choices(rng, "NONE", "RELU", "RELU", "RELU6")
        out = (1, conv_output(h, kh, stride, 1, padding), conv_output(w, kw, stride, 1, padding))
        zero = -128 if act != "NONE" and rng.random() < 0.7 else zero_point(rng)
        options: dict[str, Any] = {"depth_multiplier": multiplier} if depthwise else {}
        return self.op(
            kind, operands, self.tensor((*out, out_c), self.any_scale(), zero), padding=padding,
            stride_h=stride, stride_w=stride, dilation_h_factor=1, dilation_w_factor=1,
            fused_activation_function=act, **options,
        )  # fmt: skip

    def same(self, x: int, kind: str, **options: Any) -> int:
        return self.op(kind, [x], self.tensor(self.shapes[x], *self.quantization[x]), **options)

    def requantized(self, x: int, kind: str, **options: Any) -> int:
        out = self.tensor(self.shapes[x], self.quantization[x][0] * 0.7, zero_point(self.rng))
        return self.op(kind, [x], out, **options)

    def pad(self, x: int) -> int:
        pads = [(0, 0), *((int(a), int(b)) for a, b in self.rng.integers(0, 3, (2, 2))), (0, 0)]
        out = tuple(d + a + b for d, (a, b) in zip(self.shapes[x], pads, strict=True))
        amounts = self.b.constant(np.array(pads, np.int32))
        return self.op("PAD", [x, amounts], self.tensor(out, *self.quantization[x]))

    def pool(self, x: int) -> int:
        _, h, w, c = self.shapes[x]
        out = (1, conv_output(h, 2, 2, 1, "SAME"), conv_output(w, 2, 2, 1, "SAME"), c)
        return self.op(
            choices(self.rng, "AVERAGE_POOL_2D", "MAX_POOL_2D"), [x],
            self.tensor(out, *self.quantization[x]), padding="SAME", stride_h=2, stride_w=2,
            filter_height=2, filter_width=2,
        )  # fmt: skip

    def residual(self, x: int) -> int:
        inner = self.convolution(x, "CONV_2D")
        if self.shapes[inner] != self.shapes[x]:
            inner = self.requantized(x, "QUANTIZE")
        kind = choices(self.rng, "ADD", "ADD", "SUB", "MUL")
        both = [x, inner] if self.rng.random() < 0.5 else [inner, x]
        out = self.tensor(self.shapes[x], self.any_scale(), zero_point(self.rng))
        act = choices(self.rng, "NONE", "RELU")
        return self.op(kind, both, out, fused_activation_function=act)

    def join(self, x: int) -> int:
        other = self.same(x, "MAX_POOL_2D", padding="SAME", stride_h=1, stride_w=1,
                          filter_height=3, filter_width=3)  # fmt: skip
        axis = int(choices(self.rng, 1, 3))
        shape = list(self.shapes[x])
        shape[axis] *= 2
        out = self.tensor(tuple(shape), *self.quantization[x])
        return self.op("CONCATENATION", [x, other], out, axis=axis)

    def crop(self, x: int) -> int:
        _, h, w, c = self.shapes[x]
        vectors = [np.array(v, np.int32) for v in ([0, 0, 0, 0], [1, h, w, c], [1, 1, 2, 1])]
        out = self.tensor((1, h, -(-w // 2), c), *self.quantization[x])
        return self.op("STRIDED_SLICE", [x, *(self.b.constant(v) for v in vectors)], out)

    def sigmoid(self, x: int) -> int:
        kind, scale, zero = choices(self.rng, ("LOGISTIC", 1 / 256, -128), ("TANH", 1 / 128, 0))
        return self.op(kind, [x], self.tensor(self.shapes[x], scale, zero))

    def head(self, x: int) -> int:
        rng = self.rng
        _, h, w, c = self.shapes[x]
        if rng.random() < 0.5:
            axes = self.b.constant(np.array([1, 2], np.int32))
            flat = self.tensor((1, c), *self.quantization[x])
            x = self.op("MEAN", [x, axes], flat, keep_dims=False)
        else:
            shape = self.b.constant(np.array([1, h * w * c], np.int32))
            flat = self.tensor((1, h * w * c), *self.quantization[x])
            x = self.op("RESHAPE", [x, shape], flat)
        depth, classes = self.shapes[x][1], int(rng.integers(2, 12))
        scale, _ = self.quantization[x]
        weights = self.b.constant(self.weights((classes, depth), 0), scale=0.005)
        product = float(np.float32(scale) * np.float32(0.005))
        bias = self.b.constant(rng.integers(-999, 999, classes).astype(np.int32), scale=product)
        scores = self.tensor((1, classes), 0.1, zero_point(rng))
        x = self.op("FULLY_CONNECTED", [x, weights, bias], scores)
        return self.op("SOFTMAX", [x], self.tensor((1, classes), 1 / 256, -128), beta=1.0)


def network(rng: np.random.Generator) -> tuple[bytes, list[str]]:
    net = Network(rng)
    h, w, c = (int(d) for d in rng.integers((6, 6, 1), (17, 17, 5)))
    first = net.tensor((1, h, w, c), 0.02, zero_point(rng))
    x = net.convolution(first, "CONV_2D")
    blocks = [
        lambda x: net.convolution(x, "CONV_2D"),
        lambda x: net.convolution(x, "DEPTHWISE_CONV_2D"),
        lambda x: net.convolution(net.pad(x), "CONV_2D"),
        lambda x: net.convolution(net.pad(x), "DEPTHWISE_CONV_2D"),
        net.residual, net.residual, net.pool, net.join, net.crop, net.sigmoid,
        lambda x: net.same(x, "RELU"),
        lambda x: net.same(x, "RELU6"),
        lambda x: net.requantized(x, "LEAKY_RELU", alpha=0.1),
        lambda x: net.requantized(x, "HARD_SWISH"),
        lambda x: net.requantized(x, "QUANTIZE"),
    ]  # fmt: skip
    for _ in range(int(rng.integers(3, 9))):
        x = blocks[int(rng.integers(len(blocks)))](x)
    return net.b.build([first], [net.head(x)]), net.kinds


@pytest.mark.slow
def test_random_networks(seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    target = load_target("host")
    for number in range(max(2, round(16 * sample))):
        raw, kinds = network(rng)
        model = read_model(raw, f"net{number}")
        options = {
            "optimize": choices(rng, "speed", "ram", "flash"),
            "debug_steps": bool(rng.random() < 0.2),
            "keep_input": bool(rng.random() < 0.2),
        }
        artifact = aot.compile(
            model, target, tmp_path / f"net{number}", command="test", options=options
        )
        assert artifact.plan is not None
        reference = StepReference(model, artifact.plan)
        with HostRunner(artifact) as runner:
            for _ in range(3):
                data = rng.integers(-128, 128, model.input_tensors[0].shape).astype(np.int8)
                expected = reference.invoke(data)
                runner.fill(0xA5)
                found = runner.steps(data)
                for step, have, want in zip(artifact.plan.steps, found, expected, strict=True):
                    assert have == want, (
                        f"network {number} {kinds} {options}: step {step.index} {step.kind} by "
                        f"{step.kernel} differs (EDGEKIT_SEED={os.environ.get('EDGEKIT_SEED')})"
                    )
                assert runner.invoke(data) == reference.outputs()
                assert runner.guards_intact(0xA5)
