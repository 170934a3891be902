"""RP2040 and RP2350 in their boot ROM over USB, with picotool."""

from __future__ import annotations

from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.flashers._process import (
    Sign,
    failure,
    find_tool,
    last_share,
    run_tool,
    tool_version,
)

NAME = "picotool"
TITLE = "an RP2040 or RP2350 boot ROM over USB, with picotool"
NEEDS = "dfu"
TOOL = "picotool"

_SIGNS = (
    Sign(
        r"permission|LIBUSB_ERROR_ACCESS",
        "no permission to use the board",
        "edgekit doctor shows the udev rule",
    ),
    Sign(
        r"No accessible .* device",
        "there is no board in its boot ROM",
        "hold BOOTSEL while plugging the board in",
    ),
    Sign(
        r"does not match|Verify.*fail|contents.*differ",
        "what was read back differs from what was written",
        "flash again",
    ),
)


def plan(job: Job) -> tuple[PlanStep, ...]:
    steps = []
    for index, piece in enumerate(job.pieces):
        command = [TOOL, "load", "--verify"]
        if job.serial_number:
            command += ["--ser", job.serial_number]
        if index == len(job.pieces) - 1:
            command.append("--execute")
        command += ["-t", "bin", "-o", f"{piece.address:#x}", str(piece.path)]
        what = f"erase and write {describe((piece,))}, read it back"
        steps.append(PlanStep(what, tuple(command)))
    return tuple(steps)


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    where = job.serial_number or "USB"
    share = last_share(r"(\d+)%")

    def show(text: str) -> None:
        progress(min(1.0, share(text) or 0.0))

    for step in plan(job):
        command = [tool, *(step.command or ())[1:]]
        text = run_tool(command, where=where, signs=_SIGNS, on_text=show)
        if "OK" not in text:
            raise failure(command, where, text, "did not verify", _SIGNS)
    return Report(NAME, tool_version(TOOL), where, written(job), "read back by picotool")
