"""The flash controller of STM32L4+, G0 and U5: pages, double or quad words with ECC.

Sources: RM0432 (L4+) sections 3.3.5 to 3.3.7 operations, 3.4 option bytes, 3.7 registers;
RM0444 (G0) 3.3.6 to 3.3.8, 3.7; RM0456 (U5) 7.3.5 to 7.3.9, 7.9. Register offsets and the
places of bank and page bits as OpenOCD 0.12's driver stm32l4x has them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.sim.nvm.stm32 import Latch, StmFlash
from edgekit.sim.stm32 import Stm32, bits

_PG, _PER, _MER1, _MER2 = 1 << 0, 1 << 1, 1 << 2, 1 << 15
_STRT, _OPTSTRT, _EOPIE, _OBL_LAUNCH = 1 << 16, 1 << 17, 1 << 24, 1 << 27
_OPTLOCK, _LOCK = 1 << 30, 1 << 31
_EOP, _OPERR, _PROGERR, _WRPERR, _PGAERR, _SIZERR, _PGSERR = (
    1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7,
)  # fmt: skip
_ERRORS = 0x0000C3FA
_BSY = 1 << 16


@dataclass(frozen=True)
class Layout:
    """Where a family has its registers, and how it numbers pages."""

    keyr: int
    optkeyr: int
    sr: int
    cr: int
    optr: int
    #: write protection areas: two of the first bank, two of the second
    wrp: tuple[int, int, int, int]
    #: bit of CR that chooses the second bank
    bank: int
    #: bits of CR that hold the page's number, from bit 3
    page_bits: int
    unit_bytes: int
    #: option bytes as they leave the factory, RDP level 0
    factory: int
    acr: int


L4 = Layout(0x08, 0x0C, 0x10, 0x14, 0x20, (0x2C, 0x30, 0x4C, 0x50), 11, 8, 8, 0xFFEFF8AA, 0x600)
G0 = Layout(0x08, 0x0C, 0x10, 0x14, 0x20, (0x2C, 0x30, 0x4C, 0x50), 13, 10, 8, 0xDFFFE1AA, 0x40600)
U5 = Layout(0x08, 0x10, 0x20, 0x28, 0x40, (0x58, 0x5C, 0x68, 0x6C), 11, 8, 16, 0x1FEFF8AA, 0x01)
_WRP_MASK = 0xFF


class Flash(StmFlash):
    """FLASH with two banks of equal pages."""

    def __init__(self, family: Stm32, layout: Layout) -> None:
        reset = {0: layout.acr, layout.cr: _LOCK | _OPTLOCK, layout.optr: layout.factory}
        super().__init__(
            family, 0x40022000, reset, cr=layout.cr, keyr=layout.keyr, optkeyr=layout.optkeyr
        )
        self._at = layout
        self._latch = Latch(layout.unit_bytes, self.pages.cells.read)
        self._bank_pages = len(self.pages.sizes) // 2
        if self.pages.read_protected:
            self.values[layout.optr] = layout.factory & ~0xFF | 0xBB
        self._show_protection()

    # option bytes

    def _show_protection(self) -> None:
        """The protected pages as areas (first and last page), two for each bank."""
        for bank in (0, 1):
            first = bank * self._bank_pages
            pages = sorted(
                page - first
                for page in self.pages.protected
                if first <= page < first + self._bank_pages
            )
            areas: list[list[int]] = []
            for page in pages:
                if areas and areas[-1][1] == page - 1:
                    areas[-1][1] = page
                else:
                    areas.append([page, page])
            if len(areas) > 2:  # there are no more: the second one reaches to the end
                areas[1:] = [[areas[1][0], areas[-1][1]]]
            for index in (0, 1):
                # an area whose first page is behind its last protects nothing
                start, end = areas[index] if index < len(areas) else (_WRP_MASK, 0)
                self.values[self._at.wrp[2 * bank + index]] = 0xFF00FF00 | start | end << 16

    def _program_options(self) -> None:
        """OPTSTRT (RM0432 3.4.2)."""
        protected: set[int] = set()
        for index, offset in enumerate(self._at.wrp):
            first, last = bits(self.peek(offset), 0, 8), bits(self.peek(offset), 16, 8)
            base = index // 2 * self._bank_pages
            protected |= set(range(base + first, base + last + 1))
        was = self.pages.read_protected
        level = self.peek(self._at.optr) & 0xFF
        if was and level == 0xAA:  # back to level 0: everything is erased
            self.pages.protected, self.pages.read_protected = set(), False
            self._erase(range(len(self.pages.sizes)))
        self.pages.protected = protected
        self.pages.read_protected = level != 0xAA
        self.pages.keep_options()
        self.begin()

    # registers

    def read(self, offset: int) -> int:
        if offset == self._at.sr:
            return super().read(offset) | (_BSY if self.take_busy() else 0)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        at = self._at
        if offset == at.keyr:
            self.lock.key(value)
            if self.lock.open:
                self.values[at.cr] = self.peek(at.cr) & ~_LOCK
        elif offset == at.optkeyr:
            if self.lock.open:
                self.option_lock.key(value)
                if self.option_lock.open:
                    self.values[at.cr] = self.peek(at.cr) & ~_OPTLOCK
        elif offset == at.sr:
            self.values[offset] = self.peek(offset) & ~(value & (_ERRORS | _EOP))
        elif offset == at.cr:
            self._control(value)
        elif offset == at.optr or offset in at.wrp:
            if self.option_lock.open:
                super().write(offset, value)
        else:
            super().write(offset, value)

    def _control(self, value: int) -> None:
        at = self._at
        if not self.lock.open:
            return  # CR cannot be written while it is locked
        starts = value & (_STRT | _OPTSTRT | _OBL_LAUNCH)
        self.values[at.cr] = value & ~starts & ~(_LOCK | _OPTLOCK)
        if value & _OPTSTRT and self.option_lock.open:
            self._program_options()
        if value & _OBL_LAUNCH and self.option_lock.open:
            self.board.request_reset()
        if value & _STRT:
            self._start(value)
        if not value & _PG:
            self.give_up()
        if value & _LOCK:
            self.lock.close()
        if value & _OPTLOCK or value & _LOCK:
            self.option_lock.close()
        if not self.lock.open:
            self.values[at.cr] |= _LOCK
        if not self.option_lock.open:
            self.values[at.cr] |= _OPTLOCK

    def _raise(self, error: int) -> None:
        self.values[self._at.sr] = self.peek(self._at.sr) | error

    def _done(self) -> None:
        if self.peek(self._at.cr) & _EOPIE:
            self._raise(_EOP)

    def _start(self, value: int) -> None:
        self.begin()
        if value & _PG or self.peek(self._at.sr) & _ERRORS:
            self._raise(_PGSERR)
            return
        count, half = len(self.pages.sizes), self._bank_pages
        pages: list[int] = []
        if value & _PER:
            page = bits(value, 3, self._at.page_bits)
            pages = [page + (half if value >> self._at.bank & 1 else 0)]
        if value & _MER1:
            pages += range(half)
        if value & _MER2:
            pages += range(half, count)
        if not pages or pages[-1] >= count:
            self._raise(_PGSERR)
            return
        self._erase(pages)

    def _erase(self, pages: list[int] | range) -> None:
        if len(pages) > 1 and self.pages.protected & set(pages):
            self._raise(_WRPERR)  # a mass erase is refused as a whole
            return
        for page in pages:
            if not self.pages.erase(page):
                self._raise(_WRPERR)
                return
        self._done()

    # programming

    def programs(self, address: int) -> bool:
        return self.has(address) and bool(self.peek(self._at.cr) & _PG)

    def store(self, address: int, data: bytes) -> bytes:
        """Standard programming (RM0432 3.3.7): whole words, unit by unit."""
        read = self.pages.cells.read
        problem = 0
        if not self.peek(self._at.cr) & _PG or self.peek(self._at.sr) & _ERRORS:
            problem = _PGSERR
        elif len(data) != 4 or address % 4:
            problem = _SIZERR
        elif not self._latch.takes(address):
            problem = _PGAERR
        if problem:
            self._raise(problem)
            self.give_up()
            return read(address, len(data))
        unit = self._latch.put(address, data)
        if unit is None:
            return data
        base, old = self._latch.base, self._latch.old
        assert base is not None
        self.begin()
        if not self.pages.may_program(base):
            problem = _WRPERR
        elif old.strip(b"\xff") and unit.strip(b"\0"):
            problem = _PROGERR  # only zeros may be written over what is written
        self.give_up()
        if problem:
            self._raise(problem)
        else:
            self.pages.program(base, unit)
            self._done()
        return read(address, len(data))

    def give_up(self) -> None:
        if self._latch.base is not None:
            self.board.write_memory(self._latch.base, self._latch.old)
        self._latch.drop()
