"""Flash controllers: locks, what may be programmed when, errors, protection; by debugger and CPU.

Offsets and bits are those of the reference manuals named in ``edgekit/sim/nvm``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from debug_hosts import PC, Cpu, start, symbols
from sim_programs import build

from edgekit.sim.debug.dap import AccessFault
from edgekit.sim.debug.runner import DebugRunner

FLASH = 0x08000000
Start = Callable[..., Cpu]


@dataclass(frozen=True)
class Controller:
    """One family's registers and bits."""

    target: str
    core: str
    keyr: int
    sr: int
    cr: int
    lock: int
    pg: int
    #: CR to erase a page, and to erase everything
    erase: Callable[[int], int]
    erase_all: int
    page_bytes: int
    unit_bytes: int
    #: SR, or what clears it
    clear: int
    wrperr: int
    #: the flag for programming while it is locked or PG is clear
    pgserr: int
    #: and for programming what is not erased; 0 where nobody notices
    progerr: int
    options: dict[str, int]
    busy: int = 1 << 16


def _l4(target: str, core: str, bank: int, page: int) -> Controller:
    base = 0x40022000
    return Controller(
        target, core, base + 0x08, base + 0x10, base + 0x14, 1 << 31, 1,
        lambda n: 1 << 16 | 2 | (n % 128) << 3, 1 << 16 | 1 << 2 | 1 << 15, page, 8, base + 0x10,
        1 << 4, 1 << 7, 1 << 3,
        {"keyr": base + 0x0C, "register": base + 0x20, "start": 1 << 17},
    )  # fmt: skip


L4 = _l4("nucleo-l4r5zi", "cortex-m4", 11, 4096)
G0 = _l4("nucleo-g0b1re", "cortex-m0plus", 13, 2048)
U5 = Controller(
    "nucleo-u575zi-q", "cortex-m33", 0x40022008, 0x40022020, 0x40022028, 1 << 31, 1,
    lambda n: 1 << 16 | 2 | (n % 128) << 3, 1 << 16 | 1 << 2 | 1 << 15, 8192, 16, 0x40022020,
    1 << 4, 1 << 7, 1 << 3,
    {"keyr": 0x40022010, "register": 0x40022040, "start": 1 << 17},
)  # fmt: skip
F4 = Controller(
    "nucleo-f446re", "cortex-m4", 0x40023C04, 0x40023C0C, 0x40023C10, 1 << 31, 0x201,
    lambda n: 1 << 16 | 2 | n << 3, 1 << 16 | 1 << 2, 16384, 4, 0x40023C0C, 1 << 4, 1 << 7, 0,
    {},
)  # fmt: skip
H7 = Controller(
    "nucleo-h7a3zi-q", "cortex-m7", 0x52002004, 0x52002010, 0x5200200C, 1, 2,
    lambda n: 1 << 5 | 1 << 2 | n << 6, 1 << 5 | 1 << 3, 8192, 16, 0x52002014, 1 << 17, 1 << 18,
    0, {}, busy=1 << 2,
)  # fmt: skip
STM32 = pytest.mark.parametrize("chip", (L4, G0, U5, F4, H7), ids=lambda chip: chip.target)


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Start]:
    """Boards whose CPU is halted, with their flash in ``tmp_path/state``."""
    runners: list[DebugRunner] = []

    def make(target: str, elf: Path | None = None, **options: object) -> Cpu:
        state = tmp_path / "state"
        state.mkdir(exist_ok=True)
        if options:
            (state / "options.json").write_text(json.dumps(options))
        runners.append(start(target, elf, state=state))
        cpu = Cpu(runners[-1])
        cpu.halt()
        return cpu

    yield make
    for runner in runners:
        runner.stop()


def unlock(cpu: Cpu, chip: Controller) -> None:
    cpu.write(chip.keyr, 0x45670123)
    cpu.write(chip.keyr, 0xCDEF89AB)
    assert not cpu.read(chip.cr) & chip.lock


def program(cpu: Cpu, address: int, data: bytes) -> None:
    for offset in range(0, len(data), 4):
        cpu.write(address + offset, int.from_bytes(data[offset : offset + 4], "little"))


def content(cpu: Cpu, address: int, nbytes: int) -> bytes:
    words = [cpu.read(address + offset) for offset in range(0, nbytes, 4)]
    return b"".join(word.to_bytes(4, "little") for word in words)[:nbytes]


def take_errors(cpu: Cpu, chip: Controller) -> int:
    """The error flags, which are cleared."""
    mask = chip.wrperr | chip.pgserr | chip.progerr | 0xE0 if chip is not H7 else 0x07EE0000
    found = cpu.read(chip.sr) & mask
    cpu.write(chip.clear, found)
    assert not cpu.read(chip.sr) & mask
    return found


@STM32
def test_it_opens_with_two_keys(chip: Controller, boards: Start) -> None:
    cpu = boards(chip.target)
    assert cpu.read(chip.cr) & chip.lock
    cpu.write(chip.cr, chip.pg)
    assert cpu.read(chip.cr) & chip.lock and not cpu.read(chip.cr) & chip.pg & ~chip.lock
    program(cpu, FLASH, bytes(chip.unit_bytes))
    assert take_errors(cpu, chip) & chip.pgserr
    assert content(cpu, FLASH, 16) == b"\xff" * 16
    unlock(cpu, chip)
    cpu.write(chip.cr, chip.lock)
    assert cpu.read(chip.cr) & chip.lock
    unlock(cpu, chip)
    cpu.write(chip.cr, chip.lock)
    # a wrong key closes it for good, until a reset
    cpu.write(chip.keyr, 0x12345678)
    cpu.write(chip.keyr, 0x45670123)
    cpu.write(chip.keyr, 0xCDEF89AB)
    assert cpu.read(chip.cr) & chip.lock
    cpu.write(0xE000ED0C, 0x05FA0004)
    cpu.halt()
    unlock(cpu, chip)


@STM32
def test_bits_are_cleared_by_programming_and_set_by_erasing(
    chip: Controller, boards: Start
) -> None:
    cpu = boards(chip.target)
    unlock(cpu, chip)
    unit = bytes(range(1, 1 + chip.unit_bytes))
    cpu.write(chip.cr, chip.pg)
    for page in (0, 1, 2):
        program(cpu, FLASH + page * chip.page_bytes, unit)
    assert cpu.read(chip.sr) & chip.busy and not cpu.read(chip.sr) & chip.busy
    assert not take_errors(cpu, chip)
    assert content(cpu, FLASH, len(unit) + 4) == unit + b"\xff" * 4
    # over what is written
    program(cpu, FLASH, b"\xf0" * len(unit))
    assert take_errors(cpu, chip) == chip.progerr
    if chip.progerr:
        assert content(cpu, FLASH, len(unit)) == unit
    else:
        assert content(cpu, FLASH, len(unit)) == bytes(byte & 0xF0 for byte in unit)
    program(cpu, FLASH, bytes(len(unit)))
    assert not take_errors(cpu, chip)  # zeros may always be written
    assert content(cpu, FLASH, len(unit)) == bytes(len(unit))
    cpu.write(chip.cr, chip.erase(1))
    assert not take_errors(cpu, chip)
    assert content(cpu, FLASH + chip.page_bytes, len(unit)) == b"\xff" * len(unit)
    assert content(cpu, FLASH, len(unit)) == bytes(len(unit))
    assert content(cpu, FLASH + 2 * chip.page_bytes, len(unit)) == unit
    cpu.write(chip.cr, chip.erase_all)
    for page in (0, 2):
        assert content(cpu, FLASH + page * chip.page_bytes, len(unit)) == b"\xff" * len(unit)


@pytest.mark.parametrize("chip", (L4, G0, U5), ids=lambda chip: chip.target)
def test_the_second_bank(chip: Controller, boards: Start) -> None:
    cpu = boards(chip.target)
    unlock(cpu, chip)
    nbytes = sum(r.nbytes for r in cpu.runner.board.target.memory if r.kind == "flash")
    bank = 13 if chip is G0 else 11
    places = [FLASH + chip.page_bytes * 3, FLASH + nbytes // 2 + chip.page_bytes * 3]
    cpu.write(chip.cr, chip.pg)
    for place in places:
        program(cpu, place, bytes(chip.unit_bytes))
    cpu.write(chip.cr, chip.erase(3) | 1 << bank)
    assert content(cpu, places[0], 4) == bytes(4)
    assert content(cpu, places[1], 4) == b"\xff" * 4
    # an erase while programming is allowed, and with an error standing, is a wrong sequence
    cpu.write(chip.cr, chip.erase(3) | chip.pg)
    assert cpu.read(chip.sr) & chip.pgserr
    cpu.write(chip.cr, chip.erase(3))
    assert take_errors(cpu, chip) == chip.pgserr
    assert content(cpu, places[0], 4) == bytes(4)


@pytest.mark.parametrize("chip", (L4, G0, U5), ids=lambda chip: chip.target)
def test_units_are_whole(chip: Controller, boards: Start) -> None:
    cpu = boards(chip.target)
    unlock(cpu, chip)
    cpu.write(chip.cr, chip.pg)
    cpu.write(FLASH, 0x1234, 2)
    assert take_errors(cpu, chip) == 1 << 6  # SIZERR
    cpu.write(FLASH, 0x12345678)
    cpu.write(FLASH + 64, 0x12345678)
    assert take_errors(cpu, chip) == 1 << 5  # PGAERR
    assert content(cpu, FLASH, 128) == b"\xff" * 128
    # an error stands in the way of what follows
    cpu.write(FLASH, 0x12, 1)
    program(cpu, FLASH, bytes(chip.unit_bytes))
    assert take_errors(cpu, chip) & chip.pgserr
    assert content(cpu, FLASH, 16) == b"\xff" * 16
    # half a unit that is given up is not there, nor is it after a reset
    cpu.write(FLASH, 0)
    cpu.write(chip.cr, 0)
    assert content(cpu, FLASH, 16) == b"\xff" * 16
    cpu.write(chip.cr, chip.pg)
    cpu.write(FLASH, 0)
    cpu.write(0xE000ED0C, 0x05FA0004)
    cpu.halt()
    assert content(cpu, FLASH, 16) == b"\xff" * 16


def test_f4_writes_as_wide_as_it_is_told(boards: Start) -> None:
    cpu = boards(F4.target)
    unlock(cpu, F4)
    for width in (1, 2, 4):
        cpu.write(F4.cr, 1 | {1: 0, 2: 1, 4: 2}[width] << 8)
        place = FLASH + 64 * width
        cpu.write(place, 0x11223344, width) if width == 4 else cpu.write(place, 0x11, width)
        assert not take_errors(cpu, F4)
        assert content(cpu, place, 4)[0] == (0x44 if width == 4 else 0x11)
        other = 4 if width != 4 else 1
        cpu.write(place + 16, 0, other)
        assert take_errors(cpu, F4) == 1 << 6  # PGPERR
        assert content(cpu, place + 16, 4) == b"\xff" * 4


def test_h7_programs_a_part_of_a_unit_when_it_is_forced(boards: Start) -> None:
    cpu = boards(H7.target)
    unlock(cpu, H7)
    cpu.write(H7.cr, H7.pg)
    program(cpu, FLASH, b"12345678")
    cpu.write(H7.cr, 0)
    assert content(cpu, FLASH, 16) == b"\xff" * 16
    cpu.write(H7.cr, H7.pg)
    program(cpu, FLASH, b"abcdefgh")
    cpu.write(H7.cr, H7.pg | 1 << 4)  # FW
    assert content(cpu, FLASH, 16) == b"abcdefgh" + b"\xff" * 8
    # words that belong to another unit, or come twice
    program(cpu, FLASH + 32, b"abcd")
    program(cpu, FLASH + 64, b"abcd")
    assert take_errors(cpu, H7) == 1 << 21  # INCERR
    program(cpu, FLASH + 32, b"abcd")
    program(cpu, FLASH + 32, b"abcd")
    assert take_errors(cpu, H7) == 1 << 19  # STRBERR
    # the second bank has its own lock
    assert cpu.read(H7.cr + 0x100) & H7.lock
    cpu.write(H7.keyr + 0x100, 0x45670123)
    cpu.write(H7.keyr + 0x100, 0xCDEF89AB)
    assert not cpu.read(H7.cr + 0x100) & H7.lock
    second = FLASH + (1 << 20)
    cpu.write(H7.cr + 0x100, H7.pg)
    program(cpu, second, bytes(16))
    assert content(cpu, second, 16) == bytes(16)
    cpu.write(H7.cr + 0x100, H7.erase(0))
    assert content(cpu, second, 16) == b"\xff" * 16
    assert content(cpu, FLASH, 8) == b"abcdefgh"


@STM32
def test_protected_pages(chip: Controller, boards: Start) -> None:
    cpu = boards(chip.target, protected_pages=[1] if chip is not H7 else [4, 5, 6, 7])
    page = 1 if chip is not H7 else 4
    place = FLASH + page * chip.page_bytes
    unlock(cpu, chip)
    cpu.write(chip.cr, chip.pg)
    program(cpu, place, bytes(chip.unit_bytes))
    assert take_errors(cpu, chip) == chip.wrperr
    cpu.write(chip.cr, chip.erase(page))
    assert take_errors(cpu, chip) == chip.wrperr
    cpu.write(chip.cr, chip.erase_all)
    assert take_errors(cpu, chip) == chip.wrperr
    assert content(cpu, place, 4) == b"\xff" * 4
    cpu.write(chip.cr, chip.pg)
    program(cpu, FLASH, bytes(chip.unit_bytes))
    assert not take_errors(cpu, chip)


@pytest.mark.parametrize("chip", (L4, G0, U5), ids=lambda chip: chip.target)
def test_readout_protection(chip: Controller, boards: Start) -> None:
    """Level 1 keeps debuggers out of the flash; the way back to level 0 erases it."""
    cpu = boards(chip.target)
    unlock(cpu, chip)
    cpu.write(chip.cr, chip.pg)
    program(cpu, FLASH, bytes(chip.unit_bytes))
    register = chip.options["register"]
    assert cpu.read(register) & 0xFF == 0xAA

    def level(byte: int) -> None:
        unlock(cpu, chip) if cpu.read(chip.cr) & chip.lock else None
        cpu.write(chip.options["keyr"], 0x08192A3B)
        cpu.write(chip.options["keyr"], 0x4C5D6E7F)
        cpu.write(register, cpu.read(register) & ~0xFF | byte)
        cpu.write(chip.cr, chip.options["start"])
        cpu.write(chip.cr, 1 << 27)  # OBL_LAUNCH
        cpu.halt()

    cpu.write(register, 0)  # without the keys nothing changes
    assert cpu.read(register) & 0xFF == 0xAA
    level(0x55)
    assert cpu.read(register) & 0xFF == 0xBB
    with pytest.raises(AccessFault):
        cpu.read(FLASH)
    level(0xAA)
    assert content(cpu, FLASH, 4) == b"\xff" * 4


def test_nrf52(boards: Start) -> None:
    nvmc = 0x4001E000
    cpu = boards("nrf52840dk")
    cpu.write(0, 0x12345678)  # CONFIG is read only
    assert cpu.read(0) == 0xFFFFFFFF
    cpu.write(nvmc + 0x504, 1)
    cpu.write(0, 0x12345678)
    assert not cpu.read(nvmc + 0x400) and cpu.read(nvmc + 0x400)  # READY
    cpu.write(0, 0xFFFF0000)
    assert cpu.read(0) == 0x12340000
    with pytest.raises(AccessFault):
        cpu.write(4, 0, 1)
    cpu.write(0x1000, 0)
    cpu.write(nvmc + 0x508, 0x1000)  # ERASEPAGE while writing is allowed: nothing
    assert cpu.read(0x1000) == 0
    cpu.write(nvmc + 0x504, 2)
    cpu.write(nvmc + 0x508, 0x1000)
    assert cpu.read(0x1000) == 0xFFFFFFFF and cpu.read(0) == 0x12340000
    assert cpu.read(0x10000100) == 0x52840 and cpu.read(0x10000110) == 1024
    # UICR: a page of its own, which keeps debuggers out when it says so
    cpu.write(nvmc + 0x504, 1)
    cpu.write(0x10001208, 0)
    cpu.write(0xE000ED0C, 0x05FA0004)
    assert cpu.runner.call(lambda: cpu.runner.protected)
    cpu.runner.call(cpu.runner.erase_all)
    cpu.runner.restart(rom=False)
    assert not cpu.runner.protected
    assert cpu.read(0) == 0xFFFFFFFF


# a firmware that programs its own flash


_SELF = """
#define PAGE %(page)d
#define ADDRESS (%(base)#x + 24 * PAGE)
volatile uint32_t results[8];
__attribute__((noinline)) void done(void) { __asm volatile(""); }
__attribute__((noinline)) static void pair(volatile uint32_t *to, uint32_t a, uint32_t b) {
    register volatile uint32_t *r0 __asm("r0") = to; register uint32_t r1 __asm("r1") = a;
    register uint32_t r2 __asm("r2") = b;
    __asm volatile("stmia r0!, {r1, r2}" : "+r"(r0) : "r"(r1), "r"(r2) : "memory"); }
static void wait(void) { while (REG(%(sr)#x) & %(busy)#x) { } }
void program(void) {
    volatile uint32_t *flash = (volatile uint32_t *)ADDRESS;
    %(open)s
    %(write)s
    for (uint32_t i = 0; i < 16; i += 2) { pair(flash + i, i * 0x01010101u, ~i); wait(); }
    results[0] = flash[3]; results[1] = flash[14];
    /* over what is written */
    pair(flash, 0x00FF00FF, 0xFF00FF00); %(more)s wait();
    results[2] = flash[0]; results[3] = flash[1]; results[4] = REG(%(sr)#x);
    %(clear)s
    %(erase)s
    wait();
    results[5] = flash[0]; results[6] = flash[15];
    done();
}
"""


@pytest.mark.parametrize("name", ("nucleo-l4r5zi", "nucleo-f446re", "nrf52840dk"))
def test_by_the_cpu(name: str, tmp_path: Path, boards: Start) -> None:
    settings: dict[str, object] = {"more": "", "clear": ""}
    if name == "nrf52840dk":
        settings |= {
            "page": 4096, "base": 0, "sr": 0x4001E404, "busy": 0, "open": "",
            "write": "REG(0x4001E504) = 1;",
            "erase": "REG(0x4001E504) = 2; REG(0x4001E508) = ADDRESS;",
        }  # fmt: skip
    else:
        chip = L4 if name == "nucleo-l4r5zi" else F4
        # the sixth sector of an F446 is page 24 of 16 KB
        erase = (24 << 3 | 2 | 1 << 16) if chip is L4 else (6 << 3 | 2 | 1 << 16)
        settings |= {
            "page": chip.page_bytes if chip is L4 else 16384, "base": FLASH, "sr": chip.sr,
            "busy": chip.busy,
            "open": f"REG({chip.keyr:#x}) = 0x45670123; REG({chip.keyr:#x}) = 0xCDEF89ABu;",
            "write": f"REG({chip.cr:#x}) = {chip.pg:#x};",
            "clear": f"REG({chip.sr:#x}) = 0xFFFF;",
            "erase": f"REG({chip.cr:#x}) = {erase:#x};",
        }  # fmt: skip
        if chip is F4:
            settings["base"] = FLASH - 24 * 16384 + 0x40000
    base = 0 if name == "nrf52840dk" else FLASH
    elf = build(tmp_path, _SELF % settings, flash=base)
    where = symbols(elf)
    # what an ELF file holds is put into the flash as a flasher would
    from edgekit.sim.rom.memory import FlashMemory
    from edgekit.sim.symbols import Image
    from edgekit.targets import load_target

    (tmp_path / "state").mkdir()
    memory = FlashMemory(load_target(name), tmp_path / "state")
    for segment in Image(elf).segments:
        if memory.has(segment.address, len(segment.data)):
            memory.program(segment.address, segment.data, 4)
    cpu = boards(name, elf)
    cpu.reset_and_halt()
    cpu.breakpoints(where["done"] & ~1)
    cpu.go()
    cpu.wait()
    assert cpu.register(PC) == where["done"] & ~1
    assert cpu.runner.error is None
    found = [cpu.read(where["results"] + 4 * index) for index in range(7)]
    assert found[:2] == [~2 & 0xFFFFFFFF, 0x0E0E0E0E]
    if name == "nucleo-l4r5zi":  # refused: PROGERR
        assert found[2:4] == [0, 0xFFFFFFFF] and found[4] & 1 << 3
    else:
        assert found[2:4] == [0, 0xFF00FF00]
    assert found[5:] == [0xFFFFFFFF, 0xFFFFFFFF]


def test_a_store_to_flash_without_its_controller_is_an_error(tmp_path: Path) -> None:
    elf = build(tmp_path, "void program(void) { REG(0x08040000) = 1; }", flash=FLASH)
    runner = start("nucleo-l4r5zi", elf)
    try:
        deadline = time.monotonic() + 20
        while runner.error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "write of 4 bytes to flash at 0x08040000" in str(runner.error)
        assert Cpu(runner).status & 1 << 19  # lockup
    finally:
        runner.stop()
