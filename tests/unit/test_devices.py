"""What is attached, from a made-up /sys, mounts and list of ports; and the one that fits."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.devices import (
    Attached,
    Found,
    Surroundings,
    check_serial_port,
    choose,
    find_devices,
)
from edgekit.errors import DeviceError
from edgekit.targets import list_targets, load_target

TARGETS = list_targets()


def port(device: str, usb_id: str | None = None, **more: Any) -> SimpleNamespace:
    vid, pid = (int(part, 16) for part in usb_id.split(":")) if usb_id else (None, None)
    facts = {"product": None, "description": "n/a", "serial_number": None, **more}
    return SimpleNamespace(device=device, vid=vid, pid=pid, **facts)


def usb(sysfs: Path, name: str, usb_id: str, interfaces: int = 1, **files: str) -> Path:
    folder = sysfs / "bus" / "usb" / "devices" / name
    folder.mkdir(parents=True)
    vendor, product = usb_id.split(":")
    for key, value in {"idVendor": vendor, "idProduct": product, **files}.items():
        (folder / key).write_text(value + "\n")
    for index in range(interfaces):
        (folder.parent / f"{name}:1.{index}").mkdir()
    return folder


def look(tmp_path: Path, *ports: Any, **more: Any) -> Found:
    (tmp_path / "sys" / "bus" / "usb" / "devices").mkdir(parents=True, exist_ok=True)
    (tmp_path / "mounts").touch()
    around = Surroundings(
        sysfs=tmp_path / "sys",
        mounts=tmp_path / "mounts",
        device_files=tmp_path / "dev",
        ports=lambda: ports,
        has_adb=False,
    )
    return find_devices(TARGETS, Surroundings(**{**around.__dict__, **more}))


def test_nothing(tmp_path: Path) -> None:
    assert look(tmp_path) == Found(())


def test_serial_ports_and_what_they_may_be(tmp_path: Path) -> None:
    found = look(
        tmp_path,
        port("/dev/ttyS0"),
        port("/dev/ttyACM0", "0483:374b", product="STM32 STLink", serial_number="066A"),
    )
    board, plain = found.of("serial")
    assert (plain.where, plain.title, plain.targets) == ("serial:/dev/ttyS0", "serial port", ())
    assert (board.where, board.usb_id) == ("serial:/dev/ttyACM0", "0483:374b")
    assert "nucleo-l4r5zi" in board.targets and "pico" not in board.targets
    assert board.serial_number == "066A"


def test_probes_dfu_and_edge_tpus(tmp_path: Path) -> None:
    sysfs = tmp_path / "sys"
    usb(sysfs, "1-1", "0483:374b", product="STM32 STLink", serial="066A", busnum="1", devnum="7")
    dap = usb(sysfs, "1-2", "2e8a:000c", product="Debugprobe", serial="E66")
    (dap.parent / "1-2:1.0" / "interface").write_text("CMSIS-DAP v2 Interface\n")
    usb(sysfs, "1-3", "1366:0105", product="J-Link")
    dfu = usb(sysfs, "1-4", "0483:df11", product="STM32  BOOTLOADER")
    for name, value in (("Class", "fe"), ("SubClass", "01"), ("Protocol", "02")):
        (dfu.parent / "1-4:1.0" / f"bInterface{name}").write_text(value + "\n")
    usb(sysfs, "1-5", "2e8a:0003", product="RP2 Boot")
    usb(sysfs, "2-1", "1a6e:089a")
    usb(sysfs, "2-2", "046d:c077", product="Mouse")
    card = sysfs / "bus" / "pci" / "devices" / "0000:03:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x1ac1\n")
    (card / "device").write_text("0x089a\n")
    node = tmp_path / "dev" / "bus" / "usb" / "001"
    node.mkdir(parents=True)
    (node / "007").touch()
    found = look(tmp_path)
    kinds = {device.where: (device.kind, device.details.get("type")) for device in found.devices}
    assert kinds == {
        "usb:1-1": ("probe", "ST-LINK"),
        "usb:1-2": ("probe", "CMSIS-DAP"),
        "usb:1-3": ("probe", "J-Link"),
        "usb:1-4": ("dfu", "DFU device"),
        "usb:1-5": ("dfu", "boot ROM"),
        "usb:2-1": ("edgetpu", "Edge TPU"),
        "pci:0000:03:00.0": ("edgetpu", None),
    }
    by_place = {device.where: device for device in found.devices}
    assert by_place["usb:1-1"].allowed is True
    assert by_place["usb:1-2"].allowed is None
    assert by_place["usb:1-5"].targets == ("pico",)
    assert "coral-usb" in by_place["usb:2-1"].targets
    assert "nucleo-l4r5zi" in by_place["usb:1-4"].targets


def test_uf2_drives_by_their_own_word(tmp_path: Path) -> None:
    drive = tmp_path / "my drive"
    drive.mkdir()
    (drive / "INFO_UF2.TXT").write_text(
        "UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: RPI-RP2\r\n"
    )
    stick = tmp_path / "stick"
    stick.mkdir()
    place = str(drive).replace(" ", "\\040")
    (tmp_path / "mounts").write_text(
        f"/dev/sda1 {place} vfat rw 0 0\n/dev/sdb1 {stick} vfat rw 0 0\n"
        f"server:/x {tmp_path} nfs rw 0 0\nshort\n"
    )
    (found,) = look(tmp_path).devices
    assert (found.kind, found.where, found.targets) == ("uf2", str(drive), ("pico",))
    assert found.title == "Raspberry Pi RP2"


def test_phones_only_from_a_server_that_runs(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def serve() -> None:
        client, _ = server.accept()
        with client:
            asked.append(client.recv(100))
            text = b"R58M model:Pixel_8 device\n".replace(b"R58M", b"R58M device")
            client.sendall(b"OKAY%04x" % len(text) + text)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        found = look(tmp_path, has_adb=True, adb_port=server.getsockname()[1])
    finally:
        thread.join(10)
        server.close()
    assert asked == [b"000ehost:devices-l"]
    (phone,) = found.devices
    assert (phone.where, phone.title, phone.allowed) == ("adb:R58M", "Pixel 8", True)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        free = unused.getsockname()[1]
    silent = look(tmp_path, has_adb=True, adb_port=free)
    assert silent.devices == ()
    assert "adb start-server" in silent.notes[0]


def test_what_cannot_be_seen_is_said(tmp_path: Path) -> None:
    found = find_devices(
        TARGETS,
        Surroundings(tmp_path / "no", tmp_path / "no", tmp_path, lambda: (), has_adb=False),
    )
    assert "no sysfs" in found.notes[0]


def test_one_is_chosen_several_are_listed() -> None:
    pico = load_target("pico")
    one = Attached("serial", "serial:/dev/ttyACM0", "Pico", "2e8a:000a", "E1", ("pico",))
    two = Attached("serial", "serial:/dev/ttyACM1", "Pico", "2e8a:000a", "E2", ("pico",))
    other = Attached("serial", "serial:/dev/ttyS0", "serial port")
    assert choose([other, one], pico, "serial port", "connect it") is one
    with pytest.raises(DeviceError) as caught:
        choose([one, other, two], pico, "serial port", "connect it")
    assert str(caught.value) == (
        "2 serial ports fit pico; nothing was touched\n"
        "  at: serial:/dev/ttyACM0 (Pico, serial number E1); "
        "serial:/dev/ttyACM1 (Pico, serial number E2)\n"
        "  try: --port serial:/dev/ttyACM0"
    )
    with pytest.raises(DeviceError) as caught:
        choose([other], pico, "serial port", "connect it")
    assert str(caught.value) == "no serial port that fits pico is attached\n  try: connect it"


def test_each_trouble_with_a_port_has_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    with pytest.raises(DeviceError, match="there is no port .*: the device is not attached"):
        check_serial_port(str(tmp_path / "gone"))
    taken = tmp_path / "taken"
    taken.touch()
    with taken.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match="is in use by another program") as caught:
            check_serial_port(str(taken))
        assert f"fuser {taken}" in str(caught.value.fix)
    check_serial_port(str(taken))

    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeviceError, match="no permission to open") as caught:
        check_serial_port(str(taken))
    assert "usermod -aG" in str(caught.value.fix)
    assert caught.value.exit_code == 6
