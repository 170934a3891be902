"""ST's stlink-server with one ST-LINK/V2-1 behind it, as on the Nucleo boards.

OpenOCD reaches it with ``st-link backend tcp PORT`` or ``hla_stlink_backend tcp PORT``. The
server's requests wrap the commands that go to an ST-LINK over USB: 16 bytes, then data in or
out. Facts of both protocols: OpenOCD 0.12, src/jtag/drivers/stlink_usb.c.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable

from edgekit.sim.debug.core import DCRDR, DCRSR
from edgekit.sim.debug.dap import ABORT, DP_CTRL_STAT, DP_SELECT, AccessFault
from edgekit.sim.debug.runner import DebugRunner

_VENDOR, _PRODUCT = 0x0483, 0x374B
#: V2J37M27: banked registers of the debug port, memory through any access port
_JTAG, _MASS_STORAGE = 37, 27
_SERVER_VERSION = (2, 2, 1, 0)
_SERVER_FINE, _SERVER_BAD = 0x00000001, 0x00001002
#: Lengths of the server's requests by their first byte
_LENGTHS = {0: 2, 1: 1, 2: 8, 3: 8, 4: 8, 5: 32, 6: 4, 7: 8}
_DEVICE, _CONNECTION = 1, 0x5354
_WRITES = 0
_LARGEST = 10240
#: First byte of an ST-LINK's answer
_FINE, _FAULT, _UNKNOWN = 0x80, 0x11, 0x42
_MASS_MODE, _DEBUG_MODE = 1, 2
_DEBUG_PORT = 0xFFFF
_AIRCR, _SYSRESETREQ = 0xE000ED0C, 0x05FA0004
_POWER_UP = 0x50000000
_CLEAR_ALL = 0x1E


class Stlink:
    """One connection of an OpenOCD."""

    def __init__(self, runner: DebugRunner) -> None:
        self._runner = runner
        self._mode = _MASS_MODE
        self._status = _FINE
        self._fault_address = 0
        serial = zlib.crc32(runner.board.target.name.encode())
        self._serial = f"EDGEKIT{serial:08X}".encode().ljust(32, b"\0")
        reads: dict[int, tuple[int, bool]] = {
            0x07: (4, True), 0x0C: (1, True), 0x47: (2, True), 0x54: (4, False),
        }  # fmt: skip
        writes: dict[int, tuple[int, bool]] = {
            0x08: (4, True), 0x0D: (1, True), 0x48: (2, True), 0x50: (4, False),
        }  # fmt: skip
        self._reads, self._writes = reads, writes
        self._commands: dict[int, Callable[[bytes], bytes]] = {
            0x21: self._exit,
            0x30: self._enter,
            0x31: lambda command: _answer(self._runner.port.wiring.dpidr, 0),
            0x32: self._reset_system,
            0x33: self._read_register,
            0x34: self._write_register,
            0x35: self._write_debug_register,
            0x36: self._read_debug_register,
            0x3A: self._read_all_registers,
            0x3B: lambda command: bytes([self._status, 0]),
            0x3C: self._drive_reset,
            0x3E: self._last_status,
            0x40: lambda command: bytes([_FINE, 0]),
            0x41: lambda command: bytes([_FINE, 0]),
            0x42: lambda command: bytes(2),
            0x43: lambda command: bytes([_FINE, 0]),
            0x44: lambda command: bytes([_FINE, 0]),
            0x45: self._read_dap,
            0x46: self._write_dap,
            0x4B: lambda command: bytes([_FINE, 0]),
            0x4C: lambda command: bytes([_FINE, 0]),
        }

    # the server

    def serve(self, connection: socket.socket, first: bytes) -> None:
        """Answers until the other side closes."""
        pending = first
        while True:
            length = self._wanted(pending)
            if length is None:
                return
            if len(pending) < length:
                data = connection.recv(65536)
                if not data:
                    return
                pending += data
                continue
            request, pending = pending[:length], pending[length:]
            connection.sendall(self._runner.call(lambda r=request: self.answer(r)))  # type: ignore[misc]

    def _wanted(self, pending: bytes) -> int | None:
        """The length of the request that begins here; ``None``: it is none."""
        if not pending:
            return 1
        length = _LENGTHS.get(pending[0])
        if length is None:
            return None
        if pending[0] == 5 and len(pending) >= length and pending[24] == _WRITES:
            length += int.from_bytes(pending[28:32], "little")
        return length if length <= _LARGEST else None

    def answer(self, request: bytes) -> bytes:
        """The server's answer to one request."""
        fine = struct.pack("<I", _SERVER_FINE)
        kind = request[0]
        if kind == 6:
            return struct.pack("<4I", *_SERVER_VERSION)
        if kind == 1:
            return struct.pack("<I", 1)
        if kind == 2:
            info = struct.pack("<I32sHHB", _DEVICE, self._serial, _VENDOR, _PRODUCT, 0)
            return fine + info
        if kind == 3:
            return fine + struct.pack("<I", _CONNECTION)
        if kind == 7:
            return fine + struct.pack("<I", 1)
        if kind != 5:
            return fine
        size = int.from_bytes(request[28:32], "little")
        if int.from_bytes(request[4:8], "little") != _CONNECTION or size > _LARGEST:
            return struct.pack("<I", _SERVER_BAD)
        command = request[8:24]
        if request[24] == _WRITES:
            self._write_memory(command, request[32:])
            return fine
        return fine + self._command(command, size).ljust(size, b"\0")[:size]

    # the ST-LINK

    def _command(self, command: bytes, size: int) -> bytes:
        first = command[0]
        if first == 0xF1:
            version = 2 << 12 | _JTAG << 6 | _MASS_STORAGE
            return struct.pack(">H", version) + struct.pack("<HH", _VENDOR, _PRODUCT)
        if first == 0xF5:
            return bytes([self._mode, 0])
        if first == 0xF7:  # 3.3 V, against a reference of 1.2 V
            return struct.pack("<II", 1500, 2063)
        if first != 0xF2:
            return bytes([_UNKNOWN, 0])
        if command[1] in self._reads:
            return self._read_memory(command, *self._reads[command[1]])
        handler = self._commands.get(command[1])
        if handler is None:
            return bytes([_UNKNOWN, 0])
        try:
            return handler(command)
        except AccessFault:
            return bytes([_FAULT, 0])

    def _enter(self, command: bytes) -> bytes:
        """Connects: the debug domain is powered, old errors are cleared."""
        self._mode = _DEBUG_MODE
        port = self._runner.port
        port.write_dp(ABORT, _CLEAR_ALL)
        port.write_dp(DP_SELECT, 0)
        port.write_dp(DP_CTRL_STAT, _POWER_UP)
        return bytes([_FINE, 0])

    def _exit(self, command: bytes) -> bytes:
        self._mode = _MASS_MODE
        return b""

    def _drive_reset(self, command: bytes) -> bytes:
        level = command[2]
        if level in (0, 2):
            self._runner.drive_reset(True)
        if level in (1, 2):
            self._runner.drive_reset(False)
        return bytes([_FINE, 0])

    def _reset_system(self, command: bytes) -> bytes:
        self._runner.write_memory(_AIRCR, 4, _SYSRESETREQ)
        return bytes([_FINE, 0])

    def _last_status(self, command: bytes) -> bytes:
        return _answer(self._fault_address, 0, status=self._status)

    # registers

    def _word(self, address: int) -> int:
        return self._runner.port.memory(0).block_read(address, 4, 1, increment=True)[0]

    def _set_word(self, address: int, value: int) -> None:
        self._runner.port.memory(0).block_write(address, 4, [value], increment=True)

    def _core_register(self, number: int) -> int:
        self._set_word(DCRSR, number)
        return self._word(DCRDR)

    def _read_register(self, command: bytes) -> bytes:
        return _answer(self._core_register(command[2]))

    def _write_register(self, command: bytes) -> bytes:
        self._set_word(DCRDR, int.from_bytes(command[3:7], "little"))
        self._set_word(DCRSR, 1 << 16 | command[2])
        return bytes([_FINE, 0])

    def _read_all_registers(self, command: bytes) -> bytes:
        return _answer(*(self._core_register(number) for number in range(19)), 0, 0)

    def _read_debug_register(self, command: bytes) -> bytes:
        return _answer(self._word(int.from_bytes(command[2:6], "little")))

    def _write_debug_register(self, command: bytes) -> bytes:
        address, value = struct.unpack("<II", command[2:10])
        self._set_word(address, value)
        return bytes([_FINE, 0])

    def _read_dap(self, command: bytes) -> bytes:
        port, register = struct.unpack("<HH", command[2:6])
        dap = self._runner.port
        if port == _DEBUG_PORT:
            self._bank(register)
            return _answer(dap.read_dp(register & 0xF) if register & 0xF != 0xC else 0)
        return _answer(dap.access(port & 0xFF, register, None))

    def _write_dap(self, command: bytes) -> bytes:
        port, register, value = struct.unpack("<HHI", command[2:10])
        dap = self._runner.port
        if port == _DEBUG_PORT:
            self._bank(register)
            dap.write_dp(register & 0xF, value)
        else:
            dap.access(port & 0xFF, register, value)
        return bytes([_FINE, 0])

    def _bank(self, register: int) -> None:
        """Bits 7:4 of a register of the debug port choose its bank."""
        dap = self._runner.port
        dap.select = dap.select & ~0xF | register >> 4 & 0xF

    # memory

    def _place(self, command: bytes, size: int) -> tuple[int, int, int]:
        """(access port, address, transfers)."""
        address, nbytes = struct.unpack("<IH", command[2:8])
        return command[8], address, nbytes // size

    def _read_memory(self, command: bytes, size: int, increment: bool) -> bytes:
        number, address, count = self._place(command, size)
        words: list[int] = []
        self._status = _FINE
        try:
            memory = self._runner.port.memory(number)
            words = memory.block_read(address, size, count, increment=increment)
        except AccessFault:
            self._failed(address)
        return b"".join(word.to_bytes(size, "little") for word in words)

    def _write_memory(self, command: bytes, data: bytes) -> None:
        if command[0] != 0xF2 or command[1] not in self._writes:
            return
        size, increment = self._writes[command[1]]
        number, address, count = self._place(command, size)
        data = data[: count * size]
        words = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
        self._status = _FINE
        try:
            self._runner.port.memory(number).block_write(address, size, words, increment=increment)
        except AccessFault:
            self._failed(address)

    def _failed(self, address: int) -> None:
        self._status, self._fault_address = _FAULT, address
        self._runner.port.write_dp(ABORT, _CLEAR_ALL)


def _answer(*words: int, status: int = _FINE) -> bytes:
    return struct.pack(f"<I{len(words)}I", status, *(word & 0xFFFFFFFF for word in words))
