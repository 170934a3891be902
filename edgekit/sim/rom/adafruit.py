"""Adafruit's boot loader for nRF52: Nordic's serial DFU of SDK 11, as adafruit-nrfutil speaks it.

SLIP frames with HCI packets: a header of four bytes with its checksum, data, a CRC. Each packet
is acknowledged; a start packet erases, an init packet says what is coming, data packets are
programmed page by page, and a stop packet has the image's CRC checked. Only an image that was
found good is marked so in the settings page, and only a marked one is started: whenever power
goes, the boot loader is there again. Sources: adafruit/Adafruit_nRF52_Bootloader, src/dfu_init.c
and lib/sdk11/components/libraries/bootloader_dfu; Nordic nRF5 SDK 11, "HCI" and "SLIP".

Settings in ``sim.rom``: ``settings_at``, the page with the boot loader's settings, and
``reserved_bytes`` at the end of the application's flash that belong to its data.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.sim.rom import RESET
from edgekit.sim.rom.memory import FlashMemory
from edgekit.targets import Region

if TYPE_CHECKING:
    from edgekit.targets import Target

_PAGE, _WORD = 4096, 4
_END, _ESCAPE = 0xC0, 0xDB
_ESCAPED = {0xDC: _END, 0xDD: _ESCAPE}
#: Packet types of HCI, and of what is in them
_VENDOR_SPECIFIC = 14
_INIT, _START, _DATA, _STOP = 1, 3, 4, 5
_APPLICATION = 4
_DEVICE_TYPE, _ANY_SOFTDEVICE = 0x0052, 0xFFFE
#: S140 6.1.1, which leaves the application at 0x26000
_SOFTDEVICE = 0x00B6
_VALID, _INVALID, _UNKNOWN = 0x01, 0xFF, 0xFFFF
_RAM, _RAM_END = 0x20000000, 0x20040000


class SerialLoader:
    """The boot loader, waiting for a start packet."""

    volume: Path | None = None

    def __init__(self, target: Target, flash: FlashMemory) -> None:
        self.leaves_to: int | None = None
        self._flash = flash
        self._settings_at = int(target.sim["rom"]["settings_at"])
        self._origin, nbytes = flash.regions()[0]
        self._room = nbytes - int(target.sim["rom"].get("reserved_bytes", 0))
        self._frame: bytearray | None = None
        self._escaped = False
        self._expected = 1
        self._begin_again()

    def _begin_again(self) -> None:
        """The state after a reset of the boot loader, which errors cause."""
        self._size = self._received = 0
        self._crc: int | None = None
        self._started = False
        self._page = bytearray()

    def step(self, incoming: bytes) -> bytes:
        out = bytearray()
        for byte in incoming:
            if byte == _END:
                if self._frame:
                    out += self._packet(bytes(self._frame))
                self._frame, self._escaped = bytearray(), False
            elif self._frame is None:
                continue
            elif byte == _ESCAPE:
                self._escaped = True
            else:
                self._frame.append(_ESCAPED.get(byte, byte) if self._escaped else byte)
                self._escaped = False
        return bytes(out)

    def close(self) -> None:
        self._frame = None

    def _packet(self, frame: bytes) -> bytes:
        """Takes a packet; the acknowledgement, or nothing for one that is damaged."""
        if len(frame) < 6 or sum(frame[:4]) & 0xFF:
            return b""
        if crc16(frame[:-2]) != int.from_bytes(frame[-2:], "little"):
            return b""
        nbytes = frame[1] >> 4 | frame[2] << 4
        if frame[1] & 0xF != _VENDOR_SPECIFIC or nbytes != len(frame) - 6:
            return b""
        if frame[0] & 7 == self._expected:
            self._expected = (self._expected + 1) & 7
            self._obey(frame[4:-2])
        header = bytes([self._expected << 3, 0, 0])
        header += bytes([-sum(header) & 0xFF])
        return b"\xc0" + header + b"\xc0"

    def _obey(self, data: bytes) -> None:
        if len(data) < _WORD:
            return
        kind, content = int.from_bytes(data[:4], "little"), data[4:]
        if kind == _START and len(content) >= 16 and not self._started:
            self._start(*struct.unpack("<IIII", content[:16]))
        elif kind == _INIT and self._started:
            self._init(content)
        elif kind == _DATA and self._crc is not None:
            self._data(content)
        elif kind == _STOP and self._crc is not None:
            self._stop()

    def _start(self, mode: int, softdevice: int, loader: int, size: int) -> None:
        fits = size % _WORD == 0 and size <= self._room
        if mode != _APPLICATION or softdevice or loader or not size or not fits:
            self._begin_again()
            return
        self._started, self._size = True, size
        self._save(_INVALID, 0)
        self._flash.erase(self._origin, -(-size // _PAGE) * _PAGE, _PAGE)

    def _init(self, content: bytes) -> None:
        try:
            kind, _, _, count = struct.unpack_from("<HHIH", content)
            devices = struct.unpack_from(f"<{count}H", content, 10)
            (crc,) = struct.unpack_from("<H", content, 10 + 2 * count)
        except struct.error:
            self._begin_again()
            return
        if kind != _DEVICE_TYPE or not {_ANY_SOFTDEVICE, _SOFTDEVICE} & set(devices):
            self._begin_again()
            return
        self._crc = crc

    def _data(self, content: bytes) -> None:
        if self._received + len(self._page) + len(content) > self._size:
            self._size = -1  # more than was announced: nothing of it is taken any more
            return
        self._page += content
        while len(self._page) >= _PAGE or (
            self._page and self._received + len(self._page) == self._size
        ):
            page, self._page = self._page[:_PAGE], self._page[_PAGE:]
            self._flash.program(self._origin + self._received, bytes(page), _WORD)
            self._received += len(page)

    def _stop(self) -> None:
        if self._received != self._size:
            return
        if crc16(self._flash.read(self._origin, self._size)) == self._crc:
            # the CRC is not kept: 0 means that it is not looked at again
            self._save(_VALID, self._size)
            self.leaves_to = RESET

    def _save(self, state: int, size: int) -> None:
        """Erases and writes the settings page: bank 0, its CRC, bank 1, bank 0's size."""
        settings = struct.pack("<HHHHI", state, 0, _INVALID, 0, size) + bytes(16)
        self._flash.erase(self._settings_at, _PAGE, _PAGE)
        self._flash.program(self._settings_at, settings, _WORD)


def crc16(data: bytes) -> int:
    """CRC-16-CCITT from 0xFFFF, as Nordic's boot loaders have it."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8 | crc << 8) & 0xFFFF
        crc ^= byte
        crc ^= (crc & 0xFF) >> 4
        crc ^= crc << 12 & 0xFFFF
        crc ^= (crc & 0xFF) << 5
    return crc


def regions(target: Target) -> tuple[Region, ...]:
    """The page with the boot loader's settings."""
    return (Region("BOOTSETTINGS", "flash", int(target.sim["rom"]["settings_at"]), _PAGE),)


def start(target: Target, flash: FlashMemory, folder: Path) -> SerialLoader:
    """The boot loader after a reset."""
    return SerialLoader(target, flash)


def is_unbootable(target: Target, flash: FlashMemory) -> bool:
    """Whether the boot loader finds no application that it would start."""
    state, crc, _, _, size = struct.unpack(
        "<HHHHI", flash.read(int(target.sim["rom"]["settings_at"]), 12)
    )
    origin, nbytes = flash.regions()[0]
    stack, entry = struct.unpack("<II", flash.read(origin, 8))
    plausible = bool(
        _RAM <= stack <= _RAM_END
        and stack % 4 == 0
        and entry & 1 == 1
        and origin <= entry < origin + nbytes
    )
    if state == _VALID and crc:
        return bool(size > nbytes or crc16(flash.read(origin, size)) != crc)
    # an application that a debugger has written has no settings
    return not (plausible and state in (_VALID, _UNKNOWN))


#: An application that is marked as valid is started.
TAKES_OVER = False


def boot_pins(*, dtr: bool, rts: bool) -> tuple[bool, bool]:
    """The port is the chip's own USB: its lines reset nothing."""
    return False, False
