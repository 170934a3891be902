"""Flashers with stand-ins of their tools: the command, the judgement, each failure's sentence."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit import flashing
from edgekit.devices import Attached, Found
from edgekit.errors import DeviceError, EdgekitError, MissingDependency, UsageError
from edgekit.flashers import Job, flasher_names, load_flasher, make_piece, uf2
from edgekit.targets import list_targets, load_target
from edgekit.uf2 import read_block, read_uf2, write_uf2

CONTENT = bytes(range(256)) * 20
#: flasher → (target, settings beside the target's own, program, output of a success)
SUCCESS = {
    "stm32loader": ("nucleo-g0b1re", "stm32loader", "Verification OK"),
    "stm32flash": (
        "nucleo-g0b1re",
        "stm32flash",
        "Wrote and verified address 0x08000800 (40.00%) \n"
        "Wrote and verified address 0x08001400 (100.00%) Done.",
    ),
    "esptool": ("esp32-s3", "esptool", "Writing 50.0%\rWriting 100.0%\nHash of data verified."),
    "openocd": (
        "nucleo-l4r5zi",
        "openocd",
        "** Programming Started **\n** Programming Finished **\n** Verify Started **\n"
        "** Verified OK **",
    ),
    "stm32programmer": (
        "nucleo-l4r5zi",
        "STM32_Programmer_CLI",
        "Download in Progress: 100%\nDownload verified successfully",
    ),
    "pyocd": ("nano33ble", "pyocd", "Erased 4096 bytes"),
    "dfu-util": ("nucleo-l4r5zi", "dfu-util", "Download [====] 100%\nFile downloaded successfully"),
    "picotool": ("pico", "picotool", "Verifying Flash: [====] 100%\n  OK"),
    "adafruit-nrfutil": ("nano33ble", "adafruit-nrfutil", "####\nDevice programmed."),
}
Stand = Callable[..., Path]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Puts a program on PATH that logs its arguments, prints, and copies what is read back."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, output: str, code: int = 0, memory: bytes = CONTENT) -> Path:
        (tmp_path / "memory.bin").write_bytes(memory)
        log = tmp_path / f"{name}.log"
        log.unlink(missing_ok=True)
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\n"
            "import json, shutil, sys\n"
            "arguments = sys.argv[1:]\n"
            f"memory = {str(tmp_path / 'memory.bin')!r}\n"
            "if arguments and arguments[0] in ('--version', 'version', '/dev/null'):\n"
            "    print('tool 1.2.3'); sys.exit()\n"
            f"open({str(log)!r}, 'a').write(json.dumps(arguments) + '\\n')\n"
            "for word in arguments:\n"
            "    if word.startswith('savemem'): shutil.copy(memory, word.split()[-1])\n"
            "if '--upload' in arguments: shutil.copy(memory, arguments[-1])\n"
            f"print({output!r})\n"
            f"sys.exit({code})\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return log

    return make


def job(name: str, tmp_path: Path, **more: Any) -> Job:
    target = load_target(SUCCESS[name][0])
    settings = next((f for f in target.flashers if f["name"] == name), {"name": name})
    image = tmp_path / "firmware.bin"
    image.write_bytes(CONTENT)
    needs_port = load_flasher(name).NEEDS == "serial"
    return Job(
        target,
        (make_piece(0x08000000, image),),
        settings,
        port="/dev/ttyACM0" if needs_port else None,
        **more,
    )


@pytest.mark.parametrize("name", SUCCESS)
def test_a_tool_is_run_as_planned_and_reported(name: str, tool: Stand, tmp_path: Path) -> None:
    _, program, output = SUCCESS[name]
    log = tool(program, output)
    flasher, work = load_flasher(name), job(name, tmp_path)
    steps = flasher.plan(work)
    shares: list[float] = []
    report = flasher.flash(work, shares.append)
    ran = [json.loads(line) for line in log.read_text().splitlines()]
    planned = [list(step.command or ())[1:] for step in steps]
    assert len(ran) == len(planned)
    for mine, theirs in zip(planned, ran, strict=True):
        # temporary folders get their names later
        assert [w for w in mine if "TEMPORARY" not in w] == [
            w for w, m in zip(theirs, mine, strict=True) if "TEMPORARY" not in m
        ]
    assert all(0 <= share <= 1 for share in shares)
    assert (report.flasher, report.version) == (name, "1.2.3")
    (item,) = report.written
    assert (item.address, item.nbytes, item.sha256) == (0x08000000, 5120, work.pieces[0].sha256)
    assert report.verified


#: flasher, what the tool prints, the sentence, the exit code
FAILURES = [
    ("stm32loader", "Can't init into bootloader. Ensure", "no boot ROM answers on the port", 6),
    ("stm32loader", "Erase failed -- probably due to", "protected against reading out", 6),
    ("stm32loader", "Verification FAILED: 3", "what was read back differs", 6),
    ("stm32loader", "CommandError: NACK 0x31 programming failed", "refused to write", 6),
    ("stm32loader", "could not open port: [Errno 13] Permission denied", "no permission", 6),
    ("stm32loader", "OSError: [Errno 5] Input/output error", "the port went away", 6),
    ("stm32loader", "CommandError: Can't read port or timeout", "stopped answering", 6),
    ("stm32flash", "Failed to init device, timeout.", "no boot ROM answers on the port", 6),
    ("stm32flash", "Unknown/unsupported device (Device ID: 0x480)", "does not know the chip", 6),
    ("stm32flash", "Failed to verify at address 0x08001000, expected 0xdb", "read back differs", 6),
    ("stm32flash", "Got NACK from device on command 0x44\nFailed to erase", "is protected", 6),
    ("stm32flash", "Failed to read ACK byte\nFailed to write memory", "stopped answering", 6),
    ("stm32flash", "Cannot handle device\nFailed to open port: /dev/x", "the port went away", 6),
    ("esptool", "A fatal error occurred: This chip is ESP32-C3, not ESP32-S3.", "another one", 6),
    ("esptool", "Could not open /dev/ttyACM0 ([Errno 13] Permission denied", "no permission", 6),
    ("esptool", "Resource temporarily unavailable", "the port is in use", 6),
    ("esptool", "Failed to connect to ESP32-S3: No serial data", "no boot ROM answers", 6),
    ("esptool", "MD5 of file does not match data in flash!", "MD5 sum differs", 6),
    ("esptool", "Serial data stream stopped: Possible serial noise", "the port went away", 6),
    ("esptool", "Error: No such command 'write-flash'.", "this esptool is too old", 6),
    ("openocd", "Error: libusb_open() failed with LIBUSB_ERROR_ACCESS", "no permission", 6),
    ("openocd", "Error: unable to find a matching CMSIS-DAP device", "there is no debug probe", 6),
    ("openocd", "Error: No J-Link device found.", "there is no debug probe", 6),
    ("openocd", "Warn : Cannot identify target as a STM32 family.", "the chip is another one", 6),
    ("openocd", "Warn : UNEXPECTED idcode: 0x2ba01477", "the chip is another one", 6),
    ("openocd", "Error: [nrf52.cpu] Could not find MEM-AP to control the core", "keeps debug", 6),
    ("openocd", "** Programming Started **\nError: failed to send USB CMD", "in the middle", 6),
    ("openocd", "** Programming Started **\nLIBUSB_ERROR_NO_DEVICE", "in the middle", 6),
    ("openocd", "Error: init mode failed (unable to connect to the target)", "not reach", 6),
    ("openocd", "claim_interface failed", "in use by another program", 6),
    ("openocd", "** Verify Failed **", "what was read back differs", 6),
    ("openocd", "Can't find target/rp2350.cfg", "this OpenOCD does not know", 6),
    ("openocd", "stm32x device protected; failed erasing sectors", "write-protected", 6),
    ("stm32programmer", "Error: No debug probe detected.", "there is no ST-LINK", 6),
    ("stm32programmer", "Error: ST-LINK error (DEV_USB_COMM_ERR)", "no permission to use", 6),
    ("stm32programmer", "Error: No STM32 target found!", "does not reach the chip", 6),
    ("stm32programmer", "Error: Download verification failed", "what was read back", 6),
    ("stm32programmer", "Error: failed to erase memory", "the flash refuses", 6),
    ("pyocd", "Target type nrf52840 not recognized.", "without its pack", 5),
    ("pyocd", "No connected debug probe matches unique ID '066A'", "there is no debug probe", 6),
    ("pyocd", "0001189 W NRF52840 APPROTECT enabled: not automatically", "keeps debuggers", 6),
    ("pyocd", "0001151 C Error: 1 [__main__]", "the chip is another one", 6),
    ("pyocd", "[---|---|\n[==0002507 C Error: [Errno 32] Broken pipe", "in the middle", 6),
    ("pyocd", "No available debug probes are connected", "there is no debug probe", 6),
    ("pyocd", "STLink error (9): Get IDCODE error", "does not reach the chip", 6),
    ("pyocd", "usb.core.USBError: [Errno 16] Resource busy", "in use by another program", 6),
    ("pyocd", "[Errno 13] Access denied (insufficient permissions)", "no permission", 6),
    ("pyocd", "flash erase sector failure (address 0)", "the flash refuses", 6),
    ("dfu-util", "dfu-util: No DFU capable USB device available", "there is no DFU device", 6),
    ("dfu-util", "Cannot open DFU device 0483:df11", "no permission", 6),
    ("dfu-util", "More than one DFU capable USB device found!", "several DFU devices", 6),
    ("dfu-util", "Lost device after RESET?", "went away", 6),
    ("dfu-util", "dfu-util: Page at 0x08000000 is not writeable", "protected", 6),
    ("picotool", "No accessible RP2040 devices in BOOTSEL mode were found.", "no board in its", 6),
    ("picotool", "ERROR: the contents of flash differ", "what was read back differs", 6),
    ("adafruit-nrfutil", "No data received on serial port. Not able to proceed.", "no boot", 6),
    ("adafruit-nrfutil", "####\nError is: device reports readiness to read but returned no data",
     "the port went away", 6),
    ("adafruit-nrfutil", "could not open port /dev/ttyACM0", "the port went away", 6),
    *((name, "something new", "something new", 6) for name in SUCCESS),
]  # fmt: skip


@pytest.mark.parametrize(("name", "output", "sentence", "code"), FAILURES)
def test_every_failure_has_its_sentence(
    name: str, output: str, sentence: str, code: int, tool: Stand, tmp_path: Path
) -> None:
    tool(SUCCESS[name][1], output, 1)
    with pytest.raises(EdgekitError) as caught:
        load_flasher(name).flash(job(name, tmp_path), lambda share: None)
    assert sentence in caught.value.what
    assert caught.value.exit_code == code
    assert "\n" not in caught.value.what and not caught.value.what.endswith(".")


@pytest.mark.parametrize("name", SUCCESS)
def test_without_a_sign_of_verification_it_is_no_success(
    name: str, tool: Stand, tmp_path: Path
) -> None:
    changed = CONTENT[:1000] + b"\0" + CONTENT[1001:]
    tool(SUCCESS[name][1], "done", 0, memory=changed)
    with pytest.raises(DeviceError) as caught:
        load_flasher(name).flash(job(name, tmp_path), lambda share: None)
    if name in ("pyocd", "dfu-util"):
        assert "first at 0x080003e8" in caught.value.what


@pytest.mark.parametrize("name", SUCCESS)
def test_a_missing_tool_says_what_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = job(name, tmp_path)
    monkeypatch.setattr("edgekit.doctor.find_program", lambda program: None)
    with pytest.raises(MissingDependency, match="is not installed") as caught:
        load_flasher(name).flash(work, lambda share: None)
    assert caught.value.exit_code == 5
    assert "install" in str(caught.value.fix) or "st.com" in str(caught.value.fix)
    # what would be done can be said all the same
    assert load_flasher(name).plan(work)


def test_commands_to_the_letter(tmp_path: Path) -> None:
    image = str(tmp_path / "firmware.bin")

    def command(name: str, **more: Any) -> str:
        steps = load_flasher(name).plan(job(name, tmp_path, **more))
        return "; ".join(" ".join(step.command or ()) for step in steps).replace(image, "FILE")

    assert command("stm32loader") == (
        "stm32loader --port /dev/ttyACM0 --baud 115200 --parity even --verbose --family G0 "
        "--erase --write --verify --address 0x8000000 --go-address 0x8000000 FILE"
    )
    assert command("stm32flash") == (
        "stm32flash -b 115200 -m 8e1 -i -rts&dtr,-dtr:rts&dtr,-dtr -f -w FILE -v -S 0x8000000 "
        "-g 0x8000000 /dev/ttyACM0"
    )
    assert command("esptool") == (
        "esptool --chip esp32s3 --port /dev/ttyACM0 --baud 460800 write-flash --compress "
        "0x8000000 FILE"
    )
    assert command("openocd", serial_number="066A") == (
        "openocd -f interface/stlink.cfg -c adapter serial 066A -c gdb_port disabled "
        "-c tcl_port disabled -c telnet_port disabled -f target/stm32l4x.cfg "
        "-c program {FILE} 0x8000000 verify reset exit"
    )
    assert command("openocd", debug_port=4444).startswith(
        "openocd -f interface/stlink.cfg -c hla_stlink_backend tcp 4444 -c gdb_port disabled"
    )
    assert command("stm32programmer") == (
        "STM32_Programmer_CLI --connect port=SWD --write FILE 0x8000000 --verify --rst"
    )
    assert command("pyocd", debug_port=4444) == (
        "pyocd commander --no-wait --target nrf52840 --uid remote:127.0.0.1:4444 "
        "-O chip_erase=sector --command load FILE 0x8000000 "
        "--command savemem 0x8000000 5120 TEMPORARY-FOLDER/read0.bin --command reset"
    )
    assert command("dfu-util") == (
        "dfu-util --device 0483:df11 --alt 0 --dfuse-address 0x8000000 --download FILE; "
        "dfu-util --device 0483:df11 --alt 0 --dfuse-address 0x8000000:5120:leave "
        "--upload TEMPORARY-FOLDER/read0.bin"
    )
    assert command("adafruit-nrfutil") == (
        "adafruit-nrfutil dfu genpkg --dev-type 0x0052 --application FILE "
        "TEMPORARY-FOLDER/firmware.zip; adafruit-nrfutil --verbose dfu serial "
        "--package TEMPORARY-FOLDER/firmware.zip --port /dev/ttyACM0 --baudrate 115200 "
        "--singlebank --touch 1200"
    )
    assert command("picotool") == "picotool load --verify --execute -t bin -o 0x8000000 FILE"


def test_every_flasher_plans_for_every_target_that_names_it(tmp_path: Path) -> None:
    image = tmp_path / "firmware.bin"
    image.write_bytes(CONTENT)
    planned = 0
    for target in list_targets():
        for entry in target.flashers:
            if entry["name"] not in (*SUCCESS, "uf2"):
                continue
            work = Job(target, (make_piece(0x1000, image),), entry)
            assert load_flasher(entry["name"]).plan(work)
            planned += 1
    assert planned > 20


def test_names() -> None:
    assert set(SUCCESS) | {"uf2"} <= set(flasher_names())
    with pytest.raises(UsageError, match="no flasher is called 'bossac'"):
        load_flasher("bossac")


# UF2


def test_uf2_there_and_back() -> None:
    content = os.urandom(1000)
    blocks = read_uf2(write_uf2([(0x10000080, content)], 0xE48BFF56), "test")
    joined = b"".join(block.data for block in blocks)
    assert (blocks[0].address, blocks[0].count, blocks[0].family) == (0x10000000, 5, 0xE48BFF56)
    assert joined[0x80 : 0x80 + 1000] == content
    assert set(joined[:0x80] + joined[0x80 + 1000 :]) == {0xFF}
    whole = write_uf2([(0, content)], 1)
    assert read_block(whole[:511]) is None
    assert read_block(b"\0" + whole[1:512]) is None
    with pytest.raises(UsageError, match="3 of the 4 blocks"):
        read_uf2(whole[512:], "test")
    with pytest.raises(UsageError, match="no UF2 file"):
        read_uf2(content, "test")


def drive(tmp_path: Path) -> Path:
    volume = tmp_path / "drive"
    volume.mkdir()
    (volume / uf2.INFO).write_text("Board-ID: RPI-RP2\n")
    return volume


def uf2_job(tmp_path: Path, volume: Path) -> Job:
    image = tmp_path / "firmware.bin"
    image.write_bytes(CONTENT)
    pico = load_target("pico")
    return Job(pico, (make_piece(0x10000000, image),), pico.flashers[0], volume=volume)


def test_a_drive_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uf2, "_LEAVES_S", 0.1)
    volume = drive(tmp_path)
    with pytest.raises(DeviceError, match="took the file, but the board does not start it"):
        uf2.flash(uf2_job(tmp_path, volume), lambda share: None)
    blocks = read_uf2((volume / "FIRMWARE.UF2").read_bytes(), "written")
    assert b"".join(block.data for block in blocks) == CONTENT


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        (None, "does not start what was written"),
        (CONTENT, "the flash holds the firmware"),
        (CONTENT[:300] + b"\0" + CONTENT[301:], "differs from the firmware at 0x10000100"),
    ],
)
def test_a_drive_that_comes_back(
    holds: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uf2, "_wait_until_gone", lambda volume, work: None)
    volume = drive(tmp_path)
    if holds is not None:
        (volume / "CURRENT.UF2").write_bytes(write_uf2([(0x10000000, holds)], 1))
    with pytest.raises(DeviceError, match=said):
        uf2.flash(uf2_job(tmp_path, volume), lambda share: None)


def test_a_drive_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the drive went away after 0 of"):
        uf2.flash(uf2_job(tmp_path, tmp_path / "no"), lambda share: None)
    pico = load_target("pico")
    for family, said in ((None, "no 'family'"), ("rp1", "no UF2 family is called 'rp1'")):
        with pytest.raises(UsageError, match=said):
            uf2.family_of(Job(pico, (), {"family": family} if family else {}))


# which way to the board


def order(name: str, tmp_path: Path, **more: Any) -> flashing.Order:
    image = tmp_path / "firmware.bin"
    image.write_bytes(CONTENT)
    return flashing.Order(load_target(name), (make_piece(0x08000000, image),), **more)


PORT = Attached(
    "serial", "serial:/dev/ttyACM0", "STLink", "0483:374b", "066A", ("nucleo-l4r5zi",), True
)
PROBE = Attached("probe", "usb:1-1", "ST-LINK", "0483:374b", "066A", ("nucleo-l4r5zi",), True)


def test_the_first_way_that_exists_is_taken(tool: Stand, tmp_path: Path) -> None:
    tool("openocd", "")
    tool("stm32loader", "")
    way = flashing.find_way(order("nucleo-l4r5zi", tmp_path), Found((PORT, PROBE)))
    assert way.flasher.NAME == "openocd"
    assert (way.job.serial_number, way.port) == ("066A", "serial:/dev/ttyACM0")
    assert "the only debug probe that fits nucleo-l4r5zi" in way.notes[0]
    way = flashing.find_way(order("nucleo-l4r5zi", tmp_path), Found((PORT,)))
    assert (way.flasher.NAME, way.job.port) == ("stm32loader", "/dev/ttyACM0")
    chosen = order(
        "nucleo-l4r5zi", tmp_path, flasher="stm32loader", port="serial:/dev/ttyUSB3:9600"
    )
    way = flashing.find_way(chosen, Found((PORT, PROBE)))
    # this board's boot ROM is not where its console is
    assert (way.job.port, way.port) == ("/dev/ttyUSB3", None)
    chosen = replace(chosen, target=load_target("nucleo-g0b1re"))
    way = flashing.find_way(chosen, Found((PORT, PROBE)))
    assert (way.job.port, way.port) == ("/dev/ttyUSB3", "serial:/dev/ttyUSB3:9600")
    dap = replace(PROBE, title="CMSIS-DAP", targets=(), serial_number="D1")
    way = flashing.find_way(order("nucleo-l4r5zi", tmp_path), Found((dap,)))
    assert (way.flasher.NAME, way.port) == ("openocd", None)


def test_ways_that_are_none(tool: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(found: Found, **more: Any) -> EdgekitError:
        with pytest.raises(EdgekitError) as caught:
            flashing.find_way(order("nucleo-l4r5zi", tmp_path, **more), found)
        return caught.value

    monkeypatch.setattr("edgekit.doctor.sys.executable", str(tmp_path / "python"))
    nothing = refused(Found((PROBE,)))
    assert isinstance(nothing, MissingDependency)
    assert "none of the flashers of nucleo-l4r5zi is installed: openocd" in nothing.what
    assert nothing.fix == "sudo apt install openocd"
    tool("openocd", "")
    two = refused(Found((PROBE, replace(PROBE, where="usb:1-2", serial_number="077B"))))
    assert two.what == "2 debug probes fit nucleo-l4r5zi; nothing was touched"
    assert "usb:1-1" in str(two.where) and "077B" in str(two.where)
    assert two.exit_code == 6
    none = refused(Found(()))
    assert none.what == "no debug probe that fits nucleo-l4r5zi is attached"
    forbidden = refused(Found((replace(PROBE, allowed=False),)))
    assert forbidden.what == "no permission to use ST-LINK" and "udev" in str(forbidden.fix)
    for more, said in (
        ({"flasher": "esptool"}, "nucleo-l4r5zi is not flashed with esptool"),
        ({"flasher": "nothing"}, "no flasher is called 'nothing'"),
        ({"port": "tcp:a:1"}, "no board is flashed through 'tcp'"),
        ({"port": "pigeon"}, "no kind of port is called 'pigeon'"),
    ):
        error = refused(Found(()), **more)
        assert said in error.what and error.exit_code == 2
    pico = order("pico", tmp_path, port="pty:/dev/pts/9")
    with pytest.raises(UsageError, match="pico is not flashed over a serial line"):
        flashing.find_way(pico, Found(()))
