"""QUANTIZE and DEQUANTIZE: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import make, scale, zero_point
from tflite_builder import TfliteBuilder


def requantize(rng: np.random.Generator, source: str, target: str) -> Case:
    b = TfliteBuilder()
    shift = {"int8": 0, "uint8": 128}
    s0 = scale(rng)
    s1 = s0 if rng.random() < 0.3 else scale(rng)
    z0 = zero_point(rng) + shift[source]
    z1 = zero_point(rng) + shift[target]
    x = b.tensor((256,), dtype=source, scale=s0, zero_point=z0)
    y = b.tensor((256,), dtype=target, scale=s1, zero_point=z1)
    b.op("QUANTIZE", [x], [y])
    data = np.arange(256).astype(np.uint8).view(source)
    return Case(b.build([x], [y]), [(data,)], f"{source} {s0} {z0} -> {target} {s1} {z1}")


@pytest.mark.parametrize(
    ("source", "target"), [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8")]
)
def test_requantize(seed: int, sample: float, tmp_path: Path, source: str, target: str) -> None:
    rng = np.random.default_rng(seed)
    check_cases(make(40 * sample, lambda: requantize(rng, source, target)), tmp_path)


def from_float(rng: np.random.Generator) -> Case:
    s, z = scale(rng, 1e-6, 1e3), zero_point(rng)
    b = TfliteBuilder()
    count = 4000
    x = b.tensor((count,), dtype="float32")
    y = b.tensor((count,), scale=s, zero_point=z)
    b.op("QUANTIZE", [x], [y])
    # Around the halves, where rounding decides, and a few far away.
    steps = (rng.integers(-300, 300, count) / 2).astype(np.float32) * np.float32(s)
    nudged = (steps.view(np.int32) + rng.integers(-3, 4, count)).astype(np.int32)
    values = np.where(rng.random(count) < 0.5, nudged.view(np.float32), steps)
    values = np.where(np.isfinite(values), values, 0).astype(np.float32)
    values[:4] = [0.0, -0.0, s * 1e6, -s * 1e6]
    return Case(b.build([x], [y]), [(values,)], f"float -> {s} {z}")


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_from_float(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed)
    check_cases(make(20 * sample, lambda: from_float(rng)), tmp_path, sanitize=sanitize)


def to_float(rng: np.random.Generator) -> Case:
    s, z = scale(rng, 1e-6, 1e3), zero_point(rng)
    b = TfliteBuilder()
    x = b.tensor((256,), scale=s, zero_point=z)
    y = b.tensor((256,), dtype="float32")
    b.op("DEQUANTIZE", [x], [y])
    return Case(b.build([x], [y]), [(np.arange(-128, 128).astype(np.int8),)], f"{s} {z} -> float")


def test_to_float(seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    check_cases(make(30 * sample, lambda: to_float(rng)), tmp_path)
