"""Random shapes and quantisation parameters for models of one operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from kernel_harness import Case
from tflite_builder import TfliteBuilder

Rng = np.random.Generator

ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def zero_point(rng: Rng) -> int:
    """Any zero point, its extremes often."""
    return int(rng.choice([-128, 127, 0, int(rng.integers(-128, 128))]))


def scale(rng: Rng, low: float = 1e-3, high: float = 1.0) -> float:
    return float(np.float32(np.exp(rng.uniform(np.log(low), np.log(high)))))


def inputs(rng: Rng, *shapes: Sequence[int], runs: int = 3) -> list[tuple[np.ndarray, ...]]:
    """Random int8 inputs; one run is all extremes."""
    found = []
    for run in range(runs):
        if run == 1:
            arrays = [rng.choice([-128, 127], s) for s in shapes]
        else:
            arrays = [rng.integers(-128, 128, s) for s in shapes]
        found.append(tuple(a.astype(np.int8) for a in arrays))
    return found


def unary(
    rng: Rng, kind: str, *, out_scale: float | None = None, out_zero: int | None = None,
    shape: Sequence[int] = (256,), in_scale: float | None = None, **options: Any,
) -> Case:  # fmt: skip
    """An element-wise operator over all 256 values (or random ones of another shape)."""
    builder = TfliteBuilder()
    s = scale(rng) if in_scale is None else in_scale
    z = zero_point(rng)
    x = builder.tensor(shape, scale=s, zero_point=z)
    so = scale(rng) if out_scale is None else out_scale
    zo = zero_point(rng) if out_zero is None else out_zero
    y = builder.tensor(shape, scale=so, zero_point=zo)
    builder.op(kind, [x], [y], **options)
    if tuple(shape) == (256,):
        runs: list[tuple[np.ndarray, ...]] = [(np.arange(-128, 128).astype(np.int8),)]
    else:
        runs = inputs(rng, shape)
    return Case(builder.build([x], [y]), runs, f"{kind} {s} {z} -> {so} {zo} {options}")


def conv_output(size: int, window: int, stride: int, dilation: int, padding: str) -> int:
    """Output size of a windowed operator (ComputeOutSize of TensorFlow Lite)."""
    spread = (window - 1) * dilation + 1
    if padding == "SAME":
        return -(-size // stride)
    return (size + stride - spread) // stride


def choices(rng: Rng, *options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def make(count: float, build: Callable[[], Case]) -> list[Case]:
    return [build() for _ in range(max(1, round(count)))]


def output_scale(rng: Rng, sums: float) -> float:
    """A scale at which int8 outputs use their range, or saturate, or hardly move."""
    return float(np.float32(max(sums, 1e-30) * np.exp(rng.uniform(-2, 2)) / 128))
