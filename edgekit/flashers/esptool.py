"""The boot ROM of ESP32 chips over the serial port, with esptool."""

from __future__ import annotations

from edgekit.errors import UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.flashers._modem_lines import environment
from edgekit.flashers._process import (
    Sign,
    failure,
    find_tool,
    last_share,
    run_tool,
    tool_version,
)

NAME = "esptool"
TITLE = "ESP32 boot ROM over the serial port, with esptool"
NEEDS = "serial"
TOOL = "esptool"

_SIGNS = (
    Sign(
        r"This chip (is|doesn't appear)",
        "the chip on this port is another one than the target's",
        "edgekit devices; edgekit targets --kind mcu",
    ),
    Sign(
        r"Permission denied",
        "no permission to open the port",
        "sudo usermod -aG dialout $USER, then log in again",
    ),
    Sign(r"Resource temporarily unavailable|exclusively lock", "the port is in use"),
    Sign(r"Could not open .*|No such file", "the port went away", "edgekit devices"),
    Sign(
        r"Failed to connect|No serial data received",
        "no boot ROM answers on the port",
        "hold BOOT, press RESET, let go, and flash again",
    ),
    Sign(
        r"MD5 of file does not match|Verify failed",
        "the flash's MD5 sum differs from the file's",
        "flash again at a lower speed, or check the power supply",
    ),
    Sign(
        r"readiness to read but returned no data|Input/output error|disconnected|"
        r"Serial data stream stopped",
        "the port went away",
        "check cable and power: an interrupted flash does no harm",
    ),
    Sign(r"No such command 'write-flash'", "this esptool is too old", "pip install 'esptool>=5'"),
)


def plan(job: Job) -> tuple[PlanStep, ...]:
    if "chip" not in job.settings:
        raise UsageError(
            f"the flasher esptool of {job.target.name} has no 'chip'",
            job.target.name,
            "{name: esptool, chip: esp32s3}",
        )
    port = job.port or "PORT"
    command = [
        TOOL, "--chip", str(job.settings["chip"]), "--port", port,
        "--baud", str(job.settings.get("baud", 460800)),
    ]  # fmt: skip
    if port.startswith("/dev/pts/"):
        # the loader that esptool would upload needs the chip's CPU
        command.append("--no-stub")
    command += ["write-flash", "--compress"]
    for option in ("flash-mode", "flash-freq", "flash-size"):
        if option in job.settings:
            command += [f"--{option}", str(job.settings[option])]
    for piece in job.pieces:
        command += [f"{piece.address:#x}", str(piece.path)]
    what = f"erase and write {describe(job.pieces)}, compare the MD5 sums, reset"
    return (PlanStep(what, tuple(command)),)


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    port = job.port or ""
    command = [tool, *(plan(job)[0].command or ())[1:]]
    share = last_share(r"(\d+(?:\.\d+)?)%")

    def show(text: str) -> None:
        found = share(text)
        if found is not None:
            verified = text.count("Hash of data verified")
            progress(min(1.0, (verified + found) / len(job.pieces)))

    text = run_tool(
        command,
        where=port,
        signs=_SIGNS,
        on_text=show,
        environment={**environment(port), "NO_COLOR": "1", "TERM": "dumb"},
    )
    if text.count("Hash of data verified") != len(job.pieces):
        raise failure(command, port, text, "did not verify everything", _SIGNS)
    return Report(
        NAME, tool_version(TOOL), port, written(job), "MD5 sums computed on the chip's side"
    )
