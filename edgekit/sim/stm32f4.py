"""STM32F446 and its like: over-drive, the ART accelerator's wait states, the older USART.

Source: RM0390, sections 3.4.1 wait states, 5.1.3 voltage regulator and over-drive, 5.4 PWR
registers, 6.3 RCC registers, 25.6 USART registers; buses of at most 45 and 90 MHz: DS10693,
general operating conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.debug.dap import MemoryPortSpec, Tap, Wiring
from edgekit.sim.device import BoardFault
from edgekit.sim.nvm.stm32f4 import Flash
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
from edgekit.sim.uart import StmUartV1

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.targets import Target


class _Power(Watched):
    """PWR: the over-drive's two steps, each ready some time after it was asked for."""

    CR, CSR = 0x00, 0x04
    _ODEN, _ODSWEN = 1 << 16, 1 << 17
    #: DS10693 states 40 us for the over-drive; taken for each of its two steps
    _STEP_US = 40

    def __init__(self, family: Stm32F4) -> None:
        super().__init__(family, "PWR", 0x40007000, {self.CR: 0xC000})
        self._chip = family
        self._ready_at: dict[int, int] = {}

    def over_drive(self) -> bool:
        """Whether the core runs on the higher voltage."""
        return self._ready(self._ODSWEN)

    def _ready(self, bit: int) -> bool:
        at = self._ready_at.get(bit)
        return at is not None and self._chip.board.counter.now >= at

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if offset == self.CSR:
            # ODRDY and ODSWRDY have the places of ODEN and ODSWEN; VOSRDY goes with the PLL
            value |= sum(bit for bit in (self._ODEN, self._ODSWEN) if self._ready(bit))
            value |= 1 << 14 if self._chip.rcc.ready("PLL") else 0
        return value

    def write(self, offset: int, value: int) -> None:
        if offset == self.CR:
            before = self.peek(self.CR)
            if (before ^ value) >> 14 & 3 and self._chip.rcc.peek(0) >> 24 & 1:
                raise BoardFault("PWR_CR.VOS changed while the PLL is on (RM0390 5.4.1)")
            if value & self._ODSWEN and not self._ready(self._ODEN):
                raise BoardFault("the over-drive was switched to before it is ready (ODRDY)")
            for bit in (self._ODEN, self._ODSWEN):
                if value & bit and not before & bit:
                    cycles = self._STEP_US * self._chip.cpu_hz() / MHZ
                    self._ready_at[bit] = self._chip.board.counter.now + round(cycles * MILLI)
                elif not value & bit:
                    self._ready_at.pop(bit, None)
        super().write(offset, value)


class Stm32F4(Stm32):
    """STM32F446, RM0390."""

    _CR, _PLLCFGR, _CFGR = 0x00, 0x04, 0x08
    rcc_base = 0x40023800
    rcc_reset = {0x00: 0x81, 0x04: 0x24003010}
    oscillators = (
        Oscillator("HSI", 0, 1, 4),
        Oscillator("HSE", 16, 17, 2000),
        Oscillator("PLL", 24, 25, 200),
    )
    gpio_base = 0x40020000
    gpio_ports = "ABCDEFGH"
    gpio_gate = 0x30
    gpio_modes = {"A": 0xA8000000, "B": 0x00000280}
    gpio_mode = 0
    uart_device = StmUartV1
    uarts = (
        UartSpec("USART1", 0x40011000, (0x44, 4), (0, 0, 0), ("pclk2",)),
        UartSpec("USART2", 0x40004400, (0x40, 17), (0, 0, 0), ("pclk1",)),
        UartSpec("USART3", 0x40004800, (0x40, 18), (0, 0, 0), ("pclk1",)),
        UartSpec("UART4", 0x40004C00, (0x40, 19), (0, 0, 0), ("pclk1",)),
        UartSpec("UART5", 0x40005000, (0x40, 20), (0, 0, 0), ("pclk1",)),
        UartSpec("USART6", 0x40011400, (0x44, 5), (0, 0, 0), ("pclk2",)),
    )
    timers = (
        TimerSpec("TIM2", 0x40000000, (0x40, 0), "pclk1", 32),
        TimerSpec("TIM5", 0x40000C00, (0x40, 3), "pclk1", 32),
    )
    others = (("SYSCFG", 0x40013800, (0x44, 14)),)
    _SOURCES = ("HSI", "HSE", "PLL", "PLL")

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = _Power(self)
        self.pwr.gate = self._gate(0x40, 28)
        self.flash = Flash(self)
        board.bus.add(self.pwr)
        board.bus.add(self.flash)
        self.identify(0xE0042000, 0x1000)

    def sources(self) -> dict[str, float]:
        known = {"HSI": HSI16_HZ, "HSE": self.hse_hz}
        return {name: hz for name, hz in known.items() if self.rcc.ready(name)} | {"LSE": LSE_HZ}

    def _pll_source(self) -> str:
        return "HSE" if self.rcc.peek(self._PLLCFGR) >> 22 & 1 else "HSI"

    def _pll_hz(self, output: int) -> float:
        config = self.rcc.peek(self._PLLCFGR)
        source = self._pll_source()
        if source not in self.sources():
            raise BoardFault(f"the PLL's source {source} does not run")
        m, n = bits(config, 0, 6), bits(config, 6, 9)
        if m < 2:
            raise BoardFault(f"PLLM is {m}, below 2")
        if not 50 <= n <= 432:
            raise BoardFault(f"PLLN is {n}, outside 50 to 432")
        vco = pll_hz("PLL", self.sources()[source] / m, n, 1, 2, 100, 432)
        if output == 2:  # P: 2, 4, 6, 8
            return vco / (2 * bits(config, 16, 2) + 2)
        r = bits(config, 28, 3)
        if r < 2:
            raise BoardFault(f"PLLR is {r}, below 2")
        return vco / r

    def cannot_start(self, name: str) -> str | None:
        if name == "PLL" and self._pll_source() not in self.sources():
            return f"its source {self._pll_source()} does not run"
        return None

    def _chosen(self) -> int:
        return bits(self.rcc.peek(self._CFGR), 0, 2)

    def sysclk_hz(self) -> float:
        chosen = self._chosen()
        return (HSI16_HZ, self.hse_hz)[chosen] if chosen < 2 else self._pll_hz(chosen)

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / AHB_PRESCALER[bits(self.rcc.peek(self._CFGR), 4, 4)]

    def bus_hz(self, bus: str) -> float:
        config, hclk = self.rcc.peek(self._CFGR), self.cpu_hz()
        if bus == "pclk1":
            return hclk / APB_PRESCALER[bits(config, 10, 3)]
        if bus == "pclk2":
            return hclk / APB_PRESCALER[bits(config, 13, 3)]
        return hclk

    def in_use(self) -> Sequence[str]:
        name = self._SOURCES[self._chosen()]
        return (name, self._pll_source()) if name == "PLL" else (name,)

    def rcc_read(self, offset: int, value: int) -> int:
        if offset == self._CFGR:  # SWS follows SW
            return value & ~0xC | (value & 3) << 2
        return value

    def rcc_write(self, offset: int, before: int, value: int) -> int:
        if offset == self._CFGR and (before ^ value) & 3:
            self._need_ready(self._SOURCES[value & 3])
        on = self.rcc.peek(self._CR) >> 24 & 1
        if offset == self._PLLCFGR and on and before ^ value:
            raise BoardFault("PLLCFGR changed while the PLL is on")
        return value

    def check(self) -> None:
        hclk = self.cpu_hz()
        limits = (30, 60, 90, 120, 150, 180)
        self._check_wait_states(hclk, self.flash.peek(0) & 0xF, limits, "2.7 to 3.6 V")
        scale = 4 - max(bits(self.pwr.peek(0), 14, 2), 1)
        over_drive = self.pwr.over_drive()
        limit = {1: (168, 180), 2: (144, 168), 3: (120, 120)}[scale][over_drive]
        if hclk > limit * MHZ + 0.5:
            raise BoardFault(
                f"{hclk / MHZ:g} MHz are beyond the {limit} MHz of voltage scale {scale} "
                f"{'with' if over_drive else 'without'} over-drive"
            )
        # without over-drive the buses have less, too
        for bus, most in (("pclk1", 45 if over_drive else 42), ("pclk2", 90 if over_drive else 84)):
            if self.bus_hz(bus) > most * MHZ + 0.5:
                raise BoardFault(
                    f"{bus} would be {self.bus_hz(bus) / MHZ:g} MHz, beyond {most} MHz"
                )


def wiring(target: Target) -> Wiring:
    """JTAG and Serial Wire (RM0390 33.6, 33.8)."""
    boundary = 0x06000041 | int(target.sim["rom"]["chip_id"]) << 12
    ahb = MemoryPortSpec(0, 0x24770011, 0xE00FF003, 4096, packed=True)
    return Wiring(0x2BA01477, (ahb,), (Tap(4, 0x4BA00477), Tap(5, boundary)))


assemble = Stm32F4
