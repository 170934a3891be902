"""STM32H7A3 and H7B3.

Source: RM0455, sections 4.3.8 wait states, 6 PWR, 8 RCC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.sim.debug.dap import MemoryPortSpec, Tap, Wiring
from edgekit.sim.device import BoardFault
from edgekit.sim.nvm.stm32h7 import Flash
from edgekit.sim.stm32 import (
    AHB_PRESCALER,
    APB_PRESCALER,
    LSE_HZ,
    MHZ,
    Oscillator,
    Stm32,
    TimerSpec,
    UartSpec,
    Watched,
    bits,
    pll_hz,
)

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.targets import Target


class Stm32H7(Stm32):
    """STM32H7A3 and H7B3, RM0455."""

    _CR, _CFGR, _CDCFGR1, _CDCFGR2 = 0x00, 0x10, 0x18, 0x1C
    _PLLCKSELR, _PLLCFGR, _PLL1DIVR, _CDCCIP2R = 0x28, 0x2C, 0x30, 0x54
    rcc_base = 0x58024400
    rcc_reset = {
        0x00: 0x25, 0x28: 0x02020200, 0x2C: 0x01FF0000, 0x30: 0x01010280, 0x38: 0x01010280,
        0x40: 0x01010280,
    }  # fmt: skip
    oscillators = (
        Oscillator("HSI", 0, 2, 2),
        Oscillator("CSI", 7, 8, 2),
        Oscillator("HSE", 16, 17, 2000),
        Oscillator("PLL1", 24, 25, 60),
        Oscillator("PLL2", 26, 27, 60),
        Oscillator("PLL3", 28, 29, 60),
    )
    gpio_base = 0x58020000
    gpio_ports = "ABCDEFGHIJK"
    gpio_gate = 0xE0
    _KERNEL = ("PLL2Q", "PLL3Q", "HSI", "CSI", "LSE")
    uarts = (
        UartSpec("USART1", 0x40011000, (0xF0, 4), (_CDCCIP2R, 3, 3), ("pclk2", *_KERNEL)),
        UartSpec("USART2", 0x40004400, (0xE8, 17), (_CDCCIP2R, 0, 3), ("pclk1", *_KERNEL)),
        UartSpec("USART3", 0x40004800, (0xE8, 18), (_CDCCIP2R, 0, 3), ("pclk1", *_KERNEL)),
        UartSpec("UART4", 0x40004C00, (0xE8, 19), (_CDCCIP2R, 0, 3), ("pclk1", *_KERNEL)),
    )
    timers = (
        TimerSpec("TIM2", 0x40000000, (0xE8, 0), "pclk1", 32),
        TimerSpec("TIM5", 0x40000C00, (0xE8, 3), "pclk1", 32),
    )
    others = (
        ("SYSCFG", 0x58000400, (0xF4, 1)),
        # OpenOCD's script opens the trace funnel of the larger chips, which does no harm here
        ("trace", 0x5C003000, None),
        ("trace funnel", 0x5C004000, None),
    )

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = Watched(self, "PWR", 0x58024800, {0x00: 0xF000C000, 0x0C: 0x46}, self._pwr_read)
        self.flash = Flash(self)
        board.bus.add(self.pwr)
        board.bus.add(self.flash)
        self.identify(0x5C001000, 0x1000)

    def _scale(self) -> int:
        """Voltage scale 0 (fastest) to 3, of SRDCR.VOS."""
        return 3 - bits(self.pwr.peek(0x18), 14, 2)

    def _pwr_read(self, offset: int, value: int) -> int:
        if offset == 0x04:  # CSR1: ACTVOS, ACTVOSRDY
            return value | bits(self.pwr.peek(0x18), 14, 2) << 14 | 1 << 13
        if offset == 0x18:  # SRDCR: VOSRDY
            return value | 1 << 13
        return value

    def _hsi(self) -> float:
        return 64.0 * MHZ / (1 << bits(self.rcc.peek(self._CR), 3, 2))

    def sources(self) -> dict[str, float]:
        known = {"HSI": self._hsi(), "CSI": 4.0 * MHZ, "HSE": self.hse_hz}
        running = {name: hz for name, hz in known.items() if self.rcc.ready(name)}
        for number in (2, 3):
            if self.rcc.ready(f"PLL{number}"):
                running[f"PLL{number}Q"] = self._pll_hz(number, "Q")
        return running | {"LSE": LSE_HZ}

    def _pll_source(self) -> str | None:
        return ("HSI", "CSI", "HSE", None)[bits(self.rcc.peek(self._PLLCKSELR), 0, 2)]

    def _pll_hz(self, number: int, output: str) -> float:
        select, config = self.rcc.peek(self._PLLCKSELR), self.rcc.peek(self._PLLCFGR)
        dividers = self.rcc.peek(self._PLL1DIVR + 8 * (number - 1))
        name, source = f"PLL{number}", self._pll_source()
        clock = {"HSI": self._hsi(), "CSI": 4.0 * MHZ, "HSE": self.hse_hz}.get(source or "")
        if source is None or clock is None or not self.rcc.ready(source):
            raise BoardFault(f"{name}'s source {source or '(none)'} does not run")
        prescaler = bits(select, 4 + 8 * (number - 1), 6)
        if not prescaler:
            raise BoardFault(f"{name} has no input: DIVM{number} is 0")
        first = 4 * (number - 1)
        low = (1, 2, 4, 8)[bits(config, first + 2, 2)]
        n = bits(dividers, 0, 9) + 1.0
        if config >> first & 1:
            n += bits(self.rcc.peek(self._PLL1DIVR + 8 * (number - 1) + 4), 3, 13) / 8192
        vco_low, vco_high = (150, 420) if config >> first + 1 & 1 else (128, 560)
        vco = pll_hz(name, clock / prescaler, n, low, 2 * low, vco_low, vco_high)
        index = "PQR".index(output)
        if not config >> 16 + 3 * (number - 1) + index & 1:
            raise BoardFault(f"{name}'s output {output} is off (PLLCFGR.DIV{output}{number}EN)")
        shift, width = ((9, 7), (16, 7), (24, 7))[index]
        return vco / (bits(dividers, shift, width) + 1)

    def cannot_start(self, name: str) -> str | None:
        if name.startswith("PLL") and self._pll_source() is None:
            return "it has no source (PLLCKSELR.PLLSRC)"
        return None

    def _chosen(self) -> str:
        number = bits(self.rcc.peek(self._CFGR), 0, 3)
        return {0: "HSI", 1: "CSI", 2: "HSE", 3: "PLL1"}.get(number, "HSI")

    def sysclk_hz(self) -> float:
        name = self._chosen()
        if name == "PLL1":
            return self._pll_hz(1, "P")
        return {"HSI": self._hsi(), "CSI": 4.0 * MHZ, "HSE": self.hse_hz}[name]

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / AHB_PRESCALER[bits(self.rcc.peek(self._CDCFGR1), 8, 4)]

    def bus_hz(self, bus: str) -> float:
        hclk = self.cpu_hz() / AHB_PRESCALER[bits(self.rcc.peek(self._CDCFGR1), 0, 4)]
        if bus == "pclk1":
            return hclk / APB_PRESCALER[bits(self.rcc.peek(self._CDCFGR2), 4, 3)]
        if bus == "pclk2":
            return hclk / APB_PRESCALER[bits(self.rcc.peek(self._CDCFGR2), 8, 3)]
        return hclk

    def in_use(self) -> Sequence[str]:
        name = self._chosen()
        source = self._pll_source()
        return (name, source) if name == "PLL1" and source else (name,)

    def rcc_read(self, offset: int, value: int) -> int:
        if offset == self._CR:  # HSI divider settled, CPU and domain clocks ready
            return value | 1 << 5 | 1 << 14 | 1 << 15
        if offset == self._CFGR:
            return value & ~0x38 | (value & 7) << 3
        return self.rcc.peek(offset - 0x60) if 0x130 <= offset < 0x160 else value

    def rcc_write(self, offset: int, before: int, value: int) -> int:
        if 0x130 <= offset < 0x160:  # the CPU's own view of the enables
            self.rcc.values[offset - 0x60] = value
        if offset == self._CFGR and (before ^ value) & 7:
            self._need_ready(("HSI", "CSI", "HSE", "PLL1")[value & 3])
        on = self.rcc.peek(self._CR) >> 24 & 1
        if on and offset == self._PLL1DIVR and before ^ value:
            raise BoardFault("PLL1DIVR changed while PLL1 is on")
        if on and offset == self._PLLCKSELR and (before ^ value) & 0x3F3:
            raise BoardFault("PLLCKSELR changed while PLL1 is on")
        return value

    def check(self) -> None:
        limits = {
            0: (44, 88, 132, 176, 220, 264, 280),
            1: (42, 84, 126, 168, 210, 225),
            2: (38, 76, 114, 152, 160),
            3: (22, 44, 66, 88),
        }[self._scale()]
        hclk = self.bus_hz("hclk")
        self._check_wait_states(
            hclk, self.flash.peek(0) & 0xF, limits, f"voltage scale {self._scale()}"
        )
        for bus in ("pclk1", "pclk2"):
            if self.bus_hz(bus) > 140 * MHZ:
                raise BoardFault(f"{bus} is {self.bus_hz(bus) / MHZ:g} MHz, beyond 140 MHz")


def wiring(target: Target) -> Wiring:
    """JTAG and Serial Wire; access port 0 is the CPU's, 2 the debug components' (RM0455 62.5)."""
    cpu = MemoryPortSpec(0, 0x84770001, 0xE00FE003)
    debug = 0xE00E1000  # where access port 2 has DBGMCU
    components = MemoryPortSpec(
        2, 0x54770002, 0xE00E0003, window=(debug, debug + 0x1000, 0x5C001000 - debug)
    )
    return Wiring(0x6BA02477, (cpu, components), (Tap(4, 0x6BA00477),), rom_at=0x1FF00000)


assemble = Stm32H7
