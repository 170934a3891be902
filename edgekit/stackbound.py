"""The most stack that a firmware can use, from its machine code.

Two architectures: what an instruction does to the stack and whom it calls is in ``_look_arm``
and ``_look_riscv``; the rest is the same for both.
"""

from __future__ import annotations

import bisect
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import missing_extra

#: Functions that indirect calls never reach: they start or end everything.
_NEVER_CALLED = {
    "ek_reset_handler", "ek_start", "ek_fault_record", "fault_handler", "ek_trap", "main",
}  # fmt: skip


@dataclass
class _Function:
    name: str
    address: int
    nbytes: int
    model: bool
    frame: int = 0
    dynamic: bool = False
    indirect: bool = False
    calls: set[int] = field(default_factory=set)
    #: RISC-V: registers with an address of the code, while it goes through
    addresses: dict[str, int] = field(default_factory=dict)


def stack_bound(elf_path: Path, objects: Iterable[Path]) -> int | None:
    """The most stack that the firmware can use, in bytes, from its machine code.

    Every push and every subtraction from the stack pointer counts as if all happened. Calls
    through pointers: the runtime's may reach every function whose address is taken in
    ``objects``; ``<model>_step`` and ``<model>_invoke`` reach steps; what a step calls reaches
    functions of the model other than those. ``None`` where a frame's size is not fixed, where
    calls form a cycle, or where the disassembler (capstone) is not installed.
    """
    try:
        import capstone  # noqa: F401
    except ImportError:
        return None
    functions = _functions(read_elf_file(elf_path))
    names = _taken_names(objects) - _NEVER_CALLED
    taken = {f.address for f in functions.values() if f.name in names}
    start = next((f for f in functions.values() if f.name == "ek_start"), None)
    if start is None:
        return None
    steps = {f.address for f in functions.values() if f.model and re.search(r"_s\d+$", f.name)}
    entries = {
        f.address for f in functions.values() if f.model and f.name.endswith(("_invoke", "_step"))
    }
    inner = {address for address in taken if functions[address].model} - steps - entries
    depths: dict[int, int] = {}
    active: set[int] = set()

    def depth(address: int) -> int | None:
        if address in depths:
            return depths[address]
        function = functions[address]
        if function.dynamic or address in active:
            return None
        active.add(address)
        callees = set(function.calls)
        if function.indirect and address in entries:
            callees |= steps
        elif function.indirect:
            # a kernel's own jumps, as in unrolled loops, look like this, too: never to itself
            callees |= (inner if function.model else taken) - {address}
        deepest = 0
        for callee in sorted(callees):
            below = depth(callee)
            if below is None:
                return None
            deepest = max(deepest, below)
        active.discard(address)
        depths[address] = function.frame + deepest
        return depths[address]

    return depth(start.address)


def _functions(elf: Any) -> dict[int, _Function]:
    decoder, look = _decoder(elf["e_machine"])
    model_sections = {
        i for i, section in enumerate(elf.iter_sections()) if section.name == ".model_code"
    }
    functions: dict[int, _Function] = {}
    for symbol in elf.get_section_by_name(".symtab").iter_symbols():
        if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(symbol["st_shndx"], int):
            address = symbol["st_value"] & ~1
            functions.setdefault(
                address,
                _Function(
                    symbol.name, address, symbol["st_size"], symbol["st_shndx"] in model_sections
                ),
            )
    starts = sorted(functions)
    for section in elf.iter_sections():
        if not section["sh_flags"] & 4 or section["sh_type"] != "SHT_PROGBITS":
            continue
        base, content = section["sh_addr"], section.data()
        data = _data_ranges(elf, base, base + len(content))
        inside = [a for a in starts if base <= a < base + len(content)]
        for position, address in enumerate(inside):
            end = inside[position + 1] if position + 1 < len(inside) else base + len(content)
            function = functions[address]
            if function.nbytes:
                end = min(end, address + function.nbytes)
            for low, high in _code_ranges(address, end, data):
                code = content[low - base : high - base]
                for item in decoder.disasm_lite(code, low):
                    look(function, starts, *item)
    return functions


def _decoder(machine: str) -> tuple[Any, Callable[..., None]]:
    """A disassembler for a machine, and the function that looks at what it finds."""
    import capstone

    if machine == "EM_RISCV":
        mode = capstone.CS_MODE_RISCV32 | capstone.CS_MODE_RISCVC
        decoder, look = capstone.Cs(capstone.CS_ARCH_RISCV, mode), _look_riscv
    else:
        mode = capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS | capstone.CS_MODE_V8
        decoder, look = capstone.Cs(capstone.CS_ARCH_ARM, mode), _look_arm
    decoder.skipdata = True
    return decoder, look


def read_elf_file(path: Path) -> Any:
    """An ELF file in memory, as pyelftools has it.

    Raises:
        MissingDependency: pyelftools is not installed.
    """
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError:
        raise missing_extra("pyelftools", "sim", "building firmware") from None
    return ELFFile(io.BytesIO(path.read_bytes()))


def _data_ranges(elf: Any, low: int, high: int) -> list[tuple[int, int]]:
    """Literal pools and tables inside code, from the ``$d`` and ``$t`` mapping symbols."""
    marks = sorted(
        (s["st_value"] & ~1, s.name[:2])
        for s in elf.get_section_by_name(".symtab").iter_symbols()
        if s.name[:2] in ("$d", "$t") and low <= s["st_value"] < high
    )
    ranges = []
    for index, (address, kind) in enumerate(marks):
        end = marks[index + 1][0] if index + 1 < len(marks) else high
        if kind == "$d" and end > address:
            ranges.append((address, end))
    return ranges


def _code_ranges(
    start: int, end: int, data: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    position = start
    for low, high in data:
        if high <= position or low >= end:
            continue
        if low > position:
            yield position, low
        position = max(position, high)
    if position < end:
        yield position, end


def _reaches(function: _Function, starts: Sequence[int], target: int) -> None:
    """A jump: out of the function it is a call, or the last one of it."""
    if not function.address <= target < function.address + max(function.nbytes, 2):
        index = bisect.bisect_right(starts, target) - 1
        if index >= 0 and starts[index] != function.address:
            function.calls.add(starts[index])


def _look_arm(
    function: _Function,
    starts: Sequence[int],
    address: int,
    size: int,
    mnemonic: str,
    operands: str,
) -> None:
    """Adds what one instruction does to the stack and to the call graph."""
    name = mnemonic.split(".")[0]
    if name in ("push", "vpush") or (name in ("stmdb", "vstmdb") and operands.startswith("sp!")):
        function.frame += _register_bytes(operands)
    elif name in ("str", "strd") and re.search(r"\[sp, #-(0x[0-9a-f]+|\d+)\]!", operands):
        match = re.search(r"\[sp, #-(0x[0-9a-f]+|\d+)\]!", operands)
        function.frame += int(match.group(1), 0) if match else 0
    elif name in ("sub", "subw") and operands.startswith("sp,"):
        immediate = operands.rpartition("#")[2] if "#" in operands else ""
        if immediate:
            function.frame += int(immediate, 0)
        else:
            function.dynamic = True
    elif name == "add" and operands.startswith("sp,") and "#" not in operands:
        function.dynamic = True
    elif name == "blx" and not operands.startswith("#"):
        function.indirect = True
    elif name == "bx" and operands != "lr":
        # r12 (ip) and others: a tail call through a pointer; in libgcc also a switch
        function.indirect = True
    elif (name.startswith("b") and operands.startswith("#")) or name in ("cbz", "cbnz"):
        _reaches(function, starts, int(operands.rpartition("#")[2], 0) & ~1)


def _look_riscv(
    function: _Function,
    starts: Sequence[int],
    address: int,
    size: int,
    mnemonic: str,
    operands: str,
) -> None:
    """The same for RISC-V, whose disassembly has jumps relative to the instruction."""
    name = mnemonic.removeprefix("c.")
    words = re.findall(r"-?\w+", operands)
    known = function.addresses
    if name in ("addi", "addi16sp") and words[0] == "sp" and "sp" not in known:
        if words[1] == "sp" or name != "addi" or mnemonic == "c.addi":
            function.frame += max(0, -int(words[-1], 0))
        else:
            function.dynamic = True
    elif name in ("add", "sub", "mv") and words[0] == "sp" and words[1:2] != ["s0"]:
        function.dynamic = True
    elif name in ("jal", "j") or (name.startswith("b") and words):
        _reaches(function, starts, address + int(words[-1], 0))
    elif name in ("jalr", "jr"):
        base = next((word for word in reversed(words) if not _is_number(word)), "")
        offset = next((int(word, 0) for word in words if _is_number(word)), 0)
        if base in known:
            _reaches(function, starts, known[base] + offset & 0xFFFFFFFE)
        elif name == "jalr" or base != "ra":
            function.indirect = True
    known.clear()
    if name == "auipc":
        known[words[0]] = address + (int(words[1], 0) << 12)


def _is_number(word: str) -> bool:
    return word.lstrip("-")[:1].isdigit()


def _register_bytes(operands: str) -> int:
    inside = operands[operands.index("{") + 1 : operands.index("}")]
    total = 0
    for item in inside.split(","):
        first, _, last = item.strip().partition("-")
        count = int(last[1:]) - int(first[1:]) + 1 if last else 1
        total += count * {"d": 8, "q": 16}.get(first[0], 4)
    return total


#: Relocations that put a function's address into data or a register, by machine: R_ARM_ABS32,
#: R_ARM_THM_MOVW_ABS_NC ("ELF for the Arm Architecture", IHI 0044, table of relocation codes);
#: R_RISCV_32, R_RISCV_PCREL_HI20, R_RISCV_HI20 ("RISC-V ABIs Specification", 8.4)
_ADDRESS_RELOCATIONS = {"EM_ARM": (2, 47), "EM_RISCV": (1, 23, 26)}


def _taken_names(objects: Iterable[Path]) -> set[str]:
    """Functions whose address an object file stores or loads, apart from debug information.

    A static function stands for its section, which has its name (``-ffunction-sections``).
    """
    from elftools.elf.relocation import RelocationSection

    names = set()
    for path in objects:
        elf = read_elf_file(path)
        kinds = _ADDRESS_RELOCATIONS.get(elf["e_machine"], ())
        for section in elf.iter_sections():
            if not isinstance(section, RelocationSection):
                continue
            of = elf.get_section(section["sh_info"])
            # only what is loaded, and not the table from which the core itself calls
            if not of["sh_flags"] & 2 or of.name == ".vectors" or ".ARM.ex" in of.name:
                continue
            symbols = elf.get_section(section["sh_link"])
            for relocation in section.iter_relocations():
                if relocation["r_info_type"] not in kinds:
                    continue
                symbol = symbols.get_symbol(relocation["r_info_sym"])
                if symbol["st_info"]["type"] == "STT_SECTION":
                    home = elf.get_section(symbol["st_shndx"])
                    names.add(home.name.removeprefix(".text."))
                else:
                    names.add(symbol.name)
    return names
