"""CMSIS-DAP, ST-LINK and J-Link probes, with pyOCD."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from edgekit.errors import MissingDependency, UsageError
from edgekit.flashers import Job, Piece, PlanStep, Progress, Report, describe, written
from edgekit.flashers._process import Sign, find_tool, run_tool, tool_version
from edgekit.flashers._readback import compare

NAME = "pyocd"
TITLE = "a debug probe, with pyOCD"
NEEDS = "probe"
TOOL = "pyocd"
TAKES_DEBUG_PORT = True


def _signs(job: Job) -> tuple[Sign, ...]:
    part = str(job.settings.get("pack", job.settings.get("target", "")))
    return (
        Sign(
            r"Target type .* not recognized|unknown target|not a recognized target",
            f"pyOCD does not know the {part} without its pack",
            f"pyocd pack install {part}",
            MissingDependency,
        ),
        Sign(
            r"No available debug probes|no debug probe|No connected debug probe|"
            r"did not match any|no probe found",
            "there is no debug probe, or not the one that was asked for",
            "edgekit devices",
        ),
        Sign(
            r"Access denied|insufficient permissions|LIBUSB_ERROR_ACCESS|Permission",
            "no permission to use the debug probe",
            "edgekit doctor shows the udev rule",
        ),
        Sign(
            r"Resource busy|LIBUSB_ERROR_BUSY|already (open|in use)",
            "the debug probe is in use by another program",
            "end other debuggers and IDEs",
        ),
        Sign(
            r"APPROTECT enabled",
            "the chip keeps debuggers out of its memory",
            f"pyocd erase --mass --target {part} erases everything and lets them in",
        ),
        Sign(
            # the number of an access port that the target has and the chip has not
            r" C Error: \d+ +\[",
            "the chip is another one than the target's",
            "edgekit flash FIRMWARE --target NAME, with the board that is attached",
        ),
        Sign(
            r"\[---\|[\s\S]*( C Error: *\[|No such device|Connection reset)",
            "the board or the probe went away in the middle",
            "check power and cable, and flash again: an interrupted flash does no harm",
        ),
        Sign(
            r"No ACK|DP read|communication failure|STLink error|Unable to (power|connect)",
            "the probe does not reach the chip",
            "check power and the cable; hold reset while flashing if the firmware sleeps",
        ),
        Sign(
            r"flash (erase|program).*(fail|error)",
            "the flash refuses: it is protected, or not there",
            "pyocd erase --mass, which erases everything",
        ),
    )


def _common(job: Job) -> list[str]:
    if "target" not in job.settings:
        raise UsageError(
            f"the flasher pyocd of {job.target.name} has no 'target'",
            job.target.name,
            "{name: pyocd, target: nrf52840}",
        )
    common = ["--no-wait", "--target", str(job.settings["target"])]
    if job.debug_port is not None:
        common += ["--uid", f"remote:127.0.0.1:{job.debug_port}"]
    elif job.serial_number:
        common += ["--uid", job.serial_number]
    return common


def _image(piece: Piece, folder: str, index: int) -> str:
    """A path that pyOCD's commander takes as one word, with the ending that tells the format."""
    path = str(piece.path)
    return path if re.fullmatch(r"[\w./+-]+\.bin", path) else f"{folder}/write{index}.bin"


def _command(job: Job, folder: str) -> tuple[str, ...]:
    """One run, because pyOCD takes its time to start: write, read back, reset."""
    commands = [
        f"load {_image(piece, folder, index)} {piece.address:#x}"
        for index, piece in enumerate(job.pieces)
    ]
    commands += [
        f"savemem {piece.address:#x} {piece.nbytes} {folder}/read{index}.bin"
        for index, piece in enumerate(job.pieces)
    ]
    words = [word for command in (*commands, "reset") for word in ("--command", command)]
    return (TOOL, "commander", *_common(job), "-O", "chip_erase=sector", *words)


def plan(job: Job) -> tuple[PlanStep, ...]:
    what = f"erase and write {describe(job.pieces)}, read it back, compare, reset"
    return (PlanStep(what, _command(job, "TEMPORARY-FOLDER")),)


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    where = job.serial_number or ("debug port" if job.debug_port else "debug probe")

    def show(text: str) -> None:
        # two bars of 40 signs for each piece: erasing and programming
        progress(min(1.0, text.count("=") / (80 * len(job.pieces))))

    with tempfile.TemporaryDirectory(prefix="edgekit-pyocd-") as folder:
        for index, piece in enumerate(job.pieces):
            image = _image(piece, folder, index)
            if image != str(piece.path):
                shutil.copyfile(piece.path, image)
        command = [tool, *_command(job, folder)[1:]]
        run_tool(command, where=where, signs=_signs(job), on_text=show)
        for index, piece in enumerate(job.pieces):
            compare(piece, Path(folder) / f"read{index}.bin", where)
    progress(1.0)
    return Report(NAME, tool_version(TOOL), where, written(job), "read back and compared")
