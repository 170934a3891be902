"""STM32L4+ (L4R5 and its like).

Source: RM0432, sections 3.3.3 wait states, 5 PWR, 6 RCC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.sim.debug.dap import MemoryPortSpec, Tap, Wiring
from edgekit.sim.device import BoardFault
from edgekit.sim.nvm.stm32l4 import L4, Flash
from edgekit.sim.stm32 import (
    AHB_PRESCALER,
    APB_PRESCALER,
    HSI16_HZ,
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


class Stm32L4(Stm32):
    """STM32L4+ (L4R5 and its like), RM0432."""

    _CR, _CFGR, _PLLCFGR, _CCIPR, _CSR = 0x00, 0x08, 0x0C, 0x88, 0x94
    _MSI = tuple(value * MHZ for value in (0.1, 0.2, 0.4, 0.8, 1, 2, 4, 8, 16, 24, 32, 48))
    rcc_base = 0x40021000
    rcc_reset = {0x00: 0x63, 0x0C: 0x1000, 0x48: 0x100, 0x94: 0x0C000600}
    oscillators = (
        Oscillator("MSI", 0, 1, 10),
        Oscillator("HSI16", 8, 10, 4),
        Oscillator("HSE", 16, 17, 2000),
        Oscillator("PLL", 24, 25, 40),
    )
    gpio_base = 0x48000000
    gpio_gate = 0x4C
    _USART_SOURCES = ("sysclk", "HSI16", "LSE")
    uarts = (
        UartSpec("USART1", 0x40013800, (0x60, 14), (_CCIPR, 0, 2), ("pclk2", *_USART_SOURCES)),
        UartSpec("USART2", 0x40004400, (0x58, 17), (_CCIPR, 2, 2), ("pclk1", *_USART_SOURCES)),
        UartSpec("USART3", 0x40004800, (0x58, 18), (_CCIPR, 4, 2), ("pclk1", *_USART_SOURCES)),
        UartSpec("UART4", 0x40004C00, (0x58, 19), (_CCIPR, 6, 2), ("pclk1", *_USART_SOURCES)),
        UartSpec("UART5", 0x40005000, (0x58, 20), (_CCIPR, 8, 2), ("pclk1", *_USART_SOURCES)),
        UartSpec(
            "LPUART1", 0x40008000, (0x5C, 0), (_CCIPR, 10, 2), ("pclk1", *_USART_SOURCES), True
        ),
    )
    timers = (
        TimerSpec("TIM2", 0x40000000, (0x58, 0), "pclk1", 32),
        TimerSpec("TIM5", 0x40000C00, (0x58, 3), "pclk1", 32),
    )
    others = (("SYSCFG", 0x40010000, (0x60, 0)),)

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = Watched(self, "PWR", 0x40007000, {0x00: 0x200, 0x80: 0x100}, self._pwr_read)
        self.pwr.gate = self._gate(0x58, 28)
        self.flash = Flash(self, L4)
        board.bus.add(self.pwr)
        board.bus.add(self.flash)
        self.identify(0xE0042000, 0x1001)

    def _pwr_read(self, offset: int, value: int) -> int:
        # SR2: VOSF clear (voltage reached), REGLPF clear (main regulator)
        return 0x100 if offset == 0x14 else value

    def pin_problem(self, letter: str) -> str | None:
        if letter == "G" and not self.pwr.peek(0x04) >> 9 & 1:
            return "port G has no supply (PWR_CR2.IOSV)"
        return None

    def _msi(self) -> float:
        control = self.rcc.peek(self._CR)
        if control & 8:  # MSIRGSEL: range from CR, else from CSR
            return self._MSI[min(bits(control, 4, 4), 11)]
        return self._MSI[min(bits(self.rcc.peek(self._CSR), 8, 4), 11)]

    def sources(self) -> dict[str, float]:
        known = {"MSI": self._msi(), "HSI16": HSI16_HZ, "HSE": self.hse_hz}
        return {name: hz for name, hz in known.items() if self.rcc.ready(name)} | {"LSE": LSE_HZ}

    def _pll_hz(self) -> float:
        config = self.rcc.peek(self._PLLCFGR)
        source = (None, "MSI", "HSI16", "HSE")[bits(config, 0, 2)]
        if source is None:
            raise BoardFault("the PLL has no source (PLLCFGR.PLLSRC)")
        if source not in self.sources():
            raise BoardFault(f"the PLL's source {source} does not run")
        n = bits(config, 8, 7)
        if not 8 <= n <= 127:
            raise BoardFault(f"PLLN is {n}, outside 8 to 127")
        reference = self.sources()[source] / (bits(config, 4, 4) + 1)
        vco = pll_hz("PLL", reference, n, 2.66, 16, 64, 344)
        if not config >> 24 & 1:
            raise BoardFault("SYSCLK needs the PLL's output R (PLLCFGR.PLLREN)")
        return vco / (2 * (bits(config, 25, 2) + 1))

    def cannot_start(self, name: str) -> str | None:
        source = bits(self.rcc.peek(self._PLLCFGR), 0, 2)
        return "it has no source (PLLCFGR.PLLSRC)" if name == "PLL" and not source else None

    def sysclk_hz(self) -> float:
        name = self.in_use()[0]
        if name == "PLL":
            return self._pll_hz()
        return {"MSI": self._msi(), "HSI16": HSI16_HZ, "HSE": self.hse_hz}[name]

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / AHB_PRESCALER[bits(self.rcc.peek(self._CFGR), 4, 4)]

    def bus_hz(self, bus: str) -> float:
        config, hclk = self.rcc.peek(self._CFGR), self.cpu_hz()
        if bus == "pclk1":
            return hclk / APB_PRESCALER[bits(config, 8, 3)]
        if bus == "pclk2":
            return hclk / APB_PRESCALER[bits(config, 11, 3)]
        return hclk

    def in_use(self) -> Sequence[str]:
        name = ("MSI", "HSI16", "HSE", "PLL")[bits(self.rcc.peek(self._CFGR), 0, 2)]
        if name != "PLL":
            return (name,)
        source = (None, "MSI", "HSI16", "HSE")[bits(self.rcc.peek(self._PLLCFGR), 0, 2)]
        return (name, source) if source else (name,)

    def rcc_read(self, offset: int, value: int) -> int:
        if offset == self._CFGR:  # SWS follows SW
            return value & ~0xC | (value & 3) << 2
        return value

    def rcc_write(self, offset: int, before: int, value: int) -> int:
        if offset == self._CFGR and (before ^ value) & 3:
            self._need_ready(("MSI", "HSI16", "HSE", "PLL")[value & 3])
        on = self.rcc.peek(self._CR) >> 24 & 1
        if offset == self._PLLCFGR and on and (before ^ value) & 0x0000FFF3:
            raise BoardFault("PLLCFGR changed while the PLL is on")
        return value

    def check(self) -> None:
        hclk = self.cpu_hz()
        latency = self.flash.peek(0) & 0xF
        if bits(self.pwr.peek(0x00), 9, 2) == 2:
            self._check_wait_states(hclk, latency, (8, 16, 26), "voltage range 2")
        elif self.pwr.peek(0x80) >> 8 & 1:  # R1MODE: normal
            self._check_wait_states(hclk, latency, (20, 40, 60, 80), "voltage range 1 normal mode")
        else:
            limits = (20, 40, 60, 80, 100, 120)
            self._check_wait_states(hclk, latency, limits, "voltage range 1 boost mode")


def wiring(target: Target) -> Wiring:
    """JTAG and Serial Wire (RM0432 57.6, 57.8)."""
    boundary = 0x06000041 | int(target.sim["rom"]["chip_id"]) << 12
    ahb = MemoryPortSpec(0, 0x24770011, 0xE00FF003, 4096, packed=True)
    return Wiring(0x2BA01477, (ahb,), (Tap(4, 0x4BA00477), Tap(5, boundary)))


assemble = Stm32L4
