"""Firmware → board: which device, which flasher, and whether the board then says who it is."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.bench import connected
from edgekit.devices import Attached, Found, check_serial_port, choose, find_devices
from edgekit.errors import DeviceError, EdgekitError, MissingDependency, UsageError
from edgekit.flashers import (
    Flasher,
    Job,
    Piece,
    PlanStep,
    Progress,
    Report,
    flasher_names,
    load_flasher,
    make_piece,
    takes_debug_port,
)
from edgekit.flashers._process import find_tool, is_installed
from edgekit.records import Firmware
from edgekit.targets import Region, Target, list_targets
from edgekit.wire import Identity

AUTO = "auto"
_KIND_OF_NEED = {"serial": "serial", "probe": "probe", "volume": "uf2", "dfu": "dfu"}
_WHAT = {
    "serial": "serial port",
    "probe": "debug probe",
    "volume": "UF2 drive",
    "dfu": "DFU device or boot ROM",
}
_HOW = {
    "serial": "connect the board, or give --port serial:/dev/ttyACM0; without a board: "
    "--port virtual",
    "probe": "connect the board's debug USB port; without a board: --port virtual",
    "volume": "hold the board's boot button while plugging it in; without a board: --port virtual",
    "dfu": "put the board into its boot ROM; without a board: --port virtual",
}
#: Ports that a running board is behind and that no flasher reaches it through.
_NOT_FLASHED = ("tcp", "command", "mistreated", "ssh", "adb")


@dataclass(frozen=True)
class Outcome:
    """What flashing did."""

    port: str | None
    #: ``None`` where the board was started with the ELF file instead
    report: Report | None
    #: what the board said over the wire; ``None`` where it does not speak it, or was not asked
    identity: Identity | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """What is to be flashed, and what the user has said about how."""

    target: Target
    pieces: tuple[Piece, ...]
    firmware: Firmware | None = None
    port: str = AUTO
    flasher: str | None = None
    serial_number: str | None = None
    #: settings that the firmware brings itself (ESP-IDF)
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Way:
    """A flasher with everything that it needs to reach the board."""

    flasher: Flasher
    job: Job
    #: where the board can be talked to afterwards
    port: str | None
    notes: tuple[str, ...] = ()


def _ignore(share: float) -> None:
    pass


def order_of(firmware: Firmware, target: Target, **settings: Any) -> Order:
    """The order for a firmware that ``build`` made.

    Raises:
        UsageError: it was built for another board, or is a project that was not built yet.
    """
    require_target(firmware, target)
    if "bin" not in firmware.images:  # an exported project, which ESP-IDF builds
        folder = firmware.elf.parent
        if not (folder / "flasher_args.json").is_file():
            raise UsageError(
                f"ESP-IDF has not built this project: there is no {folder.name}/flasher_args.json",
                str(firmware.artifact_folder),
                "idf.py build",
            )
        return replace(order_of_idf(folder, target, **settings), firmware=firmware)
    flash = {region.name: region for region in target.memory if region.kind == "flash"}
    start = min(
        _flash_address(flash[item.region], item.address)
        for item in firmware.sections
        if item.region in flash
    )
    piece = make_piece(start, firmware.images["bin"])
    return Order(target, (piece,), firmware, **settings)


def _flash_address(region: Region, address: int) -> int:
    """Where a flasher writes what the CPU sees at ``address``. A flash that the CPU sees at two
    addresses has none of its own: bytes are counted from its beginning."""
    return address if region.fetch_origin is None else region.offset_of(address) or 0


def order_of_idf(folder: Path, target: Target, **settings: Any) -> Order:
    """The order for the build folder of an ESP-IDF project (``flasher_args.json``).

    Raises:
        UsageError: the file in it is not what ESP-IDF writes.
    """
    path = folder / "flasher_args.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {int(address, 0): folder / name for address, name in content["flash_files"].items()}
        given = content.get("flash_settings", {})
        chip = content.get("extra_esptool_args", {}).get("chip")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"this is not what ESP-IDF writes ({type(error).__name__}: {error})",
            str(path),
            "idf.py build",
        ) from None
    wanted = next((f.get("chip") for f in target.flashers if f["name"] == "esptool"), None)
    if chip and wanted and chip != wanted:
        raise UsageError(f"the project was built for {chip}, not for {target.name}", str(path))
    pieces = tuple(make_piece(address, files[address]) for address in sorted(files))
    extra = {key.replace("_", "-"): str(value) for key, value in given.items()}
    return Order(target, pieces, None, settings=extra, **settings)


def flash(
    firmware: Firmware, target: Target, port: str = AUTO, progress: Progress = _ignore
) -> Identity:
    """Flashes ``firmware`` and verifies that the board reports its build id.

    Raises:
        UsageError: the firmware is for another board, or nothing flashes through this port.
        MissingDependency: no flasher of the target is installed.
        DeviceError: no board, several, or one that does not run this build afterwards.
    """
    identity = carry_out(order_of(firmware, target, port=port), progress).identity
    if identity is None:
        raise DeviceError(f"{target.name} does not say what it runs", port)
    return identity


def carry_out(order: Order, progress: Progress = _ignore) -> Outcome:
    """Flashes, verifies, and asks the board who it is.

    Raises:
        UsageError, MissingDependency, DeviceError: see :func:`flash`.
    """
    kind, _, rest = order.port.partition(":")
    if kind == "virtual":
        return _flash_virtual(order, rest, progress)
    if _starts_with_elf(order.port) and order.firmware is not None:
        identity, said = _who(order.firmware, order.target, order.port)
        return Outcome(order.port, None, identity, said)
    way = find_way(order)
    if way.job.port is not None:
        check_serial_port(way.job.port)
    report = way.flasher.flash(way.job, progress)
    return _ask(order, report, way.port, way.notes)


def _ask(order: Order, report: Report, port: str | None, notes: tuple[str, ...]) -> Outcome:
    if order.firmware is None:
        return Outcome(port, report, None, notes)
    if port is None:
        more = (
            "the board was not asked who it is: the port of its console is not known "
            "(edgekit bench FIRMWARE --port PORT asks)"
        )
        return Outcome(port, report, None, (*notes, more))
    identity, said = _who(order.firmware, order.target, port)
    return Outcome(port, report, identity, (*notes, *said))


def _who(firmware: Firmware, target: Target, port: str) -> tuple[Identity | None, tuple[str, ...]]:
    """What a board says that it runs; MLPerf Tiny's protocol has no build id, only a name."""
    if firmware.protocol == "mlperf-tiny":
        from edgekit.links import open_link
        from edgekit.mlperf.dut import Dut

        with Dut(open_link(port, target, firmware)) as dut:
            profile = dut.identify()
        return None, (f"the board answers as '{profile.name}' with {profile.model}",)
    with connected(port, target, firmware) as device:
        return device.identity, ()


def plan(order: Order) -> tuple[Flasher, tuple[PlanStep, ...]]:
    """What :func:`carry_out` would do; touches nothing, and needs neither board nor tool.

    Raises:
        UsageError: nothing flashes this target through this port.
    """
    kind, _, rest = order.port.partition(":")
    if kind == "virtual":
        entry = _virtual_entry(order)
        if entry is None:
            raise UsageError(
                f"a virtual {order.target.name} has neither boot ROM nor debug port: it starts "
                "with the ELF file",
                f"--port {order.port}",
            )
        flasher = load_flasher(str(entry["name"]))
        # the debug port gets its number when the board starts
        job = replace(_job(order, entry), debug_port=0 if flasher.NEEDS == "probe" else None)
        return flasher, flasher.plan(job)
    try:
        way = find_way(order)
    except (DeviceError, MissingDependency):
        entries = _entries(order)
        flasher = load_flasher(str(entries[0]["name"]))
        port = rest.partition(":")[0] if kind in ("serial", "pty") else None
        return flasher, flasher.plan(replace(_job(order, entries[0]), port=port))
    return way.flasher, way.flasher.plan(way.job)


def _job(order: Order, entry: Mapping[str, Any]) -> Job:
    settings = {**entry, **(order.settings or {})}
    elf = order.firmware.elf if order.firmware is not None else None
    return Job(order.target, order.pieces, settings, serial_number=order.serial_number, elf=elf)


def _entries(order: Order) -> list[dict[str, Any]]:
    """The target's flashers that may be used, preferred first."""
    from edgekit.links import unknown_kind

    target = order.target
    kind = order.port.partition(":")[0]
    if kind in _NOT_FLASHED:
        raise UsageError(
            f"no board is flashed through '{kind}'",
            f"--port {order.port}",
            "--port serial:/dev/ttyACM0, --port virtual, or no --port at all",
        )
    if kind not in (AUTO, "serial", "pty"):
        raise unknown_kind(
            order.port, "--port serial:/dev/ttyACM0, --port virtual, or no --port at all"
        )
    known = flasher_names()
    entries = [dict(entry) for entry in target.flashers if entry["name"] in known]
    if not entries:
        raise UsageError(f"nothing flashes {target.name}", target.name, "--port virtual")
    if order.flasher is not None:
        load_flasher(order.flasher)
        entries = [entry for entry in entries if entry["name"] == order.flasher]
        if not entries:
            raise UsageError(
                f"{target.name} is not flashed with {order.flasher}",
                f"--flasher {order.flasher}",
                "one of: " + ", ".join(str(entry["name"]) for entry in target.flashers),
            )
    if kind == "pty":
        # a pseudo-terminal is a serial line and nothing else
        entries = [entry for entry in entries if load_flasher(str(entry["name"])).NEEDS == "serial"]
        if not entries:
            raise UsageError(
                f"{target.name} is not flashed over a serial line",
                f"--port {order.port}",
                "edgekit targets " + target.name,
            )
    return entries


def find_way(order: Order, found: Found | None = None) -> Way:
    """The first of the target's flashers that is installed and reaches exactly one board.

    Raises:
        UsageError: nothing flashes this target through this port.
        MissingDependency: a board is there, but no tool for it.
        DeviceError: no board is there, or several; they are listed and not touched.
    """
    entries = _entries(order)
    if found is None:
        found = find_devices(list_targets())
    kind, _, rest = order.port.partition(":")
    problems: list[EdgekitError] = []
    for entry in entries:
        flasher = load_flasher(str(entry["name"]))
        try:
            if flasher.TOOL is not None:
                find_tool(flasher.TOOL)
            return _reach(order, flasher, entry, found, kind, rest)
        except (MissingDependency, DeviceError) as error:
            problems.append(error)
    several = [error for error in problems if "nothing was touched" in error.what]
    missing = [error for error in problems if isinstance(error, MissingDependency)]
    if several:
        raise several[0]
    if len(missing) == len(problems):
        names = ", ".join(str(entry["name"]) for entry in entries)
        raise MissingDependency(
            f"none of the flashers of {order.target.name} is installed: {names}"
            if len(entries) > 1
            else missing[0].what,
            missing[0].where if len(entries) == 1 else None,
            missing[0].fix,
        )
    raise next(error for error in problems if isinstance(error, DeviceError))


def _reach(
    order: Order, flasher: Flasher, entry: Mapping[str, Any], found: Found, kind: str, rest: str
) -> Way:
    job = _job(order, entry)
    target = order.target
    need = flasher.NEEDS
    notes: tuple[str, ...] = ()
    path, _, baud = rest.rpartition(":")
    serial_path = path if baud.isdigit() and path else rest
    talk = order.port if kind in ("serial", "pty") else None
    if need == "serial" and talk is not None:
        return Way(flasher, replace(job, port=serial_path), _console(entry, talk), notes)
    devices = found.of(*(k for k in (_KIND_OF_NEED.get(need),) if k is not None))  # type: ignore[arg-type]
    if order.serial_number is not None:
        devices = tuple(d for d in devices if d.serial_number == order.serial_number)
    if need == "probe":
        devices = _fitting_probes(devices, target)
    device = choose(devices, target, _WHAT.get(need, "device"), _HOW.get(need, "edgekit devices"))
    notes = (f"{device.where} is {device.title}, the only {_WHAT[need]} that fits {target.name}",)
    if device.allowed is False:
        raise DeviceError(
            f"no permission to use {device.title}",
            device.where,
            "edgekit doctor shows the udev rule or the group",
        )
    if need == "serial":
        path = device.where.partition(":")[2]
        return Way(flasher, replace(job, port=path), _console(entry, device.where), notes)
    if need == "volume":
        return Way(flasher, replace(job, volume=Path(device.where)), talk, notes)
    job = replace(job, serial_number=device.serial_number)
    return Way(flasher, job, talk or _port_of_probe(device, found), notes)


def _console(entry: Mapping[str, Any], port: str) -> str | None:
    """The port that the board was flashed through, when its firmware speaks there, too.

    ``console: no`` in a flasher's settings: the boot loader has a port of its own. Behind a
    pseudo-terminal is a virtual board, which has one line for both.
    """
    separate = entry.get("console") is False and not port.startswith("pty:")
    return None if separate else port


def _fitting_probes(probes: tuple[Attached, ...], target: Target) -> tuple[Attached, ...]:
    """A probe on its own may be wired to any board; one on a board only to that one."""
    return tuple(
        replace(probe, targets=(target.name,)) if not probe.targets else probe for probe in probes
    )


def _port_of_probe(probe: Attached, found: Found) -> str | None:
    """The serial port of the same USB device, if it has one."""
    for port in found.of("serial"):
        if probe.serial_number and port.serial_number == probe.serial_number:
            return port.where
    return None


# virtual boards


def _virtual_entry(order: Order) -> dict[str, Any] | None:
    """The flasher that reaches a virtual board: through its boot ROM, or its debug port.

    Of several an installed one is taken, the boot ROM's first. ``None``: there is no way.
    """
    from edgekit.sim.families import has_debug_port

    target = order.target
    protocol = target.sim.get("rom", {}).get("protocol")
    rom_need = None if protocol is None else "volume" if protocol == "uf2" else "serial"
    by_rom, by_debug_port = [], []
    for entry in target.flashers:
        flasher = load_flasher(str(entry["name"]))
        if order.flasher not in (None, entry["name"]):
            continue
        if rom_need == flasher.NEEDS:
            by_rom.append(dict(entry))
        elif has_debug_port(target) and takes_debug_port(flasher):
            by_debug_port.append(dict(entry))
    ways = by_rom + by_debug_port
    for entry in ways:
        tool = load_flasher(str(entry["name"])).TOOL
        if tool is None or is_installed(tool):
            return entry
    if ways:
        return ways[0]
    if order.flasher is None and protocol is None:
        return None
    raise UsageError(
        f"no flasher of {target.name} reaches the virtual board's boot ROM or debug port"
        if order.flasher is None
        else f"{order.flasher} does not reach a virtual {target.name}",
        f"--flasher {order.flasher}" if order.flasher else target.name,
    )


def _flash_virtual(order: Order, rest: str, progress: Progress) -> Outcome:
    """Starts an erased board, or the one of ``state=FOLDER``, and flashes it through its boot
    ROM or its debug port.

    A board that has neither, or whose tool is not installed, starts with the ELF file instead.
    """
    state = re.search(r"(?:^|,)state=([^,]+)", rest)
    entry = _virtual_entry(order)
    if entry is not None:
        flasher = load_flasher(str(entry["name"]))
        if (state is not None or order.flasher is not None) and flasher.TOOL is not None:
            find_tool(flasher.TOOL)
        if flasher.TOOL is None or is_installed(flasher.TOOL):
            if state is not None:
                return _through_board(order, flasher, entry, Path(state.group(1)), progress)
            with tempfile.TemporaryDirectory(prefix="edgekit-board-") as folder:
                return _through_board(order, flasher, entry, Path(folder), progress)
    elif state is not None:
        raise UsageError(
            f"a virtual {order.target.name} has neither boot ROM nor debug port: it starts with "
            "the ELF file",
            f"--port {order.port}",
            "--port virtual",
        )
    if order.firmware is None:
        raise MissingDependency(
            f"{entry['name'] if entry else 'a flasher'} is not installed", order.target.name
        )
    note = (
        f"{entry['name']} is not installed: the board was started with the ELF file"
        if entry
        else "this board has neither boot ROM nor debug port: it was started with the ELF file"
    )
    identity, said = _who(order.firmware, order.target, order.port)
    return Outcome(order.port, None, identity, (note, *said))


def _through_board(
    order: Order, flasher: Flasher, entry: Mapping[str, Any], state: Path, progress: Progress
) -> Outcome:
    from edgekit.links.virtual import VirtualLink

    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the board's state cannot be kept here: {error.strerror}", str(state)
        ) from None
    elf = order.firmware.elf if order.firmware is not None else None
    by_probe = flasher.NEEDS == "probe"
    board = VirtualLink(
        order.target,
        elf,
        connect=False,
        state=state,
        boot_rom=not by_probe,
        debug_port=0 if by_probe else None,
    )
    try:
        job = replace(
            _job(order, entry), port=board.port, volume=board.volume, debug_port=board.debug_port
        )
        report = flasher.flash(job, progress)
        outcome = _ask(order, report, f"pty:{board.port}", ())
        return replace(outcome, port=order.port)
    finally:
        board.close()


def _starts_with_elf(port: str) -> bool:
    """Whether opening the port starts a simulated board with the ELF file."""
    while port.startswith("mistreated:"):
        port = port.split(":", 2)[-1]
    return port.partition(":")[0] in ("virtual", "qemu")


def require_flashable(port: str, image: str, target: Target) -> None:
    """Raises where edgekit cannot put a firmware onto a board; looks at no device.

    Raises:
        UsageError: says by which way it gets there.
    """
    from edgekit.links import link_kinds

    if _starts_with_elf(port):
        return
    try:
        _entries(Order(target, (), port=port))
    except UsageError as error:
        if port.partition(":")[0] not in (AUTO, *link_kinds()):
            raise
        raise UsageError(
            error.what,
            f"--port {port}",
            f"edgekit build, another tool with {image}, then edgekit bench FIRMWARE --port {port}",
        ) from None


def require_target(firmware: Firmware, target: Target) -> None:
    """Raises when a firmware was built for another board.

    Raises:
        UsageError: it was.
    """
    if firmware.target != target.name:
        raise UsageError(
            f"the firmware was built for {firmware.target}, not for {target.name}",
            firmware.elf.name,
            f"edgekit build ARTIFACT --target {target.name}",
        )
