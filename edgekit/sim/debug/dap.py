"""The debug access port: debug port registers, and the access ports that they select (ADIv5.2).

A :class:`DebugPort` is what the pins reach, register by register; how they got there (JTAG,
Serial Wire, or a probe that does it by itself) is its callers'. All of it runs in the board's
thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgekit.sim.debug.runner import DebugRunner

DP_IDR, DP_CTRL_STAT, DP_SELECT, DP_RDBUFF = 0x0, 0x4, 0x8, 0xC
ABORT = 0x0
#: DP_CTRL_STAT (IHI 0031 B2.2.2)
ORUNDETECT, STICKYORUN, STICKYCMP, STICKYERR, READOK, WDATAERR = (
    1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 6, 1 << 7,
)  # fmt: skip
_POWER_REQUESTS = 1 << 28 | 1 << 30
_CSW, _TAR, _DRW, _BD0, _CFG, _BASE, _IDR = 0x00, 0x04, 0x0C, 0x10, 0xF4, 0xF8, 0xFC
_BIT_OF_SIZE = {0: 1, 1: 2, 2: 4}


class AccessFault(Exception):
    """An access that failed: the sticky error flag is up."""


@dataclass(frozen=True)
class Tap:
    """A JTAG test access port: its instruction register's length, and its id."""

    ir_bits: int
    idcode: int


@dataclass(frozen=True)
class Wiring:
    """What a chip has behind its debug pins."""

    #: DPIDR, as Serial Wire reads it
    dpidr: int
    #: the access ports that are memory
    memory_ports: tuple[MemoryPortSpec, ...]
    #: the JTAG chain from TDO to TDI, the CPU's first; empty where there is Serial Wire only
    taps: tuple[Tap, ...] = ()
    #: TARGETID and instance, for chips that share their pins (multi-drop)
    targetid: int = 0
    #: the address from which on a boot ROM's program lies
    rom_at: int = 0x1FFF0000
    #: nRF52's control access port
    control_port: int | None = None


@dataclass(frozen=True)
class MemoryPortSpec:
    """A MEM-AP: its number, its identification, the address of its ROM table."""

    number: int
    idr: int
    base: int
    #: addresses within which TAR counts up (IHI 0031 C2.2.2)
    increment_bytes: int = 1024
    packed: bool = False
    #: what CSW shows of the bus's protection signals
    csw: int = 0x23000000
    #: (first, first behind it, moved by): where its addresses lie in the system's map
    window: tuple[int, int, int] | None = None


class AccessPort(Protocol):
    def read(self, register: int) -> int: ...
    def write(self, register: int, value: int) -> None: ...


class MemoryPort:
    """A MEM-AP (IHI 0031 C2)."""

    def __init__(self, spec: MemoryPortSpec, runner: DebugRunner) -> None:
        self._spec = spec
        self._runner = runner
        self._csw = 2
        self._tar = 0

    def read(self, register: int) -> int:
        if register == _CSW:
            return self._spec.csw | 1 << 6 | self._csw  # DeviceEn
        if register == _TAR:
            return self._tar
        if register == _DRW:
            return self._access(None)
        if _BD0 <= register < _BD0 + 16:
            return self._runner.read_memory(self._at(self._tar & ~0xF | register & 0xC), 4)
        if register == _BASE:
            return self._spec.base
        if register == _IDR:
            return self._spec.idr
        return 0

    def write(self, register: int, value: int) -> None:
        if register == _CSW:
            self._csw = value & (0x37 if self._spec.packed else 0x17)
        elif register == _TAR:
            self._tar = value
        elif register == _DRW:
            self._access(value)
        elif _BD0 <= register < _BD0 + 16:
            self._runner.write_memory(self._at(self._tar & ~0xF | register & 0xC), 4, value)

    def block_read(self, address: int, size: int, count: int, *, increment: bool) -> list[int]:
        """Transfers in a row, as a probe makes them by itself; TAR and CSW stay as they are.

        Raises:
            AccessFault: one of them failed.
        """
        step = size if increment else 0
        read = self._runner.read_memory
        return [read(self._at(address + step * index), size) for index in range(count)]

    def block_write(self, address: int, size: int, values: list[int], *, increment: bool) -> None:
        step = size if increment else 0
        for index, value in enumerate(values):
            self._runner.write_memory(self._at(address + step * index), size, value)

    def _at(self, address: int) -> int:
        window = self._spec.window
        if window is not None and window[0] <= address < window[1]:
            return address + window[2]
        return address

    def _access(self, value: int | None) -> int:
        """One transfer through DRW, or the packed ones that make a word."""
        size = _BIT_OF_SIZE.get(self._csw & 7)
        if size is None:
            raise AccessFault
        increment = self._csw >> 4 & 3
        count = 4 // size if increment == 2 and self._spec.packed else 1
        result = 0
        for _ in range(count):
            lane = 8 * (self._tar & 3 & ~(size - 1))
            mask = (1 << 8 * size) - 1
            address = self._at(self._tar)
            if value is None:
                result |= self._runner.read_memory(address, size) << lane
            else:
                self._runner.write_memory(address, size, value >> lane & mask)
            if increment:
                block = self._spec.increment_bytes
                self._tar = self._tar & ~(block - 1) | (self._tar + size) & (block - 1)
        return result


class ControlPort:
    """nRF52's CTRL-AP (nRF52840 PS v1.7, 4.8.1): reset, and erasing a protected chip."""

    RESET, ERASEALL, ERASEALLSTATUS, APPROTECTSTATUS = 0x00, 0x04, 0x08, 0x0C
    IDR = 0x02880000

    def __init__(self, runner: DebugRunner) -> None:
        self._runner = runner
        self._erase = 0
        self._busy = 0

    def read(self, register: int) -> int:
        if register == _IDR:
            return self.IDR
        if register == self.ERASEALL:
            return self._erase
        if register == self.ERASEALLSTATUS:
            busy, self._busy = self._busy, 0
            return busy
        if register == self.APPROTECTSTATUS:
            return int(not self._runner.protected)
        return int(self._runner.in_reset) if register == self.RESET else 0

    def write(self, register: int, value: int) -> None:
        if register == self.RESET:
            self._runner.drive_reset(bool(value & 1))
        elif register == self.ERASEALL:
            self._erase = value & 1
            if self._erase:
                self._runner.erase_all()
                self._busy = 1


class DebugPort:
    """A DP with its access ports. Reads of access ports are direct here, not posted."""

    def __init__(self, wiring: Wiring, runner: DebugRunner) -> None:
        self.wiring = wiring
        self._ports: dict[int, AccessPort] = {
            spec.number: MemoryPort(spec, runner) for spec in wiring.memory_ports
        }
        if wiring.control_port is not None:
            self._ports[wiring.control_port] = ControlPort(runner)
        self._memory_ports = {spec.number for spec in wiring.memory_ports}
        self._runner = runner
        self.control = 0
        self.select = 0
        self.version = wiring.dpidr >> 12 & 0xF

    # the debug port's own registers

    def read_dp(self, register: int) -> int:
        """DPIDR, CTRL/STAT (or what DPBANKSEL selects in its place); not RDBUFF."""
        if register == DP_IDR:
            return self.wiring.dpidr
        if register == DP_CTRL_STAT:
            bank = self.select & 0xF
            if bank == 0:
                # what is asked for is granted at once: requests 28 and 30, answers 29 and 31
                return self.control | (self.control & _POWER_REQUESTS) << 1
            if bank == 1:
                return 0x40  # DLCR: a turnaround of one cycle
            if bank == 2:
                return self.wiring.targetid
            if bank == 3:
                return self.wiring.targetid & 0xF0000000 | 1  # DLPIDR: instance, SWD v2
            return 0
        return 0

    def write_dp(self, register: int, value: int) -> None:
        """ABORT, CTRL/STAT, SELECT."""
        if register == ABORT:
            clears = {1 << 1: STICKYCMP, 1 << 2: STICKYERR, 1 << 3: WDATAERR, 1 << 4: STICKYORUN}
            for bit, flag in clears.items():
                if value & bit:
                    self.control &= ~flag
        elif register == DP_CTRL_STAT:
            if self.select & 0xF == 0:
                sticky = self.control & (STICKYORUN | STICKYCMP | STICKYERR | READOK | WDATAERR)
                self.control = value & 0x50FFFF0D | sticky
        elif register == DP_SELECT:
            self.select = value

    @property
    def has_error(self) -> bool:
        return bool(self.control & (STICKYERR | STICKYORUN | WDATAERR))

    @property
    def powered(self) -> bool:
        return self.control & _POWER_REQUESTS == _POWER_REQUESTS

    # access ports, through SELECT

    def read_ap(self, register: int) -> int:
        """A register of the selected access port and bank; ``register`` is bits 3:2.

        Raises:
            AccessFault: the access failed, now or earlier.
        """
        return self.access(self.select >> 24, self.select & 0xF0 | register & 0xC, None)

    def write_ap(self, register: int, value: int) -> None:
        self.access(self.select >> 24, self.select & 0xF0 | register & 0xC, value)

    def memory(self, number: int) -> MemoryPort:
        """A memory access port that can be used.

        Raises:
            AccessFault: there is none of that number, or the chip is protected.
        """
        found = self._ports.get(number)
        if not isinstance(found, MemoryPort) or self._runner.protected or not self.powered:
            raise AccessFault
        return found

    def access(self, port: int, register: int, value: int | None) -> int:
        """A register of an access port by its whole address."""
        if self.has_error or not self.powered:
            self.control |= STICKYERR
            raise AccessFault
        found = self._ports.get(port)
        if found is None:
            return 0  # what is not there reads as zero (IHI 0031 B1.2.3)
        if port in self._memory_ports and self._runner.protected:
            if register == _IDR:
                return 0
            self.control |= STICKYERR
            raise AccessFault
        try:
            if value is None:
                return found.read(register)
            found.write(register, value)
        except AccessFault:
            self.control |= STICKYERR
            raise
        return 0
