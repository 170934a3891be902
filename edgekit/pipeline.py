"""A model to a measurement: compile, build, flash and bench, one after the other."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import bench, console, engines
from edgekit.build import Staging, build
from edgekit.engines.aot.limits import Limits, read_limits, time_text
from edgekit.errors import FitError, LimitError, UsageError
from edgekit.files import write_atomic
from edgekit.flashing import flash, require_flashable
from edgekit.graph import Model
from edgekit.graph.reader import read_model
from edgekit.records import Firmware, Measurement
from edgekit.targets import Target, load_target


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
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the folder cannot be made: {error.strerror}", str(output), "-o FOLDER"
            ) from None
        try:
            return _run(order, output)
        finally:
            with contextlib.suppress(OSError):  # what holds a whole stage stays
                output.rmdir()
    with tempfile.TemporaryDirectory(prefix="edgekit-run-") as folder:
        return _run(order, Path(folder))


def _run(order: Order, folder: Path) -> Measurement:
    model = read_model(order.model)
    target = load_target(order.target)
    if target.port is None:
        there = target.name if target.kind in ("linux", "android") else "host"
        raise UsageError(
            f"there is no firmware for {target.name}",
            fix=f"edgekit compile {order.model} --target {target.name} --project esp-idf -o DIR"
            if target.toolchain.get("esp-idf-target")
            else f"edgekit bench {order.model} --target {there}, or a board of: edgekit targets",
        )
    # said before the work is done, not after it
    require_flashable(order.port, "firmware.bin or firmware.elf", target)
    given = bench.load_examples(order.data, model, order.inputs) if order.data is not None else None
    name = order.engine or (target.engines[0] if target.engines else "aot")
    engine = engines.load(name)
    command = f"edgekit run {order.model.name} --target {target.name}"
    console.note(f"compiling {model.name} with {name} for {target.name}")
    firmware = _firmware(order, model, target, engine, folder, command)
    # beside the firmware, so that bench finds what to compare with
    write_atomic(firmware.elf.parent / f"{model.name}.tflite", model.raw)
    plan = firmware.plan
    if plan is None:
        raise UsageError(f"engine {name} makes no plan, without which nothing can be compared")
    examples = given or bench.random_examples(plan, order.inputs or 1, order.seed)
    if bench.kind_of(order.port) == "measured":
        with console.progress(f"flashing {target.name}"):
            flash(firmware, target, order.port)
    with console.progress(f"measuring on {order.port}", len(examples) + 1) as advance:
        measurement = bench.bench_firmware(
            firmware,
            target,
            order.port,
            model=model,
            examples=examples,
            warmups=order.warmups,
            runs=order.runs,
            progress=advance,
        )
    _check_latency(measurement, read_limits(order.options))
    return measurement


def _firmware(
    order: Order, model: Model, target: Target, engine: engines.Engine, folder: Path, command: str
) -> Firmware:
    """Compiles and builds within the limits on the whole firmware's RAM and flash.

    The first plan may fill the limit by itself. What the firmware needs besides (stack, runtime)
    is known once it is built, and then taken off.

    Raises:
        FitError: the limits cannot be kept.
    """
    limits = read_limits(order.options)
    options = dict(order.options)
    if "max_ram" not in engine.OPTIONS:
        for key in ("max_ram", "max_flash", "max_latency"):
            options.pop(key, None)
    staging: Staging = "auto"
    taken = 0
    for attempt in range(3):
        try:
            artifact = engine.compile(
                model, target, folder / "artifact", command=command, options=options
            )
        except FitError as error:
            if not taken:
                raise
            raise _with_the_rest(error, taken) from None
        console.note("building the firmware")
        firmware = build(
            artifact,
            target,
            folder / "firmware",
            compiler=order.compiler,
            staging=staging,
            command=command,
        )
        arena = firmware.plan.arena_bytes if firmware.plan is not None else 0
        rest = firmware.ram_bytes - arena
        much_ram = limits.ram_bytes is not None and firmware.ram_bytes > limits.ram_bytes
        much_flash = limits.flash_bytes is not None and firmware.flash_bytes > limits.flash_bytes
        if not much_ram and not much_flash:
            return firmware
        if attempt == 2 or "max_ram" not in options and "max_flash" not in options:
            break
        staging = "off" if much_ram else staging
        if much_ram and attempt and limits.ram_bytes is not None:
            left = limits.ram_bytes - rest
            if left < 1:
                break
            console.note(f"{rest:,} B of RAM are stack and runtime: {left:,} B for the arena")
            options["max_ram"] = str(left)
            taken = rest
        if much_flash:
            options["optimize"] = "flash"
    over = [
        f"{firmware.ram_bytes:,} B of RAM (limit {limits.ram_bytes:,} B)" if much_ram else "",
        f"{firmware.flash_bytes:,} B of flash (limit {limits.flash_bytes:,} B)"
        if much_flash
        else "",
    ]
    kept = sum(s.nbytes for s in firmware.sections if s.name == ".staging")
    inputs = f"inputs {kept:,} B, " if kept else ""
    raise FitError(
        f"the firmware needs {' and '.join(text for text in over if text)}",
        f"arena {arena:,} B, {inputs}stack and runtime {rest - kept:,} B;"
        f" model code {firmware.code_bytes:,} B, weights {firmware.weights_bytes:,} B",
        (f"--max-ram {firmware.ram_bytes} " if much_ram else "")
        + (f"--max-flash {firmware.flash_bytes}" if much_flash else ""),
    )


def _with_the_rest(error: FitError, rest_bytes: int) -> FitError:
    """An arena's refusal in terms of the whole firmware."""

    def whole(found: re.Match[str]) -> str:
        return f"--max-ram {int(found[1]) + rest_bytes}"

    fix = re.sub(r"--max-ram ([0-9]+)", whole, error.fix or "") or None
    what = f"stack and runtime take {rest_bytes:,} B of the RAM, and {error.what}"
    return FitError(what, error.where, fix)


def _check_latency(measurement: Measurement, limits: Limits) -> None:
    """Raises: LimitError, where an inference took longer than was allowed."""
    if limits.latency_us is None or not measurement.latencies_us:
        return
    latency = max(measurement.latencies_us)
    if latency <= limits.latency_us:
        return
    raise LimitError(
        f"an inference took {time_text(latency)} ({measurement.kind}); at most"
        f" {time_text(limits.latency_us)} are allowed",
        measurement.target,
        f"--max-latency {time_text(latency, up=True)}",
    )
