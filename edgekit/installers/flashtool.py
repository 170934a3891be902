"""Flashes a coralmicro application, with the model in it, onto a Coral Dev Board Micro.

Google's flashtool.py of a coralmicro checkout does the work. It exits 0 after most failures, so
its output is judged, not its exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import DeviceError, MissingDependency, UsageError
from edgekit.installers import Report, Step, last_line, run_step

if TYPE_CHECKING:
    from edgekit.targets import Target

NAME = "flashtool"
TITLE = "coralmicro's flashtool.py"
OPTIONS: Mapping[str, str] = {
    "coralmicro": "folder of the coralmicro checkout (needed)",
    "build-dir": "folder of its build (default: CORALMICRO/build)",
    "elf": "ELF file of the application that carries the model (needed)",
    "serial": "serial number of the board, where there are several",
    "ram": "1: load to RAM instead of the flash",
    "nodata": "1: leave the board's file system as it is",
}
_SUCCESS = "Flashing to flash storage complete"
#: What it prints when it failed, although it exits 0, and what helps.
_FAILURES = (
    (
        "No Dev Board Micro devices detected!",
        "flashtool finds no Dev Board Micro",
        "connect it with a data cable; hold the user button while it starts to reach its loader",
    ),
    (
        "Encountered an error during flashing",
        "flashtool met an error while it flashed",
        "unplug the board, hold the user button while you plug it in again, and repeat",
    ),
    (
        "does not exist",
        "flashtool misses a file",
        "build the application first: bash build.sh in the coralmicro checkout",
    ),
)
_TIMEOUT_S = 600.0


def plan(artifact: Path, target: Target, options: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps; asks no board."""
    from edgekit.engines.edgetpu.bundle import open_bundle

    bundle = open_bundle(artifact)
    checkout = Path(str(options.get("coralmicro", "CORALMICRO")))
    build = Path(str(options.get("build-dir", checkout / "build")))
    elf = str(options.get("elf", "APPLICATION.elf"))
    command = [
        "python3",
        str(checkout / "scripts" / "flashtool.py"),
        "--build_dir",
        str(build),
        "--elf_path",
        elf,
    ]
    if "serial" in options:
        command += ["--serial", str(options["serial"])]
    command += [f"--{flag}" for flag in ("ram", "nodata") if _on(options, flag)]
    return (
        Step("checkout", f"find scripts/flashtool.py in {checkout}, and {Path(elf).name}"),
        Step("model", f"check that the application carries {bundle.path.name}"),
        Step(
            "flash",
            "reset the board into its loader (USB 1fc9:013d, then 15a2:0073, then 18d1:9307), "
            "program it and reset it",
            tuple(command),
        ),
        Step("judge", f"require '{_SUCCESS}' in the output; the exit code says nothing"),
    )


def flash(
    artifact: Path, target: Target, options: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Runs flashtool.py and judges what it printed.

    Raises:
        UsageError: the checkout or the application is not named.
        MissingDependency: there is no flashtool.py.
        DeviceError: it failed, whatever its exit code.
    """
    for key in ("coralmicro", "elf"):
        if key not in options:
            raise UsageError(
                f"the Dev Board Micro needs --set {key}=…: {OPTIONS[key]}",
                target.name,
                "--set coralmicro=FOLDER --set elf=FOLDER/build/examples/APP/APP",
            )
    steps = {step.name: step for step in plan(artifact, target, options)}
    script = Path(steps["flash"].command[1])
    if not script.is_file():
        raise MissingDependency(
            "there is no scripts/flashtool.py in the coralmicro checkout",
            str(options["coralmicro"]),
            "git clone --recurse-submodules the coralmicro repository of google-coral",
        )
    if not Path(str(options["elf"])).is_file():
        raise UsageError("there is no application at this path", str(options["elf"]), "build it")
    report(steps["checkout"], "found")
    report(steps["model"], _carries(artifact, Path(str(options["elf"])), options))
    command = (sys.executable, *steps["flash"].command[1:])
    step = Step("flash", steps["flash"].what, command)
    text = run_step(step, install="Python 3", timeout_s=_TIMEOUT_S)
    judge(text, in_ram=_on(options, "ram"))
    report(steps["flash"], "done")
    report(steps["judge"], last_line(text))
    return {"flashed": not _on(options, "ram"), "said": last_line(text)}


def judge(text: str, *, in_ram: bool = False) -> None:
    """Raises unless flashtool's output says that it succeeded.

    Raises:
        DeviceError: it reports a failure, or no success.
    """
    for sentence, what, fix in _FAILURES:
        line = next((line.strip() for line in text.splitlines() if sentence in line), None)
        if line is not None:
            raise DeviceError(what, line[:300], fix)
    if _SUCCESS not in text and not in_ram:
        raise DeviceError(
            f"flashtool ended without '{_SUCCESS}': {last_line(text)}",
            "flashtool.py",
            "unplug the board, plug it in again, and repeat",
        )


def _carries(artifact: Path, elf: Path, options: Mapping[str, Any]) -> str:
    """Whether the model is in the application or in the build's data; only told, not required."""
    from edgekit.engines.edgetpu.bundle import open_bundle

    bundle = open_bundle(artifact)
    # the program of the custom operator is what no build step changes
    marker = bundle.model.raw[len(bundle.model.raw) // 2 :][:256]
    if marker in elf.read_bytes():
        return "yes, inside the ELF file"
    for path in elf.parent.rglob(bundle.path.name):
        if path.read_bytes() == bundle.model.raw:
            return "yes, among the data of the build"
    return f"not found: the application may run another model than {bundle.path.name}"


def _on(options: Mapping[str, Any], key: str) -> bool:
    return str(options.get(key, "0")) not in ("0", "", "no", "false")
