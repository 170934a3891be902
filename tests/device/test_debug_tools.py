"""Unmodified tools at virtual boards: from erased flash to an inference, and debugging.

OpenOCD, pyOCD, GDB, stm32flash and adafruit-nrfutil as Debian and PyPI have them, with nothing
put on their paths; stm32loader, esptool and UF2 drives are in ``test_flash_virtual.py``.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import flashing
from edgekit.device import Device
from edgekit.flashers import load_flasher
from edgekit.flashers._process import is_installed
from edgekit.links import open_link
from edgekit.links.virtual import VirtualLink
from edgekit.records import Firmware
from edgekit.sim.rom.memory import FlashMemory
from edgekit.targets import load_target

Make = Callable[[str, str], Firmware]
#: board → the tools that reach it, without any help
WAYS = [
    ("nucleo-l4r5zi", "openocd"),
    ("nucleo-l4r5zi", "stm32flash"),
    ("nucleo-g0b1re", "openocd"),
    ("nucleo-g0b1re", "stm32flash"),
    ("nucleo-f446re", "openocd"),
    ("nucleo-f446re", "stm32flash"),
    ("nucleo-h7a3zi-q", "openocd"),
    ("nucleo-u575zi-q", "openocd"),
    ("nrf52840dk", "openocd"),
    ("nrf52840dk", "pyocd"),
    ("feather-nrf52840", "adafruit-nrfutil"),
]
#: and those that are measured with a real model
MEASURED = [
    ("nucleo-l4r5zi", "openocd"),
    ("nucleo-l4r5zi", "stm32flash"),
    ("nrf52840dk", "pyocd"),
    ("feather-nrf52840", "adafruit-nrfutil"),
]
QUIET = ("-c", "tcl_port disabled", "-c", "telnet_port disabled")


@pytest.fixture
def compiler() -> str:
    return "gcc" if shutil.which("arm-none-eabi-gcc") else "zig"


def need(tool: str) -> None:
    found = shutil.which(tool) if tool == "gdb-multiarch" else is_installed(tool)
    if not found:
        pytest.skip(f"{tool} is not installed")


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def edgekit(*arguments: str, cwd: Path) -> str:
    done = run(sys.executable, "-m", "edgekit", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def infer(port: str, firmware: Firmware) -> None:
    """Asks the board who it is, and for one inference."""
    with Device(open_link(port, load_target(firmware.target), firmware)) as device:
        device.connect(firmware.build_id)
        device.write_input(0, bytes(300))
        (ticks,) = device.run()
        assert ticks > 0


@pytest.mark.parametrize(("name", "tool"), WAYS)
def test_from_erased_flash_to_an_inference(
    toy_firmware: Make, compiler: str, name: str, tool: str, tmp_path: Path
) -> None:
    need(tool)
    firmware = toy_firmware(name, compiler)
    port = f"virtual:state={tmp_path / 'board'}"
    command = ("flash", str(firmware.elf.parent), "--port", port, "--flasher", tool, "--json")
    said = json.loads(edgekit(*command, cwd=tmp_path))
    assert said["build_id"] == firmware.build_id
    assert said["report"]["flasher"] == tool and said["report"]["version"]
    (piece,) = said["report"]["written"]
    content = firmware.images["bin"].read_bytes()
    assert piece["nbytes"] == len(content)
    # the flash holds it, and the board runs what is there, switched off and on
    flash = FlashMemory(load_target(name), tmp_path / "board")
    assert flash.read(piece["address"], len(content)) == content
    infer(port, firmware)
    # what is there already may be written again
    assert json.loads(edgekit(*command, cwd=tmp_path))["build_id"] == firmware.build_id


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Builds the example's model for a board; its folder has ``firmware``."""
    folders: dict[str, Path] = {}
    model = Path(flashing.__file__).parent / "examples" / "digits" / "digits_int8.tflite"

    def make(name: str) -> Path:
        if name not in folders:
            folder = folders[name] = tmp_path_factory.mktemp(name)
            edgekit("compile", str(model), "--target", name, "-o", "artifact", cwd=folder)
            edgekit("build", "artifact", "-o", "firmware", cwd=folder)
            shutil.copy(model, folder / "firmware")
        return folders[name]

    yield make


@pytest.mark.parametrize(("name", "tool"), MEASURED)
def test_from_erased_flash_to_a_latency_report(
    measured: Callable[[str], Path], name: str, tool: str, tmp_path: Path
) -> None:
    """A real model, flashed by the tool, is measured, and its outputs are TFLM's."""
    need(tool)
    folder = measured(name)
    port = f"virtual:state={tmp_path / 'board'}"
    edgekit("flash", "firmware", "--port", port, "--flasher", tool, cwd=folder)
    report = json.loads(edgekit("bench", "firmware", "--port", port, "--json", cwd=folder))
    assert report["kind"] == "simulated" and report["port"] == port
    assert report["latency_us"]["p50"] > 0 and report["instructions"] > 100_000
    assert report["outputs"]["match"] is True


# OpenOCD by itself, over each of the adapters that it can be given


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Callable[..., VirtualLink]]:
    """Erased boards with a debug port."""
    links: list[VirtualLink] = []

    def make(name: str, elf: Path | None = None) -> VirtualLink:
        target, state = load_target(name), tmp_path / "state"
        links.append(VirtualLink(target, elf, connect=False, state=state, debug_port=0))
        return links[-1]

    yield make
    for link in links:
        link.close()


def adapter(kind: str, port: int | None) -> list[str]:
    commands = {
        "hla": ("source [find interface/stlink.cfg]", f"hla_stlink_backend tcp {port}"),
        "dapdirect": (
            "adapter driver st-link",
            "st-link vid_pid 0x0483 0x374b",
            f"st-link backend tcp {port}",
            "transport select dapdirect_swd",
        ),
        "jtag": (
            "adapter driver remote_bitbang",
            f"remote_bitbang port {port}",
            "remote_bitbang host localhost",
            "transport select jtag",
        ),
    }
    return [word for command in commands[kind] for word in ("-c", command)]


@pytest.mark.parametrize(
    ("name", "script", "kinds"),
    [
        ("nucleo-l4r5zi", "stm32l4x", ("hla", "dapdirect", "jtag")),
        ("nucleo-g0b1re", "stm32g0x", ("hla", "dapdirect")),
        ("nrf52840dk", "nrf52", ("dapdirect",)),
    ],
)
def test_openocd_by_itself(
    toy_firmware: Make,
    compiler: str,
    board: Callable[..., VirtualLink],
    name: str,
    script: str,
    kinds: tuple[str, ...],
    tmp_path: Path,
) -> None:
    need("openocd")
    firmware = toy_firmware(name, compiler)
    image = firmware.images["bin"]
    start = load_target(name).memory[0].origin
    link = board(name, firmware.elf)
    entry = int.from_bytes(image.read_bytes()[4:8], "little") & ~1
    cpu = f"{script}.cpu"
    for kind in kinds:
        # remote_bitbang has no speed that the reset's events could set
        events = ["-c", f"{cpu} configure -event reset-start {{}}"] if kind == "jtag" else []
        done = run(
            "openocd", *adapter(kind, link.debug_port), "-c", "gdb_port disabled", *QUIET,
            "-f", f"target/{script}.cfg", *events, "-c", "init", "-c", "reset halt",
            "-c", f"flash erase_address {start:#x} 0x10000",
            "-c", f"mdw {start:#x} 2",
            "-c", f"program {{{image}}} {start:#x} verify",
            "-c", "reset halt", "-c", "reg pc", "-c", "step", "-c", "reg pc",
            "-c", f"bp {entry:#x} 2 hw", "-c", "reset run", "-c", "wait_halt", "-c", "reg pc",
            "-c", f"rbp {entry:#x}", "-c", "reset run", "-c", "shutdown",
            cwd=tmp_path,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert f"{start:#010x}: ffffffff ffffffff" in said, said
        assert "** Verified OK **" in said, said
        places = [
            int(line.rpartition("x")[2], 16)
            for line in said.splitlines()
            if line.startswith("pc (/32)")
        ]
        assert places[0] == places[2] == entry != places[1], said
    infer(f"pty:{link.port}", firmware)


def test_options_through_openocd(board: Callable[..., VirtualLink], tmp_path: Path) -> None:
    """Protection is set and lifted as a user does it; lifting it erases the flash."""
    need("openocd")
    link = board("nucleo-l4r5zi")

    def openocd(*commands: str) -> str:
        more = [word for command in ("init", "reset halt", *commands) for word in ("-c", command)]
        done = run(
            "openocd", *adapter("hla", link.debug_port), "-c", "gdb_port disabled", *QUIET,
            "-f", "target/stm32l4x.cfg", *more, "-c", "shutdown", cwd=tmp_path,
        )  # fmt: skip
        return done.stdout + done.stderr

    image = tmp_path / "image.bin"
    image.write_bytes(bytes(range(256)) * 32)
    assert "wrote 8192 bytes" in openocd(f"flash write_image erase {image} 0x08000000")
    assert "protected" in openocd("flash protect 0 1 1 on", "flash info 0")
    openocd("stm32l4x option_load 0")
    said = openocd("flash erase_sector 0 0 3", "mdw 0x08000000 1")
    assert "stm32x device protected" in said or "failed erasing" in said
    openocd("flash protect 0 0 last off", "stm32l4x option_load 0")
    assert "erased sectors 0 through 3" in openocd("flash erase_sector 0 0 3")
    openocd(f"flash write_image {image} 0x08000000")
    openocd("stm32l4x lock 0")
    openocd("stm32l4x option_load 0")
    said = openocd("flash probe 0", "mdw 0x08000000 1")
    assert "RDP level 1" in said and "0x08000000: 03020100" not in said
    openocd("stm32l4x unlock 0")
    openocd("stm32l4x option_load 0")
    said = openocd("flash probe 0", "mdw 0x08000000 1")
    assert "RDP level 0" in said and "0x08000000: ffffffff" in said


@pytest.mark.parametrize("tool", ("pyocd", "openocd"))
def test_a_protected_nrf52_is_recovered(
    board: Callable[..., VirtualLink], tool: str, tmp_path: Path
) -> None:
    """Through the control access port, which erases everything."""
    need(tool)
    flash = FlashMemory(load_target("nrf52840dk"), tmp_path / "state")
    flash.program(0x10001208, bytes(4), 4)
    flash.program(0, b"abcd", 4)
    link = board("nrf52840dk")
    done = (
        run("pyocd", "erase", "--mass", "--target", "nrf52840", "--no-wait", "--uid",
            f"remote:127.0.0.1:{link.debug_port}", cwd=tmp_path)
        if tool == "pyocd"
        else run("openocd", *adapter("dapdirect", link.debug_port), "-c", "gdb_port disabled",
                 *QUIET, "-f", "target/nrf52.cfg", "-c", "init", "-c", "nrf52_recover",
                 "-c", "shutdown", cwd=tmp_path)
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert flash.read(0, 4) == flash.read(0x10001208, 4) == b"\xff" * 4


# GDB, through OpenOCD and through pyOCD


_GDB = """
set confirm off
set pagination off
set mem inaccessible-by-default off
target extended-remote | {server}
monitor reset halt
load
monitor reset halt
maintenance flush register-cache
break main
continue
backtrace
info registers pc
stepi
next
info breakpoints
delete
watch *(unsigned*)0x{variable:x}
continue
backtrace 1
delete
monitor reset run
detach
"""


def test_gdb_loads_and_debugs_a_firmware(
    toy_firmware: Make, compiler: str, board: Callable[..., VirtualLink], tmp_path: Path
) -> None:
    """``load`` programs an erased board through OpenOCD; breakpoints, steps, watchpoints."""
    need("openocd")
    need("gdb-multiarch")
    firmware = toy_firmware("nucleo-l4r5zi", compiler)
    from edgekit.sim.symbols import Image

    symbols = Image(firmware.elf).symbols
    link = board("nucleo-l4r5zi", firmware.elf)
    server = (
        'openocd -c "gdb_port pipe" -c "log_output openocd.log" -c "tcl_port disabled" '
        '-c "telnet_port disabled" -c "adapter driver st-link" -c "st-link vid_pid 0x0483 0x374b" '
        f'-c "st-link backend tcp {link.debug_port}" -c "transport select dapdirect_swd" '
        "-f target/stm32l4x.cfg"
    )
    # what the runtime counts its ring of received bytes with
    script = tmp_path / "session.gdb"
    script.write_text(_GDB.format(server=server, variable=symbols["wire"]))
    done = run("gdb-multiarch", "-batch", "-x", str(script), str(firmware.elf), cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "Transfer rate" in said, said
    assert "Breakpoint 1, main" in said, said
    assert "#0  main" in said
    assert "Hardware watchpoint" in said and "Old value" in said, said
    assert link.state()["rom"] is False
    infer(f"pty:{link.port}", firmware)


def test_a_board_with_a_debug_port_outlives_a_fault(tmp_path: Path) -> None:
    """A debugger is to see what went wrong: Ctrl-C ends the board, and nothing else."""
    from sim_programs import build

    source = "void program(void) { ((void (*)(void))0x97b1165fu)(); }"
    elf = build(tmp_path, source, flash=0x08000000)
    command = [sys.executable, "-m", "edgekit", "sim", "nucleo-l4r5zi", str(elf)]
    with subprocess.Popen(
        [*command, "--debug-port", "0"], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as board:
        assert board.stderr is not None
        lines = [board.stderr.readline() for _ in range(3)]
        assert "its debug port is tcp:127.0.0.1:" in lines[1]
        assert "the virtual board stopped: jump to 0x97b1165e" in lines[2]
        assert board.poll() is None
        port = int(lines[1].partition("tcp:127.0.0.1:")[2].partition(",")[0])
        if is_installed("openocd"):
            said = run(
                "openocd", *adapter("hla", port), "-c", "gdb_port disabled", *QUIET,
                "-f", "target/stm32l4x.cfg", "-c", "init", "-c", "halt", "-c", "reg pc",
                "-c", "shutdown", cwd=tmp_path,
            )  # fmt: skip
            assert "pc (/32): 0x97b1165e" in said.stdout + said.stderr
        board.send_signal(signal.SIGINT)
        board.communicate(timeout=20)
        assert board.returncode == 0


def test_pyocd_runs_commands_on_a_running_firmware(
    toy_firmware: Make, compiler: str, board: Callable[..., VirtualLink], tmp_path: Path
) -> None:
    need("pyocd")
    firmware = toy_firmware("nrf52840dk", compiler)
    target = load_target("nrf52840dk")
    link = board("nrf52840dk", firmware.elf)
    order = flashing.order_of(firmware, target, port="virtual", flasher="pyocd")
    entry = flashing._virtual_entry(order)
    assert entry is not None
    job = replace(flashing._job(order, entry), debug_port=link.debug_port)
    load_flasher("pyocd").flash(job, lambda share: None)
    infer(f"pty:{link.port}", firmware)
    command = ["pyocd", "commander", "--no-wait", "--target", "nrf52840", "--uid",
               f"remote:127.0.0.1:{link.debug_port}", "--connect", "attach"]  # fmt: skip
    for each in ("halt", "reg pc", "step", "reg pc", "read32 0 8", "continue", "status"):
        command += ["--command", each]
    done = run(*command, cwd=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    words = firmware.images["bin"].read_bytes()[:8]
    assert words[:4][::-1].hex() in said and words[4:][::-1].hex() in said, said
    assert "Running" in said
    infer(f"pty:{link.port}", firmware)
