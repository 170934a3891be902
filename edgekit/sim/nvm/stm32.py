"""What the flash controllers of the STM32 families share: keys, locks, pages, option bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.sim.nvm import cells_of
from edgekit.sim.stm32 import Stm32, Watched

if TYPE_CHECKING:
    from edgekit.sim.board import Board

KEYS = (0x45670123, 0xCDEF89AB)
OPTION_KEYS = (0x08192A3B, 0x4C5D6E7F)


class Lock:
    """Opens with two keys in their order; a wrong one keeps it closed until the next reset."""

    def __init__(self, keys: tuple[int, int]) -> None:
        self._keys = keys
        self._position = 0
        self._jammed = False
        self.open = False

    def key(self, value: int) -> None:
        if self._jammed or self.open:
            return
        if value != self._keys[self._position]:
            self._jammed = True
        else:
            self._position += 1
            if self._position == len(self._keys):
                self._position = 0
                self.open = True

    def close(self) -> None:
        self.open, self._position = False, 0


class Pages:
    """The pages of a flash: what an erase takes, and what is write-protected."""

    def __init__(self, board: Board) -> None:
        target = board.target
        settings = target.sim.get("rom", {})
        region = next(region for region in target.memory if region.kind == "flash")
        sizes = settings.get("page_bytes", 2048)
        if not isinstance(sizes, list):
            sizes = [sizes] * (region.nbytes // sizes)
        self.origin, self.nbytes = region.origin, region.nbytes
        self.sizes: list[int] = sizes
        self.cells = cells_of(board)
        self._board = board
        options = self.cells.options()
        self.protected: set[int] = set(options.get("protected_pages", []))
        self.read_protected = bool(options.get("read_protected"))

    def keep_options(self) -> None:
        """Writes the option bytes."""
        self.cells.set_options(
            {"read_protected": self.read_protected, "protected_pages": sorted(self.protected)}
        )

    def place(self, page: int) -> tuple[int, int]:
        """(address, bytes) of a page."""
        return self.origin + sum(self.sizes[:page]), self.sizes[page]

    def page_at(self, address: int) -> int:
        offset = address - self.origin
        for page, size in enumerate(self.sizes):
            if offset < size:
                return page
            offset -= size
        return len(self.sizes) - 1

    def erase(self, page: int) -> bool:
        """Erases a page; not when it is protected."""
        if page in self.protected or self.read_protected:
            return False
        address, nbytes = self.place(page)
        self.cells.erase(address, nbytes, nbytes)
        if self._board.debug is not None:
            self._board.debug.memory_changed(address, nbytes)
        return True

    def may_program(self, address: int) -> bool:
        return self.page_at(address) not in self.protected and not self.read_protected

    def program(self, address: int, data: bytes) -> None:
        self.cells.program(address, data, len(data))
        if self._board.debug is not None:
            self._board.debug.memory_changed(address, len(data))


class StmFlash(Watched):
    """The register block FLASH with its lock; a family's controller is a subclass."""

    def __init__(
        self,
        family: Stm32,
        base: int,
        reset: dict[int, int],
        *,
        nbytes: int = 0x400,
        cr: int,
        keyr: int,
        optkeyr: int,
    ) -> None:
        super().__init__(family, "FLASH", base, reset)
        self.nbytes = nbytes
        self.board = family.board
        self.pages = Pages(family.board)
        self.lock, self.option_lock = Lock(KEYS), Lock(OPTION_KEYS)
        self.cr, self.keyr, self.optkeyr = cr, keyr, optkeyr
        #: reads of the status register that still show an operation under way
        self._busy = 0
        family.board.nvm = self

    @property
    def protection(self) -> str:
        return "flash" if self.pages.read_protected else "none"

    def has(self, address: int) -> bool:
        return self.pages.origin <= address < self.pages.origin + self.pages.nbytes

    def begin(self) -> None:
        """An operation starts, and is done before anybody looks twice."""
        self._busy = 1

    def take_busy(self) -> bool:
        busy, self._busy = self._busy > 0, 0
        return busy

    def programs(self, address: int) -> bool:
        raise NotImplementedError

    def store(self, address: int, data: bytes) -> bytes:
        raise NotImplementedError

    def give_up(self) -> None:
        pass

    def peek(self, offset: int) -> int:
        # keys are written as whole words; nothing is merged with what they were
        return 0 if offset in (self.keyr, self.optkeyr) else super().peek(offset)


class Latch:
    """Words of one programming unit that wait for the rest of it."""

    def __init__(self, nbytes: int, read: Callable[[int, int], bytes]) -> None:
        self.nbytes = nbytes
        self._read = read
        self.base: int | None = None
        self._words: dict[int, bytes] = {}
        #: what the cells held before
        self.old = b""

    def takes(self, address: int) -> bool:
        return self.base is None or self.base == address - address % self.nbytes

    def put(self, address: int, data: bytes) -> bytes | None:
        """A part of the unit; the whole of it when this was the last part."""
        if self.base is None:
            self.base = address - address % self.nbytes
            self.old = self._read(self.base, self.nbytes)
        self._words[address] = data
        if sum(len(word) for word in self._words.values()) < self.nbytes:
            return None
        return b"".join(self._words[place] for place in sorted(self._words))

    def has(self, address: int) -> bool:
        return address in self._words

    def fill(self, byte: bytes) -> bytes:
        """The whole unit, with ``byte`` where nothing was put."""
        assert self.base is not None
        unit = bytearray(byte * self.nbytes)
        for address, word in self._words.items():
            offset = address - self.base
            unit[offset : offset + len(word)] = word
        return bytes(unit)

    def drop(self) -> None:
        self.base = None
        self._words.clear()
