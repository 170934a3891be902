"""ESP32-C3: clock tree, watchdogs, UART, and the boot ROM's "direct boot".

The ROM starts a program right from the flash when its first two words are a magic number: it
maps the flash, for data at 0x3c000000 and for instructions at 0x42000000, and jumps to what
follows the two words. Three watchdogs run by then and reset the chip unless they are stopped.

Sources: ESP-IDF, ``components/soc/esp32c3`` (``system_reg.h``, ``rtc_cntl_reg.h``,
``timer_group_reg.h``, ``uart_reg.h``) and ``hal/esp32c3/clk_tree_ll.h``; ESP32-C3 Technical
Reference Manual, "Reset and Clock", "Watchdog Timers", "UART Controller"; Espressif's example
"Direct Boot". The cycle counter: ``riscv/csr.h``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.device import BoardFault, Device
from edgekit.sim.uart import EspUart

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.riscv import RiscvBoard

#: Peripherals, (base, bytes)
SPACES = ((0x60000000, 0x000D1000),)
#: What the first two words of the flash are for the ROM to jump to the third
DIRECT_BOOT = 0xAEDB041D
DIRECT_BOOT_OFFSET = 8

_MHZ = 1_000_000
_RC_FAST_HZ = 17_500_000
_UNLOCK, _UNLOCK_SUPER = 0x50D83AA1, 0x8F1D312A
#: CSRs of the event counter: what it counts, whether it does, its count
_MPCER, _MPCMR, _MPCCR = 0x7E0, 0x7E1, 0x7E2


class _System(Device):
    """SYSTEM: clock gates, resets and the CPU's clock."""

    PERIP_CLK_EN0, PERIP_RST_EN0, CPU_PER_CONF, SYSCLK_CONF = 0x10, 0x18, 0x08, 0x58
    _UART_BIT, _UART_MEMORY_BIT = 1 << 2, 1 << 24

    def __init__(self, xtal_hz: float, pll_runs: Callable[[], bool]) -> None:
        super().__init__(
            "SYSTEM", 0x600C0000, 0x1000,
            # the ROM leaves the CPU at the crystal's 40 MHz; UART0 and its memory have clocks
            {self.PERIP_CLK_EN0: 0xF9C1E06F, self.CPU_PER_CONF: 0x0C, self.SYSCLK_CONF: 0},
        )  # fmt: skip
        self._xtal_hz = xtal_hz
        self._pll_runs = pll_runs

    def cpu_hz(self) -> float:
        settings = self.peek(self.SYSCLK_CONF)
        source, divider = settings >> 10 & 3, (settings & 0x3FF) + 1
        if source == 1:
            return (80 * _MHZ, 160 * _MHZ)[self.peek(self.CPU_PER_CONF) & 1]
        return (self._xtal_hz if source == 0 else _RC_FAST_HZ) / divider

    def apb_hz(self) -> float:
        return 80 * _MHZ if self.peek(self.SYSCLK_CONF) >> 10 & 3 == 1 else self.cpu_hz()

    def uart_gate(self) -> str | None:
        wanted = self._UART_BIT | self._UART_MEMORY_BIT
        if self.peek(self.PERIP_CLK_EN0) & wanted != wanted:
            return "has no clock (SYSTEM_PERIP_CLK_EN0)"
        if self.peek(self.PERIP_RST_EN0) & wanted:
            return "is held in reset (SYSTEM_PERIP_RST_EN0)"
        return None

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self.SYSCLK_CONF:
            source = value >> 10 & 3
            if source == 3:
                raise BoardFault("SYSTEM: SYSCLK_CONF.SOC_CLK_SEL is 3, which is no clock")
            if source == 1 and not self._pll_runs():
                raise BoardFault("the CPU was switched to the PLL, which is powered down")
        if offset == self.CPU_PER_CONF and value & 3 > 1:
            raise BoardFault("SYSTEM: CPU_PER_CONF.CPUPERIOD_SEL is above 1 (160 MHz)")
        if offset == self.CPU_PER_CONF and not value & 1 << 2:
            raise BoardFault("SYSTEM: the PLL at 320 MHz is not simulated (PLL_FREQ_SEL)")


class _Watchdog:
    """One watchdog behind its write protection."""

    def __init__(self, name: str, control: int, protection: int, key: int) -> None:
        self.name = name
        self.control = control
        self.protection = protection
        self.key = key

    def check(self, device: Device, offset: int) -> None:
        """Refuses a write to a control register that is locked."""
        if offset == self.control and device.peek(self.protection) != self.key:
            raise BoardFault(f"{self.name} was written to while it is locked")


class _Watched(Device):
    """A block with watchdogs."""

    watchdogs: tuple[_Watchdog, ...] = ()

    def write(self, offset: int, value: int) -> None:
        for watchdog in self.watchdogs:
            watchdog.check(self, offset)
        super().write(offset, value)


class _RtcControl(_Watched):
    """RTC_CNTL: power of the PLL, resets, the RTC's watchdog and the super watchdog."""

    OPTIONS0, WDTCONFIG0, SWD_CONF = 0x00, 0x90, 0xAC
    #: power-down bits of the PLL and of its registers (BBPLL_FORCE_PD, BBPLL_I2C, BB_I2C)
    _PLL_DOWN = 1 << 10 | 1 << 8 | 1 << 6
    watchdogs = (
        _Watchdog("the RTC watchdog", WDTCONFIG0, 0xA8, _UNLOCK),
        _Watchdog("the super watchdog", SWD_CONF, 0xB0, _UNLOCK_SUPER),
    )

    def __init__(self, board: Board) -> None:
        # flash boot protection: the watchdog runs without being enabled
        super().__init__("RTC_CNTL", 0x60008000, 0x1000, {self.WDTCONFIG0: 1 << 12})
        self._board = board

    def pll_runs(self) -> bool:
        return not self.peek(self.OPTIONS0) & self._PLL_DOWN

    def running(self) -> str | None:
        """The watchdog that would reset the chip sooner or later."""
        if self.peek(self.WDTCONFIG0) & (1 << 31 | 1 << 12):
            return self.watchdogs[0].name
        if not self.peek(self.SWD_CONF) & (1 << 31 | 1 << 30):  # AUTO_FEED_EN, DISABLE
            return self.watchdogs[1].name
        return None

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self.OPTIONS0 and value & 1 << 31:  # SW_SYS_RST
            self._board.request_reset()


class _TimerGroup(_Watched):
    """TIMG: the main system watchdog."""

    WDTCONFIG0 = 0x48

    def __init__(self, index: int, base: int, *, started: bool) -> None:
        super().__init__(f"TIMG{index}", base, 0x1000, {self.WDTCONFIG0: 1 << 14 if started else 0})
        self.watchdogs = (
            _Watchdog(f"the watchdog of TIMG{index}", self.WDTCONFIG0, 0x64, _UNLOCK),
        )

    def running(self) -> str | None:
        # WDT_EN, WDT_FLASHBOOT_MOD_EN
        return self.watchdogs[0].name if self.peek(self.WDTCONFIG0) & (1 << 31 | 1 << 14) else None


class _CycleCounter:
    """The event counter of the CPU: cycles, when MPCER says so (bit 0)."""

    def __init__(self, board: RiscvBoard) -> None:
        self._board = board
        self._events = self._mode = 0
        self._from = self._held = 0

    def _runs(self) -> bool:
        return bool(self._events & 1 and self._mode & 1)

    def _change(self, name: str, value: int) -> None:
        self._held = self.read()
        setattr(self, name, value)
        self._from = self._board.counter.now // MILLI

    def read(self) -> int:
        if not self._runs():
            return self._held
        return self._held + self._board.counter.now // MILLI - self._from & 0xFFFFFFFF

    def _write(self, value: int) -> None:
        self._held, self._from = value, self._board.counter.now // MILLI

    def put(self) -> None:
        """Makes the CPU's instructions reach it."""
        self._board.registers.update(
            {
                _MPCER: (lambda: self._events, lambda value: self._change("_events", value)),
                _MPCMR: (lambda: self._mode, lambda value: self._change("_mode", value)),
                _MPCCR: (self.read, self._write),
            }
        )


class Esp32C3:
    """The chip of the ESP32-C3 boards."""

    def __init__(self, board: RiscvBoard) -> None:
        self._board = board
        target = board.target
        self._xtal_hz = float(target.sim.get("xtal_hz", 40 * _MHZ))
        self._rtc = _RtcControl(board)
        self._system = _System(self._xtal_hz, self._rtc.pll_runs)
        self._groups = (
            _TimerGroup(0, 0x6001F000, started=True),
            _TimerGroup(1, 0x60020000, started=False),
        )
        self._pins = Device(
            "IO_MUX", 0x60009000, 0x1000,
            # GPIO20 and GPIO21 are UART0's out of reset: function 0, input enabled
            {4 + 4 * pin: 0 if pin in (20, 21) else 1 << 12 for pin in range(22)},
        )  # fmt: skip
        _CycleCounter(board).put()
        baud = int(target.link.get("baud", 115200))
        uart = EspUart(
            "UART0", 0x60000000, board, self._uart_source_hz, board.line, baud, self._check
        )
        uart.gate = self._system.uart_gate
        for device in (
            self._rtc, self._system, *self._groups, self._pins, uart,
            Device("GPIO", 0x60004000, 0x1000),
        ):  # fmt: skip
            board.bus.add(device)

    def _uart_source_hz(self, source: int) -> float:
        if source == 0:
            raise BoardFault("UART0: CLK_CONF.SCLK_SEL is 0, which is no clock")
        return (self._system.apb_hz(), _RC_FAST_HZ, self._xtal_hz)[source - 1]

    def _check(self) -> None:
        """When a byte is sent: pins and watchdogs must be as a program needs them."""
        for role in ("tx", "rx"):
            match = re.fullmatch(r"GPIO(\d+)", str(self._board.target.uart.get(role, "")))
            if match is None:
                continue
            function = self._pins.peek(4 + 4 * int(match.group(1))) >> 12 & 7
            if function != 0:
                raise BoardFault(
                    f"a byte was sent, but {match.group(0)} is not the UART's {role}: its "
                    f"function is {function}; the UART's is 0"
                )
        for block in (self._rtc, *self._groups):
            running = block.running()
            if running:
                self._board.report(f"{running} still runs: it would reset the chip")

    def cpu_hz(self) -> float:
        return self._system.cpu_hz()

    def boot(self) -> None:
        """The boot ROM's way: the magic number twice, and a jump behind it."""
        from edgekit.sim.board import Fault

        board = self._board
        flash = next(region for region in board.target.memory if region.kind == "flash")
        head = board.memory(flash.origin, DIRECT_BOOT_OFFSET)
        if not is_direct_boot(head):
            raise Fault(
                f"the flash begins with {head[:4].hex()}, not with the number of a direct boot: "
                "the virtual board has no second stage loader to start anything else",
                f"{flash.origin:#010x}",
            )
        entry = flash.origin if flash.fetch_origin is None else flash.fetch_origin
        board.jump(entry + DIRECT_BOOT_OFFSET, 0)


def is_direct_boot(head: bytes) -> bool:
    """Whether a flash that begins so is started by the boot ROM itself."""
    return head[:DIRECT_BOOT_OFFSET] == 2 * DIRECT_BOOT.to_bytes(4, "little")


assemble = Esp32C3
