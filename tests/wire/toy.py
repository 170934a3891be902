"""The toy model (toy.c) as an artifact, and what it computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.records import Artifact, Buffer, Plan, Step, TensorView

SOURCE = Path(__file__).parent / "toy.c"
SHA256 = "abcd" + "0" * 60

PLAN = Plan(
    arena_bytes=616,
    arena_lower_bound_bytes=608,
    arena_optimal=False,
    steps=(
        Step(0, "MUL", "scale", (0,), 1, 304, 300, 300, "toy", shape=(1, 300)),
        Step(1, "XOR", "flip", (1,), 2, 0, 300, 0, "toy", shape=(1, 300)),
        Step(2, "SUM", "sum", (2,), 3, 608, 8, 300, "toy", shape=(1, 8)),
    ),
    buffers=(
        Buffer("in", "input", 0, 300, 0, 0, 0),
        Buffer("scaled", "activation", 304, 300, 0, 1, 1),
        Buffer("flipped", "activation", 0, 300, 1, 2, 2),
        Buffer("out", "output", 608, 8, 2, 2, 3),
    ),
    inputs=(TensorView("in", 0, 0, 300, "int8", (1, 300), 1.0, 0),),
    outputs=(TensorView("out", 3, 608, 8, "int8", (1, 8), 1.0, 0),),
)


def artifact(target: str, folder: Path, plan: Plan = PLAN) -> Artifact:
    """Writes the toy's source into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.c").write_bytes(SOURCE.read_bytes())
    return Artifact(
        engine="aot",
        target=target,
        model_name="toy",
        model_sha256=SHA256,
        model_macs=600,
        folder=folder,
        files=("toy.c",),
        sources=("toy.c",),
        plan=plan,
        weights_bytes=16,
    )


def steps(values: NDArray[np.int8]) -> list[NDArray[np.int8]]:
    """What each step leaves behind for an input of 300 values."""
    weights = np.resize(np.arange(1, 17), 300)
    scaled = (values.astype(int) * weights).astype(np.int8)
    flipped = scaled ^ np.int8(0x55)
    total = np.zeros(304, np.int64)
    total[:300] = flipped
    return [scaled, flipped, total.reshape(38, 8).sum(axis=0).astype(np.int8)]
