"""A drive that programs what is copied to it, as the RP2040's boot ROM and others offer it.

The drive is a folder in the board's state, called by the board's id, with ``INFO_UF2.TXT``.
Settings in ``sim.rom``: ``model`` and ``board_id`` for that file, ``family`` (blocks of other
families are ignored), ``boot2``: the flash begins with a second boot stage whose CRC decides
whether it is started (RP2040 data sheet, 2.8.1.3).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.sim.rom import RESET
from edgekit.sim.rom.memory import FlashMemory
from edgekit.uf2 import BLOCK_BYTES, read_block

if TYPE_CHECKING:
    from edgekit.targets import Target

_SECTOR, _PAGE = 4096, 256
_INDEX = '<html><head><meta http-equiv="refresh" content="0;URL=\'about:blank\'"/></head></html>'


class Drive:
    """Programs each whole block as it appears in a file; resets after the last one."""

    def __init__(self, target: Target, flash: FlashMemory, folder: Path) -> None:
        settings = target.sim["rom"]
        self.leaves_to: int | None = None
        self.volume: Path | None = folder / str(settings["board_id"])
        self._flash = flash
        self._family = int(settings["family"])
        self._erased: set[int] = set()
        self._done: set[int] = set()
        self._offsets: dict[Path, int] = {}
        shutil.rmtree(self.volume, ignore_errors=True)
        self.volume.mkdir(parents=True)
        # the folder appears whole: readers look for INFO_UF2.TXT
        (self.volume / "INDEX.HTM").write_text(_INDEX + "\r\n", encoding="utf-8")
        (self.volume / "INFO_UF2.TXT").write_text(
            f"UF2 Bootloader v3.0\r\nModel: {settings['model']}\r\n"
            f"Board-ID: {settings['board_id']}\r\n",
            encoding="utf-8",
        )

    def step(self, incoming: bytes) -> bytes:
        if self.volume is None or self.leaves_to is not None:
            return b""
        for path in sorted(self.volume.iterdir()):
            if path.suffix.lower() == ".uf2" and path.is_file():
                self._look_into(path)
        return b""

    def _look_into(self, path: Path) -> None:
        offset = self._offsets.get(path, 0)
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
        for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
            self._offsets[path] = offset + start + BLOCK_BYTES
            block = read_block(data[start : start + BLOCK_BYTES])
            if block is None or block.family != self._family:
                continue
            if not self._flash.has(block.address, len(block.data)) or block.address % _PAGE:
                continue
            self._program(block.address, block.data)
            self._done.add(block.index)
            if len(self._done) == block.count:
                self.leaves_to = RESET
                return

    def _program(self, address: int, data: bytes) -> None:
        for sector in range(address // _SECTOR, (address + len(data) - 1) // _SECTOR + 1):
            if sector not in self._erased:
                self._flash.erase(sector * _SECTOR, _SECTOR, _SECTOR)
                self._erased.add(sector)
        self._flash.program(address, data, _PAGE)

    def close(self) -> None:
        if self.volume is not None:
            shutil.rmtree(self.volume, ignore_errors=True)


def start(target: Target, flash: FlashMemory, folder: Path) -> Drive:
    """The drive, mounted."""
    return Drive(target, flash, folder)


def is_unbootable(target: Target, flash: FlashMemory) -> bool:
    """Whether the ROM finds nothing to start."""
    origin, _ = flash.regions()[0]
    if not target.sim["rom"].get("boot2"):
        return flash.read(origin, 4) == b"\xff" * 4
    from edgekit.build import boot2_checksum

    stage = flash.read(origin, 256)
    return int.from_bytes(stage[-4:], "little") != boot2_checksum(stage[:-4])


#: An image that the ROM does not accept leaves the board in the ROM.
TAKES_OVER = True


def boot_pins(*, dtr: bool, rts: bool) -> tuple[bool, bool]:
    """No serial adapter reaches reset and boot selection on these boards."""
    return False, False
