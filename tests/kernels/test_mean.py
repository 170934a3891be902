"""MEAN, int8: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import choices, inputs, make, scale, zero_point
from tflite_builder import TfliteBuilder


def mean(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 5))
    shape = [int(d) for d in rng.integers(1, 8, rank)]
    axes = sorted(rng.choice(rank, size=int(rng.integers(1, min(rank, 2) + 1)), replace=False))
    if rng.random() < 0.4:
        shape, axes = [1, *(int(d) for d in rng.integers(1, 30, 3))], [1, 2]
    keep = bool(rng.random() < 0.5)
    out = [1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes]
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    x = b.tensor(shape, scale=s, zero_point=z)
    axis = b.constant(np.array(axes, np.int32))
    if rng.random() < 0.3:
        s1, z1 = s, z
    else:
        s1, z1 = float(np.float32(s * np.exp(rng.uniform(-2, 2)))), zero_point(rng)
    y = b.tensor(out, scale=s1, zero_point=z1)
    b.op("MEAN", [x, axis], [y], keep_dims=keep)
    runs = inputs(rng, shape, runs=6)
    level = int(choices(rng, -128, 127, 3))
    runs.append((np.clip(level + rng.integers(-2, 3, shape), -128, 127).astype(np.int8),))
    return Case(b.build([x], [y]), runs, f"{shape} {axes} {keep} {s} {z} -> {s1} {z1}")


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_random(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    check_cases(make(80 * sample, lambda: mean(rng)), tmp_path, sanitize=sanitize)
