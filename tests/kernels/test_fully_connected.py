"""FULLY_CONNECTED, int8: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import ACTIVATIONS, choices, inputs, make, output_scale, scale, zero_point
from tflite_builder import TfliteBuilder


def fully_connected(rng: np.random.Generator, *, weights_zero: bool = False) -> Case:
    rows = choices(rng, 1, 1, int(rng.integers(2, 5)))
    depth, outputs = int(rng.integers(1, 70)), int(rng.integers(1, 14))
    limit = choices(rng, 127, 127, 20, 2)
    weights = rng.integers(-limit, limit + 1, (outputs, depth)).astype(np.int8)
    in_scale = scale(rng)
    per_channel = rng.random() < 0.3 and not weights_zero
    scales = [scale(rng, 1e-3, 0.1) for _ in range(outputs if per_channel else 1)]
    spread = float(np.abs(weights).sum(axis=1).mean()) * 60 * in_scale * np.mean(scales)
    factor = 1e-3 if rng.random() < 0.1 else 1.0
    b = TfliteBuilder()
    x = b.tensor((rows, depth), scale=in_scale, zero_point=zero_point(rng))
    point = int(rng.integers(-128, 128)) if weights_zero else 0
    operands = [x, b.constant(weights, scale=scales, zero_point=point)]
    if rng.random() < 0.8:
        reach = int(max(2, spread / (in_scale * np.mean(scales))))
        bias = rng.integers(-reach, reach, outputs).astype(np.int32)
        bias_scales = [float(np.float32(in_scale) * np.float32(s)) for s in scales]
        operands.append(b.constant(bias, scale=bias_scales))
    else:
        operands.append(-1)
    y = b.tensor(
        (rows, outputs), scale=output_scale(rng, spread) * factor, zero_point=zero_point(rng)
    )
    act = choices(rng, *ACTIVATIONS)
    b.op("FULLY_CONNECTED", operands, [y], fused_activation_function=act)
    note = f"{rows}x{depth} -> {outputs} zero {point} {act}"
    return Case(b.build([x], [y]), inputs(rng, (rows, depth)), note)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_random(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    count = (20 if sanitize else 80) * sample
    cases = make(count, lambda: fully_connected(rng))
    cases += make(count / 4, lambda: fully_connected(rng, weights_zero=True))
    check_cases(cases, tmp_path, sanitize=sanitize)
