"""nRF52 boards with Adafruit's boot loader over its serial port, with adafruit-nrfutil."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.flashers._process import Sign, failure, find_tool, run_tool, tool_version

NAME = "adafruit-nrfutil"
TITLE = "Adafruit's nRF52 boot loader over the serial port, with adafruit-nrfutil"
NEEDS = "serial"
TOOL = "adafruit-nrfutil"

_SIGNS = (
    Sign(r"Permission denied", "no permission to open the port", "sudo usermod -aG dialout $USER"),
    Sign(r"could not open port|No such file or directory", "the port went away", "check the cable"),
    Sign(
        r"returned no data|Input/output error|#[\s\S]*Timed out",
        "the port went away",
        "check power and cable, press reset twice, and flash again: an interrupted flash does no "
        "harm",
    ),
    Sign(
        r"No data received on serial port|Timed out|Failed to upgrade target",
        "no boot loader answers on the port",
        "press reset twice, so that the boot loader stays, and flash again",
    ),
)
#: The boot loader takes whole words.
_WORD = 4


def _commands(job: Job, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if len(job.pieces) != 1:
        raise UsageError(
            f"this boot loader takes one application, not {len(job.pieces)} pieces", job.target.name
        )
    piece = job.pieces[0]
    image = f"{folder}/firmware.bin" if piece.nbytes % _WORD else str(piece.path)
    package = f"{folder}/firmware.zip"
    make = (
        TOOL, "dfu", "genpkg", "--dev-type", str(job.settings.get("dev_type", "0x0052")),
        "--application", image, package,
    )  # fmt: skip
    send = (
        TOOL, "--verbose", "dfu", "serial", "--package", package, "--port", job.port or "PORT",
        "--baudrate", str(job.settings.get("baud", 115200)), "--singlebank", "--touch", "1200",
    )  # fmt: skip
    return make, send


def plan(job: Job) -> tuple[PlanStep, ...]:
    make, send = _commands(job, "TEMPORARY-FOLDER")
    return (
        PlanStep("pack the application with its CRC", make),
        PlanStep(f"send {describe(job.pieces)}, which the boot loader checks and starts", send),
    )


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    port = job.port or ""
    packets = max(1, -(-job.nbytes // 512))

    def show(text: str) -> None:
        progress(min(1.0, 0.1 + 0.9 * text.count("#") / packets))

    with tempfile.TemporaryDirectory(prefix="edgekit-dfu-") as folder:
        make, send = _commands(job, folder)
        content = job.pieces[0].path.read_bytes()
        padding = b"\xff" * (-len(content) % _WORD)
        if padding:
            (Path(folder) / "firmware.bin").write_bytes(content + padding)
        run_tool([tool, *make[1:]], where=port, signs=_SIGNS)
        command = [tool, *send[1:]]
        text = run_tool(command, where=port, signs=_SIGNS, on_text=show)
    if "Device programmed" not in text:
        raise failure(command, port, text, "did not finish", _SIGNS)
    verified = "the boot loader starts only what has the right CRC"
    return Report(NAME, tool_version(TOOL), port, written(job), verified)
