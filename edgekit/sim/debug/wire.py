"""The debug pins, bit by bit: JTAG and Serial Wire, and the sequences that select one of them.

Sources: IHI 0031 B3 (JTAG-DP), B4 (SW-DP), B5 (SWJ-DP and dormant state); IEEE 1149.1 for the
state machine of the test access port.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from edgekit.sim.debug.dap import (
    ABORT,
    DP_CTRL_STAT,
    DP_IDR,
    DP_RDBUFF,
    ORUNDETECT,
    STICKYCMP,
    STICKYERR,
    STICKYORUN,
    WDATAERR,
    AccessFault,
)

if TYPE_CHECKING:
    from edgekit.sim.debug.runner import DebugRunner

_OK, _FAULT = 1, 4
_LINE_RESET_BITS = 50
_TARGETSEL = 0xC
#: Sequences on SWDIO and TMS, least significant bit first (B5.2, B5.3): (bits, value)
_TO_SWD, _TO_JTAG, _SWD_TO_DORMANT = (16, 0xE79E), (16, 0xE73C), (16, 0xE3BC)
_JTAG_TO_DORMANT = (31, 0x33BBBBBA)
_ALERT = 0x19BC0EA2E3DDAFE986852D956209F392
_SWD_ACTIVATION = (12, 0x1A0)
#: Bits of a line's past that are looked at
_KEPT = 136


class Transactions:
    """Accesses as the wires have them: a read of an access port delivers what the one before
    it has read."""

    def __init__(self, runner: DebugRunner) -> None:
        self._runner = runner
        self._last = 0

    def request(self, *, ap: bool, read: bool, register: int, value: int = 0) -> tuple[int, int]:
        """(acknowledgement, what was read)."""
        return self._runner.call(lambda: self._request(ap, read, register, value))

    def _request(self, ap: bool, read: bool, register: int, value: int) -> tuple[int, int]:
        port = self._runner.port
        if not ap and not read and register == ABORT:
            port.write_dp(register, value)
            return _OK, 0
        if not ap and read and register in (DP_IDR, DP_CTRL_STAT):
            return _OK, port.read_dp(register)
        if port.has_error:
            return _FAULT, 0
        if not ap:
            if read:
                return _OK, self._last if register == DP_RDBUFF else port.read_dp(register)
            port.write_dp(register, value)
            return _OK, 0
        before = self._last
        try:
            if read:
                self._last = port.read_ap(register)
            else:
                port.write_ap(register, value)
        except AccessFault:
            self._last = 0  # the sticky flag tells the next access
        return _OK, before if read else 0

    def refuses(self, *, ap: bool, register: int) -> bool:
        """Whether a write would be answered with FAULT."""
        return self._runner.port.has_error and (ap or register != ABORT)

    @property
    def always_has_data(self) -> bool:
        """Whether data follows an acknowledgement that is not OK, too."""
        return bool(self._runner.port.control & ORUNDETECT)

    def clear_flags(self, value: int) -> None:
        """A JTAG-DP clears its sticky flags by writing them as ones."""
        flags = value & (STICKYERR | STICKYORUN | STICKYCMP | WDATAERR)

        def clear() -> None:
            self._runner.port.control &= ~flags

        self._runner.call(clear)


class SerialWire:
    """A SW-DP on SWDIO; one call for each rising edge of SWCLK.

    ``driven`` is what the target puts onto SWDIO for the next edge, ``None`` while it listens.
    """

    def __init__(self, runner: DebugRunner) -> None:
        self._wiring = runner.port.wiring
        self._transactions = Transactions(runner)
        self.driven: int | None = None
        self._ones = 0
        self._history = 0
        #: answers: out of dormant state, and its address was called if it has one
        self.selected = not self._wiring.targetid
        self._dormant = False
        self._just_reset = False
        self._transfers = False
        self._session = self._listen()
        next(self._session)

    def require_selected(self) -> None:
        """Raises where another device on shared wires was called.

        Raises:
            AccessFault: nobody answers.
        """
        if not self.selected:
            raise AccessFault

    def sequence(self, count: int, bits: int) -> None:
        """Bits that the host drives, least significant first."""
        for index in range(count):
            self.clock(bits >> index & 1)

    def clock(self, bit: int) -> None:
        """A rising edge of SWCLK with ``bit`` on SWDIO."""
        if self.driven is None:
            self._ones = self._ones + 1 if bit else 0
            if self._ones == _LINE_RESET_BITS:
                self._restart()
                self._just_reset = True
                self.selected = not self._wiring.targetid
            if not self._transfers:
                self._history = (self._history >> 1 | bit << _KEPT - 1) & (1 << _KEPT) - 1
                if self._selects():
                    self._restart()
                    return
        self.driven = self._session.send(bit)

    def _restart(self) -> None:
        self._session.close()
        self._session = self._listen()
        next(self._session)
        self.driven, self._transfers = None, False

    def _ends_with(self, pattern: tuple[int, int], ones: int = 0) -> bool:
        """Whether the latest bits are a pattern behind so many ones."""
        count, value = pattern
        return self._history >> _KEPT - count - ones == value << ones | (1 << ones) - 1

    def _selects(self) -> bool:
        """Whether a sequence that selects a protocol is complete: it is no request."""
        if self._ends_with(_SWD_ACTIVATION):
            if self._history & (1 << _KEPT - 12) - 1 != _ALERT >> 4:
                return False
            self._dormant = False
            return True
        if self._ends_with(_SWD_TO_DORMANT, 50) or self._ends_with(_JTAG_TO_DORMANT, 5):
            self._dormant = True
            return True
        return self._ends_with(_TO_SWD, 50) or self._ends_with(_TO_JTAG, 50)

    def _listen(self) -> Generator[int | None, int, None]:
        while (yield None):
            pass  # the ones of a reset of the line may be many
        while True:
            while not (yield None):
                pass
            request = 0
            for index in range(7):
                request |= (yield None) << index
            # APnDP, RnW, A[2:3], parity, stop, park
            parity = (request & 0xF).bit_count() & 1
            if self._dormant or request >> 4 & 1 != parity or request >> 5 != 2:
                yield from self._deaf()
            ap, read = bool(request & 1), bool(request & 2)
            register = (request >> 2 & 3) << 2
            if not ap and not read and register == _TARGETSEL and self._wiring.targetid:
                self._transfers = True
                yield from self._target_select()
                self._transfers = False
                continue
            first = self._just_reset and (ap or not read or register != DP_IDR)
            if not self.selected or first:
                yield from self._deaf()  # the first access must read DPIDR (B4.3.3)
            self._just_reset = False
            self._transfers = True
            yield from self._transfer(ap, read, register)
            self._transfers = False

    def _deaf(self) -> Generator[int | None, int, None]:
        """A protocol error: nothing is answered until the line is reset."""
        while True:
            yield None

    def _target_select(self) -> Generator[int | None, int, None]:
        """TARGETSEL, which no device acknowledges (B4.3.4)."""
        for _ in range(5):
            yield None
        value = 0
        for index in range(32):
            value |= (yield None) << index
        yield None
        self.selected = value == self._wiring.targetid

    def _transfer(self, ap: bool, read: bool, register: int) -> Generator[int | None, int, None]:
        value = 0
        if read:
            ack, value = self._transactions.request(ap=ap, read=True, register=register)
        else:
            ack = _FAULT if self._transactions.refuses(ap=ap, register=register) else _OK
        yield None  # turnaround
        for index in range(3):
            yield ack >> index & 1
        if ack != _OK and not self._transactions.always_has_data:
            yield None  # turnaround; without overrun detection there is no data (B4.2.5)
            return
        if read:
            for index in range(32):
                yield value >> index & 1
            yield value.bit_count() & 1
            yield None  # turnaround
            return
        yield None  # turnaround
        for index in range(32):
            value |= (yield None) << index
        parity = yield None
        if ack == _OK and parity == value.bit_count() & 1:
            self._transactions.request(ap=ap, read=False, register=register, value=value)


#: The states of a test access port, and where TMS = 0 and TMS = 1 lead
_RESET, _IDLE, _SELECT_DR, _CAPTURE_DR, _SHIFT_DR, _EXIT1_DR, _PAUSE_DR, _EXIT2_DR = range(8)
_UPDATE_DR, _SELECT_IR, _CAPTURE_IR, _SHIFT_IR, _EXIT1_IR, _PAUSE_IR, _EXIT2_IR = range(8, 15)
_UPDATE_IR = 15
_NEXT = {
    _RESET: (_IDLE, _RESET),
    _IDLE: (_IDLE, _SELECT_DR),
    _SELECT_DR: (_CAPTURE_DR, _SELECT_IR),
    _CAPTURE_DR: (_SHIFT_DR, _EXIT1_DR),
    _SHIFT_DR: (_SHIFT_DR, _EXIT1_DR),
    _EXIT1_DR: (_PAUSE_DR, _UPDATE_DR),
    _PAUSE_DR: (_PAUSE_DR, _EXIT2_DR),
    _EXIT2_DR: (_SHIFT_DR, _UPDATE_DR),
    _UPDATE_DR: (_IDLE, _SELECT_DR),
    _SELECT_IR: (_CAPTURE_IR, _RESET),
    _CAPTURE_IR: (_SHIFT_IR, _EXIT1_IR),
    _SHIFT_IR: (_SHIFT_IR, _EXIT1_IR),
    _EXIT1_IR: (_PAUSE_IR, _UPDATE_IR),
    _PAUSE_IR: (_PAUSE_IR, _EXIT2_IR),
    _EXIT2_IR: (_SHIFT_IR, _UPDATE_IR),
    _UPDATE_IR: (_IDLE, _SELECT_DR),
}
#: Instructions of a JTAG-DP (B3.2)
_IR_ABORT, _IR_DPACC, _IR_APACC, _IR_IDCODE = 0x8, 0xA, 0xB, 0xE
#: OK and FAULT are one acknowledgement in JTAG
_JTAG_OK = 2


class Jtag:
    """The chip's chain of test access ports; the CPU's, which is a JTAG-DP, is next to TDO."""

    def __init__(self, runner: DebugRunner) -> None:
        self._taps = runner.port.wiring.taps
        self._transactions = Transactions(runner)
        self._state = _RESET
        self._instructions: list[int] = []
        self._shift = 0
        self._length = 1
        self._result = 0
        self._ack = _JTAG_OK
        self._reset()

    def _reset(self) -> None:
        # out of reset each has its IDCODE selected; which number that is, is its own affair
        self._instructions = [_IR_IDCODE, *[-1] * (len(self._taps) - 1)]

    @property
    def tdo(self) -> int:
        return self._shift & 1

    def clock(self, tms: int, tdi: int) -> None:
        """A rising edge of TCK."""
        state = self._state
        if state in (_SHIFT_DR, _SHIFT_IR):
            self._shift = self._shift >> 1 | tdi << self._length - 1
        self._state = state = _NEXT[state][tms]
        if state == _CAPTURE_DR:
            self._capture_data()
        elif state == _CAPTURE_IR:
            self._shift = self._length = 0
            for tap in self._taps:
                self._shift |= 1 << self._length
                self._length += tap.ir_bits
        elif state == _UPDATE_DR:
            self._update_data()
        elif state == _UPDATE_IR:
            self._instructions.clear()
            value = self._shift
            for tap in self._taps:
                self._instructions.append(value & (1 << tap.ir_bits) - 1)
                value >>= tap.ir_bits
        elif state == _RESET:
            self._reset()

    def _register(self, index: int) -> tuple[int, int]:
        """(bits, what is captured) of a port's data register."""
        instruction = self._instructions[index]
        if index == 0 and instruction in (_IR_ABORT, _IR_DPACC, _IR_APACC):
            return 35, self._result << 3 | self._ack
        if instruction == -1 or (index == 0 and instruction == _IR_IDCODE):
            return 32, self._taps[index].idcode
        return 1, 0

    def _capture_data(self) -> None:
        self._shift = self._length = 0
        for index in range(len(self._taps)):
            bits, value = self._register(index)
            self._shift |= value << self._length
            self._length += bits

    def _update_data(self) -> None:
        instruction = self._instructions[0]
        if instruction not in (_IR_ABORT, _IR_DPACC, _IR_APACC):
            return
        request = self._shift & (1 << 35) - 1
        read, register, value = bool(request & 1), (request >> 1 & 3) << 2, request >> 3
        if instruction == _IR_ABORT:
            self._transactions.request(ap=False, read=False, register=ABORT, value=value)
            return
        ap = instruction == _IR_APACC
        if not ap and not read:
            if register == DP_CTRL_STAT:
                self._transactions.clear_flags(value)
            if register in (ABORT, DP_RDBUFF):
                return  # ABORT has an instruction of its own, RDBUFF is read only
        if ap and read:
            # the result is captured next; the access port's read is not posted once more
            self._transactions.request(ap=True, read=True, register=register)
            _, self._result = self._transactions.request(ap=False, read=True, register=DP_RDBUFF)
            return
        _, self._result = self._transactions.request(
            ap=ap, read=read, register=register, value=value
        )
