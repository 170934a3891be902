"""STM32 through ST-LINK, with ST's STM32CubeProgrammer."""

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

NAME = "stm32programmer"
TITLE = "STM32 through ST-LINK, with STM32CubeProgrammer"
NEEDS = "probe"
TOOL = "STM32_Programmer_CLI"

_SIGNS = (
    Sign(
        r"No (debug probe|ST-?LINK).*detected|No ST-?Link",
        "there is no ST-LINK",
        "edgekit devices",
    ),
    Sign(
        r"DEV_USB_COMM_ERR|LIBUSB_ERROR_ACCESS",
        "no permission to use the ST-LINK, or another program uses it",
        "edgekit doctor shows the udev rule",
    ),
    Sign(
        r"No STM32 target found|Unable to get core ID|DEV_CONNECT_ERR",
        "the ST-LINK does not reach the chip",
        "check power and the cable; hold reset while flashing if the firmware sleeps",
    ),
    Sign(
        r"Download verification failed|Data mismatch",
        "what was read back differs from what was written",
        "flash again",
    ),
    Sign(
        r"failed to (erase|download)|write protect",
        "the flash refuses: it is protected",
        "STM32_Programmer_CLI -c port=SWD -rdu, which erases everything",
    ),
)


def plan(job: Job) -> tuple[PlanStep, ...]:
    connection = [f"port={job.settings.get('port', 'SWD')}"]
    if job.serial_number:
        connection.append(f"sn={job.serial_number}")
    command = [TOOL, "--connect", *connection]
    for piece in job.pieces:
        command += ["--write", str(piece.path), f"{piece.address:#x}", "--verify"]
    command += ["--rst"]
    return (
        PlanStep(f"erase and write {describe(job.pieces)}, read it back, reset", tuple(command)),
    )


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    command = [tool, *(plan(job)[0].command or ())[1:]]
    where = job.serial_number or "ST-LINK"
    share = last_share(r"(\d+)%")

    def show(text: str) -> None:
        found = share(text)
        if found is not None:
            progress(min(1.0, found))

    text = run_tool(command, where=where, signs=_SIGNS, on_text=show)
    if text.lower().count("download verified successfully") != len(job.pieces):
        raise failure(command, where, text, "did not verify everything", _SIGNS)
    return Report(NAME, tool_version(TOOL), where, written(job), "read back by STM32CubeProgrammer")
