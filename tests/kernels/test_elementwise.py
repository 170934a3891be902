"""Element-wise int8 operators over all 256 values: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import choices, make, scale, unary, zero_point
from tflite_builder import TfliteBuilder


def relu(rng: np.random.Generator, kind: str) -> Case:
    s = scale(rng)
    if rng.random() < 0.5:
        return unary(rng, kind, in_scale=s, out_scale=s)
    return unary(rng, kind)


def same_scale(rng: np.random.Generator, kind: str) -> Case:
    """The quantisation passes through, as converters write it."""
    s, z = scale(rng), zero_point(rng)
    b = TfliteBuilder()
    x, y = (b.tensor((256,), scale=s, zero_point=z) for _ in range(2))
    b.op(kind, [x], [y])
    return Case(b.build([x], [y]), [(np.arange(-128, 128).astype(np.int8),)], f"{kind} {s} {z}")


@pytest.mark.parametrize("kind", ["RELU", "RELU6"])
def test_relu(seed: int, sample: float, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(seed)
    cases = make(30 * sample, lambda: relu(rng, kind))
    cases += make(10 * sample, lambda: same_scale(rng, kind))
    check_cases(cases, tmp_path)


def test_leaky_relu(seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    cases = make(
        40 * sample,
        lambda: unary(rng, "LEAKY_RELU", alpha=choices(rng, 0.0, 0.1, 0.2, 0.3, 1.0, 1.5)),
    )
    check_cases(cases, tmp_path)


@pytest.mark.parametrize(
    ("kind", "out_scale", "out_zero"), [("LOGISTIC", 1 / 256, -128), ("TANH", 1 / 128, 0)]
)
def test_sigmoid(
    seed: int, sample: float, tmp_path: Path, kind: str, out_scale: float, out_zero: int
) -> None:
    rng = np.random.default_rng(seed)
    cases = make(
        60 * sample,
        lambda: unary(
            rng, kind, out_scale=out_scale, out_zero=out_zero, in_scale=scale(rng, 1e-4, 3.0)
        ),
    )
    check_cases(cases, tmp_path)


def test_hard_swish(seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)

    def case() -> Case:
        # TFLM refuses an output scale below 1/128 of the input's.
        s = scale(rng, 1e-3, 0.3)
        return unary(rng, "HARD_SWISH", in_scale=s, out_scale=s * scale(rng, 0.01, 3.0))

    check_cases(make(60 * sample, case), tmp_path)


def test_abs(seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    cases = make(30 * sample, lambda: unary(rng, "ABS"))
    cases += make(10 * sample, lambda: same_scale(rng, "ABS"))
    check_cases(cases, tmp_path)


def test_rsqrt(seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)

    def case() -> Case:
        b = TfliteBuilder()
        zero = zero_point(rng)
        x = b.tensor((1, 300), scale=scale(rng, 1e-4, 3.0), zero_point=zero)
        y = b.tensor((1, 300), scale=scale(rng, 1e-4, 3.0), zero_point=zero_point(rng))
        b.op("RSQRT", [x], [y])
        # Below the zero point the reference refuses to run.
        values = np.resize(np.arange(zero, 128), (1, 300)).astype(np.int8)
        return Case(b.build([x], [y]), [(values,)], f"RSQRT {zero}")

    check_cases(make(40 * sample, case), tmp_path)


def test_shapes_and_memory(seed: int, tmp_path: Path) -> None:
    """Counts that are no multiple of the unrolling, in place and under the sanitizers."""
    rng = np.random.default_rng(seed)
    cases = [
        unary(rng, kind, shape=(1, n)) for n in (1, 2, 3, 5, 63) for kind in ("LEAKY_RELU", "RELU6")
    ]
    check_cases(cases, tmp_path, sanitize=True)
