"""AVERAGE_POOL_2D and MAX_POOL_2D, int8: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import ACTIVATIONS, choices, conv_output, inputs, make, scale, zero_point
from tflite_builder import TfliteBuilder


def pool(rng: np.random.Generator, kind: str) -> Case:
    padding = choices(rng, "SAME", "VALID")
    kh, kw = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    low = (kh, kw) if padding == "VALID" else (1, 1)
    h, w = (int(rng.integers(s, s + 9)) for s in low)
    batches, channels = choices(rng, 1, 1, 2), int(rng.integers(1, 9))
    oh = conv_output(h, kh, stride[0], 1, padding)
    ow = conv_output(w, kw, stride[1], 1, padding)
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    shape = (batches, h, w, channels)
    x = b.tensor(shape, scale=s, zero_point=z)
    y = b.tensor((batches, oh, ow, channels), scale=s, zero_point=z)
    act = choices(rng, *ACTIVATIONS)
    b.op(
        kind, [x], [y], padding=padding, stride_h=stride[0], stride_w=stride[1],
        filter_height=kh, filter_width=kw, fused_activation_function=act,
    )  # fmt: skip
    note = f"{kind} {shape} {kh}x{kw} /{stride} {padding} {act}"
    return Case(b.build([x], [y]), inputs(rng, shape), note)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_random(seed: int, sample: float, tmp_path: Path, kind: str, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    check_cases(make(40 * sample, lambda: pool(rng, kind)), tmp_path, sanitize=sanitize)
