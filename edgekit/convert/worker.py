"""The part of a conversion that needs TensorFlow, in a process of its own.

TensorFlow's converter crashes on some models (an LSTM in int8, for one) and cannot be
interrupted while it compiles. In a child process a crash becomes a sentence, and Ctrl-C ends it
at once. The child is ``python -m edgekit.convert.worker FOLDER``: it reads ``request.pickle``
there, writes ``model.tflite`` and ``answer.json``, and prints its progress, a line each.
"""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import errors
from edgekit.convert.quantize import ConversionFailed
from edgekit.errors import EdgekitError
from edgekit.records import from_json, to_json

if TYPE_CHECKING:
    from edgekit.convert.pipeline import Outcome, Request
    from edgekit.convert.sources import Source

#: Marks a line of progress among what a user's Python file may print.
_PROGRESS = "\x01"


def run(source: Source, request: Request, progress: Callable[[str], None]) -> tuple[bytes, Outcome]:
    """Does in a child process what :func:`edgekit.convert.pipeline.from_float` does.

    Raises:
        ConversionFailed: the child crashed.
        EdgekitError: whatever the conversion raised.
    """
    from edgekit.convert.pipeline import Outcome

    with tempfile.TemporaryDirectory(prefix="edgekit-") as name, tempfile.TemporaryFile() as log:
        folder = Path(name)
        (folder / "request.pickle").write_bytes(pickle.dumps((source, request)))
        child = subprocess.Popen(
            [sys.executable, "-m", "edgekit.convert.worker", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
            # Ctrl-C reaches the parent alone, which ends the child.
            start_new_session=True,
        )
        stage = "starting"
        try:
            for line in child.stdout or ():
                if line.startswith(_PROGRESS):
                    stage = line[1:].rstrip()
                    progress(stage)
                else:
                    print(line, end="", file=sys.stderr)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            if child.stdout:
                child.stdout.close()
        answer_file = folder / "answer.json"
        if not answer_file.exists():
            log.seek(0)
            raise _crash(code, stage, log.read().decode("utf-8", "replace"))
        # Plain JSON: nothing that the child made is unpickled here.
        answer = json.loads(answer_file.read_text())
        if "error" in answer:
            raise _error(answer["error"])
        return (folder / "model.tflite").read_bytes(), from_json(Outcome, answer["outcome"])


def _crash(code: int, stage: str, log: str) -> ConversionFailed:
    if code < 0:
        try:
            how = f"crashed ({signal.Signals(-code).name})"
        except ValueError:
            how = f"was ended by signal {-code}"
    else:
        how = f"ended with code {code}"
    fix = None
    if code == -signal.SIGKILL:
        fix = "more memory: the system kills processes that take too much"
    return ConversionFailed(f"TensorFlow's converter {how}", f"while {stage}", fix, log)


def _error(stated: dict[str, Any]) -> EdgekitError:
    if stated["class"] == ConversionFailed.__name__:
        return ConversionFailed(stated["what"], stated["where"], stated["fix"], stated["log"])
    kind: type[EdgekitError] = getattr(errors, stated["class"])
    return kind(stated["what"], stated["where"], stated["fix"])


def main(folder: Path) -> None:
    """The child's work."""
    from edgekit.convert import pipeline

    source, request = pickle.loads((folder / "request.pickle").read_bytes())
    try:
        content, outcome = pipeline.from_float(
            source, request, lambda stage: print(f"{_PROGRESS}{stage}", flush=True)
        )
    except EdgekitError as error:
        kind = type(error).__name__
        answer: dict[str, Any] = {
            "error": {
                "class": kind,
                "what": error.what,
                "where": error.where,
                "fix": error.fix,
                "log": getattr(error, "log", ""),
            }
        }
    else:
        (folder / "model.tflite").write_bytes(content)
        answer = {"outcome": to_json(outcome)}
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
