"""The serial loader in the boot ROM of ESP32 chips (Espressif, "Serial Protocol" of esptool).

SLIP frames with requests; enough for identifying the chip, writing its flash plainly or
deflated, and comparing MD5 sums. The loader that esptool would upload and run (its stub) needs
the chip's CPU, so ``--no-stub`` is wanted. Settings in ``sim.rom``: ``chip_id`` as *Get security
info* tells it, ``mac_at``: the eFuse register with the MAC address.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from functools import reduce
from operator import xor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.sim.rom import RESET
from edgekit.sim.rom.memory import FlashMemory

if TYPE_CHECKING:
    from edgekit.targets import Target

_SECTOR, _PAGE = 4096, 256
_END, _ESCAPE = 0xC0, 0xDB
#: Status bytes: failed, and why
_INVALID, _FAILED, _BAD_SUM, _BAD_DEFLATE = 0x05, 0x06, 0x07, 0x0B
#: What the ROM puts into the value field of an answer to SYNC: not zero
_SYNC_VALUE = 0x20120707
#: SPI1 of the ESP32-S3 and -C3: where the flash's own commands are given
_SPI = 0x60002000
_SPI_CMD, _SPI_USR2, _SPI_W0 = _SPI, _SPI + 0x20, _SPI + 0x58
_SPI_START = 1 << 18
_READ_ID = 0x9F


class _Refused(Exception):
    """Answered with this status byte."""


class SerialLoader:
    """The ROM in download mode."""

    volume: Path | None = None

    def __init__(self, target: Target, flash: FlashMemory, folder: Path) -> None:
        settings = target.sim["rom"]
        self.leaves_to: int | None = None
        self._flash = flash
        self._origin, self._nbytes = flash.regions()[0]
        self._chip_id = int(settings["chip_id"])
        mac_at = int(settings["mac_at"])
        serial = zlib.crc32(str(folder.resolve()).encode())
        self._registers = {mac_at: serial, mac_at + 4: 0x0200}
        self._frame: bytearray | None = None
        self._escaped = False
        self._address = 0
        self._inflate: Any = None
        self._commands: dict[int, Callable[[bytes, int], tuple[int, bytes]]] = {
            0x02: self._begin,
            0x03: self._data,
            0x04: self._end,
            0x09: self._write_register,
            0x0A: self._read_register,
            0x0B: self._fine,
            0x0D: self._fine,
            0x0E: self._read_flash,
            0x0F: self._fine,
            0x10: self._begin_deflated,
            0x11: self._deflated_data,
            0x12: self._end,
            0x13: self._md5,
            0x14: self._security_info,
        }

    def step(self, incoming: bytes) -> bytes:
        out = bytearray()
        for byte in incoming:
            if byte == _END:
                if self._frame:
                    out += self._answer(bytes(self._frame))
                self._frame, self._escaped = bytearray(), False
            elif self._frame is None:
                continue
            elif byte == _ESCAPE:
                self._escaped = True
            else:
                if self._escaped:
                    byte = {0xDC: _END, 0xDD: _ESCAPE}.get(byte, byte)
                    self._escaped = False
                self._frame.append(byte)
        return bytes(out)

    def close(self) -> None:
        self._frame = None

    def _answer(self, frame: bytes) -> bytes:
        if len(frame) < 8:
            return b""
        direction, command, length, checksum = struct.unpack_from("<BBHI", frame)
        data = frame[8:]
        if direction != 0 or len(data) != length:
            return b""
        if command == 0x08:
            return 8 * _slip(struct.pack("<BBHI", 1, command, 4, _SYNC_VALUE) + bytes(4))
        try:
            if command not in self._commands:
                raise _Refused(_INVALID)
            value, content = self._commands[command](data, checksum)
            status = bytes(4)
        except _Refused as refused:
            value, content, status = 0, b"", bytes([1, refused.args[0], 0, 0])
        except struct.error:
            value, content, status = 0, b"", bytes([1, _INVALID, 0, 0])
        body = content + status
        return _slip(struct.pack("<BBHI", 1, command, len(body), value) + body)

    # commands: (data, checksum) → (value, content)

    def _fine(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        return 0, b""

    def _read_register(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        (address,) = struct.unpack_from("<I", data)
        return self._registers.get(address, 0), b""

    def _write_register(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        address, value, mask = struct.unpack_from("<III", data)
        value = self._registers.get(address, 0) & ~mask | value & mask
        if address == _SPI_CMD and value & _SPI_START:
            value &= ~_SPI_START
            if self._registers.get(_SPI_USR2, 0) & 0xFF == _READ_ID:
                # maker, type, and the capacity's power of two
                self._registers[_SPI_W0] = 0xEF | 0x40 << 8 | (self._nbytes.bit_length() - 1) << 16
        self._registers[address] = value
        return 0, b""

    def _security_info(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        return 0, struct.pack("<IB7BII", 0, 0, *bytes(7), self._chip_id, 0)

    def _place(self, offset: int, nbytes: int) -> int:
        if not self._flash.has(self._origin + offset, max(nbytes, 1)):
            raise _Refused(_FAILED)
        return self._origin + offset

    def _begin(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        nbytes, _, _, offset = struct.unpack_from("<IIII", data)
        self._inflate = None
        self._address = self._place(offset, nbytes)
        if nbytes:
            first = self._address - self._address % _SECTOR
            end = -(-(self._address + nbytes) // _SECTOR) * _SECTOR
            self._flash.erase(first, end - first, _SECTOR)
        return 0, b""

    def _begin_deflated(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        answer = self._begin(data, checksum)
        self._inflate = zlib.decompressobj()
        return answer

    def _block(self, data: bytes, checksum: int) -> bytes:
        (length,) = struct.unpack_from("<I", data)
        content = data[16:]
        if len(content) != length:
            raise _Refused(_INVALID)
        if reduce(xor, content, 0xEF) != checksum & 0xFF:
            raise _Refused(_BAD_SUM)
        return content

    def _data(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        self._append(self._block(data, checksum))
        return 0, b""

    def _deflated_data(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        content = self._block(data, checksum)
        if self._inflate is None:
            raise _Refused(_INVALID)
        try:
            self._append(self._inflate.decompress(content))
        except zlib.error:
            raise _Refused(_BAD_DEFLATE) from None
        return 0, b""

    def _append(self, content: bytes) -> None:
        if not self._flash.has(self._address, max(len(content), 1)):
            raise _Refused(_FAILED)
        if not self._flash.program(self._address, content, _PAGE):
            raise _Refused(_FAILED)
        self._address += len(content)

    def _end(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        (stay,) = struct.unpack_from("<I", data)
        if not stay:
            self.leaves_to = RESET
        return 0, b""

    def _md5(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        offset, nbytes = struct.unpack_from("<II", data)
        content = self._flash.read(self._place(offset, nbytes), nbytes)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return 0, digest.encode()

    def _read_flash(self, data: bytes, checksum: int) -> tuple[int, bytes]:
        offset, nbytes = struct.unpack_from("<II", data)
        if nbytes > 64:
            raise _Refused(_INVALID)
        return 0, self._flash.read(self._place(offset, nbytes), nbytes).ljust(64, b"\0")


def _slip(frame: bytes) -> bytes:
    body = frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + body + b"\xc0"


def start(target: Target, flash: FlashMemory, folder: Path) -> SerialLoader:
    """The ROM in download mode."""
    return SerialLoader(target, flash, folder)


def is_unbootable(target: Target, flash: FlashMemory) -> bool:
    """Whether the ROM finds nothing to start: it starts what begins as a direct boot does, and
    nothing where no CPU is simulated. What a second stage loader would start is not."""
    if "family" not in target.sim:
        return True
    from edgekit.sim.esp32c3 import DIRECT_BOOT_OFFSET, is_direct_boot

    return not is_direct_boot(flash.read(flash.regions()[0][0], DIRECT_BOOT_OFFSET))


#: What the ROM has started it does not take back.
TAKES_OVER = False


def boot_pins(*, dtr: bool, rts: bool) -> tuple[bool, bool]:
    """The circuit of Espressif's boards: RTS resets, DTR selects the ROM, never both."""
    return rts and not dtr, dtr
