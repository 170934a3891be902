"""Kernels for MVE equal TFLM byte for byte, on a Cortex-M55 in QEMU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helium
import numpy as np
import pytest
from helium import check_helium
from kernel_harness import Case
from random_models import (
    ACTIVATIONS,
    choices,
    conv_output,
    inputs,
    make,
    output_scale,
    scale,
    unary,
    zero_point,
)
from test_binary import binary
from test_conv_2d import conv
from test_cortexm import relu_conv
from test_depthwise_conv_2d import depthwise
from test_fully_connected import fully_connected
from tflite_builder import TfliteBuilder

pytestmark = pytest.mark.skipif(helium.missing() is not None, reason=str(helium.missing()))

Rng = np.random.Generator


def sums(
    rng: Rng, kind: str, shape: tuple[int, ...], out: tuple[int, ...], weights: tuple[int, ...],
    note: str = "", **options: Any,
) -> Case:  # fmt: skip
    """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED with any quantisation, often as converted."""
    axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
    channels = weights[axis]
    limit = choices(rng, 127, 127, 40, 2)
    values = rng.integers(-limit, limit + 1, weights).astype(np.int8)
    if rng.random() < 0.3:  # the largest sums there are
        values[:] = np.where(values < 0, -127, 127)
    in_scale = scale(rng)
    each = kind == "DEPTHWISE_CONV_2D" or rng.random() < 0.7
    scales = [scale(rng, 1e-3, 0.1) for _ in range(channels if each else 1)]
    other = tuple(i for i in range(len(weights)) if i != axis)
    spread = float(np.abs(values).sum(axis=other).mean()) * 60 * in_scale * float(np.mean(scales))
    # A scale that is too small shifts sums to the left.
    factor = float(choices(rng, 1.0, 1.0, 1.0, 1e-4))
    relu = rng.random() < 0.5
    b = TfliteBuilder()
    x = b.tensor(shape, scale=in_scale, zero_point=zero_point(rng))
    operands = [x, b.constant(values, scale=scales, zero_point=0, axis=axis)]
    if rng.random() < 0.8:
        reach = int(max(2, spread / (in_scale * float(np.mean(scales)))))
        bias = rng.integers(-reach, reach, channels).astype(np.int32)
        operands.append(b.constant(bias, scale=[in_scale * s for s in scales]))
    y = b.tensor(
        out,
        scale=float(np.float32(output_scale(rng, spread) * factor)),
        zero_point=-128 if relu else zero_point(rng),
    )
    activation = "RELU" if relu else choices(rng, *ACTIVATIONS)
    b.op(kind, operands, [y], fused_activation_function=activation, **options)
    note = f"{kind} {shape} {weights} -> {out} {activation} {options}"
    return Case(b.build([x], [y]), inputs(rng, shape), note)


def windows(rng: Rng, kind: str) -> Case:
    """Convolutions over many channels and depths, strides and odd sizes."""
    deep = kind == "DEPTHWISE_CONV_2D"
    window = (3, 3) if deep else choices(rng, (1, 1), (3, 3), (2, 5), (4, 1), (1, 7))
    stride = (s := int(rng.integers(1, 3)), s if deep else int(rng.integers(1, 3)))
    padding = choices(rng, "SAME", "VALID")
    h, w = (int(rng.integers(size, 16)) for size in window)
    in_c = int(rng.integers(1, 20 if deep else 40))
    if rng.random() < 0.3:
        in_c = -(-in_c // 16) * 16
    out_c = in_c if deep else int(rng.integers(4, 20))
    out = (
        1, conv_output(h, window[0], stride[0], 1, padding),
        conv_output(w, window[1], stride[1], 1, padding), out_c,
    )  # fmt: skip
    multiplier = {"depth_multiplier": 1} if deep else {}
    return sums(
        rng, kind, (1, h, w, in_c), out, (1 if deep else out_c, *window, out_c if deep else in_c),
        padding=padding, stride_h=stride[0], stride_w=stride[1], **multiplier,
    )  # fmt: skip


def pointwise(rng: Rng) -> Case:
    """1x1, stride 1: from few channels to enough for a loop over the depth."""
    h, w, out_c = (int(n) for n in rng.integers((1, 1, 4), (6, 6, 24)))
    in_c = int(rng.integers(1, choices(rng, 8, 40, 140, 420)))
    return sums(
        rng, "CONV_2D", (1, h, w, in_c), (1, h, w, out_c), (out_c, 1, 1, in_c), padding="SAME",
        stride_h=1, stride_w=1,
    )  # fmt: skip


def plane(rng: Rng) -> Case:
    """Depthwise planes that go in strips, or whose rows are walked in a loop."""
    h, w = choices(rng, (40, 9), (3, 61), (23, 33), (2, 100), (50, 30))
    h, w = h + int(rng.integers(4)), w + int(rng.integers(4))
    stride, channels = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    out = (1, -(-h // stride), -(-w // stride), channels)
    return sums(
        rng, "DEPTHWISE_CONV_2D", (1, h, w, channels), out, (1, 3, 3, channels), padding="SAME",
        stride_h=stride, stride_w=stride, depth_multiplier=1,
    )  # fmt: skip


def dense(rng: Rng) -> Case:
    rows, outputs = int(choices(rng, 1, 1, 3)), int(rng.integers(1, 40))
    depth = int(rng.integers(1, choices(rng, 20, 100, 400)))
    return sums(rng, "FULLY_CONNECTED", (rows, depth), (rows, outputs), (outputs, depth))


def pooled(rng: Rng, kind: str) -> Case:
    window = int(rng.integers(1, 7)), int(rng.integers(1, 7))
    stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    h, w = (int(rng.integers(size, size + 6)) for size in window)
    channels = int(rng.integers(8, 90))
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    shape = (1, h, w, channels)
    x = b.tensor(shape, scale=s, zero_point=z)
    rows, columns = (conv_output(n, window[i], stride[i], 1, "VALID") for i, n in enumerate((h, w)))
    y = b.tensor((1, rows, columns, channels), scale=s, zero_point=z)
    activation = choices(rng, *ACTIVATIONS)
    b.op(
        kind, [x], [y], padding="VALID", filter_height=window[0], filter_width=window[1],
        stride_h=stride[0], stride_w=stride[1], fused_activation_function=activation,
    )  # fmt: skip
    note = f"{kind} {shape} {window} /{stride} {activation}"
    return Case(b.build([x], [y]), inputs(rng, shape), note)


def residual(rng: Rng, kind: str) -> Case:
    """Sums of every pair of values, as residual connections have them: with and without a ReLU."""
    relu = rng.random() < 0.5
    a, b_ = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    shape = (1, 256, 256, 1)
    b = TfliteBuilder()
    scales = [scale(rng, 0.01, 0.1), scale(rng, 0.01, 0.1)]
    x, y = (b.tensor(shape, scale=s, zero_point=zero_point(rng)) for s in scales)
    reach = 128 * 128 * scales[0] * scales[1] if kind == "MUL" else 128 * sum(scales)
    z = b.tensor(shape, scale=output_scale(rng, reach), zero_point=-128 if relu else 3)
    b.op(kind, [x, y], [z], fused_activation_function="RELU" if relu else "NONE")
    run = (a.astype(np.int8).reshape(shape), b_.astype(np.int8).reshape(shape))
    return Case(b.build([x, y], [z]), [run], f"{kind} of all pairs {scales} {relu}")


BUILDERS: dict[str, tuple[Callable[[Rng], Case], ...]] = {
    "conv_2d": (
        lambda rng: windows(rng, "CONV_2D"),
        pointwise,
        lambda rng: relu_conv(rng, kind="CONV_2D"),
        conv,
    ),
    "depthwise_conv_2d": (
        lambda rng: windows(rng, "DEPTHWISE_CONV_2D"),
        plane,
        lambda rng: relu_conv(rng, kind="DEPTHWISE_CONV_2D"),
        lambda rng: depthwise(rng, window=(3, 3), square_stride=True),
        depthwise,
    ),
    "fully_connected": (dense, fully_connected),
    "binary": (
        lambda rng: binary(rng, "ADD"),
        lambda rng: binary(rng, "SUB"),
        lambda rng: residual(rng, "ADD"),
        lambda rng: residual(rng, "SUB"),
        lambda rng: binary(rng, "MUL"),
        lambda rng: residual(rng, "MUL"),
    ),
    "elementwise": (
        lambda rng: unary(rng, "RELU", shape=(int(rng.integers(1, 300)),)),
        lambda rng: unary(rng, "RELU6", shape=(int(rng.integers(1, 300)),)),
        lambda rng: unary(rng, "LEAKY_RELU", shape=(int(rng.integers(1, 300)),), alpha=0.2),
        lambda rng: unary(rng, "LEAKY_RELU", alpha=0.01),
    ),
    "pool_2d": (
        lambda rng: pooled(rng, "AVERAGE_POOL_2D"),
        lambda rng: pooled(rng, "MAX_POOL_2D"),
    ),
}  # fmt: skip
#: Kernel functions that the cases of each kind must reach.
FUNCTIONS = {
    "conv_2d": {"ek_conv_2d_s8_mve", "ek_conv_2d_1x1_s8_mve", "ek_conv_2d_rows_s8_mve"},
    "depthwise_conv_2d": {"ek_depthwise_conv_2d_3x3_s8_mve", "ek_depthwise_conv_2d_s8_mve"},
    "fully_connected": {"ek_fully_connected_s8_mve"},
    "binary": {"ek_add_s8_mve", "ek_add_linear_s8_mve", "ek_mul_s8_mve"},
    "elementwise": {"ek_lookup_s8_mve", "ek_clamp_s8_mve"},
    "pool_2d": {"ek_average_pool_2d_s8_mve", "ek_max_pool_2d_s8_mve"},
}
#: Cases of each builder.
COUNT = {"binary": 4, "elementwise": 4}


@pytest.mark.parametrize("kind", BUILDERS)
def test_random(kind: str, seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    count = COUNT.get(kind, 16) * sample
    cases = [c for build in BUILDERS[kind] for c in make(count, lambda b=build: b(rng))]
    runs = check_helium(cases, tmp_path)
    counts = Counter(run.kernel.function for run in runs)
    print(counts)
    assert set(counts) >= FUNCTIONS[kind]


@pytest.mark.parametrize("kind", BUILDERS)
def test_zig(kind: str, seed: int, sample: float, tmp_path: Path) -> None:
    """The same from clang, which must not disturb the assembly."""
    rng = np.random.default_rng(seed + 1)
    count = COUNT.get(kind, 6) / 2 * sample
    cases = [c for build in BUILDERS[kind] for c in make(count, lambda b=build: b(rng))]
    check_helium(cases, tmp_path, compiler="zig")
