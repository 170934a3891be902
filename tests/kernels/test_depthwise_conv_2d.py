"""DEPTHWISE_CONV_2D, int8: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import (
    ACTIVATIONS,
    choices,
    conv_output,
    inputs,
    make,
    output_scale,
    scale,
    zero_point,
)
from tflite_builder import TfliteBuilder


def depthwise(
    rng: np.random.Generator, *, window: tuple[int, int] | None = None, square_stride: bool = False
) -> Case:
    padding = choices(rng, "SAME", "VALID")
    kh, kw = window or (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    if square_stride:
        stride = stride[0], stride[0]
    dilation = (1, 1) if rng.random() < 0.7 else (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    least = (kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1
    low = least if padding == "VALID" else (1, 1)
    h, w = (int(rng.integers(s, s + 12)) for s in low)
    in_c = int(rng.integers(1, 12))
    multiplier = 1 if rng.random() < 0.7 else int(rng.integers(2, 5))
    out_c = in_c * multiplier
    oh = conv_output(h, kh, stride[0], dilation[0], padding)
    ow = conv_output(w, kw, stride[1], dilation[1], padding)
    limit = choices(rng, 127, 127, 20, 2)
    weights = rng.integers(-limit, limit + 1, (1, kh, kw, out_c)).astype(np.int8)
    in_scale, per_channel = scale(rng), rng.random() < 0.8
    scales = [scale(rng, 1e-3, 0.1) for _ in range(out_c if per_channel else 1)]
    spread = float(np.abs(weights).sum(axis=(0, 1, 2)).mean()) * 60 * in_scale * np.mean(scales)
    factor = 2e-4 if rng.random() < 0.1 else 1.0
    b = TfliteBuilder()
    batches = choices(rng, 1, 1, 1, 2)
    shape = (batches, h, w, in_c)
    x = b.tensor(shape, scale=in_scale, zero_point=zero_point(rng))
    operands = [x, b.constant(weights, scale=scales, zero_point=0, axis=3)]
    if rng.random() < 0.8:
        reach = int(max(2, spread / (in_scale * np.mean(scales))))
        bias = rng.integers(-reach, reach, out_c).astype(np.int32)
        operands.append(b.constant(bias, scale=[in_scale * s for s in scales]))
    y = b.tensor(
        (batches, oh, ow, out_c),
        scale=output_scale(rng, spread) * factor,
        zero_point=zero_point(rng),
    )
    act = choices(rng, *ACTIVATIONS)
    b.op(
        "DEPTHWISE_CONV_2D", operands, [y], padding=padding, stride_h=stride[0],
        stride_w=stride[1], dilation_h_factor=dilation[0], dilation_w_factor=dilation[1],
        depth_multiplier=multiplier, fused_activation_function=act,
    )  # fmt: skip
    note = f"{shape} * {weights.shape} {padding} /{stride} x{dilation} -> {oh, ow} {act}"
    return Case(b.build([x], [y]), inputs(rng, shape), note)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_random(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    count = (20 if sanitize else 60) * sample
    cases = make(count, lambda: depthwise(rng))
    cases += make(count / 3, lambda: depthwise(rng, window=(3, 3), square_stride=True))
    check_cases(cases, tmp_path, sanitize=sanitize)
