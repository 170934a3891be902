"""Random networks against TFLM: every step of the generated C, whatever the passes made of it.

The networks have what models have: padding, strides, branches with residuals, activations of
their own, pooling, concatenations, flattening, and channels that are dead, constant or unread.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tflite_builder import TfliteBuilder

from edgekit.engines import aot
from edgekit.engines.aot.host import HostRunner, StepReference
from edgekit.graph import Model, read_model
from edgekit.targets import load_target


@dataclass(frozen=True)
class _Node:
    index: int
    shape: tuple[int, ...]
    scale: float
    zero_point: int


class _Network:
    """Grows a random network, layer by layer, at the end of ``self.at``."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.builder = TfliteBuilder()
        shape = (1, self._size(4, 11), self._size(4, 11), self._size(1, 5))
        self.input = self.at = self._tensor(shape)
        self.before: list[_Node] = []

    def _size(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))

    def _tensor(self, shape: tuple[int, ...], like: _Node | None = None) -> _Node:
        zero_point = like.zero_point if like else int(self.rng.choice([-128, 0, 127, -3, 40]))
        scale = like.scale if like else float(self.rng.uniform(0.01, 0.1))
        index = self.builder.tensor(shape, scale=scale, zero_point=zero_point)
        return _Node(index, shape, scale, zero_point)

    def build(self) -> Model:
        layers = [
            self.conv, self.conv, self.depthwise, self.residual, self.pool, self.activation,
            self.padded_conv, self.concatenation,
        ]  # fmt: skip
        for _ in range(self._size(3, 8)):
            layers[self._size(0, len(layers))]()
        if self.rng.random() < 0.7:
            self.head()
        # Early results may be outputs of the model as well.
        outputs = [self.at.index]
        if self.before and self.rng.random() < 0.3:
            outputs.append(self.before[self._size(0, len(self.before))].index)
        return read_model(self.builder.build([self.input.index], list(dict.fromkeys(outputs))))

    def _next(self, node: _Node) -> None:
        if self.at is not self.input:
            self.before.append(self.at)
        self.at = node

    def _weights(self, shape: tuple[int, ...], channel_axis: int) -> tuple[int, int]:
        """Weights and biases with some channels that are dead, unread or saturated."""
        weights = self.rng.integers(-127, 128, shape).astype(np.int8)
        weights[self.rng.random(shape) < 0.2] = 0
        count = shape[channel_axis]
        fate = self.rng.random(count)
        dead = np.moveaxis(weights, channel_axis, 0)
        dead[fate < 0.2] = 0
        if channel_axis == 0:
            weights[..., self.rng.random(shape[-1]) < 0.15] = 0
        bias = self.rng.integers(-3000, 3000, count)
        bias[fate < 0.1] = self.rng.choice([-(1 << 20), 1 << 20])
        bias[fate > 0.9] = -(1 << 20)
        per_channel = self.rng.random() < 0.6
        scale = self.rng.uniform(0.001, 0.02, count if per_channel else 1)
        w = self.builder.constant(
            weights, scale=list(scale), zero_point=[0] * len(scale), axis=channel_axis
        )
        b = self.builder.constant(
            bias.astype(np.int32),
            scale=list(scale * self.at.scale), zero_point=[0] * len(scale),
        )  # fmt: skip
        return w, b

    def _activation(self) -> str:
        return str(self.rng.choice(["NONE", "RELU", "RELU", "RELU6"]))

    def _window(self, source: _Node) -> dict[str, object]:
        return {
            "padding": str(self.rng.choice(["SAME", "VALID"])),
            "stride_h": self._size(1, 3),
            "stride_w": self._size(1, 3),
        }

    @staticmethod
    def _out(size: int, kernel: int, stride: object, padding: object) -> int:
        assert isinstance(stride, int)
        return -(-size // stride) if padding == "SAME" else (size - kernel) // stride + 1

    def _kernel(self, source: _Node) -> tuple[int, int]:
        return tuple(  # type: ignore[return-value]
            min(int(self.rng.choice([1, 1, 2, 3, 3])), n) for n in source.shape[1:3]
        )

    def conv(self, source: _Node | None = None, channels: int | None = None) -> None:
        at = source or self.at
        kernel, options = self._kernel(at), self._window(at)
        channels = channels or self._size(1, 9)
        w, b = self._weights((channels, *kernel, at.shape[3]), 0)
        shape = (
            1,
            self._out(at.shape[1], kernel[0], options["stride_h"], options["padding"]),
            self._out(at.shape[2], kernel[1], options["stride_w"], options["padding"]),
            channels,
        )
        out = self._tensor(shape)
        self.builder.op(
            "CONV_2D", [at.index, w, b], [out.index], **options,
            dilation_h_factor=1, dilation_w_factor=1,
            fused_activation_function=self._activation(),
        )  # fmt: skip
        self._next(out)

    def depthwise(self) -> None:
        at = self.at
        kernel, options = self._kernel(at), self._window(at)
        multiplier = int(self.rng.choice([1, 1, 1, 2]))
        channels = at.shape[3] * multiplier
        w, b = self._weights((1, *kernel, channels), 3)
        shape = (
            1,
            self._out(at.shape[1], kernel[0], options["stride_h"], options["padding"]),
            self._out(at.shape[2], kernel[1], options["stride_w"], options["padding"]),
            channels,
        )
        out = self._tensor(shape)
        self.builder.op(
            "DEPTHWISE_CONV_2D", [at.index, w, b], [out.index], **options,
            depth_multiplier=multiplier, dilation_h_factor=1, dilation_w_factor=1,
            fused_activation_function=self._activation(),
        )  # fmt: skip
        self._next(out)

    def padded_conv(self) -> None:
        at = self.at
        amounts = [[0, 0], *([self._size(0, 3), self._size(0, 3)] for _ in range(2)), [0, 0]]
        shape = tuple(n + sum(a) for n, a in zip(at.shape, amounts, strict=True))
        padded = self._tensor(shape, at)
        self.builder.op(
            "PAD", [at.index, self.builder.constant(np.array(amounts, np.int32))], [padded.index]
        )
        self._next(padded)
        self.conv()

    def residual(self) -> None:
        at = self.at
        w, b = self._weights((at.shape[3], 1, 1, at.shape[3]), 0)
        branch = self._tensor(at.shape)
        self.builder.op(
            "CONV_2D", [at.index, w, b], [branch.index], padding="SAME", stride_h=1, stride_w=1,
            dilation_h_factor=1, dilation_w_factor=1,
        )  # fmt: skip
        out = self._tensor(at.shape)
        inputs = [at.index, branch.index]
        self.builder.op(
            str(self.rng.choice(["ADD", "ADD", "MUL", "SUB"])), inputs, [out.index],
            fused_activation_function=self._activation(),
        )  # fmt: skip
        self._next(out)

    def concatenation(self) -> None:
        at = self.at
        first = self._tensor((*at.shape[:3], self._size(1, 5)))
        w, b = self._weights((first.shape[3], 1, 1, at.shape[3]), 0)
        self.builder.op(
            "CONV_2D", [at.index, w, b], [first.index], padding="SAME", stride_h=1, stride_w=1,
            dilation_h_factor=1, dilation_w_factor=1,
        )  # fmt: skip
        second = self._tensor((*at.shape[:3], self._size(1, 5)), first)
        w, b = self._weights((second.shape[3], 1, 1, at.shape[3]), 0)
        self.builder.op(
            "CONV_2D", [at.index, w, b], [second.index], padding="SAME", stride_h=1, stride_w=1,
            dilation_h_factor=1, dilation_w_factor=1,
        )  # fmt: skip
        out = self._tensor((*at.shape[:3], first.shape[3] + second.shape[3]), first)
        self.builder.op("CONCATENATION", [first.index, second.index], [out.index], axis=3)
        self._next(out)

    def pool(self) -> None:
        at = self.at
        size = tuple(min(2, n) for n in at.shape[1:3])
        out = self._tensor((1, at.shape[1] // size[0], at.shape[2] // size[1], at.shape[3]), at)
        self.builder.op(
            str(self.rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"])), [at.index], [out.index],
            padding="VALID", stride_h=size[0], stride_w=size[1],
            filter_height=size[0], filter_width=size[1],
        )  # fmt: skip
        self._next(out)

    def activation(self) -> None:
        kind = str(self.rng.choice(["RELU", "RELU6", "LEAKY_RELU", "LOGISTIC", "HARD_SWISH"]))
        at = self.at
        if kind == "LOGISTIC":
            index = self.builder.tensor(at.shape, scale=1 / 256, zero_point=-128)
            out = _Node(index, at.shape, 1 / 256, -128)
        else:
            out = self._tensor(at.shape, at if self.rng.random() < 0.5 else None)
        options = {"alpha": 0.1} if kind == "LEAKY_RELU" else {}
        self.builder.op(kind, [at.index], [out.index], **options)
        self._next(out)

    def head(self) -> None:
        at = self.at
        count = int(np.prod(at.shape))
        flat = self._tensor((1, count), at)
        shape = self.builder.constant(np.array([1, count], np.int32))
        self.builder.op("RESHAPE", [at.index, shape], [flat.index])
        self.at = flat
        classes = self._size(1, 7)
        weights = self.rng.integers(-127, 128, (classes, count)).astype(np.int8)
        w = self.builder.constant(weights, scale=0.005)
        out = self._tensor((1, classes))
        self.builder.op("FULLY_CONNECTED", [flat.index, w, -1], [out.index])
        self.at = out
        if self.rng.random() < 0.5:
            index = self.builder.tensor((1, classes), scale=1 / 256, zero_point=-128)
            self.builder.op("SOFTMAX", [out.index], [index], beta=1.0)
            self.at = _Node(index, (1, classes), 1 / 256, -128)


def _check(model: Model, folder: Path, **options: object) -> None:
    artifact = aot.compile(
        model, load_target("host"), folder, command="edgekit compile", options=options
    )
    assert artifact.plan is not None
    rng = np.random.default_rng(5)
    reference = StepReference(model, artifact.plan)
    flags = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
    with HostRunner(artifact, flags=flags) as runner:
        for value in (None, None, -128, 127):
            shape = model.input_tensors[0].shape
            data = rng.integers(-128, 128, shape) if value is None else np.full(shape, value)
            data = data.astype(np.int8)
            expected = reference.invoke(data)
            outputs = reference.outputs()
            runner.fill(0x33)
            found = runner.steps(data)
            for step, left, right in zip(artifact.plan.steps, found, expected, strict=True):
                assert left == right, f"step {step.index} {step.kind} of {step.ops}"
            assert runner.outputs() == outputs
            assert runner.invoke(data) == outputs
            assert runner.guards_intact(0x33)


@pytest.mark.slow
def test_random_networks_equal_tflm(tmp_path: Path, seed: int, sample: float) -> None:
    removed = 0
    for number in range(max(8, int(60 * sample))):
        model = _Network(seed + number).build()
        try:
            _check(model, tmp_path / f"n{number}")
        except (AssertionError, subprocess.CalledProcessError) as error:
            raise AssertionError(f"the network of seed {seed + number} differs") from error
        plan = aot.decide(model, None).plan
        removed += sum(step.channels is not None for step in plan.steps)
    assert removed > 0


@pytest.mark.parametrize(
    "options", [{"debug_steps": True}, {"keep_input": True, "optimize": "ram"}]
)
def test_random_networks_with_options(
    tmp_path: Path, seed: int, options: dict[str, object]
) -> None:
    for number in range(4):
        _check(_Network(seed + 1000 + number).build(), tmp_path / f"n{number}", **options)
