"""The flash controller of nRF52840, its factory information and its user registers.

Source: nRF52840 Product Specification v1.7, sections 4.3 NVMC, 4.4 FICR, 4.5 UICR.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from edgekit.sim.device import BoardFault, Device
from edgekit.sim.nvm import cells_of
from edgekit.targets import Region

if TYPE_CHECKING:
    from edgekit.sim.board import Board

FICR, UICR = 0x10000000, 0x10001000
_PAGE = 4096
#: User information configuration registers, a page of flash of their own
USER = Region("UICR", "flash", UICR, _PAGE)
APPROTECT = UICR + 0x208
#: Build code D0: its access port is protected only where UICR.APPROTECT says so
_VARIANT, _QI = 0x41414430, 0x2004


class Nvmc(Device):
    """NVMC. Erasing and writing are allowed by CONFIG, one at a time."""

    READY, READYNEXT, CONFIG = 0x400, 0x408, 0x504
    ERASEPAGE, ERASEALL, ERASEPCR0, ERASEUICR = 0x508, 0x50C, 0x510, 0x514
    _READ_ONLY, _WRITE, _ERASE = 0, 1, 2

    def __init__(self, board: Board) -> None:
        super().__init__("NVMC", 0x4001E000, 0x1000)
        self._board = board
        self._cells = cells_of(board)
        self._regions = [
            (region.origin, region.nbytes)
            for region in (*board.target.memory, USER)
            if region.kind == "flash"
        ]
        self._busy = 0
        board.nvm = self
        board.add_information(FICR, _factory_information(board))
        # it is looked at once, out of reset
        self._protection = "port" if self._cells.read(APPROTECT, 1) == b"\0" else "none"

    @property
    def protection(self) -> str:
        return self._protection

    def read(self, offset: int) -> int:
        if offset in (self.READY, self.READYNEXT):
            ready = not self._busy
            self._busy = 0
            return int(ready)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.CONFIG:
            super().write(offset, value & 3)
        elif offset in (self.ERASEPAGE, self.ERASEPCR0):
            # whole pages; an address in one is the page's
            self._erase([(value - value % _PAGE, _PAGE)])
        elif offset == self.ERASEALL and value & 1:
            self._erase(self._regions)
        elif offset == self.ERASEUICR and value & 1:
            self._erase([(UICR, _PAGE)])
        elif offset not in (self.READY, self.READYNEXT):
            super().write(offset, value)

    def _erase(self, places: list[tuple[int, int]]) -> None:
        if self.peek(self.CONFIG) != self._ERASE:
            return  # without CONFIG.EEN nothing happens
        self.erase(places)

    def erase(self, places: list[tuple[int, int]]) -> None:
        """Erases, whatever CONFIG says: the control access port does so."""
        for address, nbytes in places:
            if not any(o <= address and address + nbytes <= o + n for o, n in self._regions):
                continue
            self._cells.erase(address, nbytes, _PAGE)
            if self._board.debug is not None:
                self._board.debug.memory_changed(address, nbytes)
        self._busy = 1

    def erase_all(self) -> None:
        self.erase(self._regions)

    def give_up(self) -> None:
        pass

    def programs(self, address: int) -> bool:
        return self.peek(self.CONFIG) == self._WRITE

    def store(self, address: int, data: bytes) -> bytes:
        """Words only; bits are cleared (4.3.1)."""
        if self.peek(self.CONFIG) != self._WRITE:
            return self._cells.read(address, len(data))
        if len(data) != 4 or address % 4:
            raise BoardFault(
                f"write of {len(data)} bytes to flash at {address:#010x}: NVMC takes words"
            )
        self._cells.program(address, data, 4)
        if self._board.debug is not None:
            self._board.debug.memory_changed(address, 4)
        self._busy = 1
        return self._cells.read(address, 4)


def _factory_information(board: Board) -> bytes:
    flash_bytes = 1024 * 1024
    serial = zlib.crc32(board.target.name.encode())
    words = {
        0x010: _PAGE,
        0x014: flash_bytes // _PAGE,
        0x060: serial,
        0x064: 0xED6E1317,
        0x100: 0x52840,
        0x104: _VARIANT,
        0x108: _QI,
        0x10C: 256,
        0x110: flash_bytes >> 10,
    }
    content = bytearray(b"\xff" * 0x400)
    for offset, word in words.items():
        content[offset : offset + 4] = word.to_bytes(4, "little")
    return bytes(content)
