"""STM32 families: clock tree, power, flash wait states, pins, timers and UARTs.

Registers behave as the reference manuals say: oscillators and PLLs become ready some time
after they are switched on; a switch to a clock that is not ready, a frequency that the
voltage range or the flash wait states do not allow, a PLL outside its ranges, or a peripheral
without its clock stops the board with the reason.

Sources: RM0432 (STM32L4+) sections 3.3.3 wait states, 5 PWR, 6 RCC, 8 GPIO; RM0455
(STM32H7A3) 4.3.8, 6, 8, 10; RM0456 (STM32U5) 7.3.3, 10, 11, 13; RM0444 (STM32G0) 3.3.4, 4,
5, 6; RM0390 (STM32F446) 3.4.1, 5, 6, 7; general-purpose timers RM0432 section 38.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.device import BoardFault, Device
from edgekit.sim.uart import StmUart, StmUartV1

if TYPE_CHECKING:
    from edgekit.sim.board import Board

MHZ = 1_000_000
HSI16_HZ = 16.0 * MHZ
LSE_HZ = 32_768.0
AHB_PRESCALER = {**dict.fromkeys(range(8), 1)} | dict(
    zip(range(8, 16), (2, 4, 8, 16, 64, 128, 256, 512), strict=True)
)
APB_PRESCALER = {**dict.fromkeys(range(4), 1)} | dict(zip(range(4, 8), (2, 4, 8, 16), strict=True))


def bits(value: int, shift: int, width: int) -> int:
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
                    delay = oscillator.startup_us * self._family.cpu_hz() / MHZ
                    self._ready_at[oscillator.name] = self._family.board.counter.now + round(
                        delay * MILLI
                    )
                elif was and not now_on:
                    if oscillator.name in self._family.in_use():
                        raise BoardFault(f"{oscillator.name} switched off while the CPU runs on it")
                    self._ready_at.pop(oscillator.name, None)
        self._family.check()


class Watched(Device):
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
        mode = bits(self.peek(self.MODER), 2 * pin, 2)
        if mode != 2:
            return f"{self.name[-1]}{pin} is not an alternate function pin (MODER {mode})"
        chosen = bits(self.peek(self.AFRL if pin < 8 else self.AFRH), 4 * (pin % 8), 4)
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
    #: MODER out of reset: of ports A and B the debug pins, of the others analog inputs
    gpio_modes: dict[str, int] = {"A": 0xABFFFFFF, "B": 0xFFFFFEBF}
    gpio_mode = 0xFFFFFFFF
    #: the generation of the console's USART
    uart_device: type[StmUart] | type[StmUartV1] = StmUart
    uarts: tuple[UartSpec, ...]
    timers: tuple[TimerSpec, ...]
    #: plain register blocks that a start-up code may touch: name, base, gate or None
    others: tuple[tuple[str, int, tuple[int, int] | None], ...] = ()

    def __init__(self, board: Board) -> None:
        self.board = board
        self.hse_hz = float(board.target.sim.get("hse_hz", 8 * MHZ))
        self.rcc = Rcc(self, self.rcc_base, self.rcc_reset)
        board.bus.add(self.rcc)
        self._ports: dict[str, Gpio] = {}
        for index, letter in enumerate(self.gpio_ports):
            modes = self.gpio_modes.get(letter, self.gpio_mode)
            port = Gpio(f"GPIO{letter}", self.gpio_base + 0x400 * index, 0x400, {0: modes})
            port.gate = self._gate(self.gpio_gate, index)
            board.bus.add(port)
            self._ports[letter] = port
        console = int(board.target.uart.get("base", 0))
        baud = int(board.target.link.get("baud", 115200))
        for spec in self.uarts:
            device: Device
            if spec.base == console:
                device = self.uart_device(
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
        for role in ("tx", "rx"):
            match = re.fullmatch(r"P([A-Z])(\d+)", str(pins.get(role, "")))
            if match is None or function is None:
                continue
            letter, number = match.group(1), int(match.group(2))
            problem = self._ports[letter].problem(number, int(function))
            problem = problem or self.pin_problem(letter)
            if problem:
                raise BoardFault(
                    f"a byte was sent, but {match.group(0)} is not the UART's {role}: {problem}; "
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
        name = spec.sources[min(bits(self.rcc.peek(offset), shift, width), len(spec.sources) - 1)]
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
            if hclk <= limit * MHZ + 0.5:
                if set_to < wait_states:
                    raise BoardFault(
                        f"{hclk / MHZ:g} MHz need {wait_states} flash wait states in {what}; "
                        f"FLASH_ACR has {set_to}"
                    )
                return
        raise BoardFault(f"{hclk / MHZ:g} MHz are beyond the {limits_mhz[-1]:g} MHz of {what}")

    def identify(self, address: int, revision: int) -> None:
        """The chip's identity: DBGMCU_IDCODE, the flash's size in KiB, the unique id.

        The device id is the boot ROM's product id; the settings say where the rest lies.
        """
        target = self.board.target
        settings = target.sim.get("rom", {})
        chip_id = int(settings.get("chip_id", 0))
        debug = Device("DBGMCU", address, 0x400, {0: revision << 16 | chip_id}, {0: 0})
        self.board.bus.add(debug)
        if "uid_at" in settings:
            self.board.add_information(int(settings["uid_at"]), b"EDGEKIT\0\0\0\0\0")
        if "size_at" in settings:
            kib = (target.flash_bytes >> 10).to_bytes(2, "little")
            self.board.add_information(int(settings["size_at"]), kib)

    def boot(self) -> None:
        target = self.board.target
        flash = next(region for region in target.memory if region.kind == "flash")
        self.board.start_at(int(target.sim.get("boot", flash.origin)))


def pll_hz(name: str, reference: float, n: float, low: float, high: float,
         vco_low: float, vco_high: float) -> float:  # fmt: skip
    """Frequency of a PLL's oscillator, after its ranges (in MHz) are checked."""
    if not low * MHZ <= reference <= high * MHZ:
        raise BoardFault(
            f"{name}: its input is {reference / MHZ:g} MHz, outside {low:g} to {high:g} MHz"
        )
    vco = reference * n
    if not vco_low * MHZ <= vco <= vco_high * MHZ:
        raise BoardFault(
            f"{name}: its oscillator would run at {vco / MHZ:g} MHz, outside "
            f"{vco_low:g} to {vco_high:g} MHz"
        )
    return vco
