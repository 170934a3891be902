"""STM32G0.

Source: RM0444, sections 3.3.4 wait states, 4 PWR, 5 RCC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.sim.debug.dap import MemoryPortSpec, Wiring
from edgekit.sim.device import BoardFault
from edgekit.sim.nvm.stm32l4 import G0, Flash
from edgekit.sim.stm32 import (
    AHB_PRESCALER,
    APB_PRESCALER,
    HSI16_HZ,
    LSE_HZ,
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


class Stm32G0(Stm32):
    """STM32G0, RM0444."""

    _CR, _CFGR, _PLLCFGR, _CCIPR = 0x00, 0x08, 0x0C, 0x54
    rcc_base = 0x40021000
    rcc_reset = {0x00: 0x500, 0x0C: 0x1000, 0x38: 0x100}
    oscillators = (
        Oscillator("HSI16", 8, 10, 4),
        Oscillator("HSE", 16, 17, 2000),
        Oscillator("PLL", 24, 25, 40),
    )
    gpio_base = 0x50000000
    gpio_ports = "ABCDEF"
    gpio_gate = 0x34
    _USART_SOURCES = ("pclk", "sysclk", "HSI16", "LSE")
    uarts = (
        UartSpec("USART1", 0x40013800, (0x40, 14), (_CCIPR, 0, 2), _USART_SOURCES),
        UartSpec("USART2", 0x40004400, (0x3C, 17), (_CCIPR, 2, 2), _USART_SOURCES),
        UartSpec("USART3", 0x40004800, (0x3C, 18), (_CCIPR, 4, 2), _USART_SOURCES),
        UartSpec("LPUART1", 0x40008000, (0x3C, 20), (_CCIPR, 10, 2), _USART_SOURCES, True),
    )
    timers = (
        TimerSpec("TIM2", 0x40000000, (0x3C, 0), "pclk", 32),
        TimerSpec("TIM3", 0x40000400, (0x3C, 1), "pclk", 16),
        TimerSpec("TIM14", 0x40002000, (0x40, 15), "pclk", 16),
    )
    others = (("SYSCFG", 0x40010000, (0x40, 0)),)

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = Watched(self, "PWR", 0x40007000, {0x00: 0x208}, self._pwr_read)
        self.pwr.gate = self._gate(0x3C, 28)
        self.flash = Flash(self, G0)
        board.bus.add(self.pwr)
        board.bus.add(self.flash)
        self.identify(0x40015800, 0x1000)

    def _pwr_read(self, offset: int, value: int) -> int:
        return 0x100 if offset == 0x14 else value  # SR2: VOSF and REGLPF clear

    def sources(self) -> dict[str, float]:
        known = {"HSI16": HSI16_HZ, "HSE": self.hse_hz}
        return {name: hz for name, hz in known.items() if self.rcc.ready(name)} | {"LSE": LSE_HZ}

    def _pll_hz(self) -> float:
        config = self.rcc.peek(self._PLLCFGR)
        source = (None, None, "HSI16", "HSE")[bits(config, 0, 2)]
        if source is None or source not in self.sources():
            raise BoardFault(f"the PLL's source {source or '(none)'} does not run")
        n = bits(config, 8, 7)
        if not 8 <= n <= 86:
            raise BoardFault(f"PLLN is {n}, outside 8 to 86")
        reference = self.sources()[source] / (bits(config, 4, 3) + 1)
        vco = pll_hz("PLL", reference, n, 2.66, 16, 64, 344)
        if not config >> 28 & 1:
            raise BoardFault("SYSCLK needs the PLL's output R (PLLCFGR.PLLREN)")
        divider = bits(config, 29, 3) + 1
        if divider < 2:
            raise BoardFault("PLLR is 0, which the manual reserves")
        return vco / divider

    def cannot_start(self, name: str) -> str | None:
        source = bits(self.rcc.peek(self._PLLCFGR), 0, 2)
        return "it has no source (PLLCFGR.PLLSRC)" if name == "PLL" and source < 2 else None

    def _chosen(self) -> str:
        number = bits(self.rcc.peek(self._CFGR), 0, 3)
        return {0: "HSI16", 1: "HSE", 2: "PLL"}.get(number, "a slow clock")

    def sysclk_hz(self) -> float:
        name = self._chosen()
        if name == "HSI16":
            return HSI16_HZ / (1 << bits(self.rcc.peek(self._CR), 11, 3))
        if name == "HSE":
            return self.hse_hz
        return self._pll_hz() if name == "PLL" else LSE_HZ

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / AHB_PRESCALER[bits(self.rcc.peek(self._CFGR), 8, 4)]

    def bus_hz(self, bus: str) -> float:
        hclk = self.cpu_hz()
        if bus == "pclk":
            return hclk / APB_PRESCALER[bits(self.rcc.peek(self._CFGR), 12, 3)]
        return hclk

    def in_use(self) -> Sequence[str]:
        name = self._chosen()
        if name != "PLL":
            return (name,)
        source = (None, None, "HSI16", "HSE")[bits(self.rcc.peek(self._PLLCFGR), 0, 2)]
        return (name, source) if source else (name,)

    def rcc_read(self, offset: int, value: int) -> int:
        if offset == self._CFGR:
            return value & ~0x38 | (value & 7) << 3
        return value

    def rcc_write(self, offset: int, before: int, value: int) -> int:
        if offset == self._CFGR and (before ^ value) & 7 and value & 7 < 3:
            self._need_ready(("HSI16", "HSE", "PLL")[value & 7])
        on = self.rcc.peek(self._CR) >> 24 & 1
        if offset == self._PLLCFGR and on and (before ^ value) & 0x00007F73:
            raise BoardFault("PLLCFGR changed while the PLL is on")
        return value

    def check(self) -> None:
        latency = self.flash.peek(0) & 7
        if bits(self.pwr.peek(0x00), 9, 2) == 2:
            self._check_wait_states(self.cpu_hz(), latency, (8, 16), "voltage range 2")
        else:
            self._check_wait_states(self.cpu_hz(), latency, (24, 48, 64), "voltage range 1")


def wiring(target: Target) -> Wiring:
    """Serial Wire only (RM0444 40.5, 40.7)."""
    ahb = MemoryPortSpec(0, 0x04770031, 0xF0000003)
    return Wiring(0x0BC11477, (ahb,))


assemble = Stm32G0
