"""UARTs: their registers, their bit rate, and the bytes on the line.

Time on the line is simulated time: a byte takes ten bits at the rate that the registers give,
a receiver that is not emptied in time overruns, and a rate more than 3 % off the line's
(half of what 10 bits tolerate) garbles every byte. While the firmware waits for a byte that
is on its way, the clock jumps to its arrival; while nothing is on its way the board sleeps.

Sources: STM32 USART and LPUART, RM0432 sections 50 and 51 (L4+), RM0455 51, RM0456 66,
RM0444 33; PL011, Arm DDI 0183 chapter 3 and RP2040 datasheet 4.2; CMSDK APB UART, Arm DDI
0479 section 4.3; UART of the ESP32-C3, ESP-IDF's ``uart_reg.h`` and Technical Reference Manual,
"UART Controller".
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.device import BoardFault, Device

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.line import Line

#: What sampling in the middle of a bit tolerates over ten bits, shared by both ends.
BAUD_TOLERANCE = 0.03
_FLUSH_BYTES = 256
_SLEEP_S = 0.02
#: Polls without a byte after which the firmware is taken to be waiting
_IDLE_POLLS = 2


class Wire:
    """The transmitter and receiver behind a UART's registers.

    Args:
        board: gives time.
        line: the outside.
        line_baud: the rate of the other end.
        depth: bytes that the receiver holds (1: a data register only).
        rate: the rate that the registers give now, in bits per second, or ``None`` when off.
    """

    def __init__(
        self,
        board: Board,
        line: Line,
        line_baud: int,
        rate: Callable[[], float | None],
        depth: int = 1,
    ) -> None:
        self.board = board
        self.line = line
        self.line_baud = line_baud
        self.depth = depth
        self.overrun = False
        self._rate = rate
        self._incoming: deque[tuple[int, int]] = deque()
        self._last_arrival = 0
        self._sent_until = 0
        self._outgoing = bytearray()
        self._polls = 0
        self._computed = -1
        self._time: int | None = None
        self._flushing = threading.Lock()

    def _byte_time(self) -> int | None:
        """Thousandths of a CPU cycle that ten bits take."""
        if self._computed != self.board.settings:
            rate = self._rate()
            self._computed = self.board.settings
            self._time = round(10 * MILLI * self.board.cpu_hz() / rate) if rate else None
        return self._time

    def _garbled(self, byte: int) -> int:
        byte_time = self._byte_time()
        if not byte_time:
            return byte
        rate = 10 * MILLI * self.board.cpu_hz() / byte_time
        error = rate / self.line_baud - 1
        if abs(error) <= BAUD_TOLERANCE:
            return byte
        self.board.report(
            f"the UART runs at {rate:,.0f} baud and the line at {self.line_baud:,} "
            f"({error:+.1%}): bytes are garbled"
        )
        return (byte << 1 ^ 0xA5) & 0xFF

    def send(self, byte: int) -> None:
        """A byte into the transmitter."""
        byte_time = self._byte_time()
        if byte_time is None:
            raise BoardFault("a byte was written to a UART whose transmitter is off")
        self._polls = 0
        now = self.board.counter.now
        if self.outstanding() > self.depth:
            self.board.report("a byte was written to the UART's full transmitter: one was lost")
            return
        self._sent_until = max(now, self._sent_until) + byte_time
        self.board.first_output()
        self._outgoing.append(self._garbled(byte))
        if len(self._outgoing) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._outgoing:
            return
        # called by the board's thread and by the one that serves it
        with self._flushing:
            data = bytes(self._outgoing)
            del self._outgoing[: len(data)]
            self.line.write(data)

    def outstanding(self) -> int:
        """Bytes in the transmitter: in the data register or FIFO and on the line."""
        left = self._sent_until - self.board.counter.now
        byte_time = self._byte_time()
        if left <= 0 or not byte_time:
            return 0
        return -(-left // byte_time)

    def _fetch(self) -> None:
        if self._incoming:
            return
        data = self.line.read()
        if data:
            byte_time = self._byte_time()
            if byte_time is None:
                return  # the receiver is off: nobody hears it
            at = max(self.board.counter.now, self._last_arrival)
            for byte in data:
                at += byte_time
                self._incoming.append((at, byte))
            self._last_arrival = at

    def _overflow(self) -> None:
        """Drops what arrived while the receiver was full: the newest is lost."""
        now = self.board.counter.now
        if len(self._incoming) <= self.depth or self._incoming[self.depth][0] > now:
            return
        kept = [self._incoming.popleft() for _ in range(self.depth)]
        lost = 0
        while self._incoming and self._incoming[0][0] <= now:
            self._incoming.popleft()
            lost += 1
        self._incoming.extendleft(reversed(kept))
        self.overrun = True
        self.board.report(
            f"the UART overran: {lost} bytes came before the firmware took the one before"
        )

    def received(self, *, poll: bool = True) -> bool:
        """Whether a byte waits in the receiver. ``poll``: the firmware asks, perhaps in a loop."""
        self._fetch()
        now = self.board.counter.now
        if self._incoming and self._incoming[0][0] <= now:
            return True
        if not poll:
            return False
        self._polls += 1
        if self._polls <= _IDLE_POLLS:
            return False
        if self._sent_until > now:
            first = self._incoming[0][0] if self._incoming else self._sent_until
            self.board.skip_to(min(self._sent_until, first))
            # there is room again: let the firmware use it before it is taken to be idle
            self._polls = 0
        elif self._incoming:
            self.board.skip_to(self._incoming[0][0])
        else:
            self.flush()
            self.idle()
        return bool(self._incoming) and self._incoming[0][0] <= self.board.counter.now

    def idle(self) -> None:
        """Sleeps until something comes in, and lets the same time pass for the firmware."""
        start = time.monotonic()
        self.line.wait(_SLEEP_S)
        elapsed = min(time.monotonic() - start, _SLEEP_S)
        self.board.skip(round(elapsed * self.board.cpu_hz()))
        self._fetch()

    def take(self) -> int:
        """The oldest received byte, 0 when there is none."""
        self._fetch()
        self._overflow()
        self._polls = 0
        if not self._incoming or self._incoming[0][0] > self.board.counter.now:
            return 0
        return self._garbled(self._incoming.popleft()[1])


class StmUart(Device):
    """USART v2 and later, and LPUART, of STM32."""

    CR1, CR2, CR3, BRR, RQR, ISR, ICR, RDR, TDR, PRESC = (
        0x00, 0x04, 0x08, 0x0C, 0x18, 0x1C, 0x20, 0x24, 0x28, 0x2C,
    )  # fmt: skip
    data_offsets = frozenset({TDR})
    _UE, _RE, _TE, _OVER8, _FIFOEN = 1 << 0, 1 << 2, 1 << 3, 1 << 15, 1 << 29
    _PRESCALERS = (1, 2, 4, 6, 8, 10, 12, 16, 32, 64, 128, 256)

    def __init__(
        self,
        name: str,
        base: int,
        board: Board,
        kernel_hz: Callable[[], float],
        line: Line,
        line_baud: int,
        *,
        low_power: bool,
        check_pins: Callable[[], None],
    ) -> None:
        super().__init__(name, base)
        self._kernel_hz = kernel_hz
        self._low_power = low_power
        self._check_pins = check_pins
        self.wire = Wire(board, line, line_baud, self.rate)

    def rate(self) -> float | None:
        """Bits per second that the registers give, or ``None`` when the UART is off."""
        control, divider = self.peek(self.CR1), self.peek(self.BRR)
        if not control & self._UE or not divider:
            return None
        prescaler = self._PRESCALERS[min(self.peek(self.PRESC) & 0xF, 11)]
        clock = self._kernel_hz() / prescaler
        if self._low_power:
            if divider < 0x300:
                raise BoardFault(f"{self.name}: BRR is {divider:#x}, below the 0x300 it needs")
            return 256 * clock / divider
        if control & self._OVER8:
            # the low three bits are shifted right, bit 3 stays clear
            return 2 * clock / (divider & 0xFFF0 | divider << 1 & 0xF)
        if divider < 16:
            raise BoardFault(f"{self.name}: BRR is {divider}, below the 16 it needs")
        return clock / divider

    def read(self, offset: int) -> int:
        control = self.peek(self.CR1)
        if offset == self.ISR:
            status = 0
            if control & self._UE and control & self._RE:
                status |= 1 << 22  # REACK
                if self.wire.received():
                    status |= 1 << 5  # RXNE
                if self.wire.overrun:
                    status |= 1 << 3  # ORE
            if control & self._UE and control & self._TE:
                status |= 1 << 21  # TEACK
                outstanding = self.wire.outstanding()
                if outstanding <= self.wire.depth:
                    status |= 1 << 7  # TXE
                if not outstanding:
                    status |= 1 << 6  # TC
            else:
                status |= 1 << 7 | 1 << 6
            return status
        if offset == self.RDR:
            return self.wire.take()
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.TDR:
            if not self.peek(self.CR1) & self._TE:
                raise BoardFault(f"{self.name}: TDR written while the transmitter is off (CR1.TE)")
            self._check_pins()
            self.wire.send(value & 0xFF)
        elif offset == self.ICR:
            if value & 1 << 3:
                self.wire.overrun = False
        elif offset == self.RQR:
            if value & 1 << 3:  # RXFRQ
                self.wire.take()
        elif offset == self.BRR and self.peek(self.CR1) & self._UE:
            raise BoardFault(f"{self.name}: BRR may only be written while the UART is off (CR1.UE)")
        else:
            wants = offset == self.CR1 and value & 0x1F0 or offset == self.CR3 and value & 0xC0
            if wants:
                raise BoardFault(
                    f"{self.name}: interrupts and DMA of UARTs are not simulated; poll ISR"
                )
            if offset == self.CR1:
                self.wire.depth = 8 if value & self._FIFOEN else 1
            super().write(offset, value)

    def peek(self, offset: int) -> int:
        return 0 if offset in (self.TDR, self.RDR, self.ICR) else super().peek(offset)


class StmUartV1(Device):
    """USART of the first STM32 families (F1, F2, F4): RM0390 25.6."""

    SR, DR, BRR, CR1, CR2, CR3 = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14
    data_offsets = frozenset({DR})
    _RE, _TE, _UE, _OVER8 = 1 << 2, 1 << 3, 1 << 13, 1 << 15

    def __init__(
        self,
        name: str,
        base: int,
        board: Board,
        kernel_hz: Callable[[], float],
        line: Line,
        line_baud: int,
        *,
        low_power: bool,
        check_pins: Callable[[], None],
    ) -> None:
        if low_power:
            raise ValueError(f"{name}: these families have no low-power UART")
        super().__init__(name, base)
        self._kernel_hz = kernel_hz
        self._check_pins = check_pins
        self._told = False  # SR was read and showed an overrun
        self.wire = Wire(board, line, line_baud, self.rate)

    def rate(self) -> float | None:
        """Bits per second that the registers give, or ``None`` when the USART is off."""
        control, divider = self.peek(self.CR1), self.peek(self.BRR) & 0xFFFF
        if not control & self._UE or not divider:
            return None
        if control & self._OVER8:  # three bits of fraction
            return self._kernel_hz() / ((divider >> 4) * 8 + (divider & 7))
        if divider < 16:
            raise BoardFault(f"{self.name}: BRR is {divider}, below the 16 it needs")
        return self._kernel_hz() / divider

    def read(self, offset: int) -> int:
        control = self.peek(self.CR1)
        if offset == self.SR:
            status = 0
            if control & self._UE and control & self._RE:
                if self.wire.received():
                    status |= 1 << 5  # RXNE
                if self.wire.overrun:
                    status |= 1 << 3  # ORE
            outstanding = 0
            if control & self._UE and control & self._TE:
                outstanding = self.wire.outstanding()
            if outstanding <= self.wire.depth:
                status |= 1 << 7  # TXE
            if not outstanding:
                status |= 1 << 6  # TC
            self._told = bool(status & 1 << 3)
            return status
        if offset == self.DR:
            if self._told:  # SR and then DR clear the errors
                self.wire.overrun = self._told = False
            return self.wire.take()
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.DR:
            control = self.peek(self.CR1)
            if not (control & self._UE and control & self._TE):
                raise BoardFault(f"{self.name}: DR written while the transmitter is off (UE, TE)")
            self._check_pins()
            self.wire.send(value & 0xFF)
            return
        wants = offset == self.CR1 and value & 0x1F0 or offset == self.CR3 and value & 0xC0
        if wants:
            raise BoardFault(f"{self.name}: interrupts and DMA of UARTs are not simulated; poll SR")
        if offset != self.SR:  # its flags are cleared by reads, TC's clear is not needed here
            super().write(offset, value)

    def peek(self, offset: int) -> int:
        return 0 if offset in (self.SR, self.DR) else super().peek(offset)


class Pl011(Device):
    """The RP2040's UART."""

    DR, FR, IBRD, FBRD, LCR_H, CR = 0x00, 0x18, 0x24, 0x28, 0x2C, 0x30
    IMSC, DMACR = 0x38, 0x48
    data_offsets = frozenset({DR})

    def __init__(
        self,
        name: str,
        base: int,
        board: Board,
        kernel_hz: Callable[[], float],
        line: Line,
        line_baud: int,
        check_pins: Callable[[], None],
    ) -> None:
        # CR resets with transmitter and receiver enabled, the UART disabled
        super().__init__(name, base, 0x1000, {self.CR: 0x300})
        self._kernel_hz = kernel_hz
        self._check_pins = check_pins
        self._latched = 0
        self.wire = Wire(board, line, line_baud, self.rate, depth=1)

    def rate(self) -> float | None:
        """The divider takes effect when LCR_H is written (DDI 0183, 3.3.6)."""
        if not self.peek(self.CR) & 1 or not self._latched:
            return None
        return self._kernel_hz() * 64 / (16 * self._latched)

    def read(self, offset: int) -> int:
        if offset == self.DR:
            return self.wire.take()
        if offset == self.FR:
            enabled = self.peek(self.CR) & 1
            outstanding = self.wire.outstanding()
            received = bool(enabled) and self.wire.received()
            status = 0
            if outstanding:
                status |= 1 << 3  # BUSY
            if not received:
                status |= 1 << 4  # RXFE
            if outstanding > self.wire.depth:
                status |= 1 << 5  # TXFF
            if outstanding <= 1:
                status |= 1 << 7  # TXFE
            return status
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.DR:
            if self.peek(self.CR) & 0x101 != 0x101:
                raise BoardFault(f"{self.name}: written while UARTEN or TXE in UARTCR is clear")
            self._check_pins()
            self.wire.send(value & 0xFF)
            return
        if offset in (self.IMSC, self.DMACR) and value:
            raise BoardFault(f"{self.name}: interrupts and DMA of UARTs are not simulated; poll FR")
        super().write(offset, value)
        if offset == self.LCR_H:
            self._latched = (self.peek(self.IBRD) & 0xFFFF) << 6 | self.peek(self.FBRD) & 0x3F
            self.wire.depth = 32 if value & 1 << 4 else 1

    def peek(self, offset: int) -> int:
        return 0 if offset == self.DR else super().peek(offset)


class CmsdkUart(Device):
    """The UART of Arm's Cortex-M System Design Kit, in MPS2 and MPS3 images."""

    DATA, STATE, CTRL, INTSTATUS, BAUDDIV = 0x00, 0x04, 0x08, 0x0C, 0x10
    data_offsets = frozenset({DATA})

    def __init__(
        self, name: str, base: int, board: Board, hz: float, line: Line, line_baud: int
    ) -> None:
        super().__init__(name, base, 0x1000)
        self._hz = hz
        self.wire = Wire(board, line, line_baud, self.rate)

    def rate(self) -> float | None:
        divider = self.peek(self.BAUDDIV) & 0xFFFFF
        if not self.peek(self.CTRL) & 3:
            return None
        if divider < 16:
            raise BoardFault(f"{self.name}: BAUDDIV is {divider}, below the 16 it needs")
        return self._hz / divider

    def read(self, offset: int) -> int:
        control = self.peek(self.CTRL)
        if offset == self.DATA:
            return self.wire.take()
        if offset == self.STATE:
            status = 0
            if control & 1 and self.wire.outstanding() > self.wire.depth:
                status |= 1
            if control & 2 and self.wire.received():
                status |= 2
            if self.wire.overrun:
                status |= 8
            return status
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.DATA:
            if not self.peek(self.CTRL) & 1:
                raise BoardFault(f"{self.name}: DATA written while CTRL.TXEN is clear")
            self.wire.send(value & 0xFF)
        elif offset == self.STATE:
            if value & 8:
                self.wire.overrun = False
        elif offset == self.INTSTATUS:
            pass  # write 1 to clear; interrupts are not raised here
        elif offset == self.CTRL and value & 0x3C:
            raise BoardFault(f"{self.name}: interrupts of UARTs are not simulated; poll STATE")
        else:
            super().write(offset, value)

    def peek(self, offset: int) -> int:
        return 0 if offset == self.DATA else super().peek(offset)


class EspUart(Device):
    """The UART of ESP32-C3 and -S3: FIFOs of 128 bytes, the clock's dividers in the block.

    Registers are taken over by the UART's clock domain at once (``ID.UPDATE_CTRL``, as out of
    reset) or when ``ID.REG_UPDATE`` is written.
    """

    FIFO, CLKDIV, STATUS, CONF0, CLK_CONF, ID = 0x00, 0x14, 0x1C, 0x20, 0x78, 0x80
    _INT_ENA = 0x0C
    data_offsets = frozenset({FIFO})
    #: out of reset: divider 694 of 80 MHz, 8 bits, clocks on, registers taken over at once
    RESET = {0x14: 694, 0x20: 3 << 2 | 1 << 4, 0x78: 1 << 24 | 1 << 25 | 1 << 22 | 3 << 20,
             0x80: 1 << 30}  # fmt: skip
    DEPTH = 128

    def __init__(
        self,
        name: str,
        base: int,
        board: Board,
        source_hz: Callable[[int], float],
        line: Line,
        line_baud: int,
        check: Callable[[], None],
    ) -> None:
        super().__init__(name, base, 0x1000, self.RESET)
        self._source_hz = source_hz
        self._check = check
        self._taken = {offset: self.RESET[offset] for offset in (self.CLKDIV, self.CONF0)}
        self.wire = Wire(board, line, line_baud, self.rate, self.DEPTH)

    def rate(self) -> float | None:
        """Bits per second that the registers give, or ``None`` when a clock is off."""
        clock = self.peek(self.CLK_CONF)
        wanted = 1 << 22 | 1 << 24 | 1 << 25
        if clock & wanted != wanted or clock & 1 << 23:
            return None
        divider = self._taken[self.CLKDIV]
        sixteenths = (divider & 0xFFF) * 16 + (divider >> 20 & 15)
        if not sixteenths:
            return None
        whole, numerator, denominator = clock >> 12 & 255, clock >> 6 & 63, clock & 63
        prescaler = 1 + whole + (numerator / denominator if denominator else 0)
        return self._source_hz(clock >> 20 & 3) / prescaler * 16 / sixteenths

    def read(self, offset: int) -> int:
        if offset == self.FIFO:
            return self.wire.take()
        if offset == self.STATUS:
            sent = min(self.wire.outstanding(), self.DEPTH)
            return int(self.wire.received()) | sent << 16
        if offset == self.ID:
            return super().read(offset) & 0x7FFFFFFF  # an update takes no time
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.FIFO:
            self._check()
            self.wire.send(value & 0xFF)
            return
        if offset == self._INT_ENA and value:
            raise BoardFault(f"{self.name}: interrupts of UARTs are not simulated; poll STATUS")
        super().write(offset, value)
        if self.peek(self.ID) & 3 << 30:
            self._taken = {key: self.peek(key) for key in self._taken}
        frame = self._taken[self.CONF0]
        if offset in (self.CONF0, self.ID) and frame >> 2 & 15 != 7:
            raise BoardFault(f"{self.name}: CONF0 is {frame:#x}, not 8 bits and one stop bit")

    def peek(self, offset: int) -> int:
        return 0 if offset == self.FIFO else super().peek(offset)
