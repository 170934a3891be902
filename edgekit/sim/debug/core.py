"""The debug registers of a Cortex-M, and what they do to the CPU.

They are reached by a debugger only; of what the CPU sees, the system control space has its
part. Power-on resets them, a system reset does not (ARMv7-M ARM C1.6, B1.4.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.sim.board import DWTTRAP, HALTED, VCATCH, Fault

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.families import Family

DFSR, DHCSR, DCRSR, DCRDR, DEMCR, DSCSR = (
    0xE000ED30, 0xE000EDF0, 0xE000EDF4, 0xE000EDF8, 0xE000EDFC, 0xE000EE08,
)  # fmt: skip
MVFR0, MVFR1, MVFR2 = 0xE000EF40, 0xE000EF44, 0xE000EF48
_FPB, _DWT_CTRL, _DWT_COMP = 0xE0002000, 0xE0001000, 0xE0001020
#: Comparators for data: as DWT_CTRL says (system.py), and of an ARMv6-M (DDI 0484 table 8-2),
#: where only debuggers see DWT_CTRL
_WATCHPOINTS, _WATCHPOINTS_V6 = 4, 2
_MATCHED = 1 << 24
_KEY = 0xA05F
_DEBUGEN, _HALT, _STEP, _MASKINTS = 1, 2, 4, 8
_REGRDY, _S_HALT, _S_LOCKUP = 1 << 16, 1 << 17, 1 << 19
_RETIRE_ST, _RESET_ST = 1 << 24, 1 << 25
_VC_CORERESET = 1 << 0
#: What the program counter reads as in lockup (ARMv7-M ARM B1.5.15)
LOCKUP_PC = 0xFFFFFFFE
#: DCRSR's selectors of single registers (C1.6.3)
_XPSR, _MSP, _PSP, _SPECIAL, _FPSCR, _S0 = 16, 17, 18, 20, 33, 64
#: FP_CTRL: comparators for instructions, and the revision (rev 2 reaches all addresses)
_FP_CTRL = {
    "cortex-m0": 0x00000040,
    "cortex-m0plus": 0x00000040,
    "cortex-m3": 0x00000260,
    "cortex-m4": 0x00000260,
    "cortex-m7": 0x10000080,
    "cortex-m33": 0x10000080,
}
#: By the floating point unit
_MVFR = {
    "fpv4-sp-d16": (0x10110021, 0x11000011, 0),
    "fpv5-sp-d16": (0x10110021, 0x11000011, 0x00000040),
    "fpv5-d16": (0x10110221, 0x12000011, 0x00000040),
}


class CoreDebug:
    """The CPU as a debugger has it. All of it is called in the thread that runs the CPU."""

    def __init__(self, core: str, isa: tuple[str, ...]) -> None:
        self._board: Board | None = None
        self._fp_control = _FP_CTRL[core]
        count = self._fp_control >> 4 & 0xF | self._fp_control >> 8 & 0x70
        self._comparators = [0] * count
        #: by comparator: COMP, MASK, FUNCTION
        self._is_v6 = core in ("cortex-m0", "cortex-m0plus")
        self._watchpoints = [
            [0, 0, 0] for _ in range(_WATCHPOINTS_V6 if self._is_v6 else _WATCHPOINTS)
        ]
        self._is_v8 = core == "cortex-m33"
        self._mvfr = next((_MVFR[name] for name in _MVFR if name in isa), (0, 0, 0))
        self.enabled = False
        #: the CPU executes nothing
        self.halted = False
        #: it cannot execute anything: no code to start, or a fault nobody handles
        self.lockup = False
        #: where the boot ROM's program is when the CPU starts in it
        self.rom_at: int | None = None
        self.masks_interrupts = False
        self.demcr = 0
        self._reason = 0
        self._data = 0
        self._was_reset = True
        self._retired = True
        #: the exceptions under way when a debugger forced thread mode
        self._set_aside: list[int] = []
        self._changed: list[tuple[int, int]] = []

    def attach(self, board: Board) -> None:
        """The CPU, or another one in its place after power came back."""
        self._board = board
        self._set_breakpoints()
        self._set_watchpoints()

    @property
    def board(self) -> Board:
        assert self._board is not None
        return self._board

    # what the board tells

    def leave_for_reset(self) -> None:
        """A reset takes the CPU out of debug state; it may be asked to halt while it lasts."""
        self.halted = self.lockup = False

    def boot(self, family: Family) -> None:
        """Out of reset: starts the CPU, or halts it before its first instruction."""
        board = self.board
        self.lockup = False
        self._set_aside.clear()
        self._was_reset = True
        board.system.write(DEMCR & 0xFFFFF, self.demcr)
        if self.rom_at is not None:
            board.set_pc(self.rom_at)
        else:
            try:
                family.boot()
            except Fault:
                # the vector table is erased or none: the architecture locks up
                board.set_pc(LOCKUP_PC)
                self.lockup = True
        if self.enabled and self.demcr & _VC_CORERESET:
            self.lockup = False
            self.halt(VCATCH)
        elif self.enabled and self.halted:
            self.halt(HALTED)

    def halt(self, reason: int) -> None:
        """The CPU enters debug state."""
        self.halted = True
        self.lockup = False
        self._reason |= reason

    def watchpoint(self, index: int) -> None:
        """A comparator matched an access to data."""
        self._watchpoints[index][2] |= _MATCHED
        self.halt(DWTTRAP)

    def memory_changed(self, address: int, nbytes: int) -> None:
        """Code there is not what was executed before."""
        if self._changed and sum(self._changed[-1]) == address:
            address, before = self._changed.pop()
            nbytes += before
        self._changed.append((address, nbytes))

    def before_running(self) -> None:
        """Called before the CPU goes on."""
        if self._changed:
            self.board.forget_code(self._changed)
            self._changed.clear()
        self._retired = True

    # registers, as words

    def read(self, address: int) -> int | None:
        """A debug register; ``None``: it is none of these."""
        if address == DHCSR:
            return self._status()
        if address == DCRDR:
            return self._data
        if address == DCRSR:
            return 0
        if address == DEMCR:
            return self.demcr
        if address == DFSR:
            return self._reason
        if address in (MVFR0, MVFR1, MVFR2):
            return self._mvfr[(address - MVFR0) // 4]
        if address == DSCSR:
            return 0  # no security extension, or it is off
        if address == _FPB:
            return self._fp_control
        if address == _DWT_CTRL and self._is_v6:
            return _WATCHPOINTS_V6 << 28
        index = (address - _FPB - 8) // 4
        if 0 <= index < len(self._comparators):
            return self._comparators[index]
        index, part = divmod(address - _DWT_COMP, 16)
        if 0 <= index < len(self._watchpoints) and part < 12:
            value = self._watchpoints[index][part // 4]
            if part == 8:  # reading FUNCTION clears MATCHED
                self._watchpoints[index][2] &= ~_MATCHED
            return value
        return None

    def write(self, address: int, value: int) -> bool:
        """Writes a debug register; whether it is one."""
        if address == DHCSR:
            if value >> 16 == _KEY:
                self._control(value)
        elif address == DCRDR:
            self._data = value
        elif address == DCRSR:
            if self.halted:
                self._transfer(value & 0x7F, write=bool(value & 1 << 16))
        elif address == DEMCR:
            self.demcr = value & 0x010F07F1
            self.board.system.write(DEMCR & 0xFFFFF, self.demcr)
        elif address == DFSR:
            self._reason &= ~value
        elif address == _FPB:
            if value & 2:  # KEY
                self._fp_control = self._fp_control & ~1 | value & 1
                self._set_breakpoints()
        elif 0 <= (address - _FPB - 8) // 4 < len(self._comparators):
            self._comparators[(address - _FPB - 8) // 4] = value
            self._set_breakpoints()
        elif 0 <= address - _DWT_COMP < 16 * len(self._watchpoints) and address & 0xC != 0xC:
            index, part = divmod(address - _DWT_COMP, 16)
            self._watchpoints[index][part // 4] = value
            self._set_watchpoints()
        else:
            return address in (MVFR0, MVFR1, MVFR2, DSCSR)
        return True

    def _status(self) -> int:
        value = _REGRDY | (_DEBUGEN if self.enabled else 0)
        if self.halted:
            value |= _S_HALT | _HALT
        if self.masks_interrupts:
            value |= _MASKINTS
        if self.lockup:
            value |= _S_LOCKUP
        if self._was_reset:
            value |= _RESET_ST
        if self._retired:
            value |= _RETIRE_ST
        self._was_reset = False
        self._retired = not self.halted and not self.lockup
        return value

    def _control(self, value: int) -> None:
        if self.enabled != bool(value & _DEBUGEN):
            self.enabled = not self.enabled
            self._set_breakpoints()
            self._set_watchpoints()
        self.masks_interrupts = self.enabled and bool(value & _MASKINTS)
        if not self.enabled:
            self.halted = False
            return
        if value & _HALT:
            if not self.halted:
                self.halt(HALTED)
        elif self.halted and value & _STEP:
            self._single_step()
        else:
            self.halted = False

    def _single_step(self) -> None:
        self.before_running()
        board = self.board
        if board.pc == LOCKUP_PC:
            self.halt(HALTED)
            return
        self.halted = False
        try:
            board.step()
        except Fault as fault:
            board.fault = None
            board.report(f"in a single step: {fault}")
        self.halt(HALTED if not self.halted else 0)

    # the CPU's registers

    def _transfer(self, selector: int, *, write: bool) -> None:
        if write:
            self._write_register(selector, self._data)
        else:
            self._data = self._read_register(selector) & 0xFFFFFFFF

    def _read_register(self, selector: int) -> int:
        board = self.board
        if selector <= 12:
            return board.register(f"R{selector}")
        if selector == 13:
            return board.register("SP")
        if selector == 14:
            return board.register("LR")
        if selector == 15:
            return board.pc
        if selector == _XPSR:
            active = board.system.active
            # the Thumb bit is always set, the exception number is the board's to keep
            return board.register("XPSR") & 0xFE0F0000 | 1 << 24 | (active[-1] if active else 0)
        if selector == _MSP:
            return board.register("MSP")
        if selector == _PSP:
            return board.register("PSP")
        if selector == _SPECIAL:
            names = ("PRIMASK", "BASEPRI", "FAULTMASK", "CONTROL")
            return sum((board.register(name) & 0xFF) << 8 * i for i, name in enumerate(names))
        if selector == _FPSCR and self._mvfr[0]:
            return board.register("FPSCR")
        if _S0 <= selector < _S0 + 32 and self._mvfr[0]:
            return board.register(f"S{selector - _S0}")
        return 0

    def _write_register(self, selector: int, value: int) -> None:
        board = self.board
        if selector <= 12:
            board.set_register(f"R{selector}", value)
        elif selector == 13:
            board.set_register("SP", value & ~3)
        elif selector == 14:
            board.set_register("LR", value)
        elif selector == 15:
            board.set_pc(value)
        elif selector == _XPSR:
            board.set_register("XPSR", value & 0xFE0F0000 | 1 << 24)
            self._set_mode(value & 0x1FF)
        elif selector == _MSP:
            board.set_register("MSP", value & ~3)
        elif selector == _PSP:
            board.set_register("PSP", value & ~3)
        elif selector == _SPECIAL:
            names = ("PRIMASK", "BASEPRI", "FAULTMASK", "CONTROL")
            for index, name in enumerate(names):
                board.set_register(name, value >> 8 * index & 0xFF)
        elif selector == _FPSCR and self._mvfr[0]:
            board.set_register("FPSCR", value)
        elif _S0 <= selector < _S0 + 32 and self._mvfr[0]:
            board.set_register(f"S{selector - _S0}", value)

    def _set_mode(self, exception: int) -> None:
        """A debugger forces thread mode to run its own code, and gives back what was."""
        active = self.board.system.active
        if exception == 0 and active:
            self._set_aside, active[:] = list(active), []
        elif exception and not active and self._set_aside and self._set_aside[-1] == exception:
            active[:] = self._set_aside
            self._set_aside = []

    # breakpoints and watchpoints

    def _set_watchpoints(self) -> None:
        """DWT comparators that match addresses of data (ARMv7-M ARM C1.8.1, v8-M B11.5)."""
        if self._board is None:
            return
        places = []
        for comparator, mask, function in self._watchpoints if self.enabled else ():
            if self._is_v8:
                # MATCH 4 to 6, ACTION: a debug event, DATAVSIZE: bytes as a power of two
                match = function & 0xF if function >> 4 & 3 == 1 else 0
                reads, writes, nbytes = match in (4, 6), match in (4, 5), 1 << (function >> 10 & 3)
            else:
                reads, writes = function & 0xF in (5, 7), function & 0xF in (6, 7)
                nbytes = 1 << (mask & 0x1F)
            first = comparator & ~(nbytes - 1)
            places.append((first, first + nbytes - 1, reads, writes))
        self._board.watch(places)

    def _set_breakpoints(self) -> None:
        if self._board is None:
            return
        addresses: set[int] = set()
        if self._fp_control & 1 and self.enabled:
            for value in self._comparators:
                if not value & 1:
                    continue
                if self._fp_control >> 28:  # revision 2 compares whole addresses
                    addresses.add(value & ~1)
                    continue
                word, halves = value & 0x1FFFFFFC, value >> 30
                addresses |= {word} if halves & 1 else set()
                addresses |= {word + 2} if halves & 2 else set()
        self._board.stop_at(addresses)
