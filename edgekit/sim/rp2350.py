"""RP2350: the boot ROM's search for an image, clocks, resets, isolated pads, timers.

The boot ROM is not executed but acted: it looks for a loop of valid blocks in the first 4 kB of
the flash, whose image definition must ask for a secure Arm executable, and starts the image at
its vector table. It has set up the flash's interface by then, so that there is no second stage.

Source: RP2350 datasheet, sections 2.1.3 atomic register access, 2.2 address map, 5.1.5 and 5.9
blocks, 7.5 resets, 8.1 clocks, 8.2 crystal oscillator, 8.5 ticks, 8.6 PLL, 9.7 pad isolation,
12.1 UART, 12.8 timers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.sim.device import BoardFault, Device
from edgekit.sim.rp2040 import AtomicBus, Clocks, Pll, Resets, Timer, Xosc
from edgekit.sim.uart import Pl011

if TYPE_CHECKING:
    from edgekit.sim.board import Board

_MHZ = 1_000_000
SPACES = ((0xD0000000, 0x40000),)
#: Bits of RESETS, by the name of a block
_RESETS = {
    "IO_BANK0": 6, "PADS_BANK0": 9, "PLL_SYS": 14, "PLL_USB": 15, "TIMER0": 23, "TIMER1": 24,
    "UART0": 26, "UART1": 27,
}  # fmt: skip

MARKER_START, MARKER_END = 0xFFFFDED3, 0xAB123579
_SEARCHED_BYTES = 4096
_IMAGE_TYPE, _VECTOR_TABLE, _LAST = 0x42, 0x03, 0xFF


@dataclass(frozen=True)
class Block:
    """A block of the boot ROM's format (5.9.1): items as (type, words with the header)."""

    offset: int
    items: tuple[tuple[int, tuple[int, ...]], ...]
    #: bytes from this block to the next of its loop
    next_offset: int


def find_block(data: bytes, searched_bytes: int = _SEARCHED_BYTES) -> Block | None:
    """The first valid block of a valid loop within the first bytes of an image."""
    for offset in range(0, min(len(data), searched_bytes) - 3, 4):
        block = _block_at(data, offset)
        if block is not None and _is_loop(data, block):
            return block
    return None


def _words(data: bytes, offset: int, count: int) -> tuple[int, ...] | None:
    if offset < 0 or offset + 4 * count > len(data):
        return None
    piece = data[offset : offset + 4 * count]
    return tuple(int.from_bytes(piece[4 * i : 4 * i + 4], "little") for i in range(count))


def _block_at(data: bytes, offset: int) -> Block | None:
    if _words(data, offset, 1) != (MARKER_START,):
        return None
    items = []
    position = offset + 4
    while True:
        header = _words(data, position, 1)
        if header is None:
            return None
        kind = header[0] & 0xFF
        # the size is one byte, or two where the type's top bit is set
        size = header[0] >> 8 & (0xFFFF if kind & 0x80 else 0xFF)
        if kind == _LAST:
            if size != (position - offset - 4) // 4:
                return None
            break
        words = _words(data, position, size)
        if not size or words is None:
            return None
        items.append((kind, words))
        position += 4 * size
    tail = _words(data, position + 4, 2)
    if tail is None or tail[1] != MARKER_END:
        return None
    link = tail[0] - (1 << 32) if tail[0] >> 31 else tail[0]
    return Block(offset, tuple(items), link)


def _is_loop(data: bytes, first: Block) -> bool:
    seen, block = {first.offset}, first
    while True:
        following = _block_at(data, block.offset + block.next_offset)
        if following is None:
            return False
        if following.offset == first.offset:
            return True
        # the first block has the lowest address
        if following.offset in seen or following.offset < first.offset:
            return False
        seen.add(following.offset)
        block = following


class _Clocks(Clocks):
    """16.16 dividers, and one for the peripherals."""

    BASE = 0x40010000
    RESET = {0x34: 1 << 16, 0x40: 1 << 16, 0x4C: 1 << 16}
    LIMIT_HZ = 150 * _MHZ
    #: nominal frequency of the ring oscillator out of reset (8.3)
    ROSC_HZ = 11.0 * _MHZ
    PERI_DIV = 0x4C

    def ref_divider(self) -> int:
        return self.peek(self.REF_DIV) >> 16 & 0xFF or 256

    def sys_divider(self) -> float:
        divider = self.peek(self.SYS_DIV)
        return (divider >> 16 or 1 << 16) + (divider & 0xFFFF) / 65536

    def peri_divider(self) -> int:
        return self.peek(self.PERI_DIV) >> 16 & 3 or 4

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if offset == self.PERI_CTRL:  # ENABLED follows ENABLE
            return value & ~(1 << 28) | (value >> 11 & 1) << 28
        return value


class _Ticks(Device):
    """Ticks of the processors, the timers and the watchdog: CTRL, CYCLES and COUNT of each."""

    TIMER0, TIMER1 = 0x18, 0x24

    def __init__(self) -> None:
        super().__init__("TICKS", 0x40108000, 0x1000)
        self.timers: list[Timer] = []

    def cycles(self, first: int) -> int:
        """Cycles of clk_ref for each tick, 0 when they are off."""
        return self.peek(first + 4) & 0x1FF if self.peek(first) & 1 else 0

    def read(self, offset: int) -> int:
        value = super().read(offset)
        return value | (value & 1) << 1 if offset % 0xC == 0 else value  # RUNNING

    def write(self, offset: int, value: int) -> None:
        for timer in self.timers:
            timer.hold()
        super().write(offset, value)


class _Sio(Device):
    """The single-cycle I/O block; of its outputs there is nothing to see."""

    def read(self, offset: int) -> int:
        return 0 if offset == 0 else super().read(offset)  # CPUID: the first core


class Rp2350:
    """The chip of the Raspberry Pi Pico 2, with its Arm cores."""

    def __init__(self, board: Board) -> None:
        self._board = board
        bus = AtomicBus()
        for device in board.bus.devices:
            bus.add(device)
        board.bus = bus
        target = board.target
        crystal = float(target.sim.get("xosc_hz", 12 * _MHZ))
        resets = Resets(0x40020000, 0x1FFFFFFF, 1 << 7 | 1 << 10 | 1 << 20 | 1 << 21)
        xosc = Xosc(board, crystal, 0x40048000)

        def reference() -> float:
            if not xosc.stable():
                raise BoardFault("a PLL was started before the crystal is stable")
            return crystal

        plls = {
            "PLL_SYS": Pll("PLL_SYS", 0x40050000, board, reference),
            "PLL_USB": Pll("PLL_USB", 0x40058000, board, reference),
        }
        self._clocks = _Clocks(xosc, crystal, plls, board)
        ticks = _Ticks()
        for name, base, first in (
            ("TIMER0", 0x400B0000, ticks.TIMER0),
            ("TIMER1", 0x400B8000, ticks.TIMER1),
        ):
            timer = Timer(
                board,
                lambda first=first: ticks.cycles(first),  # type: ignore[misc]
                self._clocks.ref_hz,
                name,
                base,
            )
            ticks.timers.append(timer)
            bus.add(timer)
        self._io = Device("IO_BANK0", 0x40028000, 0x1000, {4 + 8 * n: 0x1F for n in range(48)})
        # out of reset a pad is isolated (bit 8) and its input off (bit 6)
        self._pads = Device("PADS_BANK0", 0x40038000, 0x1000, {4 + 4 * n: 0x116 for n in range(48)})
        for device in (
            resets, xosc, *plls.values(), self._clocks, ticks, self._io, self._pads,
            Device("SYSINFO", 0x40000000, 0x1000, {0: 0x20004927}),
            Device("SYSCFG", 0x40008000, 0x1000),
            Device("PSM", 0x40018000, 0x1000, {0x0C: 0x1FFFFFF}),
            Device("XIP_CTRL", 0x400C8000, 0x1000, {0: 0x83}),
            Device("XIP_QMI", 0x400D0000, 0x1000),
            Device("WATCHDOG", 0x400D8000, 0x1000),
            Device("ROSC", 0x400E8000, 0x1000, {0x1C: 1 << 31}),
            Device("POWMAN", 0x40100000, 0x1000),
            _Sio("SIO", 0xD0000000, 0x200),
        ):  # fmt: skip
            bus.add(device)
        baud = int(target.link.get("baud", 115200))
        console = int(target.uart.get("base", 0x40070000))
        for name, base in (("UART0", 0x40070000), ("UART1", 0x40078000)):
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
                device.gate = resets.gate_of(bit)

    def _check_pins(self) -> None:
        for role in ("tx", "rx"):
            match = re.fullmatch(r"GPIO(\d+)", str(self._board.target.uart.get(role, "")))
            if match is None:
                continue
            number = int(match.group(1))
            function = self._io.peek(4 + 8 * number) & 0x1F
            pad = self._pads.peek(4 + 4 * number)
            problem = None
            if function != 2:
                problem = f"its function is {function}; the UART's is 2"
            elif pad >> 8 & 1:
                problem = "its pad is isolated (PADS_BANK0 ISO)"
            elif role == "rx" and not pad >> 6 & 1:
                problem = "its input is off (PADS_BANK0 IE)"
            if problem:
                raise BoardFault(
                    f"a byte was sent, but {match.group(0)} is not the UART's {role}: {problem}"
                )

    def cpu_hz(self) -> float:
        return self._clocks.sys_hz()

    def boot(self) -> None:
        """The boot ROM's way (5.1, 5.9): a block loop, an image for this core, its vectors."""
        board = self._board
        flash = next(region for region in board.target.memory if region.kind == "flash")
        data = board.memory(flash.origin, flash.nbytes)
        block = find_block(data)
        if block is None:
            raise self._refused("there is no loop of valid blocks in its first 4 kB", flash.origin)
        place = flash.origin + block.offset
        words = next((words for kind, words in block.items if kind == _IMAGE_TYPE), None)
        if not block.items or block.items[0][0] != _IMAGE_TYPE or words is None:
            raise self._refused("its first block is no image definition", place)
        # IMAGE_TYPE: type 3:0 (1 executable), security 5:4 (2 secure), CPU 10:8 (0 Arm),
        # chip 14:12 (1 RP2350)
        flags = words[0] >> 16
        for name, value, wanted in (
            ("executable", flags & 0xF, 1),
            ("secure", flags >> 4 & 3, 2),
            ("Arm", flags >> 8 & 7, 0),
            ("RP2350", flags >> 12 & 7, 1),
        ):
            if value != wanted:
                raise self._refused(
                    f"its image definition ({flags:#06x}) does not say '{name}'", place
                )
        vectors = next((words for kind, words in block.items if kind == _VECTOR_TABLE), None)
        board.start_at(vectors[1] if vectors else flash.origin)

    def _refused(self, why: str, address: int) -> Exception:
        from edgekit.sim.board import Fault

        return Fault(f"the boot ROM would not start this flash: {why}", f"{address:#010x}")


assemble = Rp2350
