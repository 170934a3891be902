"""Boot ROMs of virtual boards: how an erased board is programmed, through its own protocol.

A target's ``sim.rom`` has the ROM's settings; its ``protocol`` names the module of this folder.
What a ROM writes stays in the board's state folder, so that power may be lost at any moment.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.sim.rom.memory import FlashMemory
    from edgekit.targets import Region, Target


class Rom(Protocol):
    """The program that a chip runs when it does not run the user's."""

    #: where the drive that it offers is, for a ROM that offers one
    volume: Path | None
    #: set once the ROM hands over: an address to start at, or -1 for a reset of the chip
    leaves_to: int | None

    def step(self, incoming: bytes) -> bytes:
        """Takes what came in on the UART and returns the answer. Called every few
        milliseconds, also when nothing came in."""

    def close(self) -> None:
        """Power goes, or the ROM hands over."""


#: :attr:`Rom.leaves_to` for a reset
RESET = -1


def protocols() -> list[str]:
    """The protocols, by the files of this folder."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in _NOT_PROTOCOLS)


_NOT_PROTOCOLS = ("__init__", "memory")


def has_rom(target: Target) -> bool:
    """Whether a virtual board of this target has a boot ROM."""
    return "rom" in target.sim


def _module(target: Target) -> Any:
    settings = target.sim.get("rom", {})
    name = str(settings.get("protocol", ""))
    if name not in protocols():
        raise UsageError(
            f"the virtual {target.name} has no boot ROM"
            + (f" that speaks '{name}'" if name else ""),
            target.name,
            f"protocols of boot ROMs: {', '.join(protocols())}",
        )
    return importlib.import_module(f"edgekit.sim.rom.{name}")


def start_rom(target: Target, flash: FlashMemory, folder: Path) -> Rom:
    """The ROM after a reset; ``folder`` is the board's state.

    Raises:
        UsageError: the target has none.
    """
    rom: Rom = _module(target).start(target, flash, folder)
    return rom


def rom_regions(target: Target) -> tuple[Region, ...]:
    """Flash that the ROM keeps for itself."""
    if not has_rom(target):
        return ()
    found: tuple[Region, ...] = getattr(_module(target), "regions", lambda target: ())(target)
    return found


def wants_rom(target: Target, flash: FlashMemory) -> bool:
    """Whether the chip stays in its ROM out of reset because the flash cannot be started.

    Raises:
        UsageError: the target has no boot ROM.
    """
    wanted: bool = _module(target).is_unbootable(target, flash)
    return wanted


def takes_over(target: Target) -> bool:
    """Whether the ROM stays when it does not accept the image in the flash."""
    return has_rom(target) and bool(_module(target).TAKES_OVER)


def boot_pins(target: Target, *, dtr: bool, rts: bool) -> tuple[bool, bool]:
    """(held in reset, boot ROM wanted) from a serial adapter's lines.

    How they are wired is the protocol's custom, which its tools follow.
    """
    pins: tuple[bool, bool] = _module(target).boot_pins(dtr=dtr, rts=rts)
    return pins
