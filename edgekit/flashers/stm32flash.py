"""The boot ROM of STM32 over its UART (ST AN3155), with stm32flash."""

from __future__ import annotations

from edgekit.errors import UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.flashers._modem_lines import is_terminal, reset_into_boot_rom
from edgekit.flashers._process import Sign, failure, find_tool, last_share, run_tool, tool_version

NAME = "stm32flash"
TITLE = "STM32 boot ROM over the serial port, with stm32flash"
NEEDS = "serial"
TOOL = "stm32flash"

#: The custom that stm32loader follows, too: RTS drives BOOT0 and DTR NRST, both inverted. Into
#: the boot ROM, and at the end out of it.
_SEQUENCE = "-rts&dtr,-dtr:rts&dtr,-dtr"

_SIGNS = (
    Sign(
        r"Failed to init device",
        "no boot ROM answers on the port",
        "set BOOT0 high, press reset, and flash again; some boards need a serial adapter at the "
        "ROM's own pins (edgekit targets NAME)",
    ),
    Sign(
        r"Unknown/unsupported device",
        "this stm32flash does not know the chip",
        "a newer stm32flash, or another flasher: edgekit targets NAME",
    ),
    Sign(
        r"Failed to verify",
        "what was read back differs from what was written",
        "flash again; if it stays so, pages are write-protected or worn",
    ),
    Sign(
        r"Failed to read ACK byte|timeout",
        "the board stopped answering",
        "check power and cable, and flash again: an interrupted flash does no harm",
    ),
    Sign(
        r"NACK|Failed to (erase|read|write)|Can't initiate",
        "the boot ROM refuses: the flash is protected",
        "stm32flash -k PORT ends the protection against reading out and erases everything; -u the "
        "one against writing",
    ),
    Sign(r"Permission denied", "no permission to open the port", "sudo usermod -aG dialout $USER"),
    Sign(
        r"Failed to open port|No such file or directory|Input/output error|Serial error",
        "the port went away",
        "check cable and power: an interrupted flash does no harm",
    ),
    Sign(
        r"Got byte|Unexpected reply",
        "the boot ROM's answers make no sense",
        "set BOOT0 high, press reset, and flash again: an interrupted flash does no harm",
    ),
)


def plan(job: Job) -> tuple[PlanStep, ...]:
    if not job.pieces:
        raise UsageError("there is nothing to write", job.target.name)
    port = job.port or "PORT"
    # a pseudo-terminal has neither parity nor modem lines
    virtual = is_terminal(port)
    parity = "n" if virtual else str(job.settings.get("parity", "even"))[0]
    common = [TOOL, "-b", str(job.settings.get("baud", 115200)), "-m", f"8{parity}1"]
    if not virtual:
        common += ["-i", str(job.settings.get("sequence", _SEQUENCE))]
    steps = []
    for index, piece in enumerate(job.pieces):
        last = index == len(job.pieces) - 1
        go = ["-g", f"{job.pieces[0].address:#x}"] if last else []
        command = (*common, "-f", "-w", str(piece.path), "-v", "-S", f"{piece.address:#x}",
                   *go, port)  # fmt: skip
        what = f"erase and write {describe((piece,))}, read it back"
        steps.append(PlanStep(what + (", start it" if go else ""), command))
    return tuple(steps)


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    port = job.port or ""
    share = last_share(r"\((\d+\.\d+)%\)")
    done = 0
    for step, piece in zip(plan(job), job.pieces, strict=True):
        command = [tool, *(step.command or ())[1:]]

        def show(text: str, base: int = done, size: int = piece.nbytes) -> None:
            progress(min(1.0, (base + size * (share(text) or 0.0)) / job.nbytes))

        reset_into_boot_rom(port)
        text = run_tool(command, where=port, signs=_SIGNS, on_text=show)
        if "(100.00%) Done." not in text:
            raise failure(command, port, text, "did not write everything", _SIGNS)
        done += piece.nbytes
    return Report(
        NAME, tool_version(TOOL), port, written(job), "read back through the boot ROM and compared"
    )
