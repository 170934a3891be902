"""The C compiler for firmware: the core's GCC where it is, else ziglang's clang from pip."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import MissingDependency, UsageError
from edgekit.targets import Target

CompilerName = Literal["gcc", "zig"]
Architecture = Literal["arm", "riscv"]

#: Cores that both compilers know, with the names that zig has for them.
_ZIG_CPU: Mapping[str, str] = {
    "cortex-m0": "cortex_m0",
    "cortex-m0plus": "cortex_m0plus",
    "cortex-m3": "cortex_m3",
    "cortex-m4": "cortex_m4",
    "cortex-m7": "cortex_m7",
    "cortex-m33": "cortex_m33",
    "cortex-m55": "cortex_m55",
    "cortex-m85": "cortex_m85",
}
#: GCCs by architecture, preferred first, each a name on the PATH; and Debian's package.
_GCC: Mapping[Architecture, tuple[str, ...]] = {
    "arm": ("arm-none-eabi-gcc",),
    "riscv": (
        "riscv64-unknown-elf-gcc",
        "riscv32-unknown-elf-gcc",
        "riscv-none-elf-gcc",
        "riscv32-esp-elf-gcc",
    ),
}
_GCC_PACKAGE: Mapping[Architecture, str] = {
    "arm": "gcc-arm-none-eabi",
    "riscv": "gcc-riscv64-unknown-elf",
}
_TITLES: Mapping[Architecture, str] = {"arm": "Arm", "riscv": "RISC-V"}
#: RISC-V instruction sets, with zig's names
_ZIG_RISCV: Mapping[str, str] = {"rv32imc": "generic_rv32+m+c"}
_FPUS = ("fpv4-sp-d16", "fpv5-sp-d16", "fpv5-d16")
#: Extensions as zig's features: its CPU models have neither FPU nor MVE, and not all have DSP.
_ZIG_FEATURES: Mapping[str, str] = {
    "dsp": "dsp",
    "fpv4-sp-d16": "vfp4d16sp",
    "fpv5-sp-d16": "fp_armv8d16sp",
    "fpv5-d16": "fp_armv8d16",
    "mve": "mve",
    "mve-fp": "mve_fp",
}

#: Flags of every firmware source. Sections per function, so that the linker drops what is unused.
_COMMON = (
    "-std=c11",
    "-g",
    "-ffreestanding",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-common",
    "-fno-exceptions",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-Wall",
    "-Wextra",
)


@dataclass(frozen=True)
class Toolchain:
    """A compiler that can be called, and exactly which one it is."""

    name: CompilerName
    #: what precedes the arguments
    command: tuple[str, ...]
    #: one line: "arm-none-eabi-gcc 12.2.1 (15:12.2.rel1-1)"
    version: str


def architecture(target: Target) -> Architecture:
    """What kind of core a target has, as compilers see it."""
    return "riscv" if str(target.core).startswith("riscv") else "arm"


def find_toolchain(name: str | None = None, target: Target | None = None) -> Toolchain:
    """The compiler called ``name`` ("gcc" or "zig"), or the first that is installed, for the
    core of ``target`` (a Cortex-M if there is none).

    Raises:
        UsageError: no such compiler is known.
        MissingDependency: it is not installed.
    """
    if name not in (None, "gcc", "zig"):
        raise UsageError(f"no compiler is called '{name}'", fix="--compiler gcc or --compiler zig")
    kind = "arm" if target is None else architecture(target)
    gcc = next((path for path in map(shutil.which, _GCC[kind]) if path), None)
    if name != "zig" and gcc is not None:
        first = _output((gcc, "--version")).splitlines()[0]
        return Toolchain("gcc", (gcc,), first)
    if name == "gcc":
        raise MissingDependency(
            f"{_GCC[kind][0]} is not on the PATH",
            fix=f"apt install {_GCC_PACKAGE[kind]}, or --compiler zig after pip install ziglang",
        )
    if importlib.util.find_spec("ziglang") is None:
        raise MissingDependency(
            f"there is no compiler for {_TITLES[kind]} microcontrollers: neither {_GCC[kind][0]} "
            "on the PATH nor the Python package 'ziglang'",
            fix=f"pip install 'edgekit[sim]', or apt install {_GCC_PACKAGE[kind]}",
        )
    zig = (sys.executable, "-m", "ziglang")
    return Toolchain("zig", (*zig, "cc"), f"zig cc {_output((*zig, 'version')).strip()}")


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingDependency(
            f"the compiler does not run: {error}", where=Path(command[0]).name
        ) from None


def has_fpu(target: Target) -> bool:
    return any(fpu in target.isa for fpu in _FPUS)


def machine_flags(toolchain: Toolchain, target: Target) -> tuple[str, ...]:
    """Flags that choose the core, its FPU and the calling convention.

    Raises:
        UsageError: the target has no core that the compilers know.
    """
    core = target.core or ""
    if architecture(target) == "riscv":
        return _riscv_flags(toolchain, target)
    if core not in _ZIG_CPU:
        raise UsageError(
            f"firmware is built for Cortex-M and RISC-V cores; {target.name} has "
            f"{core or 'no core'}",
            fix="edgekit targets",
        )
    hard = has_fpu(target)
    if toolchain.name == "zig":
        triple = f"thumb-freestanding-eabi{'hf' if hard else ''}"
        features = "".join(f"+{_ZIG_FEATURES[e]}" for e in target.isa if e in _ZIG_FEATURES)
        return ("-target", triple, f"-mcpu={_ZIG_CPU[core]}{features}")
    flags = ["-mthumb", f"-mcpu={core}", f"-mfloat-abi={'hard' if hard else 'soft'}"]
    fpu = next((fpu for fpu in _FPUS if fpu in target.isa), None)
    # Cortex-M55 carries its FPU and MVE in -mcpu; an -mfpu would switch MVE off.
    if fpu is not None and not target.has("mve"):
        flags.append(f"-mfpu={fpu}")
    return tuple(flags)


def _riscv_flags(toolchain: Toolchain, target: Target) -> tuple[str, ...]:
    machine: tuple[str, ...]
    march = next((name for name in target.isa if name in _ZIG_RISCV), None)
    if march is None:
        raise UsageError(
            f"{target.name} names none of the RISC-V instruction sets {', '.join(_ZIG_RISCV)}",
            target.name,
        )
    if toolchain.name == "zig":
        machine = ("-target", "riscv32-freestanding-none", f"-mcpu={_ZIG_RISCV[march]}")
    else:
        # no data relative to gp, which the start-up code would have to set
        machine = (f"-march={march}", "-mabi=ilp32", "-msmall-data-limit=0")
    # the jump of a table would look like a call through a pointer to the bound of the stack
    return (*machine, "-fno-jump-tables")


def compile_flags(toolchain: Toolchain, target: Target) -> tuple[str, ...]:
    """Flags of every C source, without optimisation level, defines and include folders."""
    extra = target.toolchain.get(f"{toolchain.name}_flags", target.toolchain.get("flags", ()))
    flags = [*machine_flags(toolchain, target), *_COMMON, *extra]
    if toolchain.name == "zig":
        # zig cc switches the sanitizer on by itself when it sees no optimisation it knows
        flags += ["-fno-sanitize=undefined", "-fno-stack-protector", "-gdwarf-4"]
    return tuple(str(flag) for flag in flags)


def link_flags(toolchain: Toolchain, target: Target) -> tuple[str, ...]:
    """Flags of the link, to which objects, ``-T script`` and ``-o`` are added."""
    flags = [*machine_flags(toolchain, target), "-nostartfiles", "-Wl,--gc-sections"]
    flags += ["-Wl,--build-id=none", "-Wl,-e,ek_reset_handler"]
    if toolchain.name == "gcc":
        flags += ["-nodefaultlibs", "-Wl,--no-warn-rwx-segments", "-lgcc"]
    return tuple(flags)


def run(command: Sequence[str], cwd: Path, what: str) -> str:
    """Runs a compiler; returns what it printed.

    Raises:
        MissingDependency: it failed; its first lines are shown.
    """
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    try:
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise MissingDependency(f"the compiler does not run: {error}", what) from None
    printed = result.stdout + result.stderr
    if result.returncode != 0:
        shown = "\n      ".join(printed.strip().splitlines()[:12])
        raise MissingDependency(
            f"the compiler failed (exit code {result.returncode}) on {what}:\n      {shown}",
            fix="another compiler: --compiler gcc or --compiler zig",
        )
    return printed
