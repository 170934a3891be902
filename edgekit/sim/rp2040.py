"""RP2040: boot ROM, clocks, resets, pins, timer, and the flash's serial interface.

The boot ROM is not executed but acted: it checks the second boot stage's CRC, copies it to
the end of RAM and starts it, as the datasheet says in 2.8.1.

Source: RP2040 datasheet, sections 2.1.2 atomic register access, 2.8 boot ROM, 2.14 resets,
2.15 clocks, 2.16 crystal oscillator, 2.18 PLL, 2.19 GPIO, 4.6 timer, 4.7 watchdog, 4.10 SSI.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.sim.counter import MILLI
from edgekit.sim.device import BoardFault, Bus, Device
from edgekit.sim.uart import Pl011

if TYPE_CHECKING:
    from edgekit.sim.board import Board

_MHZ = 1_000_000
#: Nominal frequency of the ring oscillator out of reset (2.17)
_ROSC_HZ = 6.5 * _MHZ
_BOOT2_BYTES = 256
_BOOT2_RAM = 0x20041F00
#: Beyond the architecture's: the flash's serial interface and the single-cycle I/O block
SPACES = ((0x18000000, 0x1000), (0xD0000000, 0x1000))

#: Bits of RESETS (2.14.3), by the name of a block
_RESETS = {
    "IO_BANK0": 5, "PADS_BANK0": 8, "PLL_SYS": 12, "PLL_USB": 13, "TIMER": 21,
    "UART0": 22, "UART1": 23,
}  # fmt: skip


def crc32_boot2(data: bytes) -> int:
    """The CRC-32 that the boot ROM computes over the first 252 bytes (2.8.1.3.1): polynomial
    0x04C11DB7, start 0xFFFFFFFF, not reflected, no final exclusive or."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


class AtomicBus(Bus):
    """Peripherals appear four times: as they are, and to flip, set and clear bits (2.1.2)."""

    def _split(self, address: int) -> tuple[int, int]:
        if 0x40000000 <= address < 0x60000000:
            return address & ~0x3000, address >> 12 & 3
        return address, 0

    def read(self, address: int, nbytes: int) -> int:
        return super().read(self._split(address)[0], nbytes)

    def write(self, address: int, nbytes: int, value: int) -> bool:
        address, kind = self._split(address)
        if nbytes < 4 and 0x40000000 <= address < 0x60000000:
            # narrow writes are repeated over the word (2.1.4)
            value &= (1 << 8 * nbytes) - 1
            value *= 0x01010101 if nbytes == 1 else 0x00010001
            address, nbytes = address & ~3, 4
        if kind:
            device = self._working(address, "write", nbytes)
            before = device.peek(address - device.base)
            value = {1: before ^ value, 2: before | value, 3: before & ~value}[kind]
        return super().write(address, nbytes, value & 0xFFFFFFFF)


class Resets(Device):
    """Holds blocks in reset; the boot ROM has released the flash's pins (``released``)."""

    def __init__(
        self,
        base: int = 0x4000C000,
        blocks: int = 0x01FFFFFF,
        released: int = 1 << 6 | 1 << 9,
    ) -> None:
        super().__init__("RESETS", base, 0x1000, {0: blocks & ~released})
        self._blocks = blocks

    def read(self, offset: int) -> int:
        if offset == 0x08:  # RESET_DONE
            return ~self.peek(0) & self._blocks
        return super().read(offset)

    def gate_of(self, bit: int) -> Callable[[], str | None]:
        """What keeps the block with a bit from working."""

        def problem() -> str | None:
            return f"is held in reset (RESETS bit {bit})" if self.peek(0) >> bit & 1 else None

        return problem


class Xosc(Device):
    CTRL, STATUS, STARTUP = 0x00, 0x04, 0x0C

    def __init__(self, board: Board, hz: float, base: int = 0x40024000) -> None:
        super().__init__("XOSC", base, 0x1000, {self.STARTUP: 0xC4})
        self._board = board
        self._hz = hz
        self._stable_at: int | None = None

    def stable(self) -> bool:
        return self._stable_at is not None and self._board.counter.now >= self._stable_at

    def read(self, offset: int) -> int:
        if offset == self.STATUS:
            status = 1 << 31 if self.stable() else 0
            return status | (1 << 12 if self._stable_at is not None else 0)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self.CTRL:
            enable = value >> 12 & 0xFFF
            if enable == 0xFAB and self._stable_at is None:
                if value & 0xFFF != 0xAA0:
                    raise BoardFault(f"XOSC: FREQ_RANGE is {value & 0xFFF:#x}, not 0xaa0")
                delay = (self.peek(self.STARTUP) & 0x3FFF) * 256 / self._hz
                cycles = delay * self._board.cpu_hz()
                self._stable_at = self._board.counter.now + round(cycles * MILLI)
            elif enable == 0xD1E:
                self._stable_at = None


class Pll(Device):
    CS, PWR, FBDIV, PRIM = 0x00, 0x04, 0x08, 0x0C

    def __init__(self, name: str, base: int, board: Board, reference: Callable[[], float]) -> None:
        super().__init__(name, base, 0x1000, {self.CS: 1, self.PWR: 0x2D, self.PRIM: 0x77000})
        self._board = board
        self._reference = reference
        self._locked_at: int | None = None

    def _vco(self) -> float:
        reference = self._reference() / max(self.peek(self.CS) & 0x3F, 1)
        n = self.peek(self.FBDIV) & 0xFFF
        if not 16 <= n <= 320:
            raise BoardFault(f"{self.name}: FBDIV is {n}, outside 16 to 320")
        if reference < 5 * _MHZ:
            raise BoardFault(f"{self.name}: its input is {reference / _MHZ:g} MHz, below 5 MHz")
        vco = reference * n
        if not 750 * _MHZ <= vco <= 1600 * _MHZ:
            raise BoardFault(
                f"{self.name}: its oscillator would run at {vco / _MHZ:g} MHz, outside 750 to 1600"
            )
        return vco

    def locked(self) -> bool:
        return self._locked_at is not None and self._board.counter.now >= self._locked_at

    def hz(self) -> float:
        """The output's frequency.

        Raises:
            BoardFault: it does not run.
        """
        if not self.locked():
            raise BoardFault(f"{self.name} is not locked")
        if self.peek(self.PWR) >> 3 & 1:
            raise BoardFault(f"{self.name}: its post dividers are off (PWR.POSTDIVPD)")
        dividers = self.peek(self.PRIM)
        first, second = dividers >> 16 & 7, dividers >> 12 & 7
        if not first or not second:
            raise BoardFault(f"{self.name}: a post divider is 0")
        return self._vco() / first / second

    def read(self, offset: int) -> int:
        if offset == self.CS:
            return super().read(offset) & 0x7FFFFFFF | (1 << 31 if self.locked() else 0)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == self.PWR:
            if value & (1 << 0 | 1 << 5):
                self._locked_at = None
            elif self._locked_at is None:
                self._vco()
                cycles = 100e-6 * self._board.cpu_hz()
                self._locked_at = self._board.counter.now + round(cycles * MILLI)

    def reset(self) -> None:
        self.values = {self.CS: 1, self.PWR: 0x2D, self.PRIM: 0x77000}
        self._locked_at = None


class Clocks(Device):
    """The clock generators; dividers and limits are those of the RP2040."""

    BASE = 0x40008000
    #: out of reset: all dividers 1
    RESET = {0x34: 0x100, 0x40: 0x100}
    LIMIT_HZ = 133 * _MHZ
    ROSC_HZ = _ROSC_HZ
    REF_CTRL, REF_DIV, REF_SELECTED = 0x30, 0x34, 0x38
    SYS_CTRL, SYS_DIV, SYS_SELECTED, PERI_CTRL = 0x3C, 0x40, 0x44, 0x48

    def __init__(self, xosc: Xosc, xosc_hz: float, plls: dict[str, Pll], board: Board) -> None:
        super().__init__("CLOCKS", self.BASE, 0x1000, self.RESET)
        self._xosc = xosc
        self._xosc_hz = xosc_hz
        self._plls = plls
        self._board = board

    def _source(self, name: str) -> float:
        if name == "ROSC":
            return self.ROSC_HZ
        if name == "XOSC":
            if not self._xosc.stable():
                raise BoardFault("a clock was switched to the crystal, which is not stable")
            return self._xosc_hz
        return self._plls[name].hz()

    def ref_hz(self) -> float:
        control = self.peek(self.REF_CTRL)
        source = control & 3
        if source == 1:
            hz = self._source(("PLL_USB", "ROSC", "ROSC", "ROSC")[control >> 5 & 3])
        else:
            hz = self._source("XOSC" if source == 2 else "ROSC")
        return hz / self.ref_divider()

    def ref_divider(self) -> int:
        return (self.peek(self.REF_DIV) >> 8 & 3) or 4

    def sys_divider(self) -> float:
        divider = self.peek(self.SYS_DIV)
        return (divider >> 8 or 1 << 16) + (divider & 0xFF) / 256

    def peri_divider(self) -> int:
        return 1

    def sys_hz(self) -> float:
        control = self.peek(self.SYS_CTRL)
        if control & 1:
            names = ("PLL_SYS", "PLL_USB", "ROSC", "XOSC")
            hz = self._source(names[min(control >> 5 & 7, 3)])
        else:
            hz = self.ref_hz()
        return hz / self.sys_divider()

    def peri_hz(self) -> float:
        control = self.peek(self.PERI_CTRL)
        if not control >> 11 & 1:
            raise BoardFault("clk_peri is off (CLK_PERI_CTRL.ENABLE)")
        source = control >> 5 & 7
        names = ("", "PLL_SYS", "PLL_USB", "ROSC", "XOSC")
        hz = self._source(names[min(source, 4)]) if source else self.sys_hz()
        return hz / self.peri_divider()

    def read(self, offset: int) -> int:
        if offset == self.REF_SELECTED:
            return 1 << (self.peek(self.REF_CTRL) & 3)
        if offset == self.SYS_SELECTED:
            return 1 << (self.peek(self.SYS_CTRL) & 1)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        before = self.peek(offset)
        super().write(offset, value)
        if offset == self.SYS_CTRL and (before & value & 1) and (before ^ value) & 0xE0:
            raise BoardFault("CLK_SYS_CTRL.AUXSRC changed while clk_sys runs on it (2.15.3.2)")
        hz, limit = self.sys_hz() / _MHZ, self.LIMIT_HZ / _MHZ
        if hz > limit:
            raise BoardFault(f"clk_sys would be {hz:g} MHz, beyond {limit:g} MHz")


class Timer(Device):
    """A 64-bit count of ticks, each so many cycles of clk_ref (0: none come)."""

    HIGH, LOW, RAW_HIGH, RAW_LOW = 0x08, 0x0C, 0x24, 0x28

    def __init__(
        self,
        board: Board,
        tick_cycles: Callable[[], int],
        ref_hz: Callable[[], float],
        name: str = "TIMER",
        base: int = 0x40054000,
    ) -> None:
        super().__init__(name, base, 0x1000)
        self._board = board
        self._tick_cycles = tick_cycles
        self._ref_hz = ref_hz
        self._from = 0
        self._held = 0.0
        self._latched = 0

    def hold(self) -> None:
        """Called before the tick changes."""
        self._held, self._from = self._count(), self._board.counter.now

    def _count(self) -> float:
        cycles = self._tick_cycles()
        if not cycles:
            return self._held
        seconds = (self._board.counter.now - self._from) / MILLI / self._board.cpu_hz()
        return self._held + seconds * self._ref_hz() / cycles

    def read(self, offset: int) -> int:
        count = int(self._count())
        if offset in (self.LOW, self.RAW_LOW):
            if offset == self.LOW:
                self._latched = count >> 32
            return count & 0xFFFFFFFF
        if offset == self.HIGH:
            return self._latched
        return count >> 32 if offset == self.RAW_HIGH else super().read(offset)


class _Watchdog(Device):
    def __init__(self) -> None:
        super().__init__("WATCHDOG", 0x40058000, 0x1000, {0x2C: 0x200})
        self.timer: Timer | None = None

    def tick_cycles(self) -> int:
        tick = self.peek(0x2C)
        return tick & 0x1FF if tick >> 9 & 1 else 0

    def read(self, offset: int) -> int:
        value = super().read(offset)
        return value | 1 << 10 if offset == 0x2C and value & 1 << 9 else value

    def write(self, offset: int, value: int) -> None:
        if offset == 0x2C and self.timer is not None:
            self.timer.hold()
        super().write(offset, value)


class _Ssi(Device):
    """The flash's serial interface: what a second boot stage says to the flash chip."""

    SSIENR, SR, DR0 = 0x08, 0x28, 0x60

    def __init__(self) -> None:
        super().__init__("XIP_SSI", 0x18000000, 0x1000, {self.SSIENR: 1})
        self._sent: list[int] = []
        self._received: list[int] = []
        self._write_enabled = False
        self._status2 = 0  # quad enable is bit 1

    def _transfer(self) -> None:
        sent, self._sent = self._sent, []
        answer = [0xFF] * len(sent)
        command = sent[0] if sent else 0
        if command == 0x06:
            self._write_enabled = True
        elif command in (0x05, 0x35):
            answer[1:] = [self._status2 if command == 0x35 else 0] * (len(sent) - 1)
        elif command in (0x01, 0x31) and self._write_enabled:
            self._status2 = sent[-1]
            self._write_enabled = False
        self._received += answer

    def read(self, offset: int) -> int:
        if offset == self.SR:  # everything is sent by the time it is asked: TFE, TFNF
            self._transfer()
            return 1 << 2 | 1 << 1 | (1 << 3 if self._received else 0)
        if offset == self.DR0:
            self._transfer()
            return self._received.pop(0) if self._received else 0
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == self.DR0:
            if not self.peek(self.SSIENR) & 1:
                raise BoardFault("XIP_SSI: data written while it is off (SSIENR)")
            self._sent.append(value & 0xFF)
            return
        if offset == self.SSIENR and not value & 1:
            self._sent.clear()
            self._received.clear()
        elif self.peek(self.SSIENR) & 1 and offset in (0x00, 0x14):
            raise BoardFault("XIP_SSI: CTRLR0 and BAUDR may only be written while it is off")
        super().write(offset, value)

    def peek(self, offset: int) -> int:
        return 0 if offset == self.DR0 else super().peek(offset)


class Sio(Device):
    """The single-cycle I/O block: outputs with their set, clear and flip registers (2.3.1.2), and
    the integer divider (2.3.1.5), whose results are ready at once."""

    _OUTPUTS = (0x10, 0x20)
    _UDIVIDEND, _UDIVISOR, _SDIVIDEND, _SDIVISOR, _QUOTIENT, _REMAINDER, _CSR = range(0x60, 0x7C, 4)

    def __init__(self) -> None:
        super().__init__("SIO", 0xD0000000, 0x200)
        self._dirty = False

    def read(self, offset: int) -> int:
        if offset == self._CSR:  # READY, DIRTY
            return 1 | int(self._dirty) << 1
        if offset == self._QUOTIENT:
            self._dirty = False
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        for output in self._OUTPUTS:
            before = self.peek(output)
            changed = {4: before | value, 8: before & ~value, 12: before ^ value}
            if offset - output in changed:
                self.values[output] = changed[offset - output]
                return
        super().write(offset, value)
        if self._UDIVIDEND <= offset <= self._SDIVISOR:
            # the signed and the unsigned names are one pair of registers
            self.values[offset ^ 8] = value
            self._divide(signed=offset >= self._SDIVIDEND)
        if self._UDIVIDEND <= offset <= self._REMAINDER:
            self._dirty = True

    def _divide(self, *, signed: bool) -> None:
        dividend, divisor = self.peek(self._UDIVIDEND), self.peek(self._UDIVISOR)
        if signed:
            dividend, divisor = (v - (1 << 32) if v >> 31 else v for v in (dividend, divisor))
        if divisor == 0:
            quotient, remainder = (1 if signed and dividend < 0 else -1), dividend
        else:
            quotient = abs(dividend) // abs(divisor)
            quotient = -quotient if (dividend < 0) != (divisor < 0) else quotient
            remainder = dividend - quotient * divisor
        self.values[self._QUOTIENT] = quotient & 0xFFFFFFFF
        self.values[self._REMAINDER] = remainder & 0xFFFFFFFF


class Rp2040:
    """The chip of the Raspberry Pi Pico."""

    def __init__(self, board: Board) -> None:
        self._board = board
        bus = AtomicBus()
        for device in board.bus.devices:
            bus.add(device)
        board.bus = bus
        target = board.target
        crystal = float(target.sim.get("xosc_hz", 12 * _MHZ))
        self._resets = Resets()
        xosc = Xosc(board, crystal)

        def reference() -> float:
            if not xosc.stable():
                raise BoardFault("a PLL was started before the crystal is stable")
            return crystal

        plls = {
            "PLL_SYS": Pll("PLL_SYS", 0x40028000, board, reference),
            "PLL_USB": Pll("PLL_USB", 0x4002C000, board, reference),
        }
        self._clocks = Clocks(xosc, crystal, plls, board)
        watchdog = _Watchdog()
        timer = Timer(board, watchdog.tick_cycles, self._clocks.ref_hz)
        watchdog.timer = timer
        self._io = Device("IO_BANK0", 0x40014000, 0x1000, {4 + 8 * n: 0x1F for n in range(30)})
        pads = Device("PADS_BANK0", 0x4001C000, 0x1000, {4 + 4 * n: 0x56 for n in range(30)})
        for device in (
            self._resets, xosc, *plls.values(), self._clocks, watchdog, timer, self._io, pads,
            _Ssi(),
            Device("SYSINFO", 0x40000000, 0x1000, {0: 0x20002927}),
            Device("PSM", 0x40010000, 0x1000, {0x0C: 0x1FFFF}),
            Device("ROSC", 0x40060000, 0x1000, {0x18: 1 << 31}),
            Device("VREG_AND_CHIP_RESET", 0x40064000, 0x1000),
            Sio(),
        ):  # fmt: skip
            bus.add(device)
        baud = int(target.link.get("baud", 115200))
        console = int(target.uart.get("base", 0x40034000))
        for name, base in (("UART0", 0x40034000), ("UART1", 0x40038000)):
            uart: Device
            if base == console:
                uart = Pl011(
                    name, base, board, self._clocks.peri_hz, board.line, baud, self._check_pins
                )
            else:
                uart = Device(name, base, 0x1000)
            bus.add(uart)
        for device in bus.devices:
            bit = _RESETS.get(device.name)
            if bit is not None:
                device.gate = self._resets.gate_of(bit)

    def _check_pins(self) -> None:
        for role in ("tx", "rx"):
            match = re.fullmatch(r"GPIO(\d+)", str(self._board.target.uart.get(role, "")))
            if match is None:
                continue
            function = self._io.peek(4 + 8 * int(match.group(1))) & 0x1F
            if function != 2:
                raise BoardFault(
                    f"a byte was sent, but {match.group(0)} is not the UART's {role}: its "
                    f"function is {function}; the UART's is 2"
                )

    def cpu_hz(self) -> float:
        return self._clocks.sys_hz()

    def boot(self) -> None:
        """The boot ROM's way (2.8.1): the second stage's CRC, a copy in RAM, and a jump."""
        board = self._board
        flash = next(region for region in board.target.memory if region.kind == "flash")
        stage = board.memory(flash.origin, _BOOT2_BYTES)
        stored = int.from_bytes(stage[-4:], "little")
        computed = crc32_boot2(stage[:-4])
        if stored != computed:
            from edgekit.sim.board import Fault

            raise Fault(
                f"the second boot stage's CRC is {stored:#010x}, it must be {computed:#010x}: the "
                "boot ROM would not start this flash",
                f"{flash.origin + _BOOT2_BYTES - 4:#010x}",
            )
        board.write_memory(_BOOT2_RAM, stage)
        board.jump(_BOOT2_RAM | 1, _BOOT2_RAM, 0)


assemble = Rp2040
