"""What a user reads when flashing does not work: every sentence and exit code, to the letter."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tty
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.devices import find_devices
from edgekit.errors import DeviceError
from edgekit.flashers import Job, load_flasher, make_piece
from edgekit.flashers._process import is_installed
from edgekit.links.virtual import VirtualLink
from edgekit.records import Firmware
from edgekit.sim.rom.memory import FlashMemory
from edgekit.targets import list_targets, load_target

Make = Callable[[str, str], Firmware]
NAME = "nucleo-l4r5zi"


def need(tool: str) -> None:
    if not is_installed(tool):
        pytest.skip(f"{tool} is not installed")


def edgekit(*arguments: str, cwd: Path, path: str | None = None) -> tuple[int, str]:
    """Exit code and what is said; with ``path`` in place of the folders where programs are."""
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ if path is None else {**os.environ, "PATH": path},
    )
    assert done.stdout == ""
    lines = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith(("flashing ", "measuring "))
    ]
    return done.returncode, "\n".join(lines).strip()


@pytest.fixture
def place(toy_firmware: Make, tmp_path: Path) -> Path:
    """A folder with a firmware in ``firmware``, and broken ESP-IDF projects."""
    compiler = "gcc" if shutil.which("arm-none-eabi-gcc") else "zig"
    shutil.copytree(toy_firmware(NAME, compiler).elf.parent, tmp_path / "firmware")
    for name, content in (
        ("idf", {"flash_files": {"0x0": "a.bin"}, "extra_esptool_args": {"chip": "esp32c6"}}),
        ("odd", {"files": []}),
        ("less", {"flash_files": {"0x0": "a.bin"}}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flasher_args.json").write_text(json.dumps(content))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "flash.flash").write_bytes(b"short")
    return tmp_path


GOLDEN: list[tuple[str, int, str]] = [
    (
        "flash firmware --target pico",
        2,
        "error: the firmware was built for nucleo-l4r5zi, not for pico\n"
        "  at: firmware.elf\n"
        "  try: edgekit build ARTIFACT --target pico",
    ),
    (
        "flash firmware --flasher bossac",
        2,
        "error: no flasher is called 'bossac'\n  at: --flasher bossac\n  try: one of: …",
    ),
    (
        "flash firmware --flasher esptool",
        2,
        "error: nucleo-l4r5zi is not flashed with esptool\n"
        "  at: --flasher esptool\n"
        "  try: one of: openocd, stm32programmer, pyocd, stm32flash, stm32loader, dfu-util",
    ),
    (
        "flash firmware --flasher dfu-util --port virtual",
        2,
        "error: dfu-util does not reach a virtual nucleo-l4r5zi\n  at: --flasher dfu-util",
    ),
    (
        "flash firmware --port pigeon:7",
        2,
        "error: no kind of port is called 'pigeon'\n"
        "  at: --port pigeon:7\n"
        "  try: --port serial:/dev/ttyACM0, --port virtual, or no --port at all",
    ),
    (
        "flash firmware --port tcp:localhost:1",
        2,
        "error: no board is flashed through 'tcp'\n"
        "  at: --port tcp:localhost:1\n"
        "  try: --port serial:/dev/ttyACM0, --port virtual, or no --port at all",
    ),
    (
        "flash firmware --port virtual:state=state",
        2,
        "error: the flash kept here has 5 bytes; nucleo-l4r5zi has 2,097,152\n"
        "  at: …\n"
        "  try: another folder with --state",
    ),
    ("flash idf", 2, "error: which board is it?\n  at: idf\n  try: --target esp32-s3"),
    (
        "flash idf --target esp32-s3",
        2,
        "error: the project was built for esp32c6, not for esp32-s3\n  at: idf/flasher_args.json",
    ),
    (
        "flash odd --target esp32-s3",
        2,
        "error: this is not what ESP-IDF writes (KeyError: 'flash_files')\n"
        "  at: odd/flasher_args.json\n"
        "  try: idf.py build",
    ),
    (
        "flash less --target esp32-s3",
        2,
        "error: cannot read the image: No such file or directory\n  at: less/a.bin",
    ),
    (
        "flash firmware --flasher stm32loader --port serial:/dev/nothing:9600",
        6,
        "error: there is no port /dev/nothing: the device is not attached, or has gone\n"
        "  at: /dev/nothing\n"
        "  try: edgekit devices lists what is attached",
    ),
    (
        "bench firmware --port virtual:state=never",
        2,
        "error: there is no board's state in this folder\n"
        "  at: never\n"
        "  try: edgekit flash FIRMWARE --port virtual:state=never",
    ),
    (
        f"sim {NAME}",
        2,
        "error: which firmware?\n"
        "  try: edgekit sim nucleo-l4r5zi FIRMWARE, or --state FOLDER for a board that is flashed",
    ),
    (
        f"sim {NAME} firmware --boot-rom",
        2,
        "error: --boot-rom is for boards with --state FOLDER",
    ),
    (
        "sim mps2-an386 firmware --debug-port 0",
        2,
        "error: the virtual mps2-an386 has no debug port\n  at: mps2-an386",
    ),
    (
        "sim mps2-an386 --state other",
        2,
        "error: the virtual mps2-an386 has no boot ROM\n"
        "  at: mps2-an386\n"
        "  try: protocols of boot ROMs: adafruit, an3155, esp, uf2",
    ),
]


def _like(text: str, pattern: str) -> bool:
    """Equal but for the rest of lines that end in "…"."""
    mine, theirs = text.splitlines(), pattern.splitlines()
    return len(mine) == len(theirs) and all(
        a.startswith(b[:-1]) if b.endswith("…") else a == b
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize(("command", "code", "text"), GOLDEN, ids=[item[0] for item in GOLDEN])
def test_sentences(command: str, code: int, text: str, place: Path) -> None:
    if "stm32loader" in command and not is_installed("stm32loader"):
        pytest.skip("stm32loader is not installed")
    found = edgekit(*command.split(), cwd=place)
    assert found[0] == code, found[1]
    assert _like(found[1], text), found[1]


def test_nothing_is_attached(place: Path) -> None:
    if any(NAME in device.targets for device in find_devices(list_targets()).devices):
        pytest.skip("a board is attached")
    for flasher, what, how in (
        ("openocd", "debug probe", "connect the board's debug USB port"),
        ("stm32loader", "serial port", "connect the board, or give --port serial:/dev/ttyACM0"),
        ("stm32flash", "serial port", "connect the board, or give --port serial:/dev/ttyACM0"),
        ("dfu-util", "DFU device or boot ROM", "put the board into its boot ROM"),
    ):
        need(flasher)
        assert edgekit("flash", "firmware", "--flasher", flasher, cwd=place) == (
            6,
            f"error: no {what} that fits nucleo-l4r5zi is attached\n"
            f"  try: {how}; without a board: --port virtual",
        )


@pytest.mark.parametrize(
    ("flasher", "needed_for", "install"),
    [
        ("openocd", "flash through OpenOCD", "sudo apt install openocd"),
        (
            "stm32flash",
            "flash of STM32 boards over the serial port of their boot ROM",
            "sudo apt install stm32flash",
        ),
        ("dfu-util", "flash over USB DFU", "sudo apt install dfu-util"),
    ],
)
def test_a_tool_is_missing(flasher: str, needed_for: str, install: str, place: Path) -> None:
    text = f"error: {flasher} is not installed\n  at: {needed_for}\n  try: {install}"
    command = ("flash", "firmware", "--flasher", flasher)
    assert edgekit(*command, cwd=place, path=str(place)) == (5, text)
    if flasher != "dfu-util":  # a virtual board has no USB
        more = ("--port", "virtual:state=kept")
        assert edgekit(*command, *more, cwd=place, path=str(place)) == (5, text)
        assert not (place / "kept").exists()


def test_a_port_in_use(place: Path) -> None:
    need("stm32loader")
    master, slave = os.openpty()
    name = os.ttyname(slave)
    fcntl.flock(slave, fcntl.LOCK_EX)
    try:
        found = edgekit("flash", "firmware", "--port", f"pty:{name}", cwd=place)
    finally:
        os.close(slave)
        os.close(master)
    assert found == (
        6,
        f"error: {name} is in use by another program\n"
        f"  at: {name}\n"
        f"  try: end the monitor or IDE that has it open (fuser {name} names it)",
    )


def test_a_debug_port_in_use(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = edgekit("sim", NAME, "firmware", "--debug-port", str(port), cwd=place)
    assert found == (
        6,
        f"error: cannot open the debug port tcp:{port}: Address already in use\n"
        "  try: --debug-port 0 takes any free one",
    )


def test_nobody_answers(place: Path) -> None:
    need("stm32loader")
    master, slave = os.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    try:
        code, text = edgekit("flash", "firmware", "--port", f"pty:{name}", cwd=place)
    finally:
        os.close(slave)
        os.close(master)
    assert code == 6
    assert text.startswith(
        f"error: no boot ROM answers on the port\n  at: {name}\n  try: set BOOT0"
    )


# What the tools themselves find wrong, at virtual boards and without any: nothing is made up.

PROTECTED = {"read_protected": True}
UNLOCK = "  try: unlock it (for STM32: stm32x unlock, which erases everything)"


@pytest.mark.parametrize(
    ("flasher", "options", "code", "text"),
    [
        (
            "stm32loader",
            PROTECTED,
            6,
            "error: the boot ROM refuses: the flash is protected against reading out\n"
            "  at: /dev/pts/…\n"
            "  try: stm32loader --unprotect --port PORT, which erases everything on the chip",
        ),
        (
            "stm32flash",
            PROTECTED,
            6,
            "error: the boot ROM refuses: the flash is protected\n"
            "  at: /dev/pts/…\n"
            "  try: stm32flash -k PORT ends the protection against reading out and erases "
            "everything; -u the one against writing",
        ),
        (
            "stm32flash",
            {"protected_pages": [0]},
            6,
            "error: what was read back differs from what was written\n"
            "  at: /dev/pts/…\n"
            "  try: flash again; if it stays so, pages are write-protected or worn",
        ),
        (
            "openocd",
            PROTECTED,
            6,
            f"error: the flash refuses: it is write-protected\n  at: debug port\n{UNLOCK}",
        ),
        (
            "openocd",
            {"protected_pages": [1]},
            6,
            f"error: the flash refuses: it is write-protected\n  at: debug port\n{UNLOCK}",
        ),
        (
            "pyocd",
            {},
            5,
            "error: pyOCD does not know the stm32l4r5zitx without its pack\n"
            "  at: debug port\n"
            "  try: pyocd pack install stm32l4r5zitx",
        ),
    ],
)
def test_what_a_virtual_board_refuses(
    flasher: str, options: dict[str, object], code: int, text: str, place: Path
) -> None:
    need(flasher)
    (place / "board").mkdir()
    (place / "board" / "options.json").write_text(json.dumps(options))
    command = ("flash", "firmware", "--flasher", flasher, "--port", "virtual:state=board")
    found = edgekit(*command, cwd=place)
    assert found[0] == code and _like(found[1], text), found[1]


NO_PROBE = ("there is no debug probe, or not the one that was asked for", "edgekit devices")
ANOTHER = (
    "the chip is another one than the target's",
    "edgekit flash FIRMWARE --target NAME, with the board that is attached",
)
#: target, flasher, settings that are other, the virtual board that is there, the rest
REAL: list[tuple[str, str, dict[str, str], str | None, str, str | None]] = [
    (NAME, "openocd", {}, None, *NO_PROBE),
    ("nrf52840dk", "openocd", {}, None, *NO_PROBE),
    ("nano33ble", "openocd", {}, None, *NO_PROBE),
    ("nrf52840dk", "pyocd", {}, None, *NO_PROBE),
    (
        NAME, "dfu-util", {}, None, "there is no DFU device",
        "set BOOT0 high, press reset, connect the board's own USB port, and see: edgekit devices",
    ),
    (
        NAME, "openocd", {"target": "target/nothing.cfg"}, None,
        "this OpenOCD does not know the target's interface or chip",
        "a newer OpenOCD, or another flasher: edgekit targets NAME",
    ),
    (NAME, "openocd", {"target": "target/stm32f4x.cfg"}, NAME, *ANOTHER),
    (NAME, "openocd", {"target": "target/stm32h7x.cfg"}, NAME, *ANOTHER),
    (NAME, "openocd", {}, "nucleo-f446re", *ANOTHER),
    (NAME, "openocd", {"target": "target/nrf52.cfg"}, NAME, *ANOTHER),
    ("nrf52840dk", "pyocd", {}, NAME, *ANOTHER),
    (
        "nrf52840dk", "openocd", {}, "nrf52840dk protected",
        "the chip keeps debuggers out of its memory, or is another one than the target's",
        "for nRF52, openocd … -c init -c nrf52_recover erases everything and lets them in",
    ),
    (
        "nrf52840dk", "pyocd", {}, "nrf52840dk protected",
        "the chip keeps debuggers out of its memory",
        "pyocd erase --mass --target nrf52840 erases everything and lets them in",
    ),
    (
        "nucleo-h7a3zi-q", "stm32flash", {}, "nucleo-h7a3zi-q",
        "this stm32flash does not know the chip",
        "a newer stm32flash, or another flasher: edgekit targets NAME",
    ),
    (
        NAME, "stm32flash", {"port": "/dev/ttyNONE"}, None, "the port went away",
        "check cable and power: an interrupted flash does no harm",
    ),
    (
        "feather-nrf52840", "adafruit-nrfutil", {"port": "/dev/ttyNONE"}, None,
        "the port went away", "check the cable",
    ),
    (
        "feather-nrf52840", "adafruit-nrfutil", {"port": "silent"}, None,
        "no boot loader answers on the port",
        "press reset twice, so that the boot loader stays, and flash again",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("target", "flasher", "other", "board", "what", "fix"), REAL)
def test_what_the_tools_say(
    target: str,
    flasher: str,
    other: dict[str, str],
    board: str | None,
    what: str,
    fix: str | None,
    tmp_path: Path,
) -> None:
    need(flasher)
    if board is None and find_devices(list_targets()).of("probe", "dfu"):
        pytest.skip("a probe or DFU device is attached")
    image = tmp_path / "image.bin"
    image.write_bytes(bytes(range(256)) * 16)
    chip, module = load_target(target), load_flasher(flasher)
    entry = next((dict(f) for f in chip.flashers if f["name"] == flasher), {"name": flasher})
    start = next(region.origin for region in chip.memory if region.kind == "flash")
    job = Job(chip, (make_piece(start, image),), {**entry, **other}, port=other.get("port"))
    link, master = None, None
    if job.port == "silent":
        master, slave = os.openpty()
        tty.setraw(slave)
        job = replace(job, port=os.ttyname(slave))
    if board is not None:
        name, _, protected = board.partition(" ")
        by_probe = module.NEEDS == "probe"
        if protected:  # UICR.APPROTECT
            FlashMemory(load_target(name), tmp_path).program(0x10001208, bytes(4), 4)
        link = VirtualLink(
            load_target(name), None, connect=False, state=tmp_path, boot_rom=not by_probe,
            debug_port=0 if by_probe else None,
        )  # fmt: skip
        job = replace(job, port=link.port, debug_port=link.debug_port)
    try:
        with pytest.raises(DeviceError) as caught:
            module.flash(job, lambda share: None)
    finally:
        if link is not None:
            link.close()
        if master is not None:
            os.close(master)
    assert (caught.value.what, caught.value.fix) == (what, fix)
    assert caught.value.exit_code == 6
    assert caught.value.where


def test_dfu_util_without_a_device(tmp_path: Path) -> None:
    """The real tool as far as it goes without a USB bus: its list, and what it makes of files."""
    need("dfu-util")
    if find_devices(list_targets()).of("dfu"):
        pytest.skip("a DFU device is attached")
    listed = subprocess.run(["dfu-util", "--list"], capture_output=True, text=True, check=False)
    assert listed.returncode == 0 and "Found" not in listed.stdout
    # a firmware has no suffix with the ids of a device, and dfu-util takes it without
    image = tmp_path / "firmware.bin"
    image.write_bytes(bytes(1000))
    done = subprocess.run(
        ["dfu-suffix", "--check", str(image)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 65 and "Invalid DFU suffix signature" in done.stdout + done.stderr
