"""A model's firmware for an evaluation, and that it is on the boards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit import engines
from edgekit.bench import connected, kind_of
from edgekit.build import build
from edgekit.errors import DeviceError, UsageError
from edgekit.flashing import flash
from edgekit.graph import Model
from edgekit.records import Firmware
from edgekit.targets import Target


def firmware_of_model(model: Model, target: Target, ports: Sequence[str], folder: Path) -> Firmware:
    """Compiles and builds a model, and flashes the boards that run something else.

    Raises:
        EdgekitError: whatever compiling, building or flashing raise.
    """
    if target.port is None:
        raise UsageError(f"there is no firmware for {target.name}", fix="edgekit targets")
    name = target.engines[0] if target.engines else "aot"
    command = f"edgekit eval {model.name}.tflite --target {target.name}"
    artifact = engines.load(name).compile(
        model, target, folder / "artifact", command=command, options={}
    )
    firmware = build(artifact, target, folder / "firmware", command=command)
    for port in ports:
        if kind_of(port) == "measured" and not _runs(port, target, firmware):
            flash(firmware, target, port)
    return firmware


def _runs(port: str, target: Target, firmware: Firmware) -> bool:
    """Whether the board has this firmware already."""
    try:
        with connected(port, target, firmware):
            return True
    except DeviceError:
        return False
