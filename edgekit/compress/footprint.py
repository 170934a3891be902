"""What a full-integer model costs on a device: planned in a moment, or run on a virtual board."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.graph import Model


@dataclass(frozen=True)
class Footprint:
    """A model's size and cost. What the target adds is ``None`` without one.

    ``file_bytes``, ``gzip_bytes`` (level 9) and ``macs`` are exact; ``flash_bytes`` is what the
    ahead-of-time engine's code and tables take as built, ``arena_bytes`` its RAM for tensors and
    scratch, ``ram_bytes`` the whole firmware's; ``instructions`` are those of one inference on
    the virtual board (simulated, exact), ``latency_us`` its estimated time with the relative
    ``latency_error``. ``missing`` says why there are no figures of a device.
    """

    file_bytes: int
    gzip_bytes: int
    macs: int
    target: str | None = None
    flash_bytes: int | None = None
    code_bytes: int | None = None
    weights_bytes: int | None = None
    arena_bytes: int | None = None
    ram_bytes: int | None = None
    instructions: int | None = None
    latency_us: float | None = None
    latency_error: float | None = None
    outputs_equal: bool | None = None
    missing: str | None = None


def measure(content: bytes, target: str | None, work: Path, name: str) -> Footprint:
    """Builds a model for a target and runs it on the virtual board.

    Args:
        content: a full-integer ``.tflite`` file.
        target: a target's name, or ``None`` for the figures of the file alone.
        work: a folder for what is built; the model is written there.
        name: the model's file name without the suffix.

    Raises:
        LimitError: the virtual board's outputs differ from TFLM's.
    """
    from edgekit.graph import read_model
    from edgekit.graph.macs import model_cost

    model = read_model(content, name)
    bare = Footprint(len(content), len(gzip.compress(content, 9, mtime=0)), model_cost(model).macs)
    if target is None:
        return bare
    try:
        return _on_board(bare, model, target, work, name)
    except EdgekitError as error:
        # a model that the engine cannot take is still a compressed model
        text = error.what + (f" (at {error.where})" if error.where else "")
        return Footprint(bare.file_bytes, bare.gzip_bytes, bare.macs, target=target, missing=text)


def _on_board(bare: Footprint, model: Model, target: str, work: Path, name: str) -> Footprint:
    from edgekit.pipeline import Order, run

    path = work / f"{name}.tflite"
    path.write_bytes(model.raw)
    found = run(Order(path, target, port="virtual", engine="aot", inputs=2))
    memory = found.memory
    latency = max(found.latencies_us) if found.latencies_us else None
    return Footprint(
        bare.file_bytes,
        bare.gzip_bytes,
        bare.macs,
        target=target,
        flash_bytes=(memory["code_bytes"] or 0) + (memory["weights_bytes"] or 0),
        code_bytes=memory["code_bytes"],
        weights_bytes=memory["weights_bytes"],
        arena_bytes=memory["arena_bytes"],
        ram_bytes=memory["ram_bytes"],
        instructions=found.instructions,
        latency_us=latency,
        latency_error=found.cycles_error,
        outputs_equal=None if found.outputs is None else found.outputs.match,
    )


@dataclass(frozen=True)
class Forecast:
    """What the engine's plan says of a model, without building it; all but the arena estimated."""

    arena_bytes: int
    flash_bytes: int
    instructions: float
    latency_us: float | None


def forecast(content: bytes, target: str) -> Forecast:
    """Plans a model for a target.

    Raises:
        ModelError: the engine does not take the model.
        FitError: no plan fits the target's RAM.
    """
    from edgekit.engines import aot
    from edgekit.engines.aot import limits
    from edgekit.graph import read_model
    from edgekit.targets import load_target

    model = read_model(content, "model")
    board = load_target(target)
    layout, outlooks = aot.weigh(model, board)
    plan = layout.plan
    chosen = next((o for o in outlooks if o.arena_bytes == plan.arena_bytes), outlooks[0])
    tables = sum(step.weights_bytes for step in plan.steps)
    code = limits.code_bytes(len({s.kernel for s in plan.steps}), len(plan.steps), board)
    return Forecast(plan.arena_bytes, tables + code, chosen.instructions, chosen.latency_us)
