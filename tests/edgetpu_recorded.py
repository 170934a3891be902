"""A recorded ``edgetpu_compiler``: a program on PATH that replays output, exit code and files.

The code under test starts it as it would start the real one. Each run takes the next recording
(the last one for all further runs) and appends its arguments to ``calls.json``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = """#!{python}
import json, os, shutil, sys, time
folder = {folder!r}
calls = json.load(open(os.path.join(folder, "calls.json")))
calls.append(sys.argv[1:])
json.dump(calls, open(os.path.join(folder, "calls.json"), "w"))
runs = json.load(open(os.path.join(folder, "runs.json")))
run = runs[min(len(calls), len(runs)) - 1]
out = sys.argv[sys.argv.index("-o") + 1] if "-o" in sys.argv else "."
for name, source in run["files"].items():
    shutil.copyfile(source, os.path.join(out, name))
time.sleep(run["seconds"])
sys.stdout.write(run["stdout"])
sys.stdout.flush()
if run["signal"]:
    os.kill(os.getpid(), run["signal"])
sys.exit(run["code"])
"""


@dataclass
class Recording:
    """One run: what is printed, the exit code, and files (name in the output folder, content)."""

    stdout: str
    code: int = 0
    files: dict[str, Path] = field(default_factory=dict)
    seconds: float = 0.0
    signal: int = 0


class Recorded:
    """The recorded compiler on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "edgetpu_compiler"
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def plays(self, *runs: Recording) -> None:
        (self.folder / "calls.json").write_text("[]")
        rows: list[dict[str, Any]] = [
            {**vars(run), "files": {name: str(path) for name, path in run.files.items()}}
            for run in runs
        ]
        (self.folder / "runs.json").write_text(json.dumps(rows))

    @property
    def calls(self) -> list[list[str]]:
        calls: list[list[str]] = json.loads((self.folder / "calls.json").read_text())
        return calls


def real_outputs(shared: Path) -> dict[int, str]:
    """The real standard outputs of the reference, by their number."""
    text = (shared / "reference" / "edgetpu_compiler_stdout.txt").read_text()
    parts = re.split(r"^##### (\d+)\..*$\n", text, flags=re.MULTILINE)[1:]
    return {int(number): body for number, body in zip(parts[::2], parts[1::2], strict=True)}


def success(name: str, rows: Sequence[tuple[str, int, str]], **fields: str) -> str:
    """What version 16 prints after a success, in its real format, for one model."""
    total = sum(count for _, count, _ in rows)
    mapped = sum(count for _, count, status in rows if status == "Mapped to Edge TPU")
    table = "".join(f"{op:<30} {count:<10} {status}\n" for op, count, status in rows)
    return (
        "Edge TPU Compiler version 16.0.384591198\n"
        "Started a compilation timeout timer of 180 seconds.\n\n"
        "Model compiled successfully in 54 ms.\n\n"
        f"Input model: {name}.tflite\n"
        f"Input size: {fields.get('input_size', '1.83KiB')}\n"
        f"Output model: {name}_edgetpu.tflite\n"
        f"Output size: {fields.get('output_size', '57.13KiB')}\n"
        f"On-chip memory used for caching model parameters: {fields.get('cached', '192.00B')}\n"
        "On-chip memory remaining for caching model parameters: 7.88MiB\n"
        "Off-chip memory used for streaming uncached model parameters: "
        f"{fields.get('streamed', '0.00B')}\n"
        "Number of Edge TPU subgraphs: 1\n"
        f"Total number of operations: {total}\n"
        f"Operation log: {name}_edgetpu.log\n\n"
        f"Number of operations that will run on Edge TPU: {mapped}\n"
        f"Number of operations that will run on CPU: {total - mapped}\n\n"
        "Operator                       Count      Status\n\n"
        f"{table}"
        "Compilation child process completed within timeout period.\n"
        "Compilation succeeded! \n"
    )
