"""The flash controller of STM32H7A3 and H7B3: two banks with registers of their own.

Source: RM0455, sections 4.3.9 to 4.3.11 program and erase, 4.4 option bytes, 4.9 registers;
offsets and the places of bits as OpenOCD 0.12's driver stm32h7x has them.
"""

from __future__ import annotations

from edgekit.sim.nvm.stm32 import KEYS, Latch, Lock, StmFlash
from edgekit.sim.stm32 import Stm32, bits

_KEYR, _OPTKEYR, _CR, _SR, _CCR = 0x04, 0x08, 0x0C, 0x10, 0x14
_OPTCR, _OPTSR_CUR, _OPTSR_PRG, _WPSN_CUR, _WPSN_PRG = 0x18, 0x1C, 0x20, 0x38, 0x3C
_BANK = 0x100
_LOCK, _PG, _SER, _BER, _FW, _START = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
_QW, _EOP, _WRPERR, _PGSERR, _STRBERR, _INCERR = (
    1 << 2, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 21,
)  # fmt: skip
_ERRORS = 0x07EE0000
_UNIT = 16
#: Sectors that share a bit of WPSN
_GROUP = 4
_OPTLOCK, _OPTSTART = 1 << 0, 1 << 1
#: Option status as it leaves the factory: read protection level 0
_FACTORY = 0x0000AAF0


class Flash(StmFlash):
    """FLASH; offsets of the second bank are those of the first and 0x100."""

    def __init__(self, family: Stm32) -> None:
        reset = {0x00: 0x13}
        for bank in (0, _BANK):
            reset |= {bank + _CR: _LOCK, bank + _OPTCR: _OPTLOCK}
        super().__init__(family, 0x52002000, reset, cr=_CR, keyr=_KEYR, optkeyr=_OPTKEYR)
        self._half = len(self.pages.sizes) // 2
        self._half_bytes = self.pages.nbytes // 2
        self._locks = {0: self.lock, _BANK: Lock(KEYS)}
        self._latches = {bank: Latch(_UNIT, self.pages.cells.read) for bank in (0, _BANK)}
        status = _FACTORY & ~0xFF00 | 0x5500 if self.pages.read_protected else _FACTORY
        for bank in (0, _BANK):
            self.values[bank + _OPTSR_CUR] = self.values[bank + _OPTSR_PRG] = status
            first = self._half if bank else 0
            groups = 0xFFFFFFFF
            for page in self.pages.protected:
                if first <= page < first + self._half:
                    groups &= ~(1 << (page - first) // _GROUP)
            self.values[bank + _WPSN_CUR] = self.values[bank + _WPSN_PRG] = groups

    def read(self, offset: int) -> int:
        if offset % _BANK == _SR:
            return super().read(offset) | (_QW if self.take_busy() else 0)
        return super().read(offset)

    def peek(self, offset: int) -> int:
        return 0 if offset % _BANK in (_KEYR, _OPTKEYR, _CCR) else super().peek(offset)

    def write(self, offset: int, value: int) -> None:
        bank, register = offset // _BANK * _BANK, offset % _BANK
        if bank > _BANK:
            super().write(offset, value)
        elif register == _KEYR:
            self._locks[bank].key(value)
            if self._locks[bank].open:
                self.values[bank + _CR] = self.peek(bank + _CR) & ~_LOCK
        elif register == _OPTKEYR:
            self.option_lock.key(value)
            if self.option_lock.open:
                for each in (0, _BANK):
                    self.values[each + _OPTCR] = self.peek(each + _OPTCR) & ~_OPTLOCK
        elif register == _CCR:
            self.values[bank + _SR] = self.peek(bank + _SR) & ~(value & (_ERRORS | _EOP))
        elif register == _CR:
            self._control(bank, value)
        elif register == _OPTCR:
            self._options(value)
        elif register in (_OPTSR_PRG, _WPSN_PRG):
            if self.option_lock.open:
                self.values[offset] = value
        elif register not in (_SR, _OPTSR_CUR, _WPSN_CUR):
            super().write(offset, value)

    def _raise(self, bank: int, flag: int) -> None:
        self.values[bank + _SR] = self.peek(bank + _SR) | flag

    def _control(self, bank: int, value: int) -> None:
        lock = self._locks[bank]
        if not lock.open:
            return
        self.values[bank + _CR] = value & ~(_START | _FW | _LOCK)
        latch = self._latches[bank]
        if value & _FW and value & _PG and latch.base is not None:
            self._program(bank, latch.fill(b"\xff"))
        if value & _START:
            self._start(bank, value)
        if not value & _PG:
            self._give_up(bank)
        if value & _LOCK:
            lock.close()
            self.values[bank + _CR] |= _LOCK

    def _start(self, bank: int, value: int) -> None:
        self.begin()
        first = self._half if bank else 0
        if value & _BER:
            pages = list(range(first, first + self._half))
            if self.pages.protected & set(pages):
                self._raise(bank, _WRPERR)
                return
        elif value & _SER and bits(value, 6, 7) < self._half:
            pages = [first + bits(value, 6, 7)]
        else:
            self._raise(bank, _PGSERR)
            return
        for page in pages:
            if not self.pages.erase(page):
                self._raise(bank, _WRPERR)
                return
        self._raise(bank, _EOP)

    def _options(self, value: int) -> None:
        if not self.option_lock.open:
            return
        if value & _OPTSTART:
            protected: set[int] = set()
            for bank in (0, _BANK):
                first = self._half if bank else 0
                groups = self.peek(bank + _WPSN_PRG)
                protected |= {first + n for n in range(self._half) if not groups >> n // _GROUP & 1}
                self.values[bank + _WPSN_CUR] = groups
                self.values[bank + _OPTSR_CUR] = self.peek(_OPTSR_PRG)
            was = self.pages.read_protected
            self.pages.read_protected = self.peek(_OPTSR_PRG) >> 8 & 0xFF != 0xAA
            self.pages.protected = set()
            if was and not self.pages.read_protected:
                for page in range(len(self.pages.sizes)):
                    self.pages.erase(page)
            self.pages.protected = protected
            self.pages.keep_options()
        if value & _OPTLOCK:
            self.option_lock.close()
            for bank in (0, _BANK):
                self.values[bank + _OPTCR] = _OPTLOCK

    def _bank_of(self, address: int) -> int:
        return _BANK if address - self.pages.origin >= self._half_bytes else 0

    def programs(self, address: int) -> bool:
        return self.has(address) and bool(self.peek(self._bank_of(address) + _CR) & _PG)

    def store(self, address: int, data: bytes) -> bytes:
        """Into the bank's write buffer, whose 16 bytes are programmed at once (4.3.9)."""
        bank = self._bank_of(address)
        latch = self._latches[bank]
        problem = 0
        if not self.peek(bank + _CR) & _PG or self.peek(bank + _SR) & _ERRORS:
            problem = _PGSERR
        elif not latch.takes(address):
            problem = _INCERR
        elif latch.has(address):
            problem = _STRBERR
        if problem:
            self._raise(bank, problem)
            self._give_up(bank)
            return self.pages.cells.read(address, len(data))
        unit = latch.put(address, data)
        if unit is None:
            return data
        self._program(bank, unit)
        return self.pages.cells.read(address, len(data))

    def _program(self, bank: int, unit: bytes) -> None:
        base = self._latches[bank].base
        assert base is not None
        self.begin()
        self._give_up(bank)
        if self.pages.may_program(base):
            self.pages.program(base, unit)
            self._raise(bank, _EOP)
        else:
            self._raise(bank, _WRPERR)

    def give_up(self) -> None:
        for bank in self._latches:
            self._give_up(bank)

    def _give_up(self, bank: int) -> None:
        latch = self._latches[bank]
        if latch.base is not None:
            self.board.write_memory(latch.base, latch.old)
        latch.drop()
