"""TRANSPOSE of any order: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import inputs, make
from tflite_builder import TfliteBuilder


def transpose(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 6))
    shape = tuple(int(d) for d in rng.integers(1, 7, rank))
    order = rng.permutation(rank).astype(np.int32)
    while sum(order[i + 1] != order[i] + 1 for i in range(rank - 1)) > 3:
        order = rng.permutation(rank).astype(np.int32)
    b = TfliteBuilder()
    x = b.tensor(shape, scale=0.1, zero_point=3)
    y = b.tensor(tuple(shape[a] for a in order), scale=0.1, zero_point=3)
    b.op("TRANSPOSE", [x, b.constant(order)], [y])
    return Case(b.build([x], [y]), inputs(rng, shape), f"TRANSPOSE {shape} {order}")


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_random(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    check_cases(make(40 * sample, lambda: transpose(rng)), tmp_path, sanitize=sanitize)
