"""The other side of a virtual board's debug pins: hosts that move them bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.sim.board import Board
from edgekit.sim.debug.bitbang import Bitbang
from edgekit.sim.debug.core import CoreDebug
from edgekit.sim.debug.dap import Wiring
from edgekit.sim.debug.runner import DebugRunner
from edgekit.sim.families import wiring
from edgekit.sim.line import MemoryLine
from edgekit.sim.rom.memory import FlashMemory
from edgekit.sim.symbols import UnknownImage
from edgekit.targets import Target, load_target

OK, WAIT, FAULT = 1, 2, 4
DPIDR, CTRL_STAT, SELECT, RDBUFF = 0x0, 0x4, 0x8, 0xC
CSW, TAR, DRW = 0x00, 0x04, 0x0C
DHCSR, DCRSR, DCRDR, DEMCR, DFSR = 0xE000EDF0, 0xE000EDF4, 0xE000EDF8, 0xE000EDFC, 0xE000ED30
KEY = 0xA05F0000
PC, XPSR = 15, 16


def start(
    target: str | Target,
    elf: Path | None,
    *,
    state: Path | None = None,
    pins: Callable[[Wiring], Wiring] = lambda found: found,
) -> DebugRunner:
    """A board with a debug port, as ``edgekit sim --debug-port`` has it, without the server."""
    chip = load_target(target) if isinstance(target, str) else target
    core = CoreDebug(str(chip.core), chip.isa)
    line = MemoryLine()
    flash = FlashMemory(chip, state) if state is not None else None
    boards: list[Board] = []

    def make_board() -> Board | None:
        if boards:
            return None
        boards.append(Board(chip, elf or UnknownImage(), line=line, flash=flash, debug=core))
        return boards[0]

    return DebugRunner(core, pins(wiring(chip)), line, make_board, lambda wanted: None, rom=False)


class Swd:
    """Serial Wire through the characters of ``remote_bitbang`` (IHI 0031 B4)."""

    TO_SWD, TO_JTAG = 0xE79E, 0xE73C

    def __init__(self, runner: DebugRunner) -> None:
        self._target = Bitbang(runner)
        #: overrun detection is on: data follows whatever the acknowledgement is
        self.overrun = False

    def bits(self, count: int, value: int) -> None:
        """The host drives SWDIO, least significant bit first."""
        text = "".join(
            f"{chr(0x64 + (value >> i & 1))}{chr(0x66 + (value >> i & 1))}" for i in range(count)
        )
        assert self._target.take(text.encode()) == (b"", False)

    def listen(self, count: int) -> int:
        """The target drives: it is looked at before each rising edge."""
        answer, _ = self._target.take(b"cdf" * count)
        return sum((byte - 0x30) << index for index, byte in enumerate(answer))

    def line_reset(self) -> None:
        self.bits(56, (1 << 56) - 1)
        self.bits(2, 0)

    def to_swd(self) -> int:
        """Selects Serial Wire, and reads the port's id, which must be first."""
        self.bits(56, (1 << 56) - 1)
        self.bits(16, self.TO_SWD)
        self.line_reset()
        ack, value = self.transfer(ap=False, read=True, register=DPIDR)
        return value if ack == OK else 0

    def request(self, *, ap: bool, read: bool, register: int, spoil: int = 0) -> int:
        """The eight bits of a request; the acknowledgement behind the turnaround."""
        head = ap | read << 1 | (register >> 2 & 3) << 2
        head |= (head.bit_count() & 1) << 4 | 1 << 6
        self.bits(8, 1 | (head ^ spoil) << 1)
        self.listen(1)
        return self.listen(3)

    def transfer(
        self, *, ap: bool, read: bool, register: int, value: int = 0, parity: int | None = None
    ) -> tuple[int, int]:
        ack = self.request(ap=ap, read=read, register=register)
        if ack != OK and not self.overrun:
            self.listen(1)
            self.bits(4, 0)
            return ack, 0
        if read:
            found = self.listen(33)
            assert ack != OK or (found >> 32) == ((found & 0xFFFFFFFF).bit_count() & 1)
            self.bits(4, 0)
            return ack, found & 0xFFFFFFFF
        self.listen(1)
        self.bits(32, value)
        self.bits(1, value.bit_count() & 1 if parity is None else parity)
        self.bits(4, 0)
        return ack, 0

    # the same calls as Jtag has

    def read(self, ap: bool, register: int) -> int:
        """Reads a register; one of an access port with the read behind it that delivers it."""
        ack, value = self.transfer(ap=ap, read=True, register=register)
        assert ack == OK
        if ap:
            ack, value = self.transfer(ap=False, read=True, register=RDBUFF)
            assert ack == OK
        return value

    def write(self, ap: bool, register: int, value: int) -> None:
        assert self.transfer(ap=ap, read=False, register=register, value=value)[0] == OK


class Jtag:
    """JTAG through the characters of ``remote_bitbang`` (IEEE 1149.1; IHI 0031 B3)."""

    ABORT, DPACC, APACC, IDCODE = 0x8, 0xA, 0xB, 0xE

    def __init__(self, runner: DebugRunner) -> None:
        self._target = Bitbang(runner)
        self._lengths = [tap.ir_bits for tap in runner.port.wiring.taps]
        self.tms(0b11111, 5)
        self.tms(0, 1)

    def tms(self, value: int, count: int) -> None:
        for index in range(count):
            self._clock(value >> index & 1, 0)

    def _clock(self, tms: int, tdi: int) -> int:
        pins = tms << 1 | tdi
        answer, _ = self._target.take(bytes([0x30 + pins]) + b"R" + bytes([0x34 + pins]))
        return answer[0] - 0x30

    def _scan(self, count: int, value: int) -> int:
        """Shifts, from the capture state on, and goes to Run-Test/Idle."""
        found = 0
        self._clock(0, 0)
        for index in range(count):
            found |= self._clock(int(index == count - 1), value >> index & 1) << index
        self.tms(0b01, 2)
        return found

    def ir(self, instruction: int) -> int:
        """Selects an instruction of the CPU's port; the others are in BYPASS."""
        value, place = 0, 0
        for index, length in enumerate(self._lengths):
            value |= (instruction if index == 0 else (1 << length) - 1) << place
            place += length
        self.tms(0b011, 3)
        return self._scan(place, value)

    def dr(self, count: int, value: int) -> int:
        """One bit more for each port in BYPASS, which are behind the CPU's."""
        self.tms(0b01, 2)
        return self._scan(count + len(self._lengths) - 1, value) & (1 << count) - 1

    def access(self, instruction: int, register: int, value: int | None) -> tuple[int, int]:
        """(acknowledgement, result) of the access before this one."""
        self.ir(instruction)
        read = value is None
        found = self.dr(35, (value or 0) << 3 | (register >> 2 & 3) << 1 | read)
        return found & 7, found >> 3

    def read(self, ap: bool, register: int) -> int:
        self.access(self.APACC if ap else self.DPACC, register, None)
        ack, value = self.access(self.DPACC, RDBUFF, None)
        assert ack == 2
        return value

    def write(self, ap: bool, register: int, value: int) -> None:
        ack, _ = self.access(self.APACC if ap else self.DPACC, register, value)
        assert ack == 2


class Memory:
    """Memory and the CPU through an access port, by a host of either kind."""

    def __init__(self, host: Swd | Jtag, number: int = 0) -> None:
        self._host = host
        host.write(False, SELECT, number << 24)
        host.write(False, CTRL_STAT, 0x50000000)
        assert host.read(False, CTRL_STAT) >> 28 == 0xF
        self.csw(2)

    def csw(self, size: int, increment: int = 1) -> None:
        self._host.write(True, CSW, 0x23000000 | increment << 4 | size)

    def read(self, address: int) -> int:
        self._host.write(True, TAR, address)
        return self._host.read(True, DRW)

    def write(self, address: int, value: int) -> None:
        self._host.write(True, TAR, address)
        self._host.write(True, DRW, value)


class Cpu:
    """The CPU through the debug registers, without any pins."""

    def __init__(self, runner: DebugRunner) -> None:
        self.runner = runner
        self.write(DHCSR, KEY | 1)

    def read(self, address: int, nbytes: int = 4) -> int:
        return self.runner.call(lambda: self.runner.read_memory(address, nbytes))

    def write(self, address: int, value: int, nbytes: int = 4) -> None:
        self.runner.call(lambda: self.runner.write_memory(address, nbytes, value))

    @property
    def status(self) -> int:
        return self.read(DHCSR)

    @property
    def halted(self) -> bool:
        return bool(self.status & 1 << 17)

    def halt(self) -> None:
        self.write(DHCSR, KEY | 3)
        assert self.halted

    def go(self) -> None:
        self.write(DHCSR, KEY | 1)

    def step(self) -> None:
        self.write(DHCSR, KEY | 5)

    def wait(self, seconds: float = 20.0) -> int:
        """Until it has halted; all that DHCSR has shown meanwhile."""
        import time

        seen, deadline = 0, time.monotonic() + seconds
        while not seen & 1 << 17:
            assert time.monotonic() < deadline, "the CPU does not halt"
            seen |= self.status
            time.sleep(0.001)
        return seen

    def reset_and_halt(self) -> None:
        """A reset that ends before the first instruction."""
        self.write(DEMCR, 1)
        self.write(0xE000ED0C, 0x05FA0004)
        assert self.wait() & 1 << 25  # S_RESET_ST, which reading clears
        assert not self.status & 1 << 25
        assert self.reason() & 8  # VCATCH
        self.write(DEMCR, 0)

    def register(self, number: int) -> int:
        self.write(DCRSR, number)
        return self.read(DCRDR)

    def set_register(self, number: int, value: int) -> None:
        self.write(DCRDR, value)
        self.write(DCRSR, 1 << 16 | number)

    def reason(self) -> int:
        """DFSR, which is cleared."""
        value = self.read(DFSR)
        self.write(DFSR, value)
        return value

    def breakpoints(self, *addresses: int) -> None:
        """Revision 1 or 2 of the breakpoint unit."""
        revision2 = self.read(0xE0002000) >> 28
        self.write(0xE0002000, 3)
        count = self.read(0xE0002000) >> 4 & 0xF
        for index in range(count):
            value = 0
            if index < len(addresses):
                address = addresses[index]
                half = 2 if address & 2 else 1
                value = address | 1 if revision2 else half << 30 | address & 0x1FFFFFFC | 1
            self.write(0xE0002008 + 4 * index, value)


def symbols(elf: Path) -> dict[str, Any]:
    """The addresses of an ELF file's symbols."""
    from edgekit.sim.symbols import Image

    return dict(Image(elf).symbols)
