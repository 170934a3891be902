"""SPLIT, SPLIT_V, UNPACK and chains of float operators, which passes rewrite, in whole models:
every step equals TFLM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_models import choices, scale, zero_point
from tflite_builder import TfliteBuilder

from edgekit.engines import aot
from edgekit.engines.aot.host import HostRunner, StepReference
from edgekit.graph import read_model
from edgekit.targets import load_target


def check_model(raw: bytes, rng: np.random.Generator, folder: Path, note: str) -> list[str]:
    """Compares every step and the outputs; returns the steps' kinds."""
    model = read_model(raw, "model")
    options = {"debug_steps": bool(rng.random() < 0.3)}
    artifact = aot.compile(model, load_target("host"), folder, command="test", options=options)
    assert artifact.plan is not None
    reference = StepReference(model, artifact.plan)
    flags = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
    with HostRunner(artifact, flags=flags) as runner:
        for _ in range(2):
            data = rng.integers(-128, 128, model.input_tensors[0].shape).astype(np.int8)
            expected = reference.invoke(data)
            runner.fill(0xA5)
            found = runner.steps(data)
            for step, have, want in zip(artifact.plan.steps, found, expected, strict=True):
                assert have == want, f"{note}: step {step.index} {step.kind} differs"
            assert runner.invoke(data) == reference.outputs(), note
            assert runner.guards_intact(0xA5), note
    reference.close()
    return [step.kind for step in artifact.plan.steps]


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_split(seed: int, sample: float, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(seed)
    for number in range(max(2, round(6 * sample))):
        rank = int(rng.integers(1, 5))
        shape = [int(d) for d in rng.integers(1, 6, rank)]
        axis = int(rng.integers(0, rank))
        count = int(rng.integers(2, 5))
        sizes = [int(rng.integers(1, 4))] * count
        if kind == "SPLIT_V":
            sizes = [int(n) for n in rng.integers(1, 5, count)]
        shape[axis] = count if kind == "UNPACK" else sum(sizes)
        b = TfliteBuilder()
        x = b.tensor(shape, scale=0.1, zero_point=3)
        where = axis - rank if rng.random() < 0.5 else axis
        if kind == "UNPACK":
            pieces = [shape[:axis] + shape[axis + 1 :]] * count
        else:
            pieces = [[*shape[:axis], n, *shape[axis + 1 :]] for n in sizes]
        outputs = [b.tensor(piece, scale=0.1, zero_point=3) for piece in pieces]
        axis_tensor = b.constant(np.array([where], np.int32))
        if kind == "SPLIT":
            b.op(kind, [axis_tensor, x], outputs, num_splits=count)
        elif kind == "SPLIT_V":
            lengths = b.constant(np.array(sizes, np.int32))
            b.op(kind, [x, lengths, axis_tensor], outputs, num_splits=count)
        else:
            b.op(kind, [x], outputs, num=count, axis=where)
        # Another step, so that pieces live in the arena between steps; one may go unread.
        last = [b.tensor(piece, scale=0.1, zero_point=3) for piece in pieces]
        for piece, end in zip(outputs, last, strict=True):
            b.op("RELU", [piece], [end])
        used = last[: count - int(rng.random() < 0.3)]
        raw = b.build([x], used)
        check_model(raw, rng, tmp_path / f"{kind}{number}", f"{kind} {shape} {axis} {sizes}")


@pytest.mark.parametrize(
    ("kind", "count"),
    [*((kind, n) for kind in ("CONCATENATION", "PACK") for n in (2, 3, 5, 10)),
     ("PACK", 11), ("PACK", 23)],  # TFLM takes no more than 10 for a CONCATENATION
)  # fmt: skip
def test_join(seed: int, tmp_path: Path, kind: str, count: int) -> None:
    """Any number of inputs, some of which lie in their place already."""
    rng = np.random.default_rng(seed + count)
    rank = int(rng.integers(2, 4))
    b = TfliteBuilder()
    shape = [1, *(int(n) for n in rng.integers(1, 5, rank - 1))]
    x = b.tensor(shape, scale=0.1, zero_point=3)
    # More than the kernels take goes along axis 1 alone; fewer along any.
    axis = 1 if count > 10 else int(rng.integers(0, rank + (kind == "PACK")))
    pieces = []
    for _ in range(count):
        piece = b.tensor(shape, scale=0.1, zero_point=-7)
        b.op("LEAKY_RELU", [x], [piece], alpha=float(rng.uniform(0.1, 0.9)))
        pieces.append(piece)
    if kind == "PACK":
        whole = [*shape[:axis], count, *shape[axis:]]
    else:
        whole = [n * (count if i == axis else 1) for i, n in enumerate(shape)]
    joined = b.tensor(whole, scale=0.1, zero_point=-7)
    more = {"values_count": count} if kind == "PACK" else {"fused_activation_function": "NONE"}
    b.op(kind, pieces, [joined], axis=axis, **more)
    y = b.tensor(whole, scale=0.1, zero_point=-7)
    b.op("RELU", [joined], [y])
    outputs = [y, joined] if rng.random() < 0.3 else [y]
    note = f"{kind} of {count} {shape} along {axis}"
    found = check_model(b.build([x], outputs), rng, tmp_path / "a", note)
    assert found.count(kind) == -(-count // 10)


def test_float_chain(seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    for number in range(max(2, round(8 * sample))):
        kinds = [choices(rng, "NEG", "ABS", "SQUARE", "RELU", "FLOOR", "CEIL") for _ in range(2)]
        b = TfliteBuilder()
        shape = (1, 512)
        x = b.tensor(shape, scale=scale(rng), zero_point=zero_point(rng))
        wide = b.tensor(shape, dtype="float32")
        b.op("DEQUANTIZE", [x], [wide])
        for kind in kinds:
            result = b.tensor(shape, dtype="float32")
            b.op(kind, [wide], [result])
            wide = result
        y = b.tensor(shape, scale=scale(rng), zero_point=zero_point(rng))
        b.op("QUANTIZE", [wide], [y])
        found = check_model(b.build([x], [y]), rng, tmp_path / f"chain{number}", str(kinds))
        assert found == ["FLOAT_TABLE"]
