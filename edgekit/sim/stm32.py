"""STM32 families: clock tree, power, flash wait states, pins, timers and UARTs.

Registers behave as the reference manuals say: oscillators and PLLs become ready some time
after they are switched on; a switch to a clock that is not ready, a frequency that the
voltage range or the flash wait states do not allow, a PLL outside its ranges, or a peripheral
without its clock stops the board with the reason.

Sources: RM0432 (STM32L4+) sections 3.3.3 wait states, 5 PWR, 6 RCC, 8 GPIO; RM0455
(STM32H7A3) 4.3.8, 6, 8, 10; RM0456 (STM32U5) 7.3.3, 10, 11, 13; RM0444 (STM32G0) 3.3.4, 4,
5, 6; general-purpose timers RM0432 section 38.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.device import BoardFault, Device
from edgekit.sim.uart import StmUart

if TYPE_CHECKING:
    from edgekit.sim.board import Board

_MHZ = 1_000_000
_HSI16 = 16.0 * _MHZ
_LSE = 32_768.0
_AHB_PRESCALER = {**dict.fromkeys(range(8), 1)} | dict(
    zip(range(8, 16), (2, 4, 8, 16, 64, 128, 256, 512), strict=True)
)
_APB_PRESCALER = {**dict.fromkeys(range(4), 1)} | dict(zip(range(4, 8), (2, 4, 8, 16), strict=True))


def _field(value: int, shift: int, width: int) -> int:
    return value >> shift & (1 << width) - 1


@dataclass(frozen=True)
class Oscillator:
    """Something that is switched on by one bit of RCC_CR and ready by another."""

    name: str
    on: int
    ready: int
    startup_us: float


@dataclass(frozen=True)
class UartSpec:
    """A UART of a family: where it is, its clock gate and its kernel clock's selector."""

    name: str
    base: int
    #: offset in RCC and bit of its enable
    gate: tuple[int, int]
    #: offset, shift and width of the selector in RCC
    selector: tuple[int, int, int]
    #: what the selector's values choose
    sources: tuple[str, ...]
    low_power: bool = False


@dataclass(frozen=True)
class TimerSpec:
    name: str
    base: int
    gate: tuple[int, int]
    bus: str
    bits: int


class Rcc(Device):
    """Reset and clock control: CR's ready bits follow its enable bits."""

    def __init__(self, family: Stm32, base: int, reset: dict[int, int]) -> None:
        super().__init__("RCC", base, 0x400, reset)
        self._family = family
        self._ready_at: dict[str, int] = {}
        for oscillator in family.oscillators:
            if reset[0] >> oscillator.on & 1:
                self._ready_at[oscillator.name] = 0

    def ready(self, name: str) -> bool:
        at = self._ready_at.get(name)
        return at is not None and self._family.board.counter.now >= at

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if offset == 0:
            for oscillator in self._family.oscillators:
                bit = 1 << oscillator.ready
                value = value | bit if self.ready(oscillator.name) else value & ~bit
        return self._family.rcc_read(offset, value)

    def write(self, offset: int, value: int) -> None:
        before = self.peek(offset)
        value = self._family.rcc_write(offset, before, value)
        super().write(offset, value)
        if offset == 0:
            for oscillator in self._family.oscillators:
                was, now_on = before >> oscillator.on & 1, value >> oscillator.on & 1
                if now_on and not was:
                    problem = self._family.cannot_start(oscillator.name)
                    if problem:
                        raise BoardFault(f"{oscillator.name} switched on: {problem}")
                    delay = oscillator.startup_us * self._family.cpu_hz() / _MHZ
                    self._ready_at[oscillator.name] = self._family.board.counter.now + round(
                        delay * MILLI
                    )
                elif was and not now_on:
                    if oscillator.name in self._family.in_use():
                        raise BoardFault(f"{oscillator.name} switched off while the CPU runs on it")
                    self._ready_at.pop(oscillator.name, None)
        self._family.check()


class _Watched(Device):
    """A register block whose changes may break the clock's rules."""

    def __init__(
        self,
        family: Stm32,
        name: str,
        base: int,
        reset: dict[int, int],
        on_read: Callable[[int, int], int] | None = None,
    ) -> None:
        super().__init__(name, base, 0x400, reset)
        self._family = family
        self._on_read = on_read

    def read(self, offset: int) -> int:
        value = super().read(offset)
        return self._on_read(offset, value) if self._on_read else value

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        self._family.check()


class Timer(Device):
    """A general-purpose timer as a free running up counter."""

    CR1, SR, EGR, CNT, PSC, ARR = 0x00, 0x10, 0x14, 0x24, 0x28, 0x2C

    def __init__(
        self, name: str, base: int, board: Board, hz: Callable[[], float], bits: int
    ) -> None:
        super().__init__(name, base, 0x400, {self.ARR: (1 << bits) - 1})
        self._board = board
        self._hz = hz
        self._from = 0
        self._held = 0
        self._prescaler = 0  # what is loaded; PSC is taken over at an update

    def _count(self) -> int:
        if not self.peek(self.CR1) & 1:
            return self._held
        ticks = (self._board.counter.now - self._from) * self._hz() / self._board.cpu_hz() / MILLI
        period = self.peek(self.ARR) + 1
        return (self._held + int(ticks) // (self._prescaler + 1)) % period

    def _hold(self, value: int) -> None:
        self._held, self._from = value, self._board.counter.now

    def read(self, offset: int) -> int:
        if offset == self.CNT:
            return self._count()
        if offset == self.SR:
            return super().read(offset)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.CNT:
            self._hold(value)
        elif offset == self.EGR:
            if value & 1:  # UG
                self._prescaler = self.peek(self.PSC) & 0xFFFF
                self._hold(0)
                self.values[self.SR] = self.peek(self.SR) | 1
        elif offset == self.SR:
            self.values[self.SR] = self.peek(self.SR) & value
        else:
            self._hold(self._count())
            super().write(offset, value)


class Gpio(Device):
    """A port: modes and alternate functions are kept, BSRR and BRR change ODR."""

    MODER, ODR, BSRR, AFRL, AFRH, BRR = 0x00, 0x14, 0x18, 0x20, 0x24, 0x28

    def write(self, offset: int, value: int) -> None:
        if offset == self.BSRR:
            self.values[self.ODR] = self.peek(self.ODR) & ~(value >> 16) | value & 0xFFFF
        elif offset == self.BRR:
            self.values[self.ODR] = self.peek(self.ODR) & ~value
        else:
            super().write(offset, value)

    def problem(self, pin: int, function: int) -> str | None:
        """Why a pin does not carry an alternate function, or ``None`` when it does."""
        mode = _field(self.peek(self.MODER), 2 * pin, 2)
        if mode != 2:
            return f"{self.name[-1]}{pin} is not an alternate function pin (MODER {mode})"
        chosen = _field(self.peek(self.AFRL if pin < 8 else self.AFRH), 4 * (pin % 8), 4)
        return None if chosen == function else f"its alternate function is AF{chosen}"


class Stm32:
    """What the families share; a subclass says where things are and how the clock is made."""

    title = ""
    rcc_base = 0
    rcc_reset: dict[int, int]
    oscillators: tuple[Oscillator, ...]
    gpio_base = 0
    gpio_ports = "ABCDEFGHI"
    #: offset in RCC of the ports' enable bits, bit 0 for port A
    gpio_gate = 0
    uarts: tuple[UartSpec, ...]
    timers: tuple[TimerSpec, ...]
    #: plain register blocks that a start-up code may touch: name, base, gate or None
    others: tuple[tuple[str, int, tuple[int, int] | None], ...] = ()

    def __init__(self, board: Board) -> None:
        self.board = board
        self.hse_hz = float(board.target.sim.get("hse_hz", 8 * _MHZ))
        self.rcc = Rcc(self, self.rcc_base, self.rcc_reset)
        board.bus.add(self.rcc)
        self._ports: dict[str, Gpio] = {}
        for index, letter in enumerate(self.gpio_ports):
            # ports A and B reset with the debug pins, the others as analog inputs
            modes = {"A": 0xABFFFFFF, "B": 0xFFFFFEBF}.get(letter, 0xFFFFFFFF)
            port = Gpio(f"GPIO{letter}", self.gpio_base + 0x400 * index, 0x400, {0: modes})
            port.gate = self._gate(self.gpio_gate, index)
            board.bus.add(port)
            self._ports[letter] = port
        console = int(board.target.uart.get("base", 0))
        baud = int(board.target.link.get("baud", 115200))
        for spec in self.uarts:
            device: Device
            if spec.base == console:
                device = StmUart(
                    spec.name,
                    spec.base,
                    board,
                    lambda spec=spec: self.uart_hz(spec),  # type: ignore[misc]
                    board.line,
                    baud,
                    low_power=spec.low_power,
                    check_pins=self._check_pins,
                )
            else:
                device = Device(spec.name, spec.base)
            device.gate = self._gate(*spec.gate)
            board.bus.add(device)
        for timer in self.timers:
            counter = Timer(
                timer.name,
                timer.base,
                board,
                lambda bus=timer.bus: self.timer_hz(bus),  # type: ignore[misc]
                timer.bits,
            )
            counter.gate = self._gate(*timer.gate)
            board.bus.add(counter)
        for name, base, gate in self.others:
            other = Device(name, base)
            if gate is not None:
                other.gate = self._gate(*gate)
            board.bus.add(other)

    def _gate(self, offset: int, bit: int) -> Callable[[], str | None]:
        def problem() -> str | None:
            if self.rcc.peek(offset) >> bit & 1:
                return None
            return f"has no clock (bit {bit} of RCC offset {offset:#x} is clear)"

        return problem

    def _check_pins(self) -> None:
        """The console's pin must really carry the UART."""
        pins = self.board.target.uart
        function = pins.get("af")
        for role in ("tx",):
            match = re.fullmatch(r"P([A-Z])(\d+)", str(pins.get(role, "")))
            if match is None or function is None:
                continue
            letter, number = match.group(1), int(match.group(2))
            problem = self._ports[letter].problem(number, int(function))
            problem = problem or self.pin_problem(letter)
            if problem:
                raise BoardFault(
                    f"a byte was sent, but {match.group(0)} does not carry it: {problem}; "
                    f"the board needs AF{function}"
                )

    # what a family says

    def sources(self) -> dict[str, float]:
        """Frequencies of clocks by name, in hertz; only the running ones."""
        raise NotImplementedError

    def cpu_hz(self) -> float:
        raise NotImplementedError

    def bus_hz(self, bus: str) -> float:
        raise NotImplementedError

    def timer_hz(self, bus: str) -> float:
        """A timer runs at its bus's clock, or at twice that when the bus is divided."""
        clock = self.bus_hz(bus)
        return clock if clock == self.bus_hz("hclk") else 2 * clock

    def uart_hz(self, spec: UartSpec) -> float:
        offset, shift, width = spec.selector
        name = spec.sources[min(_field(self.rcc.peek(offset), shift, width), len(spec.sources) - 1)]
        if name.startswith("pclk"):
            return self.bus_hz(name)
        if name == "sysclk":
            return self.sysclk_hz()
        clock = self.sources().get(name)
        if clock is None:
            raise BoardFault(f"{spec.name} is clocked by {name}, which does not run")
        return clock

    def sysclk_hz(self) -> float:
        raise NotImplementedError

    def in_use(self) -> Sequence[str]:
        """Names of the oscillators that the CPU runs on."""
        raise NotImplementedError

    def cannot_start(self, name: str) -> str | None:
        return None

    def pin_problem(self, letter: str) -> str | None:
        return None

    def rcc_read(self, offset: int, value: int) -> int:
        return value

    def rcc_write(self, offset: int, before: int, value: int) -> int:
        return value

    def check(self) -> None:
        """Raises BoardFault when clock, voltage and wait states do not go together."""

    def _need_ready(self, name: str) -> None:
        if not self.rcc.ready(name):
            raise BoardFault(f"SYSCLK switched to {name}, which is not ready")

    def _check_wait_states(
        self, hclk: float, set_to: int, limits_mhz: Sequence[float], what: str
    ) -> None:
        for wait_states, limit in enumerate(limits_mhz):
            if hclk <= limit * _MHZ + 0.5:
                if set_to < wait_states:
                    raise BoardFault(
                        f"{hclk / _MHZ:g} MHz need {wait_states} flash wait states in {what}; "
                        f"FLASH_ACR has {set_to}"
                    )
                return
        raise BoardFault(f"{hclk / _MHZ:g} MHz are beyond the {limits_mhz[-1]:g} MHz of {what}")

    def boot(self) -> None:
        target = self.board.target
        flash = next(region for region in target.memory if region.kind == "flash")
        self.board.start_at(int(target.sim.get("boot", flash.origin)))


def _pll(name: str, reference: float, n: float, low: float, high: float,
         vco_low: float, vco_high: float) -> float:  # fmt: skip
    """Frequency of a PLL's oscillator, after its ranges (in MHz) are checked."""
    if not low * _MHZ <= reference <= high * _MHZ:
        raise BoardFault(
            f"{name}: its input is {reference / _MHZ:g} MHz, outside {low:g} to {high:g} MHz"
        )
    vco = reference * n
    if not vco_low * _MHZ <= vco <= vco_high * _MHZ:
        raise BoardFault(
            f"{name}: its oscillator would run at {vco / _MHZ:g} MHz, outside "
            f"{vco_low:g} to {vco_high:g} MHz"
        )
    return vco


class Stm32L4(Stm32):
    """STM32L4+ (L4R5 and its like), RM0432."""

    _CR, _CFGR, _PLLCFGR, _CCIPR, _CSR = 0x00, 0x08, 0x0C, 0x88, 0x94
    _MSI = tuple(value * _MHZ for value in (0.1, 0.2, 0.4, 0.8, 1, 2, 4, 8, 16, 24, 32, 48))
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
    others = (("SYSCFG", 0x40010000, (0x60, 0)), ("DBGMCU", 0xE0042000, None))

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = _Watched(self, "PWR", 0x40007000, {0x00: 0x200, 0x80: 0x100}, self._pwr_read)
        self.pwr.gate = self._gate(0x58, 28)
        self.flash = _Watched(self, "FLASH", 0x40022000, {0x00: 0x600})
        board.bus.add(self.pwr)
        board.bus.add(self.flash)

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
            return self._MSI[min(_field(control, 4, 4), 11)]
        return self._MSI[min(_field(self.rcc.peek(self._CSR), 8, 4), 11)]

    def sources(self) -> dict[str, float]:
        known = {"MSI": self._msi(), "HSI16": _HSI16, "HSE": self.hse_hz}
        return {name: hz for name, hz in known.items() if self.rcc.ready(name)} | {"LSE": _LSE}

    def _pll_hz(self) -> float:
        config = self.rcc.peek(self._PLLCFGR)
        source = (None, "MSI", "HSI16", "HSE")[_field(config, 0, 2)]
        if source is None:
            raise BoardFault("the PLL has no source (PLLCFGR.PLLSRC)")
        if source not in self.sources():
            raise BoardFault(f"the PLL's source {source} does not run")
        n = _field(config, 8, 7)
        if not 8 <= n <= 127:
            raise BoardFault(f"PLLN is {n}, outside 8 to 127")
        reference = self.sources()[source] / (_field(config, 4, 4) + 1)
        vco = _pll("PLL", reference, n, 2.66, 16, 64, 344)
        if not config >> 24 & 1:
            raise BoardFault("SYSCLK needs the PLL's output R (PLLCFGR.PLLREN)")
        return vco / (2 * (_field(config, 25, 2) + 1))

    def cannot_start(self, name: str) -> str | None:
        source = _field(self.rcc.peek(self._PLLCFGR), 0, 2)
        return "it has no source (PLLCFGR.PLLSRC)" if name == "PLL" and not source else None

    def sysclk_hz(self) -> float:
        name = self.in_use()[0]
        if name == "PLL":
            return self._pll_hz()
        return {"MSI": self._msi(), "HSI16": _HSI16, "HSE": self.hse_hz}[name]

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / _AHB_PRESCALER[_field(self.rcc.peek(self._CFGR), 4, 4)]

    def bus_hz(self, bus: str) -> float:
        config, hclk = self.rcc.peek(self._CFGR), self.cpu_hz()
        if bus == "pclk1":
            return hclk / _APB_PRESCALER[_field(config, 8, 3)]
        if bus == "pclk2":
            return hclk / _APB_PRESCALER[_field(config, 11, 3)]
        return hclk

    def in_use(self) -> Sequence[str]:
        name = ("MSI", "HSI16", "HSE", "PLL")[_field(self.rcc.peek(self._CFGR), 0, 2)]
        if name != "PLL":
            return (name,)
        source = (None, "MSI", "HSI16", "HSE")[_field(self.rcc.peek(self._PLLCFGR), 0, 2)]
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
        if _field(self.pwr.peek(0x00), 9, 2) == 2:
            self._check_wait_states(hclk, latency, (8, 16, 26), "voltage range 2")
        elif self.pwr.peek(0x80) >> 8 & 1:  # R1MODE: normal
            self._check_wait_states(hclk, latency, (20, 40, 60, 80), "voltage range 1 normal mode")
        else:
            limits = (20, 40, 60, 80, 100, 120)
            self._check_wait_states(hclk, latency, limits, "voltage range 1 boost mode")


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
    others = (("SYSCFG", 0x40010000, (0x40, 0)), ("DBG", 0x40015800, None))

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = _Watched(self, "PWR", 0x40007000, {0x00: 0x208}, self._pwr_read)
        self.pwr.gate = self._gate(0x3C, 28)
        self.flash = _Watched(self, "FLASH", 0x40022000, {0x00: 0x40600})
        board.bus.add(self.pwr)
        board.bus.add(self.flash)

    def _pwr_read(self, offset: int, value: int) -> int:
        return 0x100 if offset == 0x14 else value  # SR2: VOSF and REGLPF clear

    def sources(self) -> dict[str, float]:
        known = {"HSI16": _HSI16, "HSE": self.hse_hz}
        return {name: hz for name, hz in known.items() if self.rcc.ready(name)} | {"LSE": _LSE}

    def _pll_hz(self) -> float:
        config = self.rcc.peek(self._PLLCFGR)
        source = (None, None, "HSI16", "HSE")[_field(config, 0, 2)]
        if source is None or source not in self.sources():
            raise BoardFault(f"the PLL's source {source or '(none)'} does not run")
        n = _field(config, 8, 7)
        if not 8 <= n <= 86:
            raise BoardFault(f"PLLN is {n}, outside 8 to 86")
        reference = self.sources()[source] / (_field(config, 4, 3) + 1)
        vco = _pll("PLL", reference, n, 2.66, 16, 64, 344)
        if not config >> 28 & 1:
            raise BoardFault("SYSCLK needs the PLL's output R (PLLCFGR.PLLREN)")
        divider = _field(config, 29, 3) + 1
        if divider < 2:
            raise BoardFault("PLLR is 0, which the manual reserves")
        return vco / divider

    def cannot_start(self, name: str) -> str | None:
        source = _field(self.rcc.peek(self._PLLCFGR), 0, 2)
        return "it has no source (PLLCFGR.PLLSRC)" if name == "PLL" and source < 2 else None

    def _chosen(self) -> str:
        number = _field(self.rcc.peek(self._CFGR), 0, 3)
        return {0: "HSI16", 1: "HSE", 2: "PLL"}.get(number, "a slow clock")

    def sysclk_hz(self) -> float:
        name = self._chosen()
        if name == "HSI16":
            return _HSI16 / (1 << _field(self.rcc.peek(self._CR), 11, 3))
        if name == "HSE":
            return self.hse_hz
        return self._pll_hz() if name == "PLL" else _LSE

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / _AHB_PRESCALER[_field(self.rcc.peek(self._CFGR), 8, 4)]

    def bus_hz(self, bus: str) -> float:
        hclk = self.cpu_hz()
        if bus == "pclk":
            return hclk / _APB_PRESCALER[_field(self.rcc.peek(self._CFGR), 12, 3)]
        return hclk

    def in_use(self) -> Sequence[str]:
        name = self._chosen()
        if name != "PLL":
            return (name,)
        source = (None, None, "HSI16", "HSE")[_field(self.rcc.peek(self._PLLCFGR), 0, 2)]
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
        if _field(self.pwr.peek(0x00), 9, 2) == 2:
            self._check_wait_states(self.cpu_hz(), latency, (8, 16), "voltage range 2")
        else:
            self._check_wait_states(self.cpu_hz(), latency, (24, 48, 64), "voltage range 1")


class Stm32U5(Stm32):
    """STM32U5, RM0456."""

    _CR, _ICSCR1, _CFGR1, _CFGR2, _CFGR3 = 0x00, 0x08, 0x1C, 0x20, 0x24
    _PLL1CFGR, _PLL1DIVR, _PLL1FRACR, _CCIPR1, _CCIPR3, _CSR = 0x28, 0x34, 0x38, 0xE0, 0xE8, 0xF4
    _MSI = tuple(
        value * _MHZ
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
        ("DBGMCU", 0xE0044000, None),
    )

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = _Watched(self, "PWR", 0x46020800, {0x0C: 0x8000}, self._pwr_read)
        self.pwr.gate = self._gate(0x94, 2)
        self.flash = _Watched(self, "FLASH", 0x40022000, {0x00: 0x01})
        board.bus.add(self.pwr)
        board.bus.add(self.flash)

    def _boosted(self) -> bool:
        source = _field(self.rcc.peek(self._PLL1CFGR), 0, 2)
        return bool(self.pwr.peek(0x0C) >> 18 & 1) and source != 0

    def _pwr_read(self, offset: int, value: int) -> int:
        if offset == 0x0C:  # VOSR: VOSRDY, BOOSTRDY
            return value | 1 << 15 | (1 << 14 if self._boosted() else 0)
        if offset == 0x10:  # SVMSR: ACTVOS, ACTVOSRDY
            return value | _field(self.pwr.peek(0x0C), 16, 2) << 16 | 1 << 15
        if offset == 0x3C:  # SVMSR in later revisions
            return value | _field(self.pwr.peek(0x0C), 16, 2) << 16 | 1 << 15
        return value

    def _msi(self, shift: int) -> float:
        chosen = self.rcc.peek(self._ICSCR1)
        if not chosen >> 23 & 1:  # MSIRGSEL: range from CSR
            return self._MSI[4]
        return self._MSI[_field(chosen, shift, 4)]

    def sources(self) -> dict[str, float]:
        known = {
            "MSIS": self._msi(28), "MSIK": self._msi(24), "HSI16": _HSI16, "HSE": self.hse_hz,
        }  # fmt: skip
        return {name: hz for name, hz in known.items() if self.rcc.ready(name)} | {"LSE": _LSE}

    def _pll_source(self) -> str | None:
        return (None, "MSIS", "HSI16", "HSE")[_field(self.rcc.peek(self._PLL1CFGR), 0, 2)]

    def _pll_hz(self) -> float:
        config, dividers = self.rcc.peek(self._PLL1CFGR), self.rcc.peek(self._PLL1DIVR)
        source = self._pll_source()
        if source is None or source not in self.sources():
            raise BoardFault(f"PLL1's source {source or '(none)'} does not run")
        reference = self.sources()[source] / (_field(config, 8, 4) + 1)
        n = _field(dividers, 0, 9) + 1.0
        if config >> 4 & 1:
            n += _field(self.rcc.peek(self._PLL1FRACR), 3, 13) / 8192
        low, high = (8, 16) if _field(config, 2, 2) == 3 else (4, 8)
        vco = _pll("PLL1", reference, n, low, high, 128, 544)
        if not config >> 18 & 1:
            raise BoardFault("SYSCLK needs PLL1's output R (PLL1CFGR.PLL1REN)")
        return vco / (_field(dividers, 24, 7) + 1)

    def cannot_start(self, name: str) -> str | None:
        if name == "PLL1" and self._pll_source() is None:
            return "it has no source (PLL1CFGR.PLL1SRC)"
        return None

    def _chosen(self) -> str:
        return ("MSIS", "HSI16", "HSE", "PLL1")[_field(self.rcc.peek(self._CFGR1), 0, 2)]

    def sysclk_hz(self) -> float:
        name = self._chosen()
        if name == "MSIS":
            return self._msi(28)
        return {"HSI16": _HSI16, "HSE": self.hse_hz}.get(name) or self._pll_hz()

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / _AHB_PRESCALER[_field(self.rcc.peek(self._CFGR2), 0, 4)]

    def bus_hz(self, bus: str) -> float:
        hclk = self.cpu_hz()
        if bus == "pclk1":
            return hclk / _APB_PRESCALER[_field(self.rcc.peek(self._CFGR2), 4, 3)]
        if bus == "pclk2":
            return hclk / _APB_PRESCALER[_field(self.rcc.peek(self._CFGR2), 8, 3)]
        if bus == "pclk3":
            return hclk / _APB_PRESCALER[_field(self.rcc.peek(self._CFGR3), 4, 3)]
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
        scale = _field(self.pwr.peek(0x0C), 16, 2)
        name = f"voltage range {4 - scale}"
        limits = {
            3: (32, 64, 96, 128, 160), 2: (30, 60, 90, 110), 1: (24, 48, 55), 0: (12, 25),
        }  # fmt: skip
        self._check_wait_states(hclk, latency, limits[scale], name)
        if hclk > 55 * _MHZ and not self._boosted():
            raise BoardFault(
                f"{hclk / _MHZ:g} MHz need the EPOD booster (PWR_VOSR.BOOSTEN) above 55 MHz"
            )


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
    others = (("SYSCFG", 0x58000400, (0xF4, 1)), ("DBGMCU", 0x5C001000, None))

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.pwr = _Watched(self, "PWR", 0x58024800, {0x00: 0xF000C000, 0x0C: 0x46}, self._pwr_read)
        self.flash = _Watched(self, "FLASH", 0x52002000, {0x00: 0x13})
        board.bus.add(self.pwr)
        board.bus.add(self.flash)

    def _scale(self) -> int:
        """Voltage scale 0 (fastest) to 3, of SRDCR.VOS."""
        return 3 - _field(self.pwr.peek(0x18), 14, 2)

    def _pwr_read(self, offset: int, value: int) -> int:
        if offset == 0x04:  # CSR1: ACTVOS, ACTVOSRDY
            return value | _field(self.pwr.peek(0x18), 14, 2) << 14 | 1 << 13
        if offset == 0x18:  # SRDCR: VOSRDY
            return value | 1 << 13
        return value

    def _hsi(self) -> float:
        return 64.0 * _MHZ / (1 << _field(self.rcc.peek(self._CR), 3, 2))

    def sources(self) -> dict[str, float]:
        known = {"HSI": self._hsi(), "CSI": 4.0 * _MHZ, "HSE": self.hse_hz}
        running = {name: hz for name, hz in known.items() if self.rcc.ready(name)}
        for number in (2, 3):
            if self.rcc.ready(f"PLL{number}"):
                running[f"PLL{number}Q"] = self._pll_hz(number, "Q")
        return running | {"LSE": _LSE}

    def _pll_source(self) -> str | None:
        return ("HSI", "CSI", "HSE", None)[_field(self.rcc.peek(self._PLLCKSELR), 0, 2)]

    def _pll_hz(self, number: int, output: str) -> float:
        select, config = self.rcc.peek(self._PLLCKSELR), self.rcc.peek(self._PLLCFGR)
        dividers = self.rcc.peek(self._PLL1DIVR + 8 * (number - 1))
        name, source = f"PLL{number}", self._pll_source()
        clock = {"HSI": self._hsi(), "CSI": 4.0 * _MHZ, "HSE": self.hse_hz}.get(source or "")
        if source is None or clock is None or not self.rcc.ready(source):
            raise BoardFault(f"{name}'s source {source or '(none)'} does not run")
        prescaler = _field(select, 4 + 8 * (number - 1), 6)
        if not prescaler:
            raise BoardFault(f"{name} has no input: DIVM{number} is 0")
        first = 4 * (number - 1)
        low = (1, 2, 4, 8)[_field(config, first + 2, 2)]
        n = _field(dividers, 0, 9) + 1.0
        if config >> first & 1:
            n += _field(self.rcc.peek(self._PLL1DIVR + 8 * (number - 1) + 4), 3, 13) / 8192
        vco_low, vco_high = (150, 420) if config >> first + 1 & 1 else (128, 560)
        vco = _pll(name, clock / prescaler, n, low, 2 * low, vco_low, vco_high)
        index = "PQR".index(output)
        if not config >> 16 + 3 * (number - 1) + index & 1:
            raise BoardFault(f"{name}'s output {output} is off (PLLCFGR.DIV{output}{number}EN)")
        shift, width = ((9, 7), (16, 7), (24, 7))[index]
        return vco / (_field(dividers, shift, width) + 1)

    def cannot_start(self, name: str) -> str | None:
        if name.startswith("PLL") and self._pll_source() is None:
            return "it has no source (PLLCKSELR.PLLSRC)"
        return None

    def _chosen(self) -> str:
        number = _field(self.rcc.peek(self._CFGR), 0, 3)
        return {0: "HSI", 1: "CSI", 2: "HSE", 3: "PLL1"}.get(number, "HSI")

    def sysclk_hz(self) -> float:
        name = self._chosen()
        if name == "PLL1":
            return self._pll_hz(1, "P")
        return {"HSI": self._hsi(), "CSI": 4.0 * _MHZ, "HSE": self.hse_hz}[name]

    def cpu_hz(self) -> float:
        return self.sysclk_hz() / _AHB_PRESCALER[_field(self.rcc.peek(self._CDCFGR1), 8, 4)]

    def bus_hz(self, bus: str) -> float:
        hclk = self.cpu_hz() / _AHB_PRESCALER[_field(self.rcc.peek(self._CDCFGR1), 0, 4)]
        if bus == "pclk1":
            return hclk / _APB_PRESCALER[_field(self.rcc.peek(self._CDCFGR2), 4, 3)]
        if bus == "pclk2":
            return hclk / _APB_PRESCALER[_field(self.rcc.peek(self._CDCFGR2), 8, 3)]
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
            if self.bus_hz(bus) > 140 * _MHZ:
                raise BoardFault(f"{bus} is {self.bus_hz(bus) / _MHZ:g} MHz, beyond 140 MHz")
