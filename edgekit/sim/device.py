"""What a peripheral is to a virtual board, and what stops a board."""

from __future__ import annotations

from collections.abc import Callable

_WORD = 0xFFFFFFFF


class BoardFault(Exception):
    """The firmware did what the real chip would not survive, or would silently get wrong."""


class Device:
    """A block of registers. ``read`` and ``write`` see whole words at word offsets.

    ``data_offsets`` names the registers through which data passes.

    A plain Device keeps what is written, which is enough for registers without behaviour.
    """

    data_offsets: frozenset[int] = frozenset()

    def __init__(
        self,
        name: str,
        base: int,
        nbytes: int = 0x400,
        reset: dict[int, int] | None = None,
        mask: dict[int, int] | None = None,
    ) -> None:
        self.name = name
        self.base = base
        self.nbytes = nbytes
        self.values = dict(reset or {})
        self._mask = mask or {}
        #: says what keeps the peripheral from working (no clock), or ``None`` when nothing does
        self.gate: Callable[[], str | None] | None = None

    def read(self, offset: int) -> int:
        return self.values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        mask = self._mask.get(offset, _WORD)
        self.values[offset] = self.values.get(offset, 0) & ~mask | value & mask

    def peek(self, offset: int) -> int:
        """A register's content without the side effects of a read, to merge narrow writes."""
        return self.values.get(offset, 0)


class Bus:
    """Finds the peripheral at an address; narrow accesses become accesses to words."""

    def __init__(self) -> None:
        self._devices: list[Device] = []
        self._pages: dict[int, list[Device]] = {}
        self._found: dict[int, Device | None] = {}

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(self._devices)

    def add(self, device: Device) -> None:
        self._devices.append(device)
        self._found.clear()
        for page in range(device.base >> 10, (device.base + device.nbytes - 1 >> 10) + 1):
            self._pages.setdefault(page, []).append(device)

    def find(self, address: int) -> Device | None:
        # blocks that came later lie inside those that came before
        for device in reversed(self._pages.get(address >> 10, [])):
            if device.base <= address < device.base + device.nbytes:
                return device
        return None

    def _working(self, address: int, kind: str, nbytes: int) -> Device:
        device = self._found.get(address)
        if device is None:
            device = self._found[address] = self.find(address)
        if device is None:
            raise BoardFault(
                f"{kind} of {nbytes} bytes at {address:#010x}: the virtual board has no "
                "peripheral there"
            )
        if device.gate is not None:
            problem = device.gate()
            if problem:
                raise BoardFault(
                    f"{kind} of {nbytes} bytes at {address:#010x}: {device.name} {problem}"
                )
        return device

    def read(self, address: int, nbytes: int) -> int:
        """``nbytes`` (1, 2 or 4) at an address.

        Raises:
            BoardFault: there is no peripheral, or it has no clock.
        """
        device = self._working(address, "read", nbytes)
        offset = address - device.base
        value = device.read(offset & ~3) >> 8 * (offset & 3)
        return value & ((1 << 8 * nbytes) - 1)

    def write(self, address: int, nbytes: int, value: int) -> bool:
        """Writes; whether that changed a setting (data through a register does not).

        Raises:
            BoardFault: there is no peripheral, or it has no clock.
        """
        device = self._working(address, "write", nbytes)
        offset = address - device.base
        if nbytes < 4:
            shift = 8 * (offset & 3)
            mask = ((1 << 8 * nbytes) - 1) << shift
            value = device.peek(offset & ~3) & ~mask | value << shift & mask
        device.write(offset & ~3, value & _WORD)
        return offset & ~3 not in device.data_offsets
