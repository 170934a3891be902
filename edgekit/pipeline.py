"""A model to a measurement: compile, build, flash and bench, one after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import bench, console, engines
from edgekit.build import build
from edgekit.errors import UsageError
from edgekit.files import write_atomic
from edgekit.flashing import require_flashable
from edgekit.graph.reader import read_model
from edgekit.records import Measurement
from edgekit.targets import load_target


@dataclass(frozen=True)
class Order:
    """What :func:`run` is asked for."""

    model: Path
    target: str
    port: str = "virtual"
    engine: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    compiler: str | None = None
    data: Path | None = None
    inputs: int | None = None
    seed: int = 0
    runs: int | None = None
    warmups: int = 1


def run(order: Order, output: Path | None = None) -> Measurement:
    """Does everything; ``output`` keeps the folders ``artifact`` and ``firmware``.

    Raises:
        EdgekitError: whatever the first stage that fails raises.
    """
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        return _run(order, output)
    with tempfile.TemporaryDirectory(prefix="edgekit-run-") as folder:
        return _run(order, Path(folder))


def _run(order: Order, folder: Path) -> Measurement:
    model = read_model(order.model)
    target = load_target(order.target)
    if target.port is None:
        there = target.name if target.kind in ("linux", "android") else "host"
        raise UsageError(
            f"there is no firmware for {target.name}",
            fix=f"edgekit bench {order.model} --target {there}, or a board of: edgekit targets",
        )
    # said before the work is done, not after it
    require_flashable(order.port, "firmware.bin or firmware.elf", target)
    name = order.engine or (target.engines[0] if target.engines else "aot")
    engine = engines.load(name)
    command = f"edgekit run {order.model.name} --target {target.name}"
    console.note(f"compiling {model.name} with {name} for {target.name}")
    artifact = engine.compile(
        model, target, folder / "artifact", command=command, options=order.options
    )
    console.note("building the firmware")
    firmware = build(
        artifact, target, folder / "firmware", compiler=order.compiler, command=command
    )
    # beside the firmware, so that bench finds what to compare with
    write_atomic(firmware.elf.parent / f"{model.name}.tflite", model.raw)
    plan = firmware.plan
    if plan is None:
        raise UsageError(f"engine {name} makes no plan, without which nothing can be compared")
    examples = (
        bench.load_examples(order.data, model, order.inputs)
        if order.data is not None
        else bench.random_examples(plan, order.inputs or 1, order.seed)
    )
    with console.progress(f"measuring on {order.port}", len(examples) + 1) as advance:
        return bench.bench_firmware(
            firmware,
            target,
            order.port,
            model=model,
            examples=examples,
            warmups=order.warmups,
            runs=order.runs,
            progress=advance,
        )
