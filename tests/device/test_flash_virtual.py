"""Virtual boards are flashed through their boot ROMs, by the tools that users have.

stm32loader, esptool and pyserial are the unmodified packages, over a real pseudo-terminal.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import flashing
from edgekit.device import Device
from edgekit.errors import DeviceError, EdgekitError, UsageError
from edgekit.flashers import load_flasher, make_piece
from edgekit.flashers._modem_lines import environment
from edgekit.flashers._process import is_installed
from edgekit.links import open_link
from edgekit.links.virtual import VirtualLink
from edgekit.records import Firmware
from edgekit.targets import load_target

if sys.platform != "linux":
    pytest.skip("pseudo-terminals with modem lines are Linux only", allow_module_level=True)

STM32 = ("nucleo-l4r5zi", "nucleo-g0b1re")
Make = Callable[[str, str], Firmware]


@pytest.fixture
def compiler() -> str:
    return "gcc" if shutil.which("arm-none-eabi-gcc") else "zig"


def need(tool: str) -> None:
    if not is_installed(tool):
        pytest.skip(f"{tool} is not installed")


def run_edgekit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("name", (*STM32, "nucleo-f446re", "pico", "pico2", "esp32-c3"))
def test_from_erased_flash_to_an_inference(
    toy_firmware: Make, compiler: str, name: str, tmp_path: Path
) -> None:
    """The command line: flash into a board that stays, then run what is in it."""
    tool = {"pico": "uf2", "pico2": "uf2", "esp32-c3": "esptool"}.get(name, "stm32loader")
    if tool != "uf2":
        need(tool)
    firmware = toy_firmware(name, compiler)
    port = f"virtual:state={tmp_path / 'board'}"
    flashed = run_edgekit(
        "flash", str(firmware.elf.parent), "--port", port, "--flasher", tool, "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert flashed.returncode == 0, flashed.stderr
    said = json.loads(flashed.stdout)
    assert said["build_id"] == firmware.build_id
    (piece,) = said["report"]["written"]
    assert piece["nbytes"] == firmware.images["bin"].stat().st_size
    assert said["report"]["flasher"] == tool
    with Device(open_link(port, load_target(name), firmware)) as device:
        device.connect(firmware.build_id)
        device.write_input(0, bytes(300))
        (ticks,) = device.run()
        assert isinstance(device.link, VirtualLink)
        counted = device.link.counters().total.instructions
    assert counted > 1000
    if name in (*STM32, "esp32-c3"):
        # their ticks are cycles
        assert 0 <= ticks - counted <= 24
    # nothing of the ELF file was loaded: an empty board has nothing to start
    with pytest.raises(UsageError, match="no board's state"):
        open_link(f"virtual:state={tmp_path / 'other'}", load_target(name), firmware)


@pytest.mark.parametrize(
    ("target", "tool"), (("nucleo-l4r5zi", "stm32loader"), ("esp32-c3", "esptool"))
)
def test_from_erased_flash_to_a_latency_report(target: str, tool: str, tmp_path: Path) -> None:
    """A real model: what the tool put into the board is measured and compared with TFLM."""
    need(tool)
    model = Path(flashing.__file__).parent / "examples" / "digits" / "digits_int8.tflite"
    port = "virtual:state=board"
    for command in (
        ("compile", str(model), "--target", target, "-o", "artifact"),
        ("build", "artifact", "-o", "firmware"),
        ("flash", "firmware", "--port", port, "--flasher", tool),
    ):
        done = run_edgekit(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    shutil.copy(model, tmp_path / "firmware")
    done = run_edgekit("bench", "firmware", "--port", port, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kind"] == "simulated" and report["port"] == port
    if target == "esp32-c3":  # which has no model of its cycles
        floor = report["instructions"] / 160
        assert report["cycles"] is None and report["latency_floor_us"] == pytest.approx(floor)
    else:
        assert report["latency_us"]["p50"] > 0 and report["cycles"] > 100_000
    assert report["outputs"]["match"] is True


def test_an_image_that_the_rom_refuses_leaves_the_drive(
    toy_firmware: Make, compiler: str, tmp_path: Path
) -> None:
    from edgekit.flashers import Job

    image = tmp_path / "noise.bin"
    image.write_bytes(random.Random(1).randbytes(8192))
    target = load_target("pico2")
    board = VirtualLink(target, None, connect=False, state=tmp_path / "board")
    try:
        work = Job(target, (make_piece(0x10000000, image),), target.flashers[0])
        with pytest.raises(DeviceError, match="the drive came back: the boot ROM does not start"):
            load_flasher("uf2").flash(replace(work, volume=board.volume), lambda share: None)
        assert board.state()["rom"] is True
    finally:
        board.close()


def test_pyserial_speaks_to_the_rom(tmp_path: Path) -> None:
    """AN3155 by hand: synchronise, get, get id, a wrong checksum, a protected readout."""
    import serial

    board = VirtualLink(load_target("nucleo-l4r5zi"), None, connect=False, state=tmp_path)
    try:
        with serial.Serial(board.port, 115200, timeout=5) as port:

            def ask(data: bytes, count: int) -> bytes:
                port.write(data)
                answer: bytes = port.read(count)
                return answer

            assert ask(b"\x7f", 1) == b"\x79"
            assert ask(b"\x00\xff", 15)[:3] == b"\x79\x0b\x92"
            assert ask(b"\x02\xfd", 5) == b"\x79\x01\x04\x70\x79"
            assert ask(b"\x01\xfe", 5) == b"\x79\x92\x00\x00\x79"
            assert ask(b"\x55\xaa", 1) == b"\x1f"
            assert ask(b"\x11\xee", 1) == b"\x79"
            assert ask(b"\x08\x00\x00\x00\x09", 1) == b"\x1f"
            # write eight bytes, read them, write over them: flash only clears bits
            address = b"\x08\x00\x00\x00\x08"
            for expected, content in ((b"\x79", b"12345678"), (b"\x1f", b"abcdefgh")):
                assert ask(b"\x31\xce", 1) == b"\x79"
                assert ask(address, 1) == b"\x79"
                check = 7
                for byte in content:
                    check ^= byte
                assert ask(b"\x07" + content + bytes([check]), 1) == expected
            assert ask(b"\x31\xce", 1) == b"\x79"
            assert ask(address, 1) == b"\x79"
            assert ask(b"\x0312345", 1) == b"\x1f"
            # erase page 0, then all
            assert ask(b"\x44\xbb", 1) == b"\x79"
            assert ask(b"\x00\x00\x00\x00\x00", 1) == b"\x79"
            assert ask(b"\x11\xee", 1) + ask(address, 1) == b"\x79\x79"
            assert ask(b"\x03\xfc", 5) == b"\x79\xff\xff\xff\xff"
            assert ask(b"\x44\xbb", 1) == b"\x79"
            assert ask(b"\xff\xff\x01", 1) == b"\x1f"
            # readout protection: a reset, and then no reading, writing, erasing
            assert ask(b"\x82\x7d", 2) == b"\x79\x79"
            time.sleep(0.2)
            assert ask(b"\x7f", 1) == b"\x79"
            for command in (0x11, 0x31, 0x44, 0x21):
                assert ask(bytes([command, command ^ 0xFF]), 1) == b"\x1f"
            assert ask(b"\x92\x6d", 2) == b"\x79\x79"
            time.sleep(0.2)
            assert ask(b"\x7f", 1) + ask(b"\x11\xee", 1) == b"\x79\x79"
    finally:
        board.close()


def test_protected_boards_are_refused_in_words(
    toy_firmware: Make, compiler: str, tmp_path: Path
) -> None:
    need("stm32loader")
    firmware = toy_firmware("nucleo-g0b1re", compiler)
    target = load_target("nucleo-g0b1re")
    order = flashing.order_of(
        firmware, target, port=f"virtual:state={tmp_path}", flasher="stm32loader"
    )
    for options, said in (
        ({"read_protected": True}, "protected against reading out"),
        ({"protected_pages": [1]}, "what was read back differs"),
    ):
        (tmp_path / "options.json").write_text(json.dumps(options))
        with pytest.raises(DeviceError, match=said):
            flashing.carry_out(order)
    (tmp_path / "options.json").unlink()
    identity = flashing.carry_out(order).identity
    assert identity is not None and identity.build_id == firmware.build_id


@pytest.mark.parametrize("tool", ("stm32loader", "stm32flash"))
def test_a_board_is_flashed_again_over_its_terminal(
    toy_firmware: Make, compiler: str, tool: str, tmp_path: Path
) -> None:
    """While a firmware runs, RTS and DTR bring the board into its ROM, as on a real adapter."""
    need(tool)
    firmware = toy_firmware("nucleo-l4r5zi", compiler)
    target = load_target("nucleo-l4r5zi")
    board = VirtualLink(target, firmware.elf, connect=False, state=tmp_path)
    try:
        for _ in range(2):
            outcome = flashing.carry_out(
                flashing.order_of(firmware, target, port=f"pty:{board.port}", flasher=tool)
            )
            assert outcome.identity is not None and outcome.report is not None
            assert outcome.identity.build_id == firmware.build_id
            assert board.state()["rom"] is False
        board.reset(boot_rom=True)
        assert board.state()["rom"] is True
    finally:
        board.close()


@pytest.mark.parametrize("name", ("esp32-c3", "esp32-s3"))
def test_esptool_writes_and_verifies(name: str, tmp_path: Path) -> None:
    """The build folder of an ESP-IDF project into a board whose ROM speaks esptool's protocol."""
    need("esptool")
    target = load_target(name)
    chip = next(f["chip"] for f in target.flashers if f["name"] == "esptool")
    build = tmp_path / "build"
    build.mkdir()
    generator = random.Random(name)
    contents = {0x0: generator.randbytes(5000), 0x10000: generator.randbytes(3000) + bytes(40000)}
    for address, content in contents.items():
        (build / f"{address:x}.bin").write_bytes(content)
    (build / "flasher_args.json").write_text(
        json.dumps(
            {
                "flash_settings": {"flash_mode": "keep", "flash_size": "keep"},
                "flash_files": {hex(a): f"{a:x}.bin" for a in contents},
                "extra_esptool_args": {"chip": chip},
            }
        )
    )
    arguments = ("flash", "build", "--target", name, "--port", "virtual:state=board")
    shown = run_edgekit(*arguments, "--dry-run", cwd=tmp_path)
    assert f"esptool --chip {chip}" in shown.stdout and "nothing was done" in shown.stdout
    assert not (tmp_path / "board").exists()
    done = run_edgekit(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "43,000 B at 0x00010000" in done.stdout and "MD5" in done.stdout
    flash = (tmp_path / "board" / "flash.flash").read_bytes()
    for address, content in contents.items():
        assert flash[address : address + len(content)] == content
    other = "esp32-s3" if name == "esp32-c3" else "esp32-c3"
    wrong = run_edgekit("flash", "build", "--target", other, "--port", "virtual", cwd=tmp_path)
    assert wrong.returncode == 2 and f"was built for {chip}" in wrong.stderr


def test_esptool_finds_the_wrong_chip(tmp_path: Path) -> None:
    need("esptool")
    image = tmp_path / "image.bin"
    image.write_bytes(b"x" * 100)
    board = VirtualLink(load_target("esp32-s3"), None, connect=False, state=tmp_path / "board")
    try:
        order = flashing.Order(
            load_target("esp32-c3"), (make_piece(0, image),), port=f"pty:{board.port}"
        )
        with pytest.raises(DeviceError, match="another one than the target's"):
            flashing.carry_out(order)
        # as it is on a user's terminal, without --no-stub: esptool itself says why it stops
        done = subprocess.run(
            [
                "esptool", "--chip", "esp32s3", "--no-stub", "--port", board.port, "flash-id",
            ],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, **environment(board.port),
                 "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "8MB" in done.stdout
    finally:
        board.close()


def test_blocks_of_another_family_are_ignored(
    toy_firmware: Make, compiler: str, tmp_path: Path
) -> None:
    from edgekit.uf2 import read_uf2, write_uf2

    firmware = toy_firmware("pico", compiler)
    board = VirtualLink(load_target("pico"), None, connect=False, state=tmp_path)
    try:
        volume = board.volume
        assert volume is not None
        assert "Board-ID: RPI-RP2" in (volume / "INFO_UF2.TXT").read_text()
        content = firmware.images["bin"].read_bytes()
        (volume / "wrong.uf2").write_bytes(write_uf2([(0x10000000, content)], 0x68ED2B88))
        (volume / "notes.txt").write_text("not a firmware")
        time.sleep(0.3)
        assert board.state()["rom"] is True
        assert set((tmp_path / "flash.flash").read_bytes()[:8192]) == {0xFF}
        right = write_uf2([(0x10000000, content)], 0xE48BFF56)
        assert len(read_uf2(right, "right")) == -(-len(content) // 256)
        # slowly, as a drive may see it
        with (volume / "right.uf2").open("wb", buffering=0) as file:
            for start in range(0, len(right), 700):
                file.write(right[start : start + 700])
        deadline = time.monotonic() + 10
        while volume.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert board.state()["rom"] is False
    finally:
        board.close()


@pytest.mark.parametrize("name", ("nucleo-g0b1re", "pico"))
def test_power_may_be_lost_at_any_moment(
    toy_firmware: Make, compiler: str, name: str, tmp_path: Path, seed: int
) -> None:
    """Cut off at random moments of a flash, a board can be flashed again."""
    if name in STM32:
        need("stm32loader")
    firmware = toy_firmware(name, compiler)
    target = load_target(name)
    generator = random.Random(seed)
    tool = "stm32loader" if name in STM32 else "uf2"
    order = flashing.order_of(firmware, target, port="virtual", flasher=tool)
    entry = flashing._virtual_entry(order)
    assert entry is not None
    flasher = load_flasher(entry["name"])
    # what one flash takes: pages erased and units programmed
    size = firmware.images["bin"].stat().st_size
    total = 512 * 1024 // 2048 + size // 8 if name in STM32 else 2 + size // 256
    for index in range(20):
        moment = generator.randrange(total)
        board = VirtualLink(
            target, None, connect=False, state=tmp_path, boot_rom=True, power_loss_after=moment
        )
        job = replace(flashing._job(order, entry), port=board.port, volume=board.volume)
        try:
            if name in STM32:
                with pytest.raises(EdgekitError):
                    flasher.flash(job, lambda share: None)
            else:
                assert board.volume is not None
                content = firmware.images["uf2"].read_bytes()
                (board.volume / "firmware.uf2").write_bytes(content)
            deadline = time.monotonic() + 20
            while board._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert board._process.poll() is not None, f"cut {index} at {moment} of {total}"
        finally:
            board.close()
        identity = flashing.flash(firmware, target, f"virtual:state={tmp_path}")
        assert identity.build_id == firmware.build_id
