"""RISC-V cores of virtual boards: what a block of code needs, and how such a board runs.

The cores are RV32IMC without interrupts: firmware here is polled. Standard control and status
registers are Unicorn's; those that a chip adds are read and written by its family
(:attr:`RiscvBoard.registers`). A core without a cycle model counts instructions, and its timers
take each of them for a cycle.

Sources: "The RISC-V Instruction Set Manual, Volume I: Unprivileged Architecture" 20191213,
chapters 2 (RV32I), 7 (M), 9 (Zicsr), 16 (C) and 24 (opcode map); Volume II, table 3.6 (causes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgekit.errors import UsageError
from edgekit.sim.board import Board
from edgekit.sim.counter import NEVER

_SP = 2
#: Major opcodes (table 24.1) of extensions that rv32imc lacks
_LACKING = {
    0x07: "fp", 0x27: "fp", 0x43: "fp", 0x47: "fp", 0x4B: "fp", 0x4F: "fp", 0x53: "fp",
    0x2F: "a", 0x57: "v",
}  # fmt: skip
_OPCODE_SYSTEM, _OPCODE_ADDI, _C_ADDI16SP = 0x73, 0x13, 0x6101
#: Causes of exceptions (volume II, table 3.6), for a reader
_CAUSES = {
    0: "a jump to an odd address",
    1: "a fetch from where no code can be",
    4: "a load from an unaligned address",
    5: "a load from where no memory is",
    6: "a store to an unaligned address",
    7: "a store to where no memory is",
    8: "ECALL without anybody to answer it",
    11: "ECALL without anybody to answer it",
}
_ILLEGAL, _BREAKPOINT = 2, 3


@dataclass(frozen=True)
class Instruction:
    """One instruction: its bytes, by how much it lowers the stack pointer, which extension
    it needs beyond rv32imc."""

    encoding: bytes
    stack_bytes: int = 0
    extension: str | None = None
    is_fp: bool = False

    @property
    def nbytes(self) -> int:
        return len(self.encoding)

    @property
    def text(self) -> str:
        return text_of(self.encoding)


@dataclass(frozen=True)
class Block:
    """Instructions that follow each other."""

    instructions: tuple[Instruction, ...]
    stack_bytes: int
    is_fp: bool = False

    def feature(self, name: str) -> int:
        """The only one that RISC-V cores have: ``instructions``."""
        if name != "instructions":
            raise KeyError(name)
        return len(self.instructions)


def split(code: bytes) -> list[bytes]:
    """The instructions in ``code``: those whose two lowest bits are set have four bytes (1.5)."""
    found = []
    position = 0
    while position + 2 <= len(code):
        nbytes = 4 if code[position] & 3 == 3 else 2
        if position + nbytes > len(code):
            break
        found.append(code[position : position + nbytes])
        position += nbytes
    return found


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def decode(encoding: bytes) -> Instruction:
    """What the simulator wants to know of one instruction."""
    word = int.from_bytes(encoding, "little")
    if len(encoding) == 4:
        opcode = word & 0x7F
        lowers = 0
        if word & 0x000FFFFF == _SP << 15 | _SP << 7 | _OPCODE_ADDI:  # addi sp, sp, imm
            lowers = max(0, -_signed(word >> 20, 12))
        extension = _LACKING.get(opcode)
        return Instruction(encoding, lowers, extension, extension == "fp")
    quadrant, function = word & 3, word >> 13
    lowers = 0
    if word & 0xEF83 == _C_ADDI16SP:  # c.addi16sp
        scaled = (
            (word >> 12 & 1) << 9 | (word >> 3 & 3) << 7 | (word >> 5 & 1) << 6
            | (word >> 2 & 1) << 5 | (word >> 6 & 1) << 4
        )  # fmt: skip
        lowers = max(0, -_signed(scaled, 10))
    elif quadrant == 1 and function == 0 and word >> 7 & 31 == _SP:  # c.addi sp
        lowers = max(0, -_signed((word >> 12 & 1) << 5 | word >> 2 & 31, 6))
    # c.fld, c.flw, c.fsd, c.fsw and those relative to the stack pointer (table 16.4)
    is_fp = quadrant in (0, 2) and function in (1, 3, 5, 7)
    return Instruction(encoding, lowers, "fp" if is_fp else None, is_fp)


def text_of(encoding: bytes) -> str:
    """An instruction for a reader."""
    try:
        import capstone

        mode = capstone.CS_MODE_RISCV32 | capstone.CS_MODE_RISCVC
        for item in capstone.Cs(capstone.CS_ARCH_RISCV, mode).disasm(encoding, 0):
            return f"{item.mnemonic} {item.op_str}".strip()
    except ImportError:
        pass
    return f"{int.from_bytes(encoding, 'little'):#0{2 + 2 * len(encoding)}x}"


def analyse(code: bytes, address: int) -> Block:
    """The block at ``address``."""
    instructions: list[Instruction] = []
    for encoding in split(code):
        instruction = decode(encoding)
        if instructions and _sets_sp(instructions[-1].encoding):
            # the second half of "la sp, …": an address, not a frame
            instruction = replace(instruction, stack_bytes=0)
        instructions.append(instruction)
    return Block(tuple(instructions), sum(i.stack_bytes for i in instructions))


def _sets_sp(encoding: bytes) -> bool:
    """LUI and AUIPC of the stack pointer."""
    word = int.from_bytes(encoding, "little")
    return len(encoding) == 4 and word & 0x7F in (0x17, 0x37) and word >> 7 & 31 == _SP


class _NoInterrupts:
    """Stands where a Cortex-M has its system control space: nothing ever interrupts."""

    def advance(self) -> None:
        """Nothing becomes due."""

    def next_event(self) -> int:
        return NEVER

    def stand_still(self, duration: int) -> None:
        """There is nothing that would count on."""


class RiscvBoard(Board):
    """A board with an RV32IMC core. Arguments and errors are those of :class:`Board`."""

    PERIPHERAL_SPACES = ()
    ENTRY_BIT = 0
    HAS_IT = False
    MACHINE = "EM_RISCV"
    # there is no cycle model that would need features
    PROFILES = False
    #: control and status registers of the chip's own: number to (read, write)
    registers: dict[int, tuple[Callable[[], int], Callable[[int], None]]]

    def _open_cpu(self) -> tuple[Any, Any]:
        from unicorn import riscv_const

        if self.target.core != "riscv32" or set(self.target.isa) - {"rv32imc"}:
            raise UsageError(
                f"{self.target.name} cannot be simulated: of RISC-V cores only rv32imc can"
            )
        cpu = self._unicorn.Uc(self._unicorn.UC_ARCH_RISCV, self._unicorn.UC_MODE_RISCV32)
        # an rv32imac core; what needs the A is refused before it is executed
        cpu.ctl_set_cpu_model(riscv_const.UC_CPU_RISCV32_SIFIVE_E31)
        return cpu, riscv_const

    def _number(self, register: str) -> int:
        name = {"LR": "RA"}.get(register, register)
        return int(getattr(self._const, f"UC_RISCV_REG_{name}"))

    def _analyse(self, code: bytes, address: int) -> Any:
        return analyse(code, address)

    def _text(self, code: bytes) -> str:
        return text_of(split(code)[0])

    def _refused(self, block: Any) -> Any:
        return next((item for item in block.instructions if item.extension), None)

    def _fail_refused(self, address: int) -> None:
        position = address
        for instruction in analyse(self.memory(address, 512), address).instructions:
            if instruction.extension:
                break
            position += instruction.nbytes
        self._fail(
            f"the {self.target.core} does not have this instruction: {instruction.text}", position
        )

    def _reset_core(self) -> None:
        self.system: Any = _NoInterrupts()
        self.registers = {}
        for number in range(32):
            self._uc.reg_write(self._const.UC_RISCV_REG_X0 + number, 0)

    def start_at(self, table: int) -> None:
        """Starts at an address: there is no vector table to read first."""
        self.jump(table, 0)

    def _take_exception(self) -> None:
        """There are no interrupts."""

    def _service(self, number: int) -> None:
        # Unicorn is behind the instruction that raised the exception
        code = self._raised_by()
        if number == _ILLEGAL and len(code) == 4 and self._access_register(code):
            return
        address = self._pc - len(code)
        if number == _ILLEGAL:
            self._fail(
                f"the {self.target.core} does not have this instruction: {self._text(code)}",
                address,
            )
        if number == _BREAKPOINT:
            self._fail("breakpoint instruction without a debugger", address)
        self._fail(_CAUSES.get(number, f"exception {number} of the CPU"), address)

    def _raised_by(self) -> bytes:
        """The instruction in front of the program counter; the length is its own to tell."""
        for nbytes in (4, 2):
            if self._find(self._pc - nbytes, nbytes):
                code = self.memory(self._pc - nbytes, nbytes)
                if (code[0] & 3 == 3) == (nbytes == 4):
                    return code
        return b""

    def _access_register(self, code: bytes) -> bool:
        """CSRRW, CSRRS, CSRRC and their immediate forms (9.1) on a register of the chip's own."""
        word = int.from_bytes(code, "little")
        kind = word >> 12 & 7
        if word & 0x7F != _OPCODE_SYSTEM or kind in (0, 4) or word >> 20 not in self.registers:
            return False
        read, write = self.registers[word >> 20]
        source, destination = word >> 15 & 31, word >> 7 & 31
        x0 = self._const.UC_RISCV_REG_X0
        operand = source if kind & 4 else self._uc.reg_read(x0 + source)
        old = read()
        if kind & 3 == 1:
            write(operand)
        elif source:
            write(old | operand if kind & 3 == 2 else old & ~operand & 0xFFFFFFFF)
        if destination:
            self._uc.reg_write(x0 + destination, old)
        return True

    def _invalid(self, error: Any) -> None:
        code = self.memory(self._pc, 4) if self._find(self._pc, 4) else b""
        if code and self._text(code).endswith("ebreak"):
            self._fail("breakpoint instruction without a debugger", self._pc)
        super()._invalid(error)

    def _halted(self) -> None:
        if self._raised_by() == b"\x73\x00\x50\x10":  # WFI
            self._wait()
