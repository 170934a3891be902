"""BATCH_MATMUL, int8, with transposed and broadcast operands: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import choices, inputs, make, output_scale, scale, zero_point
from tflite_builder import TfliteBuilder


def batch_matmul(rng: np.random.Generator) -> Case:
    rows, columns = (int(n) for n in rng.integers(1, 15, 2))
    depth = int(choices(rng, 1, 3, 8, 16, 30))
    adj_x, adj_y = (bool(rng.random() < 0.4) for _ in range(2))
    batch = [int(n) for n in rng.integers(1, 4, int(rng.integers(0, 3)))]
    # TFLM's broadcasting of both operands at once takes only one dimension of batches.
    left, right = list(batch), list(batch)
    if batch and rng.random() < 0.4:
        (left if rng.random() < 0.5 else right)[:] = [1] * len(batch)
    shape_l = (*left, *((depth, rows) if adj_x else (rows, depth)))
    shape_r = (*right, *((columns, depth) if adj_y else (depth, columns)))
    b = TfliteBuilder()
    s0, s1 = scale(rng), scale(rng)
    x = b.tensor(shape_l, scale=s0, zero_point=zero_point(rng))
    arrays = inputs(rng, shape_l, shape_r)
    constant = rng.random() < 0.2
    z1 = zero_point(rng)
    if constant:
        y = b.constant(arrays[0][1], scale=s1, zero_point=z1)
        arrays = [a[:1] for a in arrays]
    else:
        y = b.tensor(shape_r, scale=s1, zero_point=z1)
    out = b.tensor(
        (*batch, rows, columns),
        scale=output_scale(rng, 5000 * depth**0.5 * s0 * s1),
        zero_point=zero_point(rng),
    )
    b.op("BATCH_MATMUL", [x, y], [out], adj_x=adj_x, adj_y=adj_y)
    note = f"BATCH_MATMUL {shape_l} {shape_r} adj {adj_x} {adj_y} constant={constant}"
    return Case(b.build([x] if constant else [x, y], [out]), arrays, note)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_random(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    check_cases(make(30 * sample, lambda: batch_matmul(rng)), tmp_path, sanitize=sanitize)
