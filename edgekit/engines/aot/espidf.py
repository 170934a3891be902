"""An ESP-IDF project around a model's C: the model as a component, the runtime as the program.

What is written follows ESP-IDF's documentation (build system: idf_component_register, project and
component CMakeLists.txt, Kconfig.projbuild, sdkconfig.defaults). No ESP-IDF is in the package
registries, so that edgekit cannot build it; its tests compile and run the sources on the host,
against stand-ins for ESP-IDF's headers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.build import image_source, inputs_apart, inputs_kept, staging_bytes
from edgekit.errors import UsageError
from edgekit.resources import firmware_dir

if TYPE_CHECKING:
    from edgekit.records import Plan
    from edgekit.targets import Target

#: of the runtime and its port, into ``main``
_RUNTIME = {
    "runtime/main.c": "runtime.c",
    "runtime/wire.c": "wire.c",
    "port/esp-idf/port.c": "port.c",
    "include/ek_image.h": "ek_image.h",
    "include/ek_port.h": "ek_port.h",
    "include/ek_stack.h": "ek_stack.h",
    "include/ek_wire.h": "ek_wire.h",
}
_DEFAULT_BAUD = 115200


@dataclass(frozen=True)
class Project:
    """The files of a project, and what of it a build in ESP-IDF will have."""

    files: Mapping[str, str]
    #: the folder of the model's sources
    component: str
    build_id: str
    #: the program that ``idf.py build`` makes
    elf: Path


def project(
    texts: Mapping[str, str], prefix: str, plan: Plan, target: Target, command: str
) -> Project:
    """Puts a model's sources (``texts``, by file name) into a project for ``target``.

    Raises:
        UsageError: the target is no chip of ESP-IDF.
    """
    chip = target.toolchain.get("esp-idf-target")
    if not chip or not target.clock_hz:
        raise UsageError(
            f"{target.name} is no target of ESP-IDF",
            fix="a target such as esp32-s3, or 'toolchain: {esp-idf-target: CHIP}' in its file",
        )
    component = f"components/model_{prefix}"
    files = {f"{component}/{name}": text for name, text in texts.items()}
    files[f"{component}/CMakeLists.txt"] = (
        f"# Made by edgekit: {command}\n"
        f'idf_component_register(SRCS {prefix}.c INCLUDE_DIRS ".")\n'
        "target_compile_options(${COMPONENT_LIB} PRIVATE -O2)\n"
    )
    root = firmware_dir()
    files.update({f"main/{to}": (root / path).read_text() for path, to in _RUNTIME.items()})
    files["CMakeLists.txt"] = (
        f"# Made by edgekit: {command}\n"
        f"#   idf.py set-target {chip} && idf.py build flash\n"
        "cmake_minimum_required(VERSION 3.16)\n"
        "include($ENV{IDF_PATH}/tools/cmake/project.cmake)\n"
        f"project({prefix})\n"
    )
    baud = int(target.link.get("baud", _DEFAULT_BAUD))
    files["main/CMakeLists.txt"] = (
        "# main may use all components without naming them\n"
        'idf_component_register(SRCS port.c runtime.c wire.c ek_image.c INCLUDE_DIRS ".")\n'
        "set_source_files_properties(runtime.c PROPERTIES COMPILE_DEFINITIONS main=ek_runtime)\n"
        "target_compile_definitions(${COMPONENT_LIB} PRIVATE\n"
        f"    EK_CLOCK_HZ={target.clock_hz}u EK_UART_BAUD={baud})\n"
    )
    files["main/Kconfig.projbuild"] = _KCONFIG
    files["sdkconfig.defaults"] = _settings(str(chip), target)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0{files[name]}".encode())
    build_id = digest.digest()[:16]
    kept, apart = inputs_kept(plan), inputs_apart(plan)
    files["main/ek_image.c"] = image_source(
        f"{prefix}_model",
        arena_bytes=plan.arena_bytes,
        steps=len(plan.steps),
        kept=kept,
        staging_bytes=0 if plan.feeds or (kept and not apart) else staging_bytes(plan),
        apart=apart,
        feeds=len(plan.feeds),
        target=target.name,
        build_id=build_id,
        placed=False,
    )
    return Project(files, component, build_id.hex(), Path("build") / f"{prefix}.elf")


_KCONFIG = """\
menu "edgekit"
    choice EK_LINE
        prompt "Serial line of the wire protocol"
        default EK_LINE_UART
        config EK_LINE_UART
            bool "UART0, the board's USB bridge"
        config EK_LINE_USB
            bool "USB Serial/JTAG, the chip's own USB"
    endchoice
endmenu
"""


def _settings(chip: str, target: Target) -> str:
    flash = next((r.nbytes for r in target.memory if r.kind == "flash"), 0) >> 20
    lines = [
        f'CONFIG_IDF_TARGET="{chip}"',
        "CONFIG_COMPILER_OPTIMIZATION_PERF=y",
        f"CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ_{(target.clock_hz or 0) // 1_000_000}=y",
        "# the line belongs to the wire protocol",
        "CONFIG_ESP_CONSOLE_NONE=y",
        "CONFIG_ESP_CONSOLE_SECONDARY_NONE=y",
        "CONFIG_BOOTLOADER_LOG_LEVEL_NONE=y",
        "CONFIG_LOG_DEFAULT_LEVEL_NONE=y",
        "# an inference may take longer than the watchdog waits for idle tasks",
        "CONFIG_ESP_TASK_WDT_EN=n",
        "CONFIG_PARTITION_TABLE_SINGLE_APP_LARGE=y",
    ]
    if flash:
        lines.append(f"CONFIG_ESPTOOLPY_FLASHSIZE_{flash}MB=y")
    return "\n".join(lines) + "\n"
