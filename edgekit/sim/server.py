"""A virtual board in a process of its own: ``python -m edgekit.sim.server``.

The first line on standard input is a JSON object (``target``, ``elf``, ``profile``, ``tcp``,
``python_counter``); the process answers with one line, ``{"port": …}`` or ``{"error": …}``.
After that each line in, ``{"do": "counters" | "state" | "reset"}``, gets one line out, and a
fault is told without being asked, ``{"fault": …}``. The board ends when its standard input
does, so that it never outlives whoever started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import EdgekitError
from edgekit.records import from_json, to_json

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.line import Line
    from edgekit.targets import Target

#: How long a byte that the firmware sent may wait for more before it leaves
_FLUSH_S = 0.01


class Runner:
    """Runs a board in a thread and keeps the fault that ended it."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.board.run()
        except BaseException as error:  # told by whoever started the thread
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def flush(self) -> None:
        """Lets go of what the firmware has sent."""
        self.board.flush()

    def stop(self) -> None:
        self.board.stop()
        self._thread.join(timeout=2)

    def restart(self) -> None:
        """A reset from outside: the board starts again, memory and all."""
        self.stop()
        self.board.reset()
        self.board.fault = None
        self.error = None
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()


def make_line(tcp: int | None) -> Line:
    """A pseudo-terminal, or a TCP port on this machine (0: any free one).

    Raises:
        DeviceError: the port is taken, or the system has no pseudo-terminals.
    """
    from edgekit.errors import DeviceError
    from edgekit.sim.line import PtyLine, TcpLine

    try:
        if tcp is not None:
            return TcpLine(tcp)
        return PtyLine()
    except OSError as error:
        where = f"tcp:{tcp}" if tcp is not None else "a pseudo-terminal"
        raise DeviceError(f"cannot open {where}: {error.strerror}", fix="--tcp PORT") from None


def describe_error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, EdgekitError):
        return {"what": error.what, "where": error.where, "fix": error.fix,
                "exit_code": error.exit_code}  # fmt: skip
    return {"what": f"the simulator failed: {type(error).__name__}: {error}", "where": None,
            "fix": None, "exit_code": 1}  # fmt: skip


def _answer(runner: Runner, request: dict[str, Any]) -> dict[str, Any]:
    board = runner.board
    what = request.get("do")
    if what == "counters":
        return {"counters": to_json(board.counters(request.get("model")))}
    if what == "state":
        return {
            "running": runner.running,
            "reports": list(board.reports),
            "instructions": board.counter.instructions,
            "clock_hz": round(board.cpu_hz()),
        }
    if what == "reset":
        runner.restart()
        return {"reset": True}
    return {"error": {"what": f"unknown request {what!r}", "where": None, "fix": None}}


def _tell(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def serve(source: TextIO, out: TextIO) -> int:
    """Runs one board until ``source`` ends. Returns an exit code."""
    from edgekit.sim.board import Board
    from edgekit.targets import Target

    setup = json.loads(source.readline() or "{}")
    try:
        target: Target = from_json(Target, setup["target"])
        line = make_line(setup.get("tcp"))
        board = Board(
            target,
            Path(setup["elf"]),
            profile=bool(setup.get("profile")),
            line=line,
            python_counter=bool(setup.get("python_counter")),
        )
    except EdgekitError as error:
        _tell(out, {"error": describe_error(error)})
        return error.exit_code
    _tell(out, {"port": line.name, "counter": board.counter.title})
    runner = Runner(board)
    told = False
    pending = b""
    descriptor = source.fileno()
    while True:
        runner.flush()
        if runner.error is not None and not told:
            _tell(out, {"fault": describe_error(runner.error)})
            told = True
        ready, _, _ = select.select([descriptor], [], [], _FLUSH_S if not told else 0.2)
        if not ready:
            continue
        data = os.read(descriptor, 65536)
        if not data:
            break
        pending += data
        *lines, pending = pending.split(b"\n")
        for text in lines:
            try:
                answer = _answer(runner, json.loads(text))
            except EdgekitError as error:
                answer = {"error": describe_error(error)}
            _tell(out, answer)
    runner.stop()
    line.close()
    return 0


def main() -> int:
    # Ctrl-C goes to the whole group of processes; the end of standard input is our signal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        code = serve(sys.stdin, sys.stdout)
        # a thread that is deep in an inference must not hold the process
        sys.stdout.flush()
        os._exit(code)
    os._exit(0)


if __name__ == "__main__":
    main()
