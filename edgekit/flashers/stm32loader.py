"""The boot ROM of STM32 over its UART (ST AN3155), with stm32loader."""

from __future__ import annotations

import re

from edgekit.errors import UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.flashers._modem_lines import environment, is_terminal
from edgekit.flashers._process import Sign, failure, find_tool, run_tool, tool_version

NAME = "stm32loader"
TITLE = "STM32 boot ROM over the serial port, with stm32loader"
NEEDS = "serial"
TOOL = "stm32loader"

_SIGNS = (
    Sign(
        r"Can't init into bootloader",
        "no boot ROM answers on the port",
        "set BOOT0 high, press reset, and flash again; some boards need a serial adapter at the "
        "ROM's own pins (edgekit targets NAME)",
    ),
    Sign(
        r"Erase failed|NACK.*(0x11|0x44)|NACK Command",
        "the boot ROM refuses: the flash is protected against reading out",
        "stm32loader --unprotect --port PORT, which erases everything on the chip",
    ),
    Sign(
        r"Verification FAILED",
        "what was read back differs from what was written",
        "flash again; if it stays so, pages are write-protected or worn",
    ),
    Sign(r"NACK 0x31", "the boot ROM refused to write: the flash was not erased there"),
    Sign(r"Permission denied", "no permission to open the port", "sudo usermod -aG dialout $USER"),
    Sign(
        r"No such file or directory|could not open port|device reports readiness to read but "
        r"returned no data|Input/output error",
        "the port went away",
        "check cable and power: an interrupted flash does no harm",
    ),
    Sign(
        r"Can't read port or timeout",
        "the boot ROM stopped answering",
        "set BOOT0 high, press reset, and flash again: an interrupted flash does no harm",
    ),
)


def plan(job: Job) -> tuple[PlanStep, ...]:
    port = job.port or "PORT"
    # a pseudo-terminal has no parity
    parity = "none" if is_terminal(port) else str(job.settings.get("parity", "even"))
    common = [
        TOOL, "--port", port, "--baud", str(job.settings.get("baud", 115200)), "--parity", parity,
        "--verbose",
    ]  # fmt: skip
    if "family" in job.settings:
        common += ["--family", str(job.settings["family"])]
    if not job.pieces:
        raise UsageError("there is nothing to write", job.target.name)
    steps = []
    for index, piece in enumerate(job.pieces):
        erase = ["--erase"] if index == 0 else []
        last = index == len(job.pieces) - 1
        go = ["--go-address", f"{job.pieces[0].address:#x}"] if last else []
        command = (
            *common, *erase, "--write", "--verify", "--address", f"{piece.address:#x}", *go,
            str(piece.path),
        )  # fmt: skip
        what = "erase the whole flash, " if erase else ""
        what += f"write {describe((piece,))}, read it back" + (", start it" if go else "")
        steps.append(PlanStep(what, command))
    return tuple(steps)


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    port = job.port or ""
    done = 0
    for step, piece in zip(plan(job), job.pieces, strict=True):
        command = [tool, *(step.command or ())[1:]]

        def show(text: str, base: int = done, size: int = piece.nbytes) -> None:
            # every byte is written and read
            moved = [int(n) for n in re.findall(r"^ *(?:Write|Read) (\d+) bytes at", text, re.M)]
            progress((base + min(sum(moved) / 2, size)) / job.nbytes)

        text = run_tool(
            command, where=port, signs=_SIGNS, on_text=show, environment=environment(port)
        )
        if "Verification OK" not in text:
            raise failure(command, port, text, "did not verify", _SIGNS)
        done += piece.nbytes
    return Report(
        NAME, tool_version(TOOL), port, written(job), "read back through the boot ROM and compared"
    )
