"""ADD, SUB, MUL and SQUARED_DIFFERENCE, int8, with broadcasting: every byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import ACTIVATIONS, choices, inputs, make, output_scale, scale, zero_point
from tflite_builder import TfliteBuilder

KINDS = ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE")


def binary(rng: np.random.Generator, kind: str) -> Case:
    rank = int(rng.integers(1, 5))
    full = [int(d) for d in rng.integers(1, 6, rank)]
    shapes = [list(full), list(full)]
    if rng.random() < 0.5:
        for axis in range(rank):
            if rng.random() < 0.4:
                shapes[int(rng.integers(2))][axis] = 1
        if rng.random() < 0.3:
            shapes[1] = shapes[1][int(rng.integers(rank)) :]
    else:
        full = [*full[:-1], full[-1] * 20]
        shapes = [full, full]
    out = np.broadcast_shapes(*shapes)
    b = TfliteBuilder()
    s0, s1 = scale(rng), scale(rng)
    # From equal scales to far apart ones.
    if rng.random() < 0.3:
        s1 = s0
    reach = {"MUL": 128 * 128 * s0 * s1, "SQUARED_DIFFERENCE": (128 * (s0 + s1)) ** 2}.get(
        kind, 128 * (s0 + s1)
    )
    x0 = b.tensor(shapes[0], scale=s0, zero_point=zero_point(rng))
    arrays = inputs(rng, *shapes)
    constant = rng.random() < 0.2
    z1 = zero_point(rng)
    if constant:
        x1 = b.constant(arrays[0][1], scale=s1, zero_point=z1)
        arrays = [a[:1] for a in arrays]
    else:
        x1 = b.tensor(shapes[1], scale=s1, zero_point=z1)
    y = b.tensor(out, scale=output_scale(rng, reach), zero_point=zero_point(rng))
    act = choices(rng, *ACTIVATIONS) if kind != "SQUARED_DIFFERENCE" else "NONE"
    options = {"fused_activation_function": act} if kind != "SQUARED_DIFFERENCE" else {}
    b.op(kind, [x0, x1], [y], **options)
    note = f"{kind} {shapes} {s0} {s1} {act} constant={constant}"
    return Case(b.build([x0] if constant else [x0, x1], [y]), arrays, note)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
@pytest.mark.parametrize("kind", KINDS)
def test_random(seed: int, sample: float, tmp_path: Path, kind: str, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    check_cases(make(40 * sample, lambda: binary(rng, kind)), tmp_path, sanitize=sanitize)
