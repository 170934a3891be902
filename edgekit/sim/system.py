"""The system control space of Cortex-M: SysTick, NVIC, SCB, DWT, and exceptions.

Sources: ARMv7-M Architecture Reference Manual (DDI 0403) B1.5 exceptions, B3.2 system control
block, B3.3 SysTick, B3.4 NVIC, C1.8 DWT; ARMv6-M (DDI 0419) for Cortex-M0+.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI, NEVER
from edgekit.sim.device import BoardFault, Device

if TYPE_CHECKING:
    from edgekit.sim.board import Board

SYSTICK, PENDSV, SVCALL = 15, 14, 11
_FULL = 1 << 24


class SystemControl(Device):
    """The private peripheral bus from 0xE0000000 to 0xE00FFFFF."""

    _DWT_CTRL, _DWT_CYCCNT, _DWT_LAR = 0x1000, 0x1004, 0x1FB0
    _ICTR, _ACTLR = 0xE004, 0xE008
    _SYST_CSR, _SYST_RVR, _SYST_CVR, _SYST_CALIB = 0xE010, 0xE014, 0xE018, 0xE01C
    _ISER, _ICER, _ISPR, _ICPR = 0xE100, 0xE180, 0xE200, 0xE280
    _CPUID, _ICSR, _VTOR, _AIRCR = 0xED00, 0xED04, 0xED08, 0xED0C
    _CCSIDR, _CSSELR = 0xED80, 0xED84
    _CCR, _SHPR1, _CPACR, _DEMCR = 0xED14, 0xED18, 0xED88, 0xEDFC
    _ITM_LAR, _DHCSR = 0x0FB0, 0xEDF0
    _CPUIDS = {
        "cortex-m0": 0x410CC200,
        "cortex-m0plus": 0x410CC601,
        "cortex-m3": 0x412FC231,
        "cortex-m4": 0x410FC241,
        "cortex-m7": 0x411FC272,
        "cortex-m33": 0x410FD213,
    }

    def __init__(self, board: Board, core: str, *, has_fpu: bool, systick_divider: int) -> None:
        super().__init__("the system control space", 0xE0000000, 0x100000)
        self._b = board
        self._core = core
        self._has_fpu = has_fpu
        self._is_v6 = core in ("cortex-m0", "cortex-m0plus")
        self._external_divider = systick_divider
        self.values = {
            self._CPUID: self._CPUIDS[core],
            self._AIRCR: 0xFA050000,
            # STKALIGN is set out of reset
            self._CCR: 0x208 if self._is_v6 else 0x200,
            self._SYST_CALIB: 0x80000000,
        }
        self._cycles_unlocked = core != "cortex-m7"
        self._cycles_from = 0  # CYCCNT = counter while it runs
        self._cycles_held: int | None = 0
        self._tick_from = 0  # time at which SysTick held its reload value
        self._wraps_seen = 0
        self._tick_next = NEVER
        self.enabled: set[int] = set()
        self.pending: set[int] = set()
        self.active: list[int] = []

    # SysTick

    def _tick_divider(self) -> int:
        """Thousandths of a CPU cycle for each count."""
        return MILLI * (1 if self.peek(self._SYST_CSR) & 4 else self._external_divider)

    def _tick_value(self) -> int:
        reload = self.peek(self._SYST_RVR) & (_FULL - 1)
        if not self.peek(self._SYST_CSR) & 1 or not reload:
            return self.peek(self._SYST_CVR)
        elapsed = (self._b.counter.now - self._tick_from) // self._tick_divider()
        # a write cleared it to 0; the next count loads the reload value
        return 0 if elapsed == 0 else reload - (elapsed - 1) % (reload + 1)

    def _tick_wrapped(self) -> bool:
        """Whether the counter reached 0 since this was asked last."""
        reload = self.peek(self._SYST_RVR) & (_FULL - 1)
        if not self.peek(self._SYST_CSR) & 1 or not reload:
            return False
        period = (reload + 1) * self._tick_divider()
        wraps = (self._b.counter.now - self._tick_from) // period
        seen = self._wraps_seen
        self._wraps_seen = wraps
        return wraps > seen

    def _tick_restart(self) -> None:
        self._tick_from = self._b.counter.now
        self._wraps_seen = 0
        self._schedule()

    def _schedule(self) -> None:
        self._tick_next = NEVER
        reload = self.peek(self._SYST_RVR) & (_FULL - 1)
        if self.peek(self._SYST_CSR) & 3 == 3 and reload:
            period = (reload + 1) * self._tick_divider()
            passed = (self._b.counter.now - self._tick_from) // period
            self._tick_next = self._tick_from + (passed + 1) * period
        self._b.attend(self._tick_next)

    def stand_still(self, duration: int) -> None:
        """Time (thousandths of a cycle) passed in which the CPU was halted: its own counters
        did not count (ARMv7-M ARM C1.2)."""
        self._tick_from += duration
        if self._tick_next != NEVER:
            self._tick_next += duration
        if self._cycles_held is None:
            self._cycles_from += duration // MILLI

    def advance(self) -> None:
        """Raises what is due by now, and asks to be called when the next thing is."""
        if self._b.counter.now >= self._tick_next:
            self.pending.add(SYSTICK)
        self._schedule()

    def next_event(self) -> int:
        return self._tick_next

    # registers

    def read(self, offset: int) -> int:
        if offset == self._DWT_CTRL:
            if self._is_v6:
                return 1 << 25 | self.peek(offset)  # NOCYCCNT
            return 4 << 28 | self.peek(offset)
        if offset == self._DWT_CYCCNT:
            return self._cyccnt() & 0xFFFFFFFF
        if offset == self._SYST_CSR:
            value = self.peek(offset) & 7
            if self._tick_wrapped():
                value |= 1 << 16  # COUNTFLAG, cleared by this read
            return value
        if offset == self._SYST_CVR:
            return self._tick_value()
        if self._ISER <= offset < self._ISER + 0x40 or self._ICER <= offset < self._ICER + 0x40:
            return self._bits(self.enabled, offset & 0x3F)
        if self._ISPR <= offset < self._ISPR + 0x40 or self._ICPR <= offset < self._ICPR + 0x40:
            return self._bits(self.pending, offset & 0x3F)
        if offset == self._ICSR:
            active = self.active[-1] if self.active else 0
            return active | (1 << 28 if PENDSV in self.pending else 0)
        if offset == self._DHCSR and self._b.debug is not None:
            return int(self._b.debug.enabled)  # the CPU sees whether a debugger is there
        if offset == self._CCSIDR and self._core == "cortex-m7":
            # 16 KB each: 4 ways x 128 sets of data, 2 ways x 256 sets of instructions
            sets, ways = (256, 2) if self.peek(self._CSSELR) & 1 else (128, 4)
            return (sets - 1) << 13 | (ways - 1) << 3 | 1
        return super().read(offset)

    @staticmethod
    def _bits(numbers: set[int], offset: int) -> int:
        first = 16 + offset * 8
        return sum(1 << number - first for number in numbers if first <= number < first + 32)

    def _cyccnt(self) -> int:
        if self._cycles_held is not None:
            return self._cycles_held
        return self._b.counter.now // MILLI - self._cycles_from

    def _cyccnt_update(self) -> None:
        runs = (
            not self._is_v6
            and bool(self.peek(self._DEMCR) & 1 << 24)
            and bool(self.peek(self._DWT_CTRL) & 1)
        )
        if runs and self._cycles_held is not None:
            self._cycles_from = self._b.counter.now // MILLI - self._cycles_held
            self._cycles_held = None
        elif not runs and self._cycles_held is None:
            self._cycles_held = self._cyccnt()

    def write(self, offset: int, value: int) -> None:
        if offset == self._DWT_LAR:
            self._cycles_unlocked = self._core != "cortex-m7" or value == 0xC5ACCE55
            return
        if self._DWT_CTRL <= offset < self._DWT_CTRL + 0x1000:
            if not self.peek(self._DEMCR) & 1 << 24 or not self._cycles_unlocked or self._is_v6:
                return  # ignored, as in silicon: TRCENA is clear, or the lock is closed
            if offset == self._DWT_CYCCNT:
                if self._cycles_held is None:
                    self._cycles_from = self._b.counter.now // MILLI - value
                else:
                    self._cycles_held = value
                return
            super().write(offset, value)
            self._cyccnt_update()
        elif offset == self._DEMCR:
            super().write(offset, value)
            self._cyccnt_update()
        elif offset == self._SYST_CVR:
            self.values[offset] = 0
            self._tick_restart()
        elif offset in (self._SYST_CSR, self._SYST_RVR):
            was = self.peek(self._SYST_CSR)
            if offset == self._SYST_RVR:
                value &= _FULL - 1
            super().write(offset, value)
            if (was ^ self.peek(self._SYST_CSR)) & 5:
                self._tick_restart()
            self._schedule()
        elif self._ISER <= offset < self._ISER + 0x40:
            self.enabled |= self._numbers(offset, value)
            self._b.attend(0)
        elif self._ICER <= offset < self._ICER + 0x40:
            self.enabled -= self._numbers(offset, value)
        elif self._ISPR <= offset < self._ISPR + 0x40:
            self.pending |= self._numbers(offset, value)
            self._b.attend(0)
        elif self._ICPR <= offset < self._ICPR + 0x40:
            self.pending -= self._numbers(offset, value)
        elif offset == self._ICSR:
            if value & 1 << 28:
                self.pending.add(PENDSV)
            if value & 1 << 27:
                self.pending.discard(PENDSV)
            if value & 1 << 26:
                self.pending.add(SYSTICK)
            if value & 1 << 25:
                self.pending.discard(SYSTICK)
            self._b.attend(0)
        elif offset == self._AIRCR:
            if value >> 16 == 0x05FA and value & 4:
                self._b.request_reset()
        elif offset == self._CPACR:
            if self._has_fpu:
                super().write(offset, value)
                self._b.allow_fpu(value >> 20 & 0xF == 0xF)
        elif offset == self._VTOR:
            if self._core == "cortex-m0":
                raise BoardFault("VTOR written: Cortex-M0 has none")
            super().write(offset, value & 0xFFFFFF80)
        elif offset == self._CPUID:
            return
        else:
            super().write(offset, value)

    @staticmethod
    def _numbers(offset: int, value: int) -> set[int]:
        first = 16 + (offset & 0x3F) * 8
        return {first + bit for bit in range(32) if value >> bit & 1}

    # exceptions

    def vector_table(self) -> int:
        return self.peek(self._VTOR)

    def set_vector_table(self, address: int) -> None:
        self.values[self._VTOR] = address

    def _priority(self, number: int) -> int:
        if number < 16:
            word = self.peek(self._SHPR1 + (number - 4 & ~3))
            return word >> 8 * (number & 3) & 0xFF
        word = self.peek(0xE400 + (number - 16 & ~3))
        return word >> 8 * (number & 3) & 0xFF

    def next_exception(self) -> int | None:
        """The exception to take now: pending, enabled, and more urgent than the active one."""
        ready = [n for n in self.pending if n < 16 or n in self.enabled]
        if not ready:
            return None
        best = min(ready, key=lambda number: (self._priority(number), number))
        if self.active and self._priority(self.active[-1]) <= self._priority(best):
            return None
        return best
