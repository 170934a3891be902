"""What is attached: serial ports, debug probes, UF2 drives, DFU devices, Edge TPUs, phones.

Looking changes nothing: it reads sysfs, the list of mounts and pyserial's list of ports. No
device is opened or reset, and no server is started.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import DeviceError
from edgekit.targets import Target

DeviceKind = Literal["serial", "probe", "uf2", "dfu", "edgetpu", "adb"]

#: ST's USB vendor id and the products that are ST-LINKs (udev rules of OpenOCD)
_STLINKS = {
    "0483:3744", "0483:3748", "0483:374b", "0483:374d", "0483:374e", "0483:374f", "0483:3752",
    "0483:3753", "0483:3754", "0483:3755", "0483:3757",
}  # fmt: skip
_SEGGER = "1366"
#: before and after the library has loaded the firmware
_EDGE_TPUS = ("1a6e:089a", "18d1:9302")
_EDGE_TPU_PCI = ("0x1ac1", "0x089a")
_DRIVE_FILESYSTEMS = ("vfat", "msdos", "exfat", "fuseblk")
_UF2_INFO = "INFO_UF2.TXT"
_ADB_PORT = 5037


@dataclass(frozen=True)
class Attached:
    """One thing that is attached to this computer."""

    kind: DeviceKind
    #: what ``--port`` takes, a mount point, or the place on the bus
    where: str
    title: str
    #: vendor:product
    usb_id: str | None = None
    serial_number: str | None = None
    #: names of targets that it may be
    targets: tuple[str, ...] = ()
    #: whether this user may use it; ``None`` where that cannot be told
    allowed: bool | None = None
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Surroundings:
    """Where to look; tests look elsewhere."""

    sysfs: Path = Path("/sys")
    mounts: Path = Path("/proc/self/mounts")
    device_files: Path = Path("/dev")
    #: pyserial's list of ports, or something like it
    ports: Callable[[], Iterable[Any]] | None = None
    adb_port: int = _ADB_PORT
    has_adb: bool | None = None


@dataclass(frozen=True)
class Found:
    devices: tuple[Attached, ...]
    #: what could not be looked at, and why
    notes: tuple[str, ...] = ()

    def of(self, *kinds: DeviceKind) -> tuple[Attached, ...]:
        return tuple(device for device in self.devices if device.kind in kinds)


def find_devices(targets: Sequence[Target], around: Surroundings | None = None) -> Found:
    """Everything that is attached and that edgekit could use.

    Args:
        targets: all targets, to tell which of them a device may be.
    """
    around = around or Surroundings()
    devices: list[Attached] = []
    notes: list[str] = []
    devices += _serial_ports(targets, around)
    usb = around.sysfs / "bus" / "usb" / "devices"
    if usb.is_dir():
        devices += _usb_devices(targets, usb, around)
    else:
        notes.append("debug probes, DFU devices and USB Edge TPUs are not listed: no sysfs here")
    devices += _pci_edge_tpus(targets, around)
    devices += _drives(targets, around)
    phones, note = _phones(targets, around)
    devices += phones
    notes += [note] if note else []
    return Found(tuple(devices), tuple(notes))


def _with_usb_id(targets: Sequence[Target], usb_id: str | None) -> tuple[str, ...]:
    return tuple(t.name for t in targets if usb_id and usb_id in t.link.get("usb_ids", []))


def _serial_ports(targets: Sequence[Target], around: Surroundings) -> list[Attached]:
    if around.ports is not None:
        listed = around.ports()
    else:
        from serial.tools import list_ports

        listed = list_ports.comports()
    found = []
    for port in sorted(listed, key=lambda item: str(item.device)):
        usb_id = f"{port.vid:04x}:{port.pid:04x}" if port.vid is not None else None
        title = str(port.product or port.description or port.device)
        found.append(
            Attached(
                "serial",
                f"serial:{port.device}",
                title if title not in ("n/a", port.device) else "serial port",
                usb_id,
                port.serial_number or None,
                _with_usb_id(targets, usb_id),
                os.access(port.device, os.R_OK | os.W_OK),
            )
        )
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _usb_devices(targets: Sequence[Target], usb: Path, around: Surroundings) -> list[Attached]:
    found = []
    for folder in sorted(usb.iterdir()):
        vendor, product = _text(folder / "idVendor"), _text(folder / "idProduct")
        if vendor is None or product is None:
            continue
        usb_id = f"{vendor}:{product}"
        title = " ".join(filter(None, (_text(folder / "manufacturer"), _text(folder / "product"))))
        interfaces = sorted(usb.glob(f"{folder.name}:*"))
        kind, name, matching = _classify(usb_id, title, interfaces, targets)
        if kind is None:
            continue
        found.append(
            Attached(
                kind,
                f"usb:{folder.name}",
                title or name,
                usb_id,
                _text(folder / "serial") or None,
                matching,
                _usb_allowed(folder, around),
                {"type": name},
            )
        )
    return found


def _classify(
    usb_id: str, title: str, interfaces: list[Path], targets: Sequence[Target]
) -> tuple[DeviceKind | None, str, tuple[str, ...]]:
    names = [title, *(_text(path / "interface") or "" for path in interfaces)]
    if usb_id in _EDGE_TPUS:
        return "edgetpu", "Edge TPU", _with_usb_id(targets, usb_id)
    if usb_id in _STLINKS:
        return "probe", "ST-LINK", _with_usb_id(targets, usb_id)
    if usb_id.startswith(_SEGGER) and any("j-link" in name.lower() for name in names):
        return "probe", "J-Link", ()
    if any("cmsis-dap" in name.lower() for name in names):
        return "probe", "CMSIS-DAP", _with_usb_id(targets, usb_id)
    own = tuple(
        target.name
        for target in targets
        for flasher in target.flashers
        if usb_id in flasher.get("usb_ids", [])
    )
    for path in interfaces:
        # application class, device firmware upgrade, DFU mode (USB DFU 1.1, 4.2.3)
        numbers = [_text(path / f"bInterface{n}") for n in ("Class", "SubClass", "Protocol")]
        if numbers == ["fe", "01", "02"]:
            return "dfu", "DFU device", own
    if own:
        return "dfu", "boot ROM", own
    return None, "", ()


def _usb_allowed(folder: Path, around: Surroundings) -> bool | None:
    bus, number = _text(folder / "busnum"), _text(folder / "devnum")
    if not (bus and number and bus.isdigit() and number.isdigit()):
        return None
    node = around.device_files / "bus" / "usb" / f"{int(bus):03}" / f"{int(number):03}"
    return os.access(node, os.R_OK | os.W_OK) if node.exists() else None


def _pci_edge_tpus(targets: Sequence[Target], around: Surroundings) -> list[Attached]:
    folder = around.sysfs / "bus" / "pci" / "devices"
    if not folder.is_dir():
        return []
    matching = tuple(t.name for t in targets if t.kind == "edgetpu" and t.link.get("kind") == "pci")
    return [
        Attached("edgetpu", f"pci:{path.name}", "Edge TPU (PCIe or M.2)", None, None, matching)
        for path in sorted(folder.iterdir())
        if (_text(path / "vendor"), _text(path / "device")) == _EDGE_TPU_PCI
    ]


def _drives(targets: Sequence[Target], around: Surroundings) -> list[Attached]:
    found = []
    for line in (_text(around.mounts) or "").splitlines():
        words = line.split()
        if len(words) < 3 or words[2] not in _DRIVE_FILESYSTEMS:
            continue
        # blanks are written as octal numbers
        place = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), words[1]))
        drive = read_drive(place, targets)
        if drive is not None:
            found.append(drive)
    return found


def read_drive(place: Path, targets: Sequence[Target]) -> Attached | None:
    """The UF2 drive that is mounted at a place, if one is."""
    text = _text(place / _UF2_INFO)
    if text is None:
        return None
    facts = {
        key.strip(): value.strip()
        for key, separator, value in (line.partition(":") for line in text.splitlines())
        if separator
    }
    board = facts.get("Board-ID", "")
    matching = tuple(
        target.name
        for target in targets
        for flasher in target.flashers
        if flasher["name"] == "uf2" and flasher.get("volume") in (board, place.name)
    )
    return Attached(
        "uf2",
        str(place),
        facts.get("Model", "UF2 drive"),
        None,
        None,
        matching,
        os.access(place, os.W_OK),
        {"board_id": board} if board else {},
    )


def _phones(targets: Sequence[Target], around: Surroundings) -> tuple[list[Attached], str | None]:
    has_adb = shutil.which("adb") is not None if around.has_adb is None else around.has_adb
    if not has_adb:
        return [], None
    # asking adb itself would start its server
    try:
        with socket.create_connection(("127.0.0.1", around.adb_port), timeout=2) as server:
            server.sendall(b"000ehost:devices-l")
            answer = b""
            while data := server.recv(65536):
                answer += data
    except OSError:
        return [], "phones are not listed: adb's server does not run (adb start-server)"
    matching = tuple(target.name for target in targets if target.kind == "android")
    found = []
    for line in answer[8:].decode(errors="replace").splitlines():
        words = line.split()
        if len(words) >= 2:
            model = re.search(r"model:(\S+)", line)
            title = model.group(1).replace("_", " ") if model else "Android device"
            found.append(
                Attached(
                    "adb", f"adb:{words[0]}", title, None, words[0], matching,
                    words[1] == "device", {"state": words[1]},
                )
            )  # fmt: skip
    return found, None


def choose(devices: Iterable[Attached], target: Target, what: str, fix: str) -> Attached:
    """The one device that may be this target.

    Raises:
        DeviceError: none is, or several are; then they are listed, and nothing is touched.
    """
    fitting = [device for device in devices if target.name in device.targets]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise DeviceError(f"no {what} that fits {target.name} is attached", None, fix)
    lines = "; ".join(
        f"{device.where} ({device.title}"
        + (f", serial number {device.serial_number})" if device.serial_number else ")")
        for device in fitting
    )
    raise DeviceError(
        f"{len(fitting)} {what}s fit {target.name}; nothing was touched",
        lines,
        f"--port {fitting[0].where}"
        if fitting[0].kind == "serial"
        else f"--serial {fitting[0].serial_number or 'NUMBER'}",
    )


def check_serial_port(path: str) -> None:
    """Says what keeps a serial port from being used, in its own sentence for each reason.

    Raises:
        DeviceError: the port is not there, not allowed, or in use.
    """
    if os.name != "posix":
        return
    import fcntl
    import grp

    try:
        handle = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise DeviceError(
            f"there is no port {path}: the device is not attached, or has gone",
            path,
            "edgekit devices lists what is attached",
        ) from None
    except PermissionError:
        try:
            group = grp.getgrgid(os.stat(path).st_gid).gr_name
        except (KeyError, OSError):
            group = "dialout"
        raise DeviceError(
            f"no permission to open {path}",
            path,
            f"sudo usermod -aG {group} $USER, then log in again; edgekit doctor shows more",
        ) from None
    except OSError as error:
        if error.errno == 16:
            raise _in_use(path) from None
        raise DeviceError(f"{path} cannot be opened: {error.strerror}", path) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise _in_use(path) from None
    finally:
        os.close(handle)


def _in_use(path: str) -> DeviceError:
    return DeviceError(
        f"{path} is in use by another program",
        path,
        f"end the monitor or IDE that has it open (fuser {path} names it)",
    )
