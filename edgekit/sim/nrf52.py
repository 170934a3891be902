"""nRF52840: oscillators, pins, instruction cache, and the UART that is handed byte by byte.

Source: nRF52840 Product Specification v1.7, sections 4.3 NVMC, 5.4 CLOCK, 6.9 GPIO, 6.33 UART.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.debug.dap import MemoryPortSpec, Wiring
from edgekit.sim.device import BoardFault, Device
from edgekit.sim.nvm.nrf52 import USER, Nvmc
from edgekit.sim.uart import Wire

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.line import Line
    from edgekit.targets import Target

_CPU_HZ = 64_000_000.0
_UART_HZ = 16_000_000
#: Start-up of the 64 MHz crystal oscillator, from the task to its event (5.4.4)
_HFXO_US = 360


class _Clock(Device):
    """CLOCK and POWER, which share their addresses. The core's frequency never changes."""

    HFCLKSTART, HFCLKSTOP, LFCLKSTART, LFCLKSTOP = 0x000, 0x004, 0x008, 0x00C
    HFCLKSTARTED, LFCLKSTARTED = 0x100, 0x104
    HFCLKRUN, HFCLKSTAT, LFCLKRUN, LFCLKSTAT, LFCLKSRC = 0x408, 0x40C, 0x414, 0x418, 0x518

    def __init__(self, board: Board) -> None:
        super().__init__("CLOCK", 0x40000000, 0x1000)
        self._board = board
        self._crystal_at: int | None = None
        self._slow = False

    def crystal(self) -> bool:
        """Whether the core's clock comes from the crystal."""
        return self._crystal_at is not None and self._board.counter.now >= self._crystal_at

    def read(self, offset: int) -> int:
        if offset == self.HFCLKSTARTED and self.crystal() and self.peek(self.HFCLKRUN):
            # raised once for each start
            self.values[self.HFCLKSTARTED] = 1
            self.values[self.HFCLKRUN] = 0
        if offset == self.HFCLKSTAT:  # STATE, SRC
            return 1 << 16 | int(self.crystal())
        if offset == self.LFCLKSTAT:
            return int(self._slow) << 16 | self.peek(self.LFCLKSRC) & 3
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.HFCLKSTART:
            if value & 1 and self._crystal_at is None:
                cycles = _HFXO_US * _CPU_HZ / 1e6
                self._crystal_at = self._board.counter.now + round(cycles * MILLI)
            self.values[self.HFCLKRUN] = 1
        elif offset == self.HFCLKSTOP:
            self._crystal_at = None
        elif offset == self.LFCLKSTART:
            self._slow = True
            self.values[self.LFCLKSTARTED] = 1
        elif offset == self.LFCLKSTOP:
            self._slow = False
        else:
            super().write(offset, value)


class _Port(Device):
    """A GPIO port; offsets are those of the manual less 0x500."""

    OUT, OUTSET, OUTCLR, DIR, DIRSET, DIRCLR, PIN_CNF = 0x04, 0x08, 0x0C, 0x14, 0x18, 0x1C, 0x200

    def __init__(self, name: str, base: int) -> None:
        # inputs, whose buffers are disconnected
        super().__init__(name, base, 0x300, {self.PIN_CNF + 4 * pin: 2 for pin in range(32)})

    def read(self, offset: int) -> int:
        if offset in (self.OUTSET, self.OUTCLR):
            return self.peek(self.OUT)
        if offset in (self.DIR, self.DIRSET, self.DIRCLR):
            return sum((self.pin(pin) & 1) << pin for pin in range(32))
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.OUTSET:
            self.values[self.OUT] = self.peek(self.OUT) | value
        elif offset == self.OUTCLR:
            self.values[self.OUT] = self.peek(self.OUT) & ~value
        elif offset in (self.DIR, self.DIRSET, self.DIRCLR):
            for pin in range(32):
                bit = value >> pin & 1
                if offset == self.DIR or bit:
                    out = bit if offset == self.DIR else int(offset == self.DIRSET)
                    self.values[self.PIN_CNF + 4 * pin] = self.pin(pin) & ~1 | out
        else:
            super().write(offset, value)

    def pin(self, number: int) -> int:
        """PIN_CNF: bit 0 DIR, bit 1 INPUT (1 = disconnected), 3:2 PULL."""
        return self.peek(self.PIN_CNF + 4 * number)


class _Uart(Device):
    """UART0. A byte that comes is moved to RXD when that is free, and then raises its event."""

    STARTRX, STOPRX, STARTTX, STOPTX = 0x000, 0x004, 0x008, 0x00C
    CTS, NCTS, RXDRDY, TXDRDY, ERROR, RXTO = 0x100, 0x104, 0x108, 0x11C, 0x124, 0x144
    SHORTS, INTENSET, ERRORSRC, ENABLE = 0x200, 0x304, 0x480, 0x500
    PSEL_RTS, PSEL_TXD, PSEL_CTS, PSEL_RXD = 0x508, 0x50C, 0x510, 0x514
    RXD, TXD, BAUDRATE, CONFIG = 0x518, 0x51C, 0x524, 0x56C
    #: The receiver's FIFO
    DEPTH = 6
    data_offsets = frozenset({RXD, TXD, RXDRDY, TXDRDY})

    def __init__(
        self,
        board: Board,
        line: Line,
        line_baud: int,
        check_pins: Callable[[int, int], None],
    ) -> None:
        pins = (self.PSEL_RTS, self.PSEL_TXD, self.PSEL_CTS, self.PSEL_RXD)
        super().__init__("UART0", 0x40002000, 0x1000, dict.fromkeys(pins, 0xFFFFFFFF))
        self.values[self.BAUDRATE] = 0x04000000
        self._check_pins = check_pins
        self._receives = self._sends = False
        self._loaded = self._on_its_way = False
        self.wire = Wire(board, line, line_baud, self.rate, self.DEPTH)

    def rate(self) -> float | None:
        """Bits per second, or ``None`` when off. The rate is a whole part of 16 MHz, as the
        table of BAUDRATE shows with its actual rates."""
        if self.peek(self.ENABLE) & 0xF != 4 or not (self._receives or self._sends):
            return None
        value = self.peek(self.BAUDRATE)
        if not value:
            raise BoardFault("UART0: BAUDRATE is 0")
        return _UART_HZ / max((1 << 32) // value, 1)

    def _load(self, *, poll: bool) -> None:
        if self._receives and not self._loaded and self.wire.received(poll=poll):
            self._loaded = True
            self.values[self.RXDRDY] = 1

    def read(self, offset: int) -> int:
        if offset == self.RXDRDY:
            if not self.peek(offset):
                self._load(poll=True)
        elif offset == self.TXDRDY:
            if self._on_its_way and not self.wire.outstanding():
                self._on_its_way = False
                self.values[offset] = 1
        elif offset == self.RXD:
            if not self._loaded:
                return 0
            byte = self.wire.take()
            self._loaded = False
            self._load(poll=False)
            return byte
        elif offset in (self.ERROR, self.ERRORSRC):
            return int(self.wire.overrun)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset in (self.STARTRX, self.STARTTX) and value & 1:
            if self.peek(self.ENABLE) & 0xF != 4:
                raise BoardFault("UART0: started while it is off (ENABLE)")
            self._receives |= offset == self.STARTRX
            self._sends |= offset == self.STARTTX
        elif offset == self.STOPRX:
            self._receives = self._loaded = False
        elif offset == self.STOPTX:
            self._sends = False
        elif offset == self.TXD:
            if not self._sends:
                raise BoardFault("UART0: TXD written before the transmitter was started (STARTTX)")
            if self._on_its_way and self.wire.outstanding():
                self.wire.board.report("UART0: TXD written before TXDRDY: a byte was lost")
                return
            self._check_pins(self.peek(self.PSEL_TXD), self.peek(self.PSEL_RXD))
            if self.peek(self.CONFIG) & 0x1F:
                raise BoardFault("UART0: CONFIG asks for flow control, parity or two stop bits")
            self._on_its_way = True
            self.wire.send(value & 0xFF)
        elif offset == self.ERRORSRC:
            self.wire.overrun &= not value & 1
        elif offset == self.INTENSET and value or offset == self.SHORTS and value:
            raise BoardFault("UART0: interrupts and shortcuts of UARTs are not simulated; poll")
        elif offset == self.ENABLE:
            if value & 0xF == 8:
                raise BoardFault("UARTE0: EasyDMA is not simulated; UART0 (ENABLE = 4) is")
            if not value:
                self._receives = self._sends = self._loaded = self._on_its_way = False
            super().write(offset, value)
        elif self.PSEL_RTS <= offset <= self.PSEL_RXD and self.peek(self.ENABLE):
            raise BoardFault("UART0: PSEL may only be written while it is off (ENABLE)")
        else:
            super().write(offset, value)

    def peek(self, offset: int) -> int:
        return 0 if offset in (self.RXD, self.TXD) else super().peek(offset)


def pin_number(name: str) -> int | None:
    """The number that PSEL has for a pin, as ``P1.03`` (35), or ``None``."""
    match = re.fullmatch(r"P([01])\.(\d\d)", name)
    return 32 * int(match.group(1)) + int(match.group(2)) if match else None


class Nrf52:
    """The chip of the Arduino Nano 33 BLE and of Nordic's nRF52840 DK."""

    def __init__(self, board: Board) -> None:
        self._board = board
        target = board.target
        self._clock = _Clock(board)
        self._ports = (_Port("P0", 0x50000500), _Port("P1", 0x50000800))
        uart = _Uart(board, board.line, int(target.link.get("baud", 115200)), self._check_pins)
        for device in (
            self._clock,
            *self._ports,
            uart,
            Nvmc(board),
            Device("GPIOTE", 0x40006000, 0x1000),
            # not started: writes to its reload registers do nothing
            Device("WDT", 0x40010000, 0x1000),
        ):
            board.bus.add(device)

    def _check_pins(self, tx: int, rx: int) -> None:
        pins = self._board.target.uart
        for role, selected, dir_wanted in (("tx", tx, 1), ("rx", rx, 0)):
            name = str(pins.get(role, ""))
            number = pin_number(name)
            if number is None:
                continue
            problem = None
            settings = self._ports[number // 32].pin(number % 32)
            if selected != number:
                problem = f"PSEL is {selected:#x}, not {number:#x}"
            elif settings & 1 != dir_wanted:
                problem = f"PIN_CNF is {settings:#x}: its direction is wrong"
            elif role == "rx" and settings & 2:
                problem = f"PIN_CNF is {settings:#x}: its input is disconnected"
            if problem:
                raise BoardFault(f"a byte was sent, but {name} is not the UART's {role}: {problem}")
        if not self._clock.crystal():
            self._board.report(
                "the UART runs from the internal oscillator; start the crystal (HFCLKSTART)"
            )

    def cpu_hz(self) -> float:
        return _CPU_HZ

    def boot(self) -> None:
        """What Nordic's start-up or a boot loader does: it starts what lies at its address."""
        target = self._board.target
        flash = next(region for region in target.memory if region.kind == "flash")
        self._board.start_at(int(target.sim.get("boot", flash.origin)))


def wiring(target: Target) -> Wiring:
    """Serial Wire with an AHB-AP and Nordic's control access port (4.8)."""
    ahb = MemoryPortSpec(0, 0x24770011, 0xE00FF003, 4096, packed=True)
    return Wiring(0x2BA01477, (ahb,), control_port=1)


NONVOLATILE = (USER,)
assemble = Nrf52
