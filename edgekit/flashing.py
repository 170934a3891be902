"""Firmware → board: programs it and reads its build id back over the wire."""

from __future__ import annotations

from edgekit.bench import connected
from edgekit.errors import UsageError
from edgekit.records import Firmware
from edgekit.targets import Target
from edgekit.wire import Identity

#: Ports whose board starts with the ELF file: opening the link is flashing it.
_STARTS_WITH_ELF = ("virtual", "qemu")


def flash(firmware: Firmware, target: Target, port: str) -> Identity:
    """Flashes ``firmware`` and verifies that the board reports its build id.

    Raises:
        UsageError: edgekit does not flash boards on this kind of port.
        DeviceError: the board does not answer, or runs another build afterwards.
    """
    require_target(firmware, target)
    image = firmware.images.get("uf2", firmware.images.get("bin", firmware.elf))
    require_flashable(port, f"{image.name} or {firmware.elf.name}", target)
    with connected(port, target, firmware) as device:
        return device.identity


def require_flashable(port: str, image: str, target: Target) -> None:
    """Raises where edgekit cannot put a firmware onto a board.

    Raises:
        UsageError: says by which way it gets there.
    """
    while port.startswith("mistreated:"):
        port = port.split(":", 2)[-1]
    if port.partition(":")[0] not in _STARTS_WITH_ELF:
        raise UsageError(
            f"edgekit flashes virtual boards only, not '{port}'",
            target.name,
            f"edgekit build, the board maker's tool with {image}, then "
            f"edgekit bench FIRMWARE --port {port}",
        )


def require_target(firmware: Firmware, target: Target) -> None:
    """Raises when a firmware was built for another board.

    Raises:
        UsageError: it was.
    """
    if firmware.target != target.name:
        raise UsageError(
            f"the firmware was built for {firmware.target}, not for {target.name}",
            firmware.elf.name,
            f"edgekit build ARTIFACT --target {target.name}",
        )
