"""CONCATENATION, PAD and STRIDED_SLICE, int8: every output byte equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Case, check_cases
from random_models import choices, inputs, make, scale, zero_point
from tflite_builder import TfliteBuilder


def concatenation(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 5))
    axis = int(rng.integers(rank))
    base = [int(d) for d in rng.integers(1, 6, rank)]
    count = int(rng.integers(1, 11))
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    shapes = []
    for _ in range(count):
        shape = list(base)
        shape[axis] = int(rng.integers(1, 8))
        shapes.append(shape)
    xs = [b.tensor(shape, scale=s, zero_point=z) for shape in shapes]
    base[axis] = sum(shape[axis] for shape in shapes)
    y = b.tensor(base, scale=s, zero_point=z)
    b.op("CONCATENATION", xs, [y], axis=choices(rng, axis, axis - rank))
    return Case(b.build(xs, [y]), inputs(rng, *shapes, runs=1), f"CONCATENATION {shapes} {axis}")


def pack(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(0, 4))
    axis = int(rng.integers(rank + 1))
    shape = [int(d) for d in rng.integers(1, 6, rank)]
    count = int(rng.integers(1, 8))
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    xs = [b.tensor(shape, scale=s, zero_point=z) for _ in range(count)]
    y = b.tensor([*shape[:axis], count, *shape[axis:]], scale=s, zero_point=z)
    b.op("PACK", xs, [y], values_count=count, axis=choices(rng, axis, axis - rank - 1))
    arrays = inputs(rng, *[shape] * count, runs=1)
    return Case(b.build(xs, [y]), arrays, f"PACK {shape} {count} {axis}")


def slice_(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 6))
    shape = [int(d) for d in rng.integers(1, 7, rank)]
    begins = [int(rng.integers(d)) for d in shape]
    sizes = [int(rng.integers(1, d - at + 1)) for d, at in zip(shape, begins, strict=True)]
    given = [
        -1 if at + n == d and rng.random() < 0.5 else n
        for d, at, n in zip(shape, begins, sizes, strict=True)
    ]
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    x, y = (b.tensor(d, scale=s, zero_point=z) for d in (shape, sizes))
    vectors = [b.constant(np.array(v, np.int32)) for v in (begins, given)]
    b.op("SLICE", [x, *vectors], [y])
    return Case(b.build([x], [y]), inputs(rng, shape, runs=1), f"SLICE {shape} {begins} {given}")


def pad(rng: np.random.Generator, kind: str) -> Case:
    rank = int(rng.integers(1, 5))
    shape = [int(d) for d in rng.integers(1, 6, rank)]
    pads = np.where(rng.random((rank, 2)) < 0.5, 0, rng.integers(0, 4, (rank, 2)))
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    x = b.tensor(shape, scale=s, zero_point=z)
    operands = [x, b.constant(pads.astype(np.int32))]
    if kind == "PADV2":
        value = np.array(rng.integers(-128, 128), np.int8)
        operands.append(b.constant(value.reshape(1), scale=s, zero_point=z))
    y = b.tensor(np.add(shape, pads.sum(axis=1)), scale=s, zero_point=z)
    b.op(kind, operands, [y])
    return Case(b.build([x], [y]), inputs(rng, shape, runs=1), f"{kind} {shape} {pads.tolist()}")


def strided_slice(rng: np.random.Generator) -> Case:
    rank = int(rng.integers(1, 5))
    shape = [int(d) for d in rng.integers(1, 8, rank)]
    begins, ends, strides, out = [], [], [], []
    masks = {"begin_mask": 0, "end_mask": 0, "shrink_axis_mask": 0}
    for axis, length in enumerate(shape):
        while True:
            step = int(choices(rng, 1, 1, 2, 3, -1, -2))
            begin, end = (int(v) for v in rng.integers(-length - 2, length + 3, 2))
            bits = {m: int(rng.random() < 0.25) for m in ("begin_mask", "end_mask")}
            if rng.random() < 0.15:
                begin = int(rng.integers(-length, length))
                end, step = begin + 1, 1
                masks["shrink_axis_mask"] |= 1 << axis
                break
            first = None if bits["begin_mask"] else begin
            last = None if bits["end_mask"] else end
            picked = range(length)[first:last:step]
            if picked:
                for mask, bit in bits.items():
                    masks[mask] |= bit << axis
                out.append(len(picked))
                break
        begins.append(begin)
        ends.append(end)
        strides.append(step)
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    x = b.tensor(shape, scale=s, zero_point=z)
    vectors = [b.constant(np.array(v, np.int32)) for v in (begins, ends, strides)]
    y = b.tensor(out, scale=s, zero_point=z)
    b.op("STRIDED_SLICE", [x, *vectors], [y], **masks)
    note = f"{shape}[{begins}:{ends}:{strides}] {masks} -> {out}"
    return Case(b.build([x], [y]), inputs(rng, shape, runs=1), note)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_concatenation(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed)
    check_cases(make(30 * sample, lambda: concatenation(rng)), tmp_path, sanitize=sanitize)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_pack_and_slice(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed + sanitize)
    cases = make(15 * sample, lambda: pack(rng)) + make(25 * sample, lambda: slice_(rng))
    check_cases(cases, tmp_path, sanitize=sanitize)


@pytest.mark.parametrize("kind", ["PAD", "PADV2"])
@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_pad(seed: int, sample: float, tmp_path: Path, kind: str, sanitize: bool) -> None:
    rng = np.random.default_rng(seed)
    check_cases(make(30 * sample, lambda: pad(rng, kind)), tmp_path, sanitize=sanitize)


@pytest.mark.parametrize("sanitize", [False, True], ids=["fast", "sanitized"])
def test_strided_slice(seed: int, sample: float, tmp_path: Path, sanitize: bool) -> None:
    rng = np.random.default_rng(seed)
    check_cases(make(60 * sample, lambda: strided_slice(rng)), tmp_path, sanitize=sanitize)


def reshape(rng: np.random.Generator, kind: str) -> Case:
    shape = [1, *(int(d) for d in rng.integers(1, 6, 3))]
    b = TfliteBuilder()
    s, z = scale(rng), zero_point(rng)
    x = b.tensor(shape, scale=s, zero_point=z)
    operands = [x]
    options: dict[str, object] = {}
    if kind == "RESHAPE":
        out = [shape[3], shape[1] * shape[2]]
        operands.append(b.constant(np.array(out, np.int32)))
    elif kind == "SQUEEZE":
        out, options = shape[1:], {"squeeze_dims": [0]}
    else:
        out = [1, *shape]
        operands.append(b.constant(np.array([0], np.int32)))
    y = b.tensor(out, scale=s, zero_point=z)
    b.op(kind, operands, [y], **options)
    return Case(b.build([x], [y]), inputs(rng, shape, runs=1), f"{kind} {shape} {out}")


@pytest.mark.parametrize("kind", ["RESHAPE", "SQUEEZE", "EXPAND_DIMS"])
def test_reshape(seed: int, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(seed)
    check_cases(make(6, lambda: reshape(rng, kind)), tmp_path, sanitize=True)
