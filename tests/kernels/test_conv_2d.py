"""CONV_2D, int8: every output byte equals TFLM's."""

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


def conv(
    rng: np.random.Generator,
    *,
    window: tuple[int, int] | None = None,
    in_c: int | None = None,
    out_c: int | None = None,
    groups: int = 1,
    batches: int = 1,
    out_scale_factor: float = 1.0,
) -> Case:
    padding = choices(rng, "SAME", "VALID")
    kh, kw = window or (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    dilation = (1, 1) if rng.random() < 0.7 else (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    least = (kh - 1) * dilation[0] + 1, (kw - 1) * dilation[1] + 1
    low = least if padding == "VALID" else (1, 1)
    h, w = (int(rng.integers(s, s + 8)) for s in low)
    depth = in_c or int(rng.integers(1, 11))
    out_c = out_c or int(rng.integers(1, 10)) * groups
    oh = conv_output(h, kh, stride[0], dilation[0], padding)
    ow = conv_output(w, kw, stride[1], dilation[1], padding)
    limit = choices(rng, 127, 127, 20, 2)
    weights = rng.integers(-limit, limit + 1, (out_c, kh, kw, depth)).astype(np.int8)
    in_scale, per_channel = scale(rng), rng.random() < 0.8
    scales = [scale(rng, 1e-3, 0.1) for _ in range(out_c if per_channel else 1)]
    spread = float(np.abs(weights).sum(axis=(1, 2, 3)).mean()) * 60 * in_scale * np.mean(scales)
    out_scale = output_scale(rng, spread) * out_scale_factor
    b = TfliteBuilder()
    in_zero, out_zero = zero_point(rng), zero_point(rng)
    shape = (batches, h, w, depth * groups)
    x = b.tensor(shape, scale=in_scale, zero_point=in_zero)
    operands = [x, b.constant(weights, scale=scales, zero_point=0)]
    if rng.random() < 0.8:
        reach = int(max(2, spread / (in_scale * np.mean(scales))))
        bias = rng.integers(-reach, reach, out_c).astype(np.int32)
        operands.append(b.constant(bias, scale=[in_scale * s for s in scales]))
    y = b.tensor((batches, oh, ow, out_c), scale=out_scale, zero_point=out_zero)
    act = choices(rng, *ACTIVATIONS)
    b.op(
        "CONV_2D", operands, [y], padding=padding, stride_h=stride[0], stride_w=stride[1],
        dilation_h_factor=dilation[0], dilation_w_factor=dilation[1],
        fused_activation_function=act,
    )  # fmt: skip
    note = f"{shape} * {weights.shape} {padding} /{stride} x{dilation} -> {oh, ow} {act}"
    return Case(b.build([x], [y]), inputs(rng, shape), note)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_random(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    count = (20 if sanitize else 60) * sample
    cases = make(count, lambda: conv(rng))
    cases += make(count / 6, lambda: conv(rng, window=(1, 1), in_c=int(rng.integers(4, 40))))
    check_cases(cases, tmp_path, sanitize=sanitize)


def test_groups_and_batches(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    cases = make(4, lambda: conv(rng, groups=int(rng.integers(2, 4))))
    cases += make(4, lambda: conv(rng, batches=int(rng.integers(2, 4))))
    check_cases(cases, tmp_path)


def test_large_multipliers(seed: int, tmp_path: Path) -> None:
    """Effective scales of one and more, which shift to the left."""
    rng = np.random.default_rng(seed)
    check_cases(make(12, lambda: conv(rng, out_scale_factor=2e-4)), tmp_path)
