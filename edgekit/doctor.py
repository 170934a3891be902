"""What is installed, what is missing, which command installs it, and what works without it.

Nothing heavy is imported: Python packages are looked up by their metadata, programs are asked
for their version in a process of a few seconds at most.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import UsageError

Status = Literal["ok", "missing", "wrong version", "broken"]
_VERSION_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Check:
    """One thing that edgekit uses, and how this computer stands with it."""

    name: str
    #: "base", an extra's name ("convert", "sim", "ethosu"), "tool", "library" or "pack"
    group: str
    status: Status
    version: str | None
    #: what needs it
    needed_for: str
    #: what works without it
    without: str
    #: the command or the place that installs it
    install: str
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """A known conflict or a setting of this computer that will get in the way."""

    name: str
    what: str
    fix: str


@dataclass(frozen=True)
class Tool:
    """A program that edgekit runs."""

    name: str
    #: names under which it is installed, preferred first
    programs: tuple[str, ...]
    #: arguments that make it print its version
    version: tuple[str, ...]
    needed_for: str
    without: str
    install: str
    #: this platform's programs only, by ``sys.platform`` and machine; empty: all
    platforms: tuple[str, ...] = ()


_VIRTUAL = "all of it on a virtual board: --port virtual"
TOOLS = (
    Tool(
        "arm-none-eabi-gcc",
        ("arm-none-eabi-gcc",),
        ("--version",),
        "build and run for Arm microcontrollers, with the smallest and fastest code",
        "build and run use clang from the Python package ziglang (edgekit[sim])",
        "sudo apt install gcc-arm-none-eabi",
    ),
    Tool(
        "riscv64-unknown-elf-gcc",
        ("riscv64-unknown-elf-gcc", "riscv32-unknown-elf-gcc", "riscv32-esp-elf-gcc"),
        ("--version",),
        "build and run for the ESP32-C3",
        "build and run use clang from the Python package ziglang (edgekit[sim])",
        "sudo apt install gcc-riscv64-unknown-elf",
    ),
    Tool(
        "arm-none-eabi-nm",
        ("arm-none-eabi-nm", "llvm-nm", "nm"),
        ("--version",),
        "reading symbols outside edgekit",
        "everything: edgekit reads ELF files with pyelftools (edgekit[sim])",
        "sudo apt install binutils-arm-none-eabi",
    ),
    Tool(
        "cc",
        ("cc", "gcc", "clang"),
        ("--version",),
        "compiling generated code for this computer",
        "everything on boards, real and virtual",
        "sudo apt install gcc",
    ),
    Tool(
        "qemu-system-arm",
        ("qemu-system-arm",),
        ("--version",),
        "--port qemu",
        "--port virtual and --port serial:…",
        "sudo apt install qemu-system-arm",
    ),
    Tool(
        "openocd",
        ("openocd",),
        ("--version",),
        "flash through OpenOCD",
        f"flash with pyocd, STM32_Programmer_CLI, stm32loader or uf2; {_VIRTUAL}",
        "sudo apt install openocd",
    ),
    Tool(
        "pyocd",
        ("pyocd",),
        ("--version",),
        "flash through CMSIS-DAP and ST-LINK probes",
        f"flash with openocd, STM32_Programmer_CLI, stm32loader or uf2; {_VIRTUAL}",
        "pip install pyocd",
    ),
    Tool(
        "STM32_Programmer_CLI",
        ("STM32_Programmer_CLI", "STM32_Programmer_CLI.exe"),
        ("--version",),
        "flash through STM32CubeProgrammer",
        f"flash with openocd, pyocd or stm32loader; {_VIRTUAL}",
        "STM32CubeProgrammer from st.com, its bin folder on PATH",
    ),
    Tool(
        "stm32flash",
        ("stm32flash",),
        # it has no option for it, but names itself before it finds that this is no port
        ("/dev/null",),
        "flash of STM32 boards over the serial port of their boot ROM",
        f"flash with stm32loader, openocd, pyocd or STM32_Programmer_CLI; {_VIRTUAL}",
        "sudo apt install stm32flash",
    ),
    Tool(
        "stm32loader",
        ("stm32loader",),
        ("--version",),
        "flash of STM32 boards over the serial port of their boot ROM",
        f"flash with stm32flash, openocd, pyocd or STM32_Programmer_CLI; {_VIRTUAL}",
        "pip install stm32loader",
    ),
    Tool(
        "dfu-util",
        ("dfu-util",),
        ("--version",),
        "flash over USB DFU",
        f"flash with the other tools of the board; {_VIRTUAL}",
        "sudo apt install dfu-util",
    ),
    Tool(
        "picotool",
        ("picotool",),
        ("version",),
        "flash of RP2040 and RP2350 boards through picotool",
        f"flash by UF2 drive or with pyocd; {_VIRTUAL}",
        "sudo apt install picotool, or build it from github.com/raspberrypi/picotool",
    ),
    Tool(
        "esptool",
        ("esptool", "esptool.py"),
        ("version",),
        "flash of ESP32 boards",
        "everything else",
        "pip install esptool",
    ),
    Tool(
        "adafruit-nrfutil",
        ("adafruit-nrfutil",),
        ("version",),
        "flash of nRF52 boards with Adafruit's boot loader",
        f"flash by UF2 drive or with pyocd; {_VIRTUAL}",
        "pip install adafruit-nrfutil",
    ),
    Tool(
        "edgetpu_compiler",
        ("edgetpu_compiler",),
        ("--version",),
        "compile --target coral",
        "compile --target coral --predict estimates what the Edge TPU takes",
        "Google's package archive, see coral.ai/docs/edgetpu/compiler (x86-64 Linux only)",
        ("linux-x86_64",),
    ),
    Tool(
        "mdt",
        ("mdt",),
        ("version",),
        "deploying to the Coral Dev Board by mdt",
        "deploying to it by ssh",
        "pip install mendel-development-tool",
    ),
    Tool(
        "ssh",
        ("ssh",),
        ("-V",),
        "Linux boards: --port ssh:user@host",
        "everything else",
        "sudo apt install openssh-client",
    ),
    Tool(
        "adb",
        ("adb",),
        ("version",),
        "Android phones: --port adb:SERIAL",
        "everything else",
        "sudo apt install adb",
    ),
)

#: group of Python packages → what needs it, what works without it
EXTRAS = {
    "base": ("every verb", "nothing"),
    "convert": (
        "convert, zoo build; validate against LiteRT",
        "every verb on models that are .tflite files already",
    ),
    "sim": (
        "sim and --port virtual; build without arm-none-eabi-gcc",
        "--port qemu and real boards",
    ),
    "ethosu": ("compile --engine ethosu", "every verb with the other engines"),
}


def check_packages() -> list[Check]:
    """The Python packages that edgekit and its extras name, by edgekit's own metadata."""
    try:
        requirements = importlib.metadata.requires("edgekit") or []
    except importlib.metadata.PackageNotFoundError:
        return [
            Check(
                "edgekit",
                "base",
                "missing",
                None,
                "telling which packages belong to it",
                "every verb whose packages are there",
                "pip install -e .",
                "running from a folder that was not installed",
            )
        ]
    checks = []
    for line in requirements:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == [\"']([\w-]+)[\"']", marker)
        group = extra.group(1) if extra else "base"
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(\[[^]]*\])?\s*(.*)", requirement)
        if group not in EXTRAS or match is None or match.group(1) == "edgekit":
            continue
        checks.append(_check_package(match.group(1), match.group(3).strip(), group))
    return checks


def _check_package(name: str, wanted: str, group: str) -> Check:
    needed_for, without = EXTRAS[group]
    install = "pip install edgekit" if group == "base" else f"pip install 'edgekit[{group}]'"
    version = _package_version(name)
    status: Status = "ok"
    note = ""
    if version is None:
        status = "missing"
    elif not satisfies(version, wanted):
        status = "wrong version"
        note = f"{wanted.replace(',', ', ')} is wanted"
    return Check(name, group, status, version, needed_for, without, install, note)


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version fulfils conditions such as ``>=1.26,<2.2``, ``==2.19.*``.

    Only what edgekit's own requirements use: ``==`` (with ``.*``), ``>=``, ``<``.
    """
    release = _release(version)
    for condition in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.fullmatch(r"(==|>=|<)\s*([\w.*+!-]+)", condition)
        if match is None:
            continue
        operator, bound = match.groups()
        limit = _release(bound)
        width = max(len(release), len(limit))
        mine = release + (0,) * (width - len(release))
        other = limit + (0,) * (width - len(limit))
        if operator == "==" and bound.endswith(".*"):
            fine = release[: len(limit)] == limit
        elif operator == "==":
            fine = version == bound
        elif operator == ">=":
            fine = mine >= other
        else:
            fine = mine < other
        if not fine:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def check_tools(tools: Iterable[Tool] = TOOLS) -> list[Check]:
    """Programs on PATH (and beside this Python), with the versions that they print."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(_check_tool, tools))


def _check_tool(tool: Tool) -> Check:
    note = ""
    here = f"{sys.platform}-{platform.machine()}"
    if tool.platforms and here not in tool.platforms:
        note = f"exists for {', '.join(tool.platforms)} only; this is {here}"
    path = next(filter(None, map(find_program, tool.programs)), None)
    version: str | None = None
    status: Status = "missing"
    if path is not None:
        status = "ok"
        try:
            version = _program_version([path, *tool.version])
        except (OSError, subprocess.SubprocessError) as error:
            status = "broken"
            note = f"{path} does not run: {_reason(error)}"
    return Check(
        tool.name, "tool", status, version, tool.needed_for, tool.without, tool.install, note
    )


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {_VERSION_TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or str(error)


def find_program(name: str) -> str | None:
    """A program's path: on PATH, or beside the running Python, where pip puts its scripts."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def _program_version(command: list[str]) -> str | None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_VERSION_TIMEOUT_S,
        check=False,
        text=True,
        errors="replace",
    )
    if done.returncode in (126, 127) or done.returncode < 0:
        raise OSError(f"it ended with code {done.returncode}")
    # The first number with a dot that is no part of a longer word: "(15:12.2.rel1-1) 12.2.1"
    # of Debian's gcc must give 12.2.1.
    without_brackets = re.sub(r"\([^)]*\)", " ", done.stdout)
    match = re.search(r"(?<![A-Za-z0-9.:])v?(\d+\.\d+[\w.+-]*)", without_brackets)
    match = match or re.search(r"(\d+\.\d+[\w.+-]*)", done.stdout)
    return match.group(1).rstrip(".,:-") if match else None


def check_libraries() -> list[Check]:
    """Libraries that are loaded at run time."""
    import ctypes.util

    found = ctypes.util.find_library("edgetpu")
    return [
        Check(
            "libedgetpu",
            "library",
            "ok" if found else "missing",
            None,
            "running models on a Coral Edge TPU",
            "compiling for it",
            "Google's package archive (libedgetpu1-std), see coral.ai/docs/accelerator/get-started",
            found or "",
        )
    ]


def check_packs() -> list[Check]:
    """pyOCD's device packs of the boards that need one."""
    from edgekit.targets import list_targets

    pyocd = find_program("pyocd")
    wanted = sorted(
        {
            str(flasher["pack"])
            for target in list_targets()
            for flasher in target.flashers
            if flasher["name"] == "pyocd" and "pack" in flasher
        }
    )
    if pyocd is None or not wanted:
        return []
    try:
        done = subprocess.run(
            [pyocd, "list", "--targets"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=3 * _VERSION_TIMEOUT_S,
            check=False,
            text=True,
            errors="replace",
        )
        known = done.stdout.lower()
    except (OSError, subprocess.SubprocessError):
        known = ""
    return [
        Check(
            f"pyocd pack {part}",
            "pack",
            "ok" if re.search(rf"^\s*{re.escape(part)}\b", known, re.MULTILINE) else "missing",
            None,
            f"flash of the {part} with pyocd",
            "flash with the other tools of the board",
            f"pyocd pack install {part}",
        )
        for part in wanted
    ]


@dataclass(frozen=True)
class MissingGroup:
    """Missing things that one command installs."""

    names: tuple[str, ...]
    needed_for: str
    without: str
    install: str
    note: str


def group_missing(checks: Iterable[Check]) -> list[MissingGroup]:
    """Puts together what the same command installs, in the order of first appearance."""
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.install, []).append(check)
    return [
        MissingGroup(
            tuple(check.name for check in members),
            members[0].needed_for,
            members[0].without,
            install,
            "; ".join(filter(None, (_noted(check, members) for check in members))),
        )
        for install, members in groups.items()
    ]


def _noted(check: Check, members: list[Check]) -> str:
    if not check.note:
        return ""
    version = f" {check.version}" if check.version else ""
    return f"{check.name}{version}: {check.note}" if len(members) > 1 else check.note


def unmet_requirements(checks: Iterable[Check], names: Iterable[str]) -> list[Check]:
    """Those checks that are not fine among the named packages, tools and extras.

    Raises:
        UsageError: a name that no check has.
    """
    checks = list(checks)
    words = sorted({check.name for check in checks} | {check.group for check in checks} - {"tool"})
    unmet: list[Check] = []
    for name in names:
        if name not in words:
            near = difflib.get_close_matches(name, words, n=1)
            raise UsageError(
                f"doctor knows nothing called '{name}'",
                "--require",
                f"--require {near[0]}" if near else f"one of: {', '.join(words)}",
            )
        unmet += [
            check
            for check in checks
            if name in (check.name, check.group) and check.status != "ok" and check not in unmet
        ]
    return unmet


def find_conflicts() -> list[Finding]:
    """Packages that are known to disturb each other, or to be something else than hoped."""
    findings = []
    coral = _distribution_files("pycoral")
    if coral is not None and not any(path.endswith("utils/edgetpu.py") for path in coral):
        findings.append(
            Finding(
                "pycoral",
                "the installed 'pycoral' is not Google's: the package of that name on PyPI is a"
                " tool for coral reefs",
                "pip uninstall pycoral; edgekit loads libedgetpu itself and needs no pycoral",
            )
        )
    tensorflow = _package_version("tensorflow")
    if tensorflow is not None and not satisfies(tensorflow, "==2.19.*"):
        findings.append(
            Finding(
                "tensorflow",
                f"TensorFlow {tensorflow} is installed; edgekit's converter is tested with 2.19",
                "pip install 'edgekit[convert]' in an environment of its own",
            )
        )
    if tensorflow is not None and _package_version("tflite-support") is not None:
        findings.append(
            Finding(
                "tflite-support",
                "'import tflite_support' fails in a process that uses TensorFlow (both register"
                " StatusCode)",
                "nothing for edgekit, which uses its metadata part only; in your own code import"
                " tensorflow_lite_support.metadata",
            )
        )
    protobuf = _package_version("protobuf")
    if protobuf and _package_version("tflite-support") and not satisfies(protobuf, "<4"):
        findings.append(
            Finding(
                "protobuf",
                f"protobuf {protobuf} is installed; tflite-support needs one below 4",
                "pip install 'protobuf<4'",
            )
        )
    litert = _package_version("ai-edge-litert")
    if litert is not None and satisfies(litert, ">=1.3"):
        findings.append(
            Finding(
                "ai-edge-litert",
                f"ai-edge-litert {litert} rounds FULLY_CONNECTED differently from TFLM",
                "pip install ai-edge-litert==1.2.0, where equal outputs are wanted",
            )
        )
    return findings


def _distribution_files(name: str) -> list[str] | None:
    try:
        files = importlib.metadata.files(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return [path.as_posix() for path in files or []]


#: vendor id → whose probes and boards the udev rule is for
_UDEV_VENDORS = {
    "0483": "ST-LINK probes",
    "2e8a": "Raspberry Pi Pico boards and probes",
    "1a6e": "the Coral USB Accelerator",
}
_UDEV_FOLDERS = ("/etc/udev/rules.d", "/run/udev/rules.d", "/lib/udev/rules.d")


def find_permissions(
    folders: Iterable[str] = _UDEV_FOLDERS, groups: Iterable[str] | None = None
) -> list[Finding]:
    """On Linux: what will keep a user from serial ports and probes. Elsewhere nothing.

    Args:
        folders: where udev's rules are.
        groups: names of the user's groups; by default asked of the system.
    """
    if not sys.platform.startswith("linux"):
        return []
    findings = []
    if groups is not None or os.geteuid() != 0:
        mine = set(_group_names() if groups is None else groups)
        if not mine & {"dialout", "uucp"}:
            findings.append(
                Finding(
                    "serial ports",
                    "this user is in neither of the groups dialout and uucp, which own the serial"
                    " ports",
                    "sudo usermod -aG dialout $USER, then log in again",
                )
            )
    rules = ""
    for folder in folders:
        for path in sorted(Path(folder).glob("*.rules")):
            try:
                rules += path.read_text(encoding="utf-8", errors="replace").lower()
            except OSError:
                continue
    for vendor, whose in _UDEV_VENDORS.items():
        if f'"{vendor}"' not in rules:
            findings.append(
                Finding(
                    f"udev {vendor}",
                    f"no udev rule gives users access to {whose}",
                    f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{vendor}", MODE="0660",'
                    ' GROUP="plugdev", TAG+="uaccess" in /etc/udev/rules.d/70-edgekit.rules,'
                    " then: sudo udevadm control --reload && sudo udevadm trigger",
                )
            )
    return findings


def _group_names() -> set[str]:
    import grp

    names = set()
    for number in {*os.getgroups(), os.getegid()}:
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return names


def describe_platform() -> dict[str, str]:
    """This computer, and what edgekit can do on such a one."""
    if os.name == "posix":
        terminals = "yes: a virtual board is a serial port that any program can open"
    else:
        terminals = "no, they are POSIX only: virtual boards are reached through a TCP port"
    tested = sys.platform.startswith("linux") and sys.version_info[:2] in ((3, 10), (3, 11))
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "tested": "yes" if tested else "no: tests run on Linux with Python 3.10 and 3.11",
        "pseudo-terminals": terminals,
    }
