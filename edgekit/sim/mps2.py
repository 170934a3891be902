"""Arm MPS2 and MPS2+ boards (AN385, AN386, AN500): fixed clock, CMSDK timers and UARTs.

Sources: AN386 section 3 (memory map, 25 MHz), CMSDK Technical Reference Manual (DDI 0479) 4.2
APB timer, 4.3 APB UART.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.device import Device
from edgekit.sim.uart import CmsdkUart

if TYPE_CHECKING:
    from edgekit.sim.board import Board

_TIMERS = (0x40000000, 0x40001000)
_UARTS = (0x40004000, 0x40005000, 0x40006000, 0x40007000, 0x40009000)


class CmsdkTimer(Device):
    """A 32-bit down counter at the system clock that reloads after zero."""

    CTRL, VALUE, RELOAD, INTSTATUS = 0x00, 0x04, 0x08, 0x0C

    def __init__(self, name: str, base: int, board: Board) -> None:
        super().__init__(name, base, 0x1000)
        self._board = board
        self._from = 0  # cycles at which it held `_value`
        self._value = 0

    def _now(self) -> int:
        return self._board.counter.now // MILLI

    def _current(self) -> int:
        if not self.peek(self.CTRL) & 1:
            return self._value
        elapsed = self._now() - self._from
        if elapsed <= self._value:
            return self._value - elapsed
        reload = self.peek(self.RELOAD)
        return reload - (elapsed - self._value - 1) % (reload + 1)

    def read(self, offset: int) -> int:
        return self._current() if offset == self.VALUE else super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.VALUE:
            self._value, self._from = value, self._now()
            return
        if offset == self.RELOAD:
            # a write sets the current value too (DDI 0479, table 4-6)
            self._value, self._from = value, self._now()
        if offset == self.CTRL:
            self._value, self._from = self._current(), self._now()
        super().write(offset, value)


class Mps2:
    """The peripherals that a firmware of ours or a plain one needs."""

    def __init__(self, board: Board) -> None:
        self._board = board
        target = board.target
        self._hz = float(target.clock_hz or 25_000_000)
        for index, base in enumerate(_TIMERS):
            board.bus.add(CmsdkTimer(f"TIMER{index}", base, board))
        console = int(target.uart.get("base", _UARTS[0]))
        baud = int(target.link.get("baud", 115200))
        for index, base in enumerate(_UARTS):
            if base == console:
                board.bus.add(CmsdkUart(f"UART{index}", base, board, self._hz, board.line, baud))
            else:
                board.bus.add(Device(f"UART{index}", base, 0x1000))
        board.bus.add(Device("FPGAIO", 0x40028000, 0x1000))
        board.bus.add(Device("SCC", 0x4002F000, 0x1000))

    def cpu_hz(self) -> float:
        return self._hz

    def boot(self) -> None:
        flash = next(r for r in self._board.target.memory if r.kind == "flash")
        self._board.start_at(int(self._board.target.sim.get("boot", flash.origin)))


assemble = Mps2
