"""Installs a compiled model on a Coral Dev Board, by mdt or by plain ssh.

The board's operating system is never touched: files go into the user's home folder, and one
inference is run there by the board's own Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import DeviceError, EdgekitError, MissingDependency, UsageError
from edgekit.installers import Report, Step, last_line, run_step

if TYPE_CHECKING:
    from edgekit.engines.edgetpu.bundle import Bundle
    from edgekit.targets import Target

NAME = "mdt"
TITLE = "Mendel Development Tool, or ssh"
OPTIONS: Mapping[str, str] = {
    "host": "user@host: use ssh and scp instead of mdt",
    "board": "which board, as mdt devices names it (default: the only one)",
    "labels": "labels file to install (default: the one beside the model)",
    "folder": "folder on the board (default: edgekit, in the home folder)",
}
_INSTALL = {
    "mdt": "pip install mendel-development-tool, or --port ssh:mendel@ADDRESS",
    "ssh": "sudo apt install openssh-client",
    "scp": "sudo apt install openssh-client",
}
_SSH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
RUNNER = "remote_runner.py"
#: A line of `mdt devices`: the board's name, then its address.
_BOARD = re.compile(r"[\w-]+\s+\(?(\d+(\.\d+){3}|[0-9a-fA-F]*:[0-9a-fA-F:]+)")
_SETUP = "on the board: sudo apt update && sudo apt install libedgetpu1-std python3-tflite-runtime"


def plan(artifact: Path, target: Target, options: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps; asks no board."""
    return tuple(step for step, _ in _steps(_bundle(artifact, options), options, 0, 1))


def flash(
    artifact: Path, target: Target, options: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Copies the files and runs one inference on the board.

    Raises:
        MissingDependency: mdt or ssh is not installed.
        DeviceError: no board answers, or the model does not run there.
    """
    answer = execute(_bundle(artifact, options), options, 0, 1, report)
    return {
        "kind": "measured",
        "first_inference_us": answer["first_us"],
        "files": [path.name for path in _bundle(artifact, options).files],
        "folder": _folder(_bundle(artifact, options), options),
    }


def find_board(options: Mapping[str, Any]) -> None:
    """Raises when there is no way to a board: no mdt or ssh, or mdt finds none.

    Raises:
        MissingDependency: mdt or ssh is not installed.
        DeviceError: mdt finds no board.
    """
    import shutil

    program = "ssh" if "host" in options else "mdt"
    step = Step("devices", "find the board", ("mdt", "devices"))
    if shutil.which(program) is None:
        raise MissingDependency(f"{program} is not installed", step.what, _INSTALL[program])
    if program == "mdt":
        _require_board(run_step(step, install=_INSTALL[program]), step)


def execute(
    bundle: Bundle,
    options: Mapping[str, Any],
    warmups: int,
    runs: int,
    report: Report,
    inputs: Path | None = None,
) -> dict[str, Any]:
    """Installs, runs, and returns what the runner on the board printed.

    ``inputs`` holds the bytes of all input tensors; without it they are zeros.

    Raises:
        MissingDependency: mdt or ssh is not installed.
        DeviceError: no board answers, or the model does not run there.
    """
    answer: dict[str, Any] | None = None
    for step, judge in _steps(bundle, options, warmups, runs, inputs):
        limit_s = 120.0 + runs
        text = run_step(step, install=_INSTALL[step.command[0]], timeout_s=limit_s)
        if judge == "devices":
            report(step, _require_board(text, step))
        elif judge == "answer":
            answer = _answer(text, step)
            report(step, f"{answer['first_us'] / 1000:.2f} ms (measured, upload included)")
        else:
            report(step, "done")
    if answer is None:
        raise RuntimeError("the last step is the inference")
    return answer


def _steps(
    bundle: Bundle,
    options: Mapping[str, Any],
    warmups: int,
    runs: int,
    inputs: Path | None = None,
) -> list[tuple[Step, str]]:
    folder = _folder(bundle, options)
    runner = Path(__file__).parents[1] / "engines" / "edgetpu" / RUNNER
    files = [*bundle.files, runner, *([inputs] if inputs is not None else [])]
    names = ", ".join(path.name for path in files)
    inference = f"python3 {folder}/{RUNNER} {folder}/{bundle.path.name} {warmups} {runs}"
    if inputs is not None:
        inference += f" {folder}/{inputs.name}"
    host = options.get("host")
    if host is not None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.@:-]*", str(host)):
            raise UsageError(f"'{host}' is no user@host", "--set host")
        ssh = ("ssh", *_SSH, str(host))
        return [
            (Step("folder", f"make the folder {folder}", (*ssh, f"mkdir -p {folder}")), ""),
            (
                Step(
                    "push",
                    f"copy {names}",
                    ("scp", *_SSH, *map(str, files), f"{host}:{folder}/"),
                ),
                "",
            ),
            (Step("inference", "run one inference on the board", (*ssh, inference)), "answer"),
        ]
    board = options.get("board")
    if board is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(board)):
        raise UsageError(f"'{board}' is no name of a board", "--set board")
    chosen = ("-d", str(board)) if board is not None else ()
    return [
        (Step("devices", "find the board", ("mdt", "devices")), "devices"),
        (
            Step(
                "folder",
                f"make the folder {folder}",
                ("mdt", "exec", *chosen, f"mkdir -p {folder}"),
            ),
            "",
        ),
        (
            Step("push", f"copy {names}", ("mdt", "push", *chosen, *map(str, files), f"{folder}/")),
            "",
        ),
        (
            Step(
                "inference", "run one inference on the board", ("mdt", "exec", *chosen, inference)
            ),
            "answer",
        ),
    ]


def _require_board(text: str, step: Step) -> str:
    """mdt exits 0 whether it finds a board or not: its list tells.

    Raises:
        DeviceError: the list is empty.
    """
    boards = [line.strip() for line in text.splitlines() if _BOARD.match(line.strip())]
    if not boards:
        raise DeviceError(
            "mdt finds no Dev Board",
            step.what,
            "connect the board's USB-C data port, wait a minute for it to start; "
            "or --port ssh:mendel@ADDRESS",
        )
    return "; ".join(boards)


def _answer(text: str, step: Step) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and "error" in answer:
            raise _explained(str(answer["error"]), str(answer.get("kind")), step)
        if isinstance(answer, dict) and "first_us" in answer and "latencies_us" in answer:
            return answer
    raise DeviceError(f"the model did not run on the board: {last_line(text)}", step.what, _SETUP)


def _explained(text: str, kind: str, step: Step) -> EdgekitError:
    """The sentence for an exception on the board."""
    from edgekit.runtimes.edgetpu import LIBRARIES, explain

    if kind in ("ImportError", "ModuleNotFoundError"):
        return MissingDependency(f"the board's Python says: {text}", step.what, _SETUP)
    error = {"OSError": OSError, "ValueError": ValueError}.get(kind, RuntimeError)(text)
    found = explain(error, "", LIBRARIES["linux"], "the board's TensorFlow Lite")
    found.where = step.what
    if isinstance(found, MissingDependency):
        found.fix = _SETUP
    return found


def _folder(bundle: Bundle, options: Mapping[str, Any]) -> str:
    folder = str(options.get("folder", "edgekit"))
    if not re.fullmatch(r"[\w./-]+", folder):
        raise UsageError(f"'{folder}' is no plain folder name", "--set folder")
    name = re.sub(r"[^\w.-]", "_", bundle.name)
    return f"{folder.rstrip('/')}/{name}"


def _bundle(artifact: Path, options: Mapping[str, Any]) -> Bundle:
    from edgekit.engines.edgetpu.bundle import open_bundle

    labels = options.get("labels")
    return open_bundle(artifact, labels=Path(labels) if labels else None)
