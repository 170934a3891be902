"""STM32U5.

Source: RM0456, sections 7.3.3 wait states, 10 PWR, 11 RCC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.sim.debug.dap import MemoryPortSpec, Tap, Wiring
from edgekit.sim.device import BoardFault
from edgekit.sim.nvm.stm32l4 import U5, Flash
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


class Stm32U5(Stm32):
    """STM32U5, RM0456."""

    _CR, _ICSCR1, _CFGR1, _CFGR2, _CFGR3 = 0x00, 0x08, 0x1C, 0x20, 0x24
    _PLL1CFGR, _PLL1DIVR, _PLL1FRACR, _CCIPR1, _CCIPR3, _CSR = 0x28, 0x34, 0x38, 0xE0, 0xE8, 0xF4
    _MSI = tuple(
        value * MHZ
        for value in (
            48, 24, 16, 12, 4, 2, 4 / 3, 1, 3.072, 1.536, 1.024, 0.768, 0.4, 0.2, 0.4 / 3, 0.1,
        )
    )  # fmt: skip
    rcc_base = 0x46020C00
    rcc_reset = {
        0x00: 0x35, 0x08: 0x44000000, 0x88: 0xD0000100, 0x8C: 0xC0000000, 0x90: 0x80000000,
        0x34: 0x01010280, 0xF4: 0x0C004400,
    }  # fmt: skip
    oscillators = (
        Oscillator("MSIS", 0, 2, 10),
        Oscillator("MSIK", 4, 5, 10),
        Oscillator("HSI16", 8, 10, 4),
        Oscillator("HSE", 16, 17, 2000),
        Oscillator("PLL1", 24, 25, 50),
    )
    gpio_base = 0x42020000
    gpio_gate = 0x8C
    _USART_SOURCES = ("sysclk", "HSI16", "LSE")
    uarts = (
        UartSpec("USART1", 0x40013800, (0xA4, 14), (_CCIPR1, 0, 2), ("pclk2", *_USART_SOURCES)),
        UartSpec("USART2", 0x40004400, (0x9C, 17), (_CCIPR1, 2, 2), ("pclk1", *_USART_SOURCES)),
        UartSpec("USART3", 0x40004800, (0x9C, 18), (_CCIPR1, 4, 2), ("pclk1", *_USART_SOURCES)),
        UartSpec(
            "LPUART1", 0x46002400, (0xA8, 6), (_CCIPR3, 0, 3),
            ("pclk3", *_USART_SOURCES, "MSIK"), True,
        ),
    )  # fmt: skip
    timers = (
        TimerSpec("TIM2", 0x40000000, (0x9C, 0), "pclk1", 32),
        TimerSpec("TIM5", 0x40000C00, (0x9C, 3), "pclk1", 32),
    )
    others = (
        ("SYSCFG", 0x46000400, (0xA8, 1)),
        ("ICACHE", 0x40030400, None),
        ("DCACHE1", 0x40031400, (0x88, 30)),
    )

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = Watched(self, "PWR", 0x46020800, {0x0C: 0x8000}, self._pwr_read)
        self.pwr.gate = self._gate(0x94, 2)
        self.flash = Flash(self, U5)
        board.bus.add(self.pwr)
        board.bus.add(self.flash)
        self.identify(0xE0044000, 0x1001)

    def _boosted(self) -> bool:
        source = bits(self.rcc.peek(self._PLL1CFGR), 0, 2)
        return bool(self.pwr.peek(0x0C) >> 18 & 1) and source != 0

    def _pwr_read(self, offset: int, value: int) -> int:
        if offset == 0x0C:  # VOSR: VOSRDY, BOOSTRDY
            return value | 1 << 15 | (1 << 14 if self._boosted() else 0)
        if offset == 0x10:  # SVMSR: ACTVOS, ACTVOSRDY
            return value | bits(self.pwr.peek(0x0C), 16, 2) << 16 | 1 << 15
        if offset == 0x3C:  # SVMSR in later revisions
            return value | bits(self.pwr.peek(0x0C), 16, 2) << 16 | 1 << 15
        return value

    def _msi(self, shift: int) -> float:
        chosen = self.rcc.peek(self._ICSCR1)
        if not chosen >> 23 & 1:  # MSIRGSEL: range from CSR
            return self._MSI[4]
        return self._MSI[bits(chosen, shift, 4)]

    def sources(self) -> dict[str, float]:
        known = {
            "MSIS": self._msi(28), "MSIK": self._msi(24), "HSI16": HSI16_HZ, "HSE": self.hse_hz,
        }  # fmt: skip
        return {name: hz for name, hz in known.items() if self.rcc.ready(name)} | {"LSE": LSE_HZ}

    def _pll_source(self) -> str | None:
        return (None, "MSIS", "HSI16", "HSE")[bits(self.rcc.peek(self._PLL1CFGR), 0, 2)]

    def _pll_hz(self) -> float:
        config, dividers = self.rcc.peek(self._PLL1CFGR), self.rcc.peek(self._PLL1DIVR)
        source = self._pll_source()
        if source is None or source not in self.sources():
            raise BoardFault(f"PLL1's source {source or '(none)'} does not run")
        reference = self.sources()[source] / (bits(config, 8, 4) + 1)
        n = bits(dividers, 0, 9) + 1.0
        if config >> 4 & 1:
            n += bits(self.rcc.peek(self._PLL1FRACR), 3, 13) / 8192
        low, high = (8, 16) if bits(config, 2, 2) == 3 else (4, 8)
        vco = pll_hz("PLL1", reference, n, low, high, 128, 544)
        if not config >> 18 & 1:
            raise BoardFault("SYSCLK needs PLL1's output R (PLL1CFGR.PLL1REN)")
        return vco / (bits(dividers, 24, 7) + 1)

    def cannot_start(self, name: str) -> str | None:
        if name == "PLL1" and self._pll_source() is None:
            return "it has no source (PLL1CFGR.PLL1SRC)"
        return None

    def _chosen(self) -> str:
        return ("MSIS", "HSI16", "HSE", "PLL1")[bits(self.rcc.peek(self._CFGR1), 0, 2)]

    def sysclk_hz(self) -> float:
        name = self._chosen()
        if name == "MSIS":
            return self._msi(28)
        return {"HSI16": HSI16_HZ, "HSE": self.hse_hz}.get(name) or self._pll_hz()

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / AHB_PRESCALER[bits(self.rcc.peek(self._CFGR2), 0, 4)]

    def bus_hz(self, bus: str) -> float:
        hclk = self.cpu_hz()
        if bus == "pclk1":
            return hclk / APB_PRESCALER[bits(self.rcc.peek(self._CFGR2), 4, 3)]
        if bus == "pclk2":
            return hclk / APB_PRESCALER[bits(self.rcc.peek(self._CFGR2), 8, 3)]
        if bus == "pclk3":
            return hclk / APB_PRESCALER[bits(self.rcc.peek(self._CFGR3), 4, 3)]
        return hclk

    def in_use(self) -> Sequence[str]:
        name = self._chosen()
        source = self._pll_source()
        return (name, source) if name == "PLL1" and source else (name,)

    def rcc_read(self, offset: int, value: int) -> int:
        if offset == self._CFGR1:
            return value & ~0xC | (value & 3) << 2
        return value

    def rcc_write(self, offset: int, before: int, value: int) -> int:
        if offset == self._CFGR1 and (before ^ value) & 3:
            self._need_ready(("MSIS", "HSI16", "HSE", "PLL1")[value & 3])
        on = self.rcc.peek(self._CR) >> 24 & 1
        if on and offset == self._PLL1CFGR and (before ^ value) & 0x0000FF0F:
            raise BoardFault("PLL1CFGR changed while PLL1 is on")
        if on and offset == self._PLL1DIVR and (before ^ value):
            raise BoardFault("PLL1DIVR changed while PLL1 is on")
        return value

    def check(self) -> None:
        hclk = self.cpu_hz()
        latency = self.flash.peek(0) & 0xF
        scale = bits(self.pwr.peek(0x0C), 16, 2)
        name = f"voltage range {4 - scale}"
        limits = {
            3: (32, 64, 96, 128, 160), 2: (30, 60, 90, 110), 1: (24, 48, 55), 0: (12, 25),
        }  # fmt: skip
        self._check_wait_states(hclk, latency, limits[scale], name)
        if hclk > 55 * MHZ and not self._boosted():
            raise BoardFault(
                f"{hclk / MHZ:g} MHz need the EPOD booster (PWR_VOSR.BOOSTEN) above 55 MHz"
            )


def wiring(target: Target) -> Wiring:
    """JTAG and Serial Wire (RM0456 75.2); TrustZone is off, as it leaves the factory."""
    boundary = 0x06000041 | int(target.sim["rom"]["chip_id"]) << 12
    ahb = MemoryPortSpec(0, 0x14770015, 0xE00FE003)
    return Wiring(0x0BE12477, (ahb,), (Tap(4, 0x0BA04477), Tap(5, boundary)), rom_at=0x0BF90000)


assemble = Stm32U5
