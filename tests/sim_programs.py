"""Small bare-metal programs for virtual boards, compiled by whatever compiler is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest

_LINKER_SCRIPT = """
MEMORY {{ FLASH (rx) : ORIGIN = {flash:#x}, LENGTH = 512K
          RAM (rwx) : ORIGIN = {ram:#x}, LENGTH = 64K }}
ENTRY(reset)
SECTIONS {{
  .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) }} > FLASH
  .bss (NOLOAD) : {{ *(.bss*) *(.data*) *(COMMON) }} > RAM
  /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) }}
  __stack_limit = ORIGIN(RAM) + 0xC000;
  __stack_top = ORIGIN(RAM) + 0x10000;
}}
"""

_TYPES = """
typedef unsigned int uint32_t;
typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef int int32_t;
#define REG(a) (*(volatile uint32_t *)(a))
"""

_START = """
extern uint32_t __stack_top;
void program(void);
void exception(void);
void tick(void);
void reset(void) { program(); for (;;) __asm volatile("wfi"); }
__attribute__((weak)) void exception(void) { for (;;) { } }
__attribute__((weak)) void tick(void) { for (;;) { } }
__attribute__((section(".vectors"), used)) void *const vectors[16] = {
    &__stack_top, (void *)reset, (void *)exception, (void *)exception, 0, 0, 0, 0, 0, 0, 0,
    (void *)exception, 0, 0, (void *)exception, (void *)tick };
"""

#: The UART of MPS2 boards, for programs that talk
MPS2_UART = """
#define UART 0x40004000u
static void uart_start(uint32_t divider) { REG(UART + 16) = divider; REG(UART + 8) = 3; }
static void put(uint8_t c) { while (REG(UART + 4) & 1) { } REG(UART) = c; }
static uint8_t get(void) { while (!(REG(UART + 4) & 2)) { } return (uint8_t)REG(UART); }
"""


@lru_cache(maxsize=1)
def compiler() -> tuple[str, ...]:
    """A C compiler for Cortex-M as the start of a command; skips the test without one."""
    if shutil.which("arm-none-eabi-gcc"):
        return ("arm-none-eabi-gcc",)
    if find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi")
    pytest.skip("no compiler for Cortex-M: neither arm-none-eabi-gcc nor ziglang")


def _cpu(core: str, extra: str = "") -> list[str]:
    name = core if "gcc" in compiler()[0] else core.replace("-", "_")
    if core == "cortex-m33" and "gcc" not in compiler()[0]:
        name = "cortex_m33+dsp"
    return [f"-mcpu={name}{extra}", "-mthumb"]


def build(
    folder: Path,
    source: str,
    *,
    core: str = "cortex-m4",
    flash: int = 0,
    ram: int = 0x20000000,
    flags: tuple[str, ...] = (),
    name: str = "program",
) -> Path:
    """An ELF file of ``source``, which defines ``program``; the stack has 16 KiB."""
    code, script, elf = folder / f"{name}.c", folder / f"{name}.ld", folder / f"{name}.elf"
    start = folder / "start.c"
    start.write_text(_TYPES + _START)
    code.write_text(_TYPES + source)
    script.write_text(_LINKER_SCRIPT.format(flash=flash, ram=ram))
    command = [
        *compiler(), *_cpu(core), "-O1", "-g", "-ffreestanding", "-nostdlib", "-fno-builtin",
        "-fno-unwind-tables", *flags, "-T", str(script), str(start), str(code), "-o", str(elf),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return elf


def assemble(folder: Path, source: str, core: str = "cortex-m7", extra: str = "") -> bytes:
    """The bytes of a piece of assembly."""
    code, built, raw = folder / "a.s", folder / "a.o", folder / "a.bin"
    code.write_text(f".syntax unified\n.thumb\n{source}\n")
    command = [*compiler(), *_cpu(core, extra), "-c", str(code), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from elftools.elf.elffile import ELFFile

    with built.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".text")
        assert section is not None
        raw.write_bytes(section.data())
    return raw.read_bytes()
