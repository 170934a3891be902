"""SOFTMAX, int8: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import choices, inputs, make, scale, zero_point
from tflite_builder import TfliteBuilder


# From a sum of 512 on (as of 512 equal inputs) TFLM aborts on an assertion of gemmlowp.
def softmax(rng: np.random.Generator) -> Case:
    shape = choices(rng, (1, 1), (1, 2), (1, 12), (3, 10), (1, 2, 3, 5), (1, 300), (2, 40))
    s = scale(rng, 1e-4, 30.0)
    b = TfliteBuilder()
    x = b.tensor(shape, scale=s, zero_point=zero_point(rng))
    y = b.tensor(shape, scale=1 / 256, zero_point=-128)
    beta = choices(rng, 1.0, 1.0, 0.5, 3.3)
    b.op("SOFTMAX", [x], [y], beta=beta)
    runs = inputs(rng, shape, runs=8)
    runs += [(np.full(shape, 127, np.int8),)]
    middle = int(rng.integers(-128, 120))
    runs += [(rng.integers(middle, middle + 8, shape).astype(np.int8),) for _ in range(4)]
    return Case(b.build([x], [y]), runs, f"{shape} {s} beta {beta}")


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_random(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    check_cases(make(60 * sample, lambda: softmax(rng)), tmp_path, sanitize=sanitize)
