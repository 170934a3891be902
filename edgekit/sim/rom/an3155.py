"""The system memory boot loader of STM32 on a UART (ST AN3155, AN2606).

Settings in ``sim.rom``: ``chip_id`` and ``version`` as *Get ID* and *Get* tell them,
``page_bytes`` (what the erase commands count in; a list where sectors differ) and
``unit_bytes`` (what the flash programs at once); ``size_at`` and ``uid_at``, where the system
memory holds the flash size and the unique id; ``empty_check``: no, for chips that start an
erased flash. Reading out, erasing and writing are refused while read-out protection is on;
erasing and writing a write-protected page is acknowledged and does nothing, as AN3155 has it.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from functools import reduce
from operator import xor
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.sim.rom import RESET
from edgekit.sim.rom.memory import FlashMemory

if TYPE_CHECKING:
    from edgekit.targets import Target

_ACK, _NACK, _SYNC = b"\x79", b"\x1f", 0x7F
_GET, _VERSION, _ID, _READ, _GO, _WRITE = 0x00, 0x01, 0x02, 0x11, 0x21, 0x31
_ERASE, _EXTENDED_ERASE = 0x43, 0x44
_PROTECT, _UNPROTECT, _READ_PROTECT, _READ_UNPROTECT = 0x63, 0x73, 0x82, 0x92

_Bytes = Generator[None, int, None]


class SystemLoader:
    """AN3155 on a byte stream, without any timing."""

    volume: Path | None = None

    def __init__(self, target: Target, flash: FlashMemory, folder: Path) -> None:
        settings = target.sim["rom"]
        self.leaves_to: int | None = None
        self._flash = flash
        self._chip_id = int(settings["chip_id"])
        self._version = int(settings.get("version", 0x31))
        self._unit_bytes = int(settings["unit_bytes"])
        self._extended = settings.get("erase", "extended") == "extended"
        self._origin, self._nbytes = flash.regions()[0]
        self._pages = _pages(settings["page_bytes"], self._nbytes)
        #: system memory in blocks of 256 bytes
        self._system: dict[int, bytearray] = {}
        if "size_at" in settings:
            kib = target.flash_bytes >> 10
            self._keep(int(settings["size_at"]), kib.to_bytes(2, "little"))
        if "uid_at" in settings:
            serial = zlib.crc32(str(folder.resolve()).encode()).to_bytes(4, "little")
            self._keep(int(settings["uid_at"]), b"EDGEKIT\0" + serial)
        options = flash.options()
        self._read_protected = bool(options.get("read_protected"))
        self._protected: set[int] = set(options.get("protected_pages", []))
        self._out = bytearray()
        self._session = self._run()
        next(self._session)

    def step(self, incoming: bytes) -> bytes:
        for byte in incoming:
            if self.leaves_to is None:
                self._session.send(byte)
        answer = bytes(self._out)
        self._out.clear()
        return answer

    def close(self) -> None:
        self._session.close()

    # the session: a coroutine that is sent one byte at a time

    def _run(self) -> Generator[None, int, None]:
        while (yield) != _SYNC:
            pass
        self._out += _ACK
        while True:
            command = yield
            check = yield
            if command ^ check != 0xFF or command not in self._commands():
                self._out += _NACK
                continue
            if self._read_protected and command not in (_GET, _VERSION, _ID, _READ_UNPROTECT):
                self._out += _NACK
                continue
            self._out += _ACK
            yield from self._obey(command)

    def _commands(self) -> tuple[int, ...]:
        erase = _EXTENDED_ERASE if self._extended else _ERASE
        return (
            _GET, _VERSION, _ID, _READ, _GO, _WRITE, erase,
            _PROTECT, _UNPROTECT, _READ_PROTECT, _READ_UNPROTECT,
        )  # fmt: skip

    def _obey(self, command: int) -> _Bytes:
        if command == _GET:
            commands = bytes(self._commands())
            self._out += bytes([len(commands), self._version]) + commands + _ACK
        elif command == _VERSION:
            self._out += bytes([self._version, 0, 0]) + _ACK
        elif command == _ID:
            self._out += b"\x01" + self._chip_id.to_bytes(2, "big") + _ACK
        elif command == _READ:
            yield from self._read()
        elif command == _GO:
            yield from self._go()
        elif command == _WRITE:
            yield from self._write()
        elif command == _ERASE:
            yield from self._erase()
        elif command == _EXTENDED_ERASE:
            yield from self._extended_erase()
        elif command == _PROTECT:
            yield from self._protect()
        elif command == _UNPROTECT:
            self._set_options(protected=set())
        elif command == _READ_PROTECT:
            self._set_options(read_protected=True)
        else:
            self._erase_all()
            self._set_options(read_protected=False)

    def _take(self, count: int, into: bytearray) -> _Bytes:
        for _ in range(count):
            into.append((yield))

    def _address(self, into: list[int]) -> _Bytes:
        """Four bytes, big-endian, and their exclusive or; nothing into ``into`` when wrong."""
        data = bytearray()
        yield from self._take(5, data)
        if reduce(xor, data) == 0:
            into.append(int.from_bytes(data[:4], "big"))
        else:
            self._out += _NACK

    def _read(self) -> _Bytes:
        found: list[int] = []
        yield from self._address(found)
        if not found:
            return
        address = found[0]
        if not self._flash.has(address) and self._system_bytes(address, 1) is None:
            self._out += _NACK
            return
        self._out += _ACK
        length = bytearray()
        yield from self._take(2, length)
        count = length[0] + 1
        data = self._system_bytes(address, count)
        if data is None and self._flash.has(address, count):
            data = self._flash.read(address, count)
        if length[0] ^ length[1] != 0xFF or data is None:
            self._out += _NACK
        else:
            self._out += _ACK + data

    def _keep(self, address: int, data: bytes) -> None:
        block = self._system.setdefault(address & ~0xFF, bytearray(b"\xff" * 256))
        block[address & 0xFF : (address & 0xFF) + len(data)] = data

    def _system_bytes(self, address: int, count: int) -> bytes | None:
        block = self._system.get(address & ~0xFF)
        offset = address & 0xFF
        return bytes(block[offset : offset + count]) if block and offset + count <= 256 else None

    def _go(self) -> _Bytes:
        found: list[int] = []
        yield from self._address(found)
        if not found:
            return
        if self._flash.has(found[0], 8):
            self._out += _ACK
            self.leaves_to = found[0]
        else:
            self._out += _NACK

    def _write(self) -> _Bytes:
        found: list[int] = []
        yield from self._address(found)
        if not found:
            return
        address = found[0]
        if not self._flash.has(address) or address % 4:
            self._out += _NACK
            return
        self._out += _ACK
        data = bytearray()
        yield from self._take(1, data)
        yield from self._take(data[0] + 2, data)
        content = bytes(data[1:-1])
        if reduce(xor, data) != 0 or not self._flash.has(address, len(content)):
            self._out += _NACK
            return
        content += b"\xff" * (-len(content) % self._unit_bytes)
        if self._page(address) in self._protected:
            self._out += _ACK
            return
        done = self._flash.program(address, content, self._unit_bytes)
        self._out += _ACK if done else _NACK

    def _page(self, address: int) -> int:
        offset = address - self._origin
        return next(i for i, (start, size) in enumerate(self._pages) if offset < start + size)

    def _erase_page(self, page: int) -> None:
        if page not in self._protected:
            start, size = self._pages[page]
            self._flash.erase(self._origin + start, size, size)

    def _erase_all(self) -> None:
        for page in range(len(self._pages)):
            self._erase_page(page)

    def _erase(self) -> _Bytes:
        data = bytearray()
        yield from self._take(1, data)
        if data[0] == 0xFF:
            yield from self._take(1, data)
            if data[1] == 0:
                self._erase_all()
            self._out += _ACK if data[1] == 0 else _NACK
            return
        yield from self._take(data[0] + 2, data)
        self._erase_these(data, list(data[1:-1]))

    def _extended_erase(self) -> _Bytes:
        data = bytearray()
        yield from self._take(2, data)
        count = int.from_bytes(data, "big")
        if count >= 0xFFF0:
            yield from self._take(1, data)
            fine = reduce(xor, data) == 0 and count >= 0xFFFD
            if fine:
                half = len(self._pages) // 2
                first = half if count == 0xFFFD else 0
                last = half if count == 0xFFFE else 2 * half
                for page in range(first, last):
                    self._erase_page(page)
            self._out += _ACK if fine else _NACK
            return
        yield from self._take(2 * (count + 1) + 1, data)
        pages = [int.from_bytes(data[i : i + 2], "big") for i in range(2, len(data) - 1, 2)]
        self._erase_these(data, pages)

    def _erase_these(self, message: bytearray, pages: list[int]) -> None:
        if reduce(xor, message) != 0 or any(page >= len(self._pages) for page in pages):
            self._out += _NACK
            return
        for page in pages:
            self._erase_page(page)
        self._out += _ACK

    def _protect(self) -> _Bytes:
        data = bytearray()
        yield from self._take(1, data)
        yield from self._take(data[0] + 2, data)
        if reduce(xor, data) != 0:
            self._out += _NACK
            return
        self._set_options(protected=self._protected | set(data[1:-1]))

    def _set_options(
        self, *, read_protected: bool | None = None, protected: set[int] | None = None
    ) -> None:
        """Writes the option bytes, acknowledges, and resets as the real one does."""
        options = {
            "read_protected": self._read_protected if read_protected is None else read_protected,
            "protected_pages": sorted(self._protected if protected is None else protected),
        }
        self._flash.set_options(options)
        self._out += _ACK
        self.leaves_to = RESET


def _pages(page_bytes: int | list[int], nbytes: int) -> list[tuple[int, int]]:
    """(offset, size) of each page."""
    sizes = page_bytes if isinstance(page_bytes, list) else [page_bytes] * (nbytes // page_bytes)
    pages, offset = [], 0
    for size in sizes:
        pages.append((offset, size))
        offset += size
    return pages


def start(target: Target, flash: FlashMemory, folder: Path) -> SystemLoader:
    """The loader, waiting for its synchronisation byte."""
    return SystemLoader(target, flash, folder)


def is_unbootable(target: Target, flash: FlashMemory) -> bool:
    """The empty check of AN2606: an erased first word keeps the chip in system memory."""
    if not target.sim["rom"].get("empty_check", True):
        return False
    origin, _ = flash.regions()[0]
    return flash.read(int(target.sim.get("boot", origin)), 4) == b"\xff" * 4


#: An image that cannot be started is started all the same.
TAKES_OVER = False


def boot_pins(*, dtr: bool, rts: bool) -> tuple[bool, bool]:
    """As stm32loader and its like expect it: DTR drives NRST, RTS BOOT0, both inverted."""
    return dtr, not rts
