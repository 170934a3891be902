"""Functions and lines of a firmware's ELF file, for counts and for faults."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError, missing_extra

#: Machines that virtual boards execute, as ELF calls them, with their titles
MACHINES = {"EM_ARM": "Arm", "EM_RISCV": "RISC-V"}

_STEP = re.compile(r"(?P<model>.+)_s(?P<index>\d+)")


@dataclass(frozen=True)
class Function:
    name: str
    address: int
    nbytes: int


@dataclass(frozen=True)
class Segment:
    """What is loaded: ``data`` at ``address`` (the load address; ROM for initialised data)."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Inference:
    """A model in the image: its invoke function and its steps in order, as addresses.

    ``invoke`` is ``None`` where the steps are only called one by one.
    """

    model: str
    invoke: int | None
    steps: tuple[int, ...]


class Image:
    """An ELF file of a firmware."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            UsageError: it is not an ELF file for a 32-bit Arm or RISC-V core.
            MissingDependency: pyelftools is not installed.
        """
        try:
            from elftools.common.exceptions import ELFError
            from elftools.elf.elffile import ELFFile
        except ImportError:
            raise missing_extra("pyelftools", "sim", "a virtual board") from None
        self.path = path
        try:
            with path.open("rb") as file:
                elf = ELFFile(file)
                if elf["e_machine"] not in MACHINES or elf.elfclass != 32:
                    raise UsageError(
                        f"this is a file for {elf['e_machine']}, not for a 32-bit Arm or RISC-V "
                        "core",
                        str(path),
                    )
                self.machine: str | None = str(elf["e_machine"])
                self.entry = int(elf["e_entry"])
                self.segments = tuple(
                    Segment(int(item["p_paddr"]), item.data())
                    for item in elf.iter_segments()
                    if item["p_type"] == "PT_LOAD" and item["p_filesz"]
                )
                self.symbols: dict[str, int] = {}
                functions: dict[int, Function] = {}
                table: Any = elf.get_section_by_name(".symtab")
                for symbol in table.iter_symbols() if table else ():
                    if not symbol.name or symbol["st_shndx"] == "SHN_UNDEF":
                        continue
                    value = int(symbol["st_value"])
                    self.symbols[symbol.name] = value
                    if symbol["st_info"]["type"] == "STT_FUNC":
                        address = value & ~1
                        known = functions.get(address)
                        # of several names for one address, the step's own is the useful one
                        if known is None or _STEP.fullmatch(symbol.name):
                            functions[address] = Function(
                                symbol.name, address, int(symbol["st_size"])
                            )
        except OSError as error:
            raise UsageError(f"cannot read the firmware: {error.strerror}", str(path)) from None
        except ELFError as error:
            raise UsageError(f"not an ELF file: {error}", str(path)) from None
        self.functions = tuple(functions[address] for address in sorted(functions))
        self._starts = [function.address for function in self.functions]

    def function_at(self, address: int) -> Function | None:
        """The function that holds an address."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        function = self.functions[index]
        # a function written in assembly may come without a size
        return function if address < function.address + max(function.nbytes, 2) else None

    @cached_property
    def inferences(self) -> tuple[Inference, ...]:
        """The models in the image, by the names of their functions (``NAME_invoke`` or
        ``NAME_step``, ``NAME_s0`` …)."""
        by_name = {function.name: function.address for function in self.functions}
        found = []
        for name in sorted(by_name):
            model, _, word = name.rpartition("_")
            if word == "step":
                if f"{model}_s0" not in by_name or f"{model}_invoke" in by_name:
                    continue
            elif word != "invoke":
                continue
            address = by_name[name] if word == "invoke" else None
            steps: list[int] = []
            while f"{model}_s{len(steps)}" in by_name:
                steps.append(by_name[f"{model}_s{len(steps)}"])
            found.append(Inference(model, address, tuple(steps)))
        return tuple(found)

    def line_at(self, address: int) -> str | None:
        """Source file's name and line of an address, where the file has debug information."""
        from elftools.elf.elffile import ELFFile

        with self.path.open("rb") as file:
            elf = ELFFile(file)
            if not elf.has_dwarf_info():
                return None
            dwarf = elf.get_dwarf_info()
            for unit in dwarf.iter_CUs():
                program = dwarf.line_program_for_CU(unit)
                if program is None:
                    continue
                version = program["version"]
                previous = None
                for entry in program.get_entries():
                    state = entry.state
                    if state is None:
                        continue
                    if previous is not None and previous.address <= address < state.address:
                        index = previous.file if version >= 5 else previous.file - 1
                        name = program["file_entry"][index].name.decode(errors="replace")
                        return f"{name}:{previous.line}"
                    previous = None if state.end_sequence else state
        return None

    def place(self, address: int) -> str:
        """Function, offset, and line of an address, for a reader."""
        function = self.function_at(address)
        text = f"{address:#010x}"
        if function is not None:
            offset = address - function.address
            text += f" in {function.name}" + (f"+{offset:#x}" if offset else "")
        line = self.line_at(address)
        return f"{text} ({line})" if line else text


class UnknownImage(Image):
    """What is in a board's flash when nobody has its ELF file: no functions, no lines."""

    def __init__(self) -> None:
        self.path = Path("the board's flash")
        self.machine = None
        self.entry = 0
        self.segments = ()
        self.symbols = {}
        self.functions = ()
        self._starts = []

    def line_at(self, address: int) -> str | None:
        return None
