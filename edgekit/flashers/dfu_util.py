"""USB DFU with the extensions of STM32's boot ROM, with dfu-util."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.flashers._process import Sign, find_tool, last_share, run_tool, tool_version
from edgekit.flashers._readback import compare

NAME = "dfu-util"
TITLE = "a USB DFU device, with dfu-util"
NEEDS = "dfu"
TOOL = "dfu-util"

_SIGNS = (
    Sign(
        r"Cannot open DFU device|LIBUSB_ERROR_ACCESS",
        "no permission to use the DFU device",
        "edgekit doctor shows the udev rule",
    ),
    Sign(
        r"No DFU capable USB device",
        "there is no DFU device",
        "set BOOT0 high, press reset, connect the board's own USB port, and see: edgekit devices",
    ),
    Sign(
        r"More than one DFU capable",
        "several DFU devices are attached",
        "edgekit devices, then --serial NUMBER",
    ),
    Sign(
        r"Lost device|LIBUSB_ERROR_(NO_DEVICE|PIPE|IO)",
        "the DFU device went away",
        "check cable and power: an interrupted flash does no harm",
    ),
    Sign(
        r"not writeable|ERASE_PAGE not correct|errWRITE|errERASE",
        "the flash refuses: it is protected",
        "dfu-util -s :unprotect:force, which erases everything",
    ),
)


def _common(job: Job) -> list[str]:
    ids = job.settings.get("usb_ids")
    if not ids:
        raise UsageError(
            f"the flasher dfu-util of {job.target.name} has no 'usb_ids'",
            job.target.name,
            '{name: dfu-util, usb_ids: ["0483:df11"], alt: 0}',
        )
    common = ["--device", str(ids[0]), "--alt", str(job.settings.get("alt", 0))]
    if job.serial_number:
        common += ["--serial", job.serial_number]
    return common


def _commands(job: Job, folder: str) -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = []
    for index, piece in enumerate(job.pieces):
        last = ":leave" if index == len(job.pieces) - 1 else ""
        place = f"{piece.address:#x}"
        commands.append(
            (TOOL, *_common(job), "--dfuse-address", place, "--download", str(piece.path))
        )
        read = f"{place}:{piece.nbytes}{last}"
        file = f"{folder}/read{index}.bin"
        commands.append((TOOL, *_common(job), "--dfuse-address", read, "--upload", file))
    return commands


def plan(job: Job) -> tuple[PlanStep, ...]:
    steps = []
    for index, command in enumerate(_commands(job, "TEMPORARY-FOLDER")):
        what = f"erase and write {describe((job.pieces[index // 2],))}"
        if index % 2:
            last = index == 2 * len(job.pieces) - 1
            what = "read it back, compare" + (", start it" if last else "")
        steps.append(PlanStep(what, command))
    return tuple(steps)


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    where = job.serial_number or str(job.settings.get("usb_ids", ["DFU device"])[0])
    share = last_share(r"(\d+)%")
    with tempfile.TemporaryDirectory(prefix="edgekit-read-") as folder:
        commands = _commands(job, folder)
        for index, command in enumerate(commands):

            def show(text: str, base: int = index) -> None:
                found = share(text)
                if found is not None:
                    progress(min(1.0, (base + found) / len(commands)))

            run_tool([tool, *command[1:]], where=where, signs=_SIGNS, on_text=show)
        for index, piece in enumerate(job.pieces):
            compare(piece, Path(folder) / f"read{index}.bin", where)
    return Report(NAME, tool_version(TOOL), where, written(job), "read back and compared")
