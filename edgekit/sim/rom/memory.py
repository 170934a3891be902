"""The flash of a virtual board in files: what is written stays, whenever power goes."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import UsageError
from edgekit.files import write_atomic

if TYPE_CHECKING:
    from edgekit.sim.symbols import Image
    from edgekit.targets import Region, Target

_PAGE = 4096
#: Exit code of a board whose supply was cut on purpose
EXIT_POWER_LOSS = 86


class PowerLoss(Exception):
    """The supply was cut: nothing more happens on this board."""


def _more_regions(target: Target) -> tuple[Region, ...]:
    """Flash that the chip's family and its boot ROM have beside the target's."""
    from edgekit.sim.families import nonvolatile
    from edgekit.sim.rom import rom_regions

    family = nonvolatile(target) if "family" in target.sim else ()
    return (*family, *rom_regions(target))


class FlashMemory:
    """A target's flash regions and those that its chip has beside them, each a file in a folder.

    Args:
        folder: the board's state; made when it is not there.
        power_loss_after: operations (pages erased, units programmed) after which the supply
            is cut in the middle of the next one.

    Raises:
        UsageError: the folder is no place for it, or belongs to another kind of board.
    """

    def __init__(self, target: Target, folder: Path, power_loss_after: int | None = None) -> None:
        self.target = target
        self.folder = folder
        #: operations since power was applied
        self.operations = 0
        self._power_loss_after = power_loss_after
        self._maps: list[tuple[int, int, mmap.mmap]] = []
        for region in (*target.memory, *_more_regions(target)):
            if region.kind != "flash":
                continue
            path = folder / f"{region.name.lower()}.flash"
            nbytes = -(-region.nbytes // _PAGE) * _PAGE
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    part = path.with_suffix(".new")
                    part.write_bytes(b"\xff" * nbytes)
                    os.replace(part, path)
                if path.stat().st_size != nbytes:
                    raise UsageError(
                        f"the flash kept here has {path.stat().st_size:,} bytes; "
                        f"{target.name} has {nbytes:,}",
                        str(path),
                        "another folder with --state",
                    )
                with path.open("r+b") as file:
                    self._maps.append(
                        (region.origin, region.nbytes, mmap.mmap(file.fileno(), nbytes))
                    )
            except OSError as error:
                raise UsageError(
                    f"the board's state cannot be kept here: {error.strerror}", str(folder)
                ) from None

    def map_of(self, origin: int) -> mmap.mmap:
        """The memory of the region that begins at an address."""
        return next(memory for start, _, memory in self._maps if start == origin)

    def has(self, address: int, nbytes: int = 1) -> bool:
        return self._find(address, nbytes) is not None

    def _find(self, address: int, nbytes: int) -> tuple[mmap.mmap, int] | None:
        for origin, size, memory in self._maps:
            if origin <= address and address + nbytes <= origin + size:
                return memory, address - origin
        return None

    def _place(self, address: int, nbytes: int) -> tuple[mmap.mmap, int]:
        place = self._find(address, nbytes)
        if place is None:
            raise UsageError(f"{self.target.name} has no flash at {address:#010x}")
        return place

    def read(self, address: int, nbytes: int) -> bytes:
        memory, offset = self._place(address, nbytes)
        return memory[offset : offset + nbytes]

    def _spend(self) -> bool:
        """Counts an operation; whether the supply is cut in the middle of it."""
        self.operations += 1
        return self._power_loss_after is not None and self.operations > self._power_loss_after

    def erase(self, address: int, nbytes: int, page_bytes: int) -> None:
        """Erases whole pages.

        Raises:
            PowerLoss: half a page is erased.
        """
        memory, offset = self._place(address, nbytes)
        for start in range(offset, offset + nbytes, page_bytes):
            size = min(page_bytes, offset + nbytes - start)
            if self._spend():
                memory[start : start + size // 2] = b"\xff" * (size // 2)
                raise PowerLoss
            memory[start : start + size] = b"\xff" * size

    def program(self, address: int, data: bytes, unit_bytes: int) -> bool:
        """Clears bits, unit by unit; whether all of it now reads as ``data``.

        Raises:
            PowerLoss: half a unit is written.
        """
        memory, offset = self._place(address, len(data))
        for start in range(0, len(data), unit_bytes):
            unit = data[start : start + unit_bytes]
            if self._spend():
                unit = unit[: len(unit) // 2]
            place = offset + start
            old = memory[place : place + len(unit)]
            memory[place : place + len(unit)] = bytes(a & b for a, b in zip(old, unit, strict=True))
            if self._power_loss_after is not None and self.operations > self._power_loss_after:
                raise PowerLoss
        return memory[offset : offset + len(data)] == data

    def regions(self) -> list[tuple[int, int]]:
        """(origin, bytes) of each region."""
        return [(origin, nbytes) for origin, nbytes, _ in self._maps]

    @property
    def _option_file(self) -> Path:
        return self.folder / "options.json"

    def options(self) -> dict[str, Any]:
        """The option bytes: ``read_protected``, ``protected_pages``."""
        try:
            options = json.loads(self._option_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return options if isinstance(options, dict) else {}

    def set_options(self, options: dict[str, Any]) -> None:
        write_atomic(self._option_file, json.dumps(options) + "\n")

    def holds(self, image: Image) -> bool:
        """Whether everything that an ELF file loads into flash is there."""
        return all(
            self.read(segment.address, len(segment.data)) == segment.data
            for segment in image.segments
            if self.has(segment.address, len(segment.data))
        )
