"""OpenOCD's ``remote_bitbang`` adapter: one character for each change of the debug pins.

``0`` to ``7`` set TCK, TMS and TDI, ``R`` asks for TDO, ``r`` to ``u`` set TRST and SRST; for
Serial Wire (OpenOCD newer than 0.12) ``d`` to ``g`` set SWCLK and SWDIO, ``c`` asks for SWDIO,
``O`` and ``o`` say who drives it. Source: OpenOCD, doc/manual/jtag/drivers/remote_bitbang.txt.
"""

from __future__ import annotations

import socket

from edgekit.sim.debug.runner import DebugRunner
from edgekit.sim.debug.wire import Jtag, SerialWire


class Bitbang:
    """One connection of an OpenOCD."""

    def __init__(self, runner: DebugRunner) -> None:
        self._runner = runner
        self._jtag = Jtag(runner) if runner.port.wiring.taps else None
        self._wire = SerialWire(runner)
        self._clock = 0
        self._serial_clock = 0
        self._pins = 0

    def serve(self, connection: socket.socket, first: bytes) -> None:
        """Answers until the other side quits or closes."""
        data = first
        while data:
            answer, quits = self.take(data)
            if answer:
                connection.sendall(answer)
            if quits:
                return
            data = connection.recv(65536)

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """Carries out requests; (answers, whether to quit)."""
        answer = bytearray()
        jtag, wire = self._jtag, self._wire
        for byte in data:
            if 0x30 <= byte <= 0x37:
                rises = byte & 4 and not self._clock
                self._clock = byte & 4
                if rises and jtag is not None:
                    jtag.clock(byte >> 1 & 1, byte & 1)
            elif byte == 0x52:  # R: a pin that nobody drives is pulled up
                answer.append(0x30 + (jtag.tdo if jtag is not None else 1))
            elif 0x64 <= byte <= 0x67:  # d to g
                rises = byte - 0x64 & 2 and not self._serial_clock
                self._serial_clock = byte - 0x64 & 2
                if rises:
                    wire.clock(byte - 0x64 & 1)
            elif byte == 0x63:  # c
                answer.append(0x30 + (1 if wire.driven is None else wire.driven))
            elif 0x72 <= byte <= 0x75:  # r to u
                self._reset(bool(byte - 0x72 & 1))
            elif byte == 0x51:  # Q
                return bytes(answer), True
            # B and b, a lamp; O and o, the driver of SWDIO, which shows by itself
        return bytes(answer), False

    def _reset(self, held: bool) -> None:
        runner = self._runner
        if held != runner.in_reset:
            runner.call(lambda: runner.drive_reset(held))
