"""A RISC-V board executes programs, and stops what breaks the rules of its chip."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.sim import board_class
from edgekit.sim.board import Fault
from edgekit.sim.esp32c3 import DIRECT_BOOT, DIRECT_BOOT_OFFSET
from edgekit.sim.line import MemoryLine
from edgekit.sim.riscv import RiscvBoard, analyse, decode, split, text_of
from edgekit.sim.rom.memory import FlashMemory
from edgekit.sim.symbols import UnknownImage
from edgekit.targets import load_target

pytest.importorskip("unicorn")

CODE = 0x42000000 + DIRECT_BOOT_OFFSET
DATA, RAM = 0x3C000000, 0x3FC80000
RTC, SYSTEM, UART, IO_MUX, TIMG0 = 0x60008000, 0x600C0000, 0x60000000, 0x60009000, 0x6001F000
#: registers by their numbers
ZERO, RA, SP, T0, T1, A0, A1 = 0, 1, 2, 5, 6, 10, 11
#: STAY: a jump to itself
EBREAK, ECALL, STAY = 0x00100073, 0x00000073, 0x0000006F


def lui(rd: int, value: int) -> int:
    return (value + 0x800 & 0xFFFFF000) | rd << 7 | 0x37


def addi(rd: int, rs: int, value: int) -> int:
    return (value & 0xFFF) << 20 | rs << 15 | rd << 7 | 0x13


def li(rd: int, value: int) -> list[int]:
    return [lui(rd, value), addi(rd, rd, (value & 0xFFF) - (0x1000 if value & 0x800 else 0))]


def lw(rd: int, rs: int, offset: int = 0) -> int:
    return (offset & 0xFFF) << 20 | rs << 15 | 2 << 12 | rd << 7 | 0x03


def sw(rs2: int, rs1: int, offset: int = 0) -> int:
    offset &= 0xFFF
    return (offset >> 5) << 25 | rs2 << 20 | rs1 << 15 | 2 << 12 | (offset & 31) << 7 | 0x23


def bge(rs1: int, rs2: int, offset: int) -> int:
    high = (offset >> 12 & 1) << 6 | offset >> 5 & 63
    low = (offset >> 1 & 15) << 1 | offset >> 11 & 1
    return high << 25 | rs2 << 20 | rs1 << 15 | 5 << 12 | low << 7 | 0x63


def csr(kind: int, rd: int, number: int, source: int) -> int:
    return number << 20 | source << 15 | kind << 12 | rd << 7 | 0x73


def store(address: int, value: int) -> list[int]:
    return [*li(T0, address), *li(T1, value), sw(T1, T0)]


def board_of(folder: Path, program: list[int], head: bytes | None = None) -> RiscvBoard:
    """A board whose flash holds machine code behind the number of a direct boot."""
    target = load_target("esp32-c3")
    flash = FlashMemory(target, folder)
    code = 2 * struct.pack("<I", DIRECT_BOOT) if head is None else head
    code += b"".join(struct.pack("<I", word) for word in (*program, EBREAK))
    memory = flash.map_of(DATA)
    memory[: len(code)] = code
    made = board_class(target)(target, UnknownImage(), line=MemoryLine(), flash=flash)
    assert isinstance(made, RiscvBoard)
    return made


def run(board: RiscvBoard) -> None:
    """Up to the EBREAK at the program's end."""
    with pytest.raises(Fault, match="breakpoint"):
        board.run(timeout_s=10)


def word(board: RiscvBoard, address: int) -> int:
    return int.from_bytes(board.memory(address, 4), "little")


def test_lengths_and_frames_are_those_of_the_disassembler(seed: int) -> None:
    """Random 16-bit and 32-bit words: length, and which ones lower the stack pointer."""
    import capstone

    decoder = capstone.Cs(
        capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV32 | capstone.CS_MODE_RISCVC
    )
    generator = random.Random(seed)
    compared = lowering = 0
    candidates = [generator.randbytes(4) for _ in range(20_000)]
    # c.addi16sp, c.addi sp and addi sp, sp are rare among random words
    candidates += [struct.pack("<HH", 0x6101 | bits & 0x107C, 1) for bits in range(0x2000)]
    candidates += [struct.pack("<HH", 0x0101 | bits & 0x107C, 1) for bits in range(0x2000)]
    candidates += [struct.pack("<I", addi(SP, SP, value)) for value in range(-2048, 2048, 7)]
    for candidate in candidates:
        item = next(decoder.disasm(candidate, 0, 1), None)
        if item is None:
            continue
        (first, *_) = split(candidate)
        assert len(first) == item.size, candidate.hex()
        name, operands = item.mnemonic, item.op_str.replace(" ", "").split(",")
        expected = 0
        of_sp = operands[:2] == ["sp", "sp"] if name == "addi" else operands[0] == "sp"
        if of_sp and name in ("addi", "c.addi", "c.addi16sp"):
            expected = max(0, -int(operands[-1], 0))
        assert decode(first).stack_bytes == expected, f"{candidate.hex()} {name} {operands}"
        compared += 1
        lowering += expected > 0
    assert compared > 10_000 and lowering > 100


def test_an_address_in_the_stack_pointer_is_no_frame() -> None:
    """ "la sp, top" ends in an ADDI with a negative number."""
    code = struct.pack("<II", lui(SP, 0x3FC80F00), addi(SP, SP, -0x100))
    assert analyse(code, CODE).stack_bytes == 0
    assert analyse(struct.pack("<I", addi(SP, SP, -0x100)), CODE).stack_bytes == 0x100


def test_a_program_runs_from_the_direct_boot(tmp_path: Path) -> None:
    constant = DATA  # the flash as data sees it begins with the number
    program = [
        *li(T0, constant),
        lw(A0, T0),
        *li(T0, RAM),
        sw(A0, T0),
        addi(A1, ZERO, 7),
        sw(A1, T0, 4),
    ]
    board = board_of(tmp_path, program)
    run(board)
    assert word(board, RAM) == DIRECT_BOOT and word(board, RAM + 4) == 7
    # every instruction once, and the EBREAK
    assert board.counter.instructions == len(program) + 1


def test_the_cycle_counter_is_read_set_and_cleared(tmp_path: Path) -> None:
    program = [
        addi(A0, ZERO, 1), csr(1, ZERO, 0x7E0, A0), csr(5, ZERO, 0x7E1, 1),
        csr(1, ZERO, 0x7E2, ZERO), *[addi(A1, A1, 1)] * 50, csr(2, A0, 0x7E2, ZERO),
        *li(T0, RAM), sw(A0, T0),
        csr(7, ZERO, 0x7E1, 1), csr(2, A0, 0x7E2, ZERO), *[addi(A1, A1, 1)] * 9,
        csr(2, A1, 0x7E2, ZERO), sw(A0, T0, 4), sw(A1, T0, 8),
    ]  # fmt: skip
    board = board_of(tmp_path, program)
    run(board)
    # the block up to and with the reading instruction counts as begun
    assert 50 <= word(board, RAM) <= 52
    assert word(board, RAM + 4) == word(board, RAM + 8)  # stopped
    assert board.counter.instructions == len(program) + 1


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ([*li(T0, 0x10000000), lw(A0, T0)], "read of 4 bytes at 0x10000000"),
        ([*li(T0, DATA), sw(A0, T0)], "write of 4 bytes to flash at 0x3c000000"),
        ([*li(T0, 0x50000000), T0 << 15 | 0x67], "jump to 0x50000000: no code can be there"),
        ([0x00A57553], "does not have this instruction: fadd.s"),
        ([0x00A5252F], "does not have this instruction: amoadd.w"),
        ([0x7C002573], "does not have this instruction: csrr"),
        ([EBREAK], "breakpoint instruction without a debugger"),
        ([ECALL], "ECALL without anybody to answer it"),
        (store(RTC + 0x90, 0), "the RTC watchdog was written to while it is locked"),
        (store(TIMG0 + 0x48, 0), "the watchdog of TIMG0 was written to while it is locked"),
        (store(RTC + 0xAC, 1 << 31), "the super watchdog was written to while it is locked"),
        ([*store(RTC, 1 << 10), *store(SYSTEM + 0x58, 1 << 10)], "the PLL, which is powered down"),
        (store(SYSTEM + 0x58, 3 << 10), "which is no clock"),
        (store(SYSTEM + 0x08, 2 | 4), "above 1"),
        (store(UART + 0x0C, 1), "interrupts of UARTs are not simulated"),
        (store(UART + 0x20, 0), "not 8 bits and one stop bit"),
        ([*store(SYSTEM + 0x10, 0), *store(UART, 65)], "UART0 has no clock"),
        ([*store(SYSTEM + 0x18, 1 << 2), *store(UART, 65)], "UART0 is held in reset"),
        ([*store(IO_MUX + 0x58, 1 << 12), *store(UART, 65)], "GPIO21 is not the UART's tx"),
        (store(0x60026000, 1), "no peripheral there"),
    ],
)  # fmt: skip
def test_rules_of_the_chip(tmp_path: Path, program: list[int], said: str) -> None:
    with pytest.raises(Fault) as caught:
        board_of(tmp_path, program).run(timeout_s=10)
    assert said in str(caught.value)


def test_watchdogs_that_run_and_a_wrong_clock_are_reported(tmp_path: Path) -> None:
    board = board_of(tmp_path, store(UART, 65))
    run(board)
    assert any("the RTC watchdog still runs" in text for text in board.reports)
    assert any("40,000,000 Hz" in text and "160,000,000" in text for text in board.reports)


@pytest.mark.parametrize(
    "head", (b"\xff" * 8, b"\xe9" + bytes(7), struct.pack("<II", DIRECT_BOOT, 0))
)
def test_a_flash_without_the_number_is_not_started(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(Fault, match="not with the number of a direct boot"):
        board_of(tmp_path, [], head)


def test_a_reset_by_the_program_starts_again(tmp_path: Path) -> None:
    reset = store(RTC, 1 << 31)
    program = [
        *li(T0, RAM), lw(A0, T0), addi(A0, A0, 1), sw(A0, T0), addi(A1, ZERO, 3),
        bge(A0, A1, 4 * (2 + len(reset))), *reset, STAY,
    ]  # fmt: skip
    board = board_of(tmp_path, program)
    run(board)
    assert word(board, RAM) == 3


def test_other_cores_and_other_programs_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    target = load_target("esp32-c3")
    with pytest.raises(UsageError, match="only rv32imc"):
        RiscvBoard(replace(target, isa=("rv32imc", "xtensa")), UnknownImage())
    arm = UnknownImage()
    arm.machine = "EM_ARM"
    with pytest.raises(UsageError, match="this firmware is for Arm cores"):
        RiscvBoard(target, arm)


def test_unknown_words_have_a_text() -> None:
    assert text_of(b"\xff\xff\xff\xff") == "0xffffffff"
