"""The flash controller of STM32F4: sectors of several sizes, programmed byte by byte up to words.

Source: RM0390, sections 3.5 erase and program operations, 3.6 option bytes, 3.8 registers.
Nothing keeps a program from writing over what is written: bits are cleared, no error says so.
"""

from __future__ import annotations

from edgekit.sim.nvm.stm32 import StmFlash
from edgekit.sim.stm32 import Stm32, bits

_KEYR, _OPTKEYR, _SR, _CR, _OPTCR = 0x04, 0x08, 0x0C, 0x10, 0x14
_PG, _SER, _MER, _STRT, _EOPIE, _LOCK = 1 << 0, 1 << 1, 1 << 2, 1 << 16, 1 << 24, 1 << 31
_EOP, _WRPERR, _PGAERR, _PGPERR, _PGSERR = 1 << 0, 1 << 4, 1 << 5, 1 << 6, 1 << 7
_FLAGS = 0x1F3
_BSY = 1 << 16
_OPTLOCK, _OPTSTRT = 1 << 0, 1 << 1
_NWRP = 16
#: Option bytes as they leave the factory
_FACTORY = 0x0FFFAAED


class Flash(StmFlash):
    """FLASH of one bank."""

    def __init__(self, family: Stm32) -> None:
        reset = {_CR: _LOCK, _OPTCR: _FACTORY}
        super().__init__(family, 0x40023C00, reset, cr=_CR, keyr=_KEYR, optkeyr=_OPTKEYR)
        for sector in self.pages.protected:
            self.values[_OPTCR] &= ~(1 << _NWRP + sector)
        if self.pages.read_protected:
            self.values[_OPTCR] = self.values[_OPTCR] & ~0xFF00 | 0x5500

    def read(self, offset: int) -> int:
        if offset == _SR:
            return super().read(offset) | (_BSY if self.take_busy() else 0)
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == _KEYR:
            self.lock.key(value)
            if self.lock.open:
                self.values[_CR] = self.peek(_CR) & ~_LOCK
        elif offset == _OPTKEYR:
            self.option_lock.key(value)
            if self.option_lock.open:
                self.values[_OPTCR] = self.peek(_OPTCR) & ~_OPTLOCK
        elif offset == _SR:
            self.values[_SR] = self.peek(_SR) & ~(value & _FLAGS)
        elif offset == _CR:
            self._control(value)
        elif offset == _OPTCR:
            self._options(value)
        else:
            super().write(offset, value)

    def _control(self, value: int) -> None:
        if not self.lock.open:
            return
        self.values[_CR] = value & ~(_STRT | _LOCK)
        if value & _STRT:
            self._start(value)
        if value & _LOCK:
            self.lock.close()
            self.values[_CR] |= _LOCK

    def _raise(self, flag: int) -> None:
        self.values[_SR] = self.peek(_SR) | flag

    def _done(self) -> None:
        if self.peek(_CR) & _EOPIE:
            self._raise(_EOP)

    def _start(self, value: int) -> None:
        self.begin()
        if value & _MER:
            sectors = list(range(len(self.pages.sizes)))
            if self.pages.protected:
                self._raise(_WRPERR)
                return
        else:
            sectors = [bits(value, 3, 4)]
        if not value & (_SER | _MER) or value & _PG or sectors[-1] >= len(self.pages.sizes):
            self._raise(_PGSERR)
            return
        for sector in sectors:
            if not self.pages.erase(sector):
                self._raise(_WRPERR)
                return
        self._done()

    def _options(self, value: int) -> None:
        if not self.option_lock.open:
            return
        self.values[_OPTCR] = value & ~(_OPTSTRT | _OPTLOCK)
        if value & _OPTSTRT:
            count = len(self.pages.sizes)
            was = self.pages.read_protected
            self.pages.read_protected = value >> 8 & 0xFF != 0xAA
            self.pages.protected = set()
            if was and not self.pages.read_protected:  # back to level 0: everything is erased
                for sector in range(count):
                    self.pages.erase(sector)
            self.pages.protected = {n for n in range(count) if not value >> _NWRP + n & 1}
            self.pages.keep_options()
            self.begin()
        if value & _OPTLOCK:
            self.option_lock.close()
            self.values[_OPTCR] |= _OPTLOCK

    def programs(self, address: int) -> bool:
        return self.has(address) and bool(self.peek(_CR) & _PG)

    def store(self, address: int, data: bytes) -> bytes:
        """A write as wide as PSIZE says (RM0390 3.5.2, 3.5.4)."""
        problem = 0
        if not self.peek(_CR) & _PG:
            problem = _PGSERR
        elif len(data) != 1 << bits(self.peek(_CR), 8, 2):
            problem = _PGPERR
        elif address // 16 != (address + len(data) - 1) // 16:
            problem = _PGAERR
        elif not self.pages.may_program(address):
            problem = _WRPERR
        if problem:
            self._raise(problem)
        else:
            self.begin()
            self.pages.program(address, data)
            self._done()
        return self.pages.cells.read(address, len(data))
