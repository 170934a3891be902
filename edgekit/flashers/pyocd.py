"""CMSIS-DAP, ST-LINK and J-Link probes, with pyOCD."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgekit.errors import MissingDependency, UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
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
            r"No available debug probes|no debug probe|No connected debug probes|"
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


def _read_command(job: Job, folder: str) -> list[str]:
    command = [TOOL, "commander", *_common(job)]
    for index, piece in enumerate(job.pieces):
        place = f"{folder}/read{index}.bin"
        command += ["--command", f"savemem {piece.address:#x} {piece.nbytes} {place}"]
    return [*command, "--command", "reset"]


def plan(job: Job) -> tuple[PlanStep, ...]:
    steps = []
    for piece in job.pieces:
        command = (
            TOOL, "load", *_common(job), "--erase", "sector", "--format", "bin",
            "--base-address", f"{piece.address:#x}", "--no-reset", str(piece.path),
        )  # fmt: skip
        steps.append(PlanStep(f"erase and write {describe((piece,))}", command))
    steps.append(
        PlanStep("read it back, compare, reset", tuple(_read_command(job, "TEMPORARY-FOLDER")))
    )
    return tuple(steps)


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    where = job.serial_number or ("debug port" if job.debug_port else "debug probe")
    signs = _signs(job)
    done = 0
    for step, piece in zip(plan(job), job.pieces, strict=False):
        run_tool([tool, *(step.command or ())[1:]], where=where, signs=signs)
        done += piece.nbytes
        progress(0.8 * done / job.nbytes)
    with tempfile.TemporaryDirectory(prefix="edgekit-read-") as folder:
        run_tool([tool, *_read_command(job, folder)[1:]], where=where, signs=signs)
        for index, piece in enumerate(job.pieces):
            compare(piece, Path(folder) / f"read{index}.bin", where)
    progress(1.0)
    return Report(NAME, tool_version(TOOL), where, written(job), "read back and compared")
