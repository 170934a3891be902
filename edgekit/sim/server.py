"""A virtual board in a process of its own: ``python -m edgekit.sim.server``.

The first line on standard input is a JSON object (``target``, ``elf``, ``profile``, ``tcp``,
``python_counter``); the process answers with one line, ``{"port": …}`` or ``{"error": …}``.
After that each line in, ``{"do": "counters" | "state" | "reset"}``, gets one line out, and a
fault is told without being asked, ``{"fault": …}``. The board ends when its standard input
does, so that it never outlives whoever started it.

With ``state``, a folder, the board has flash that stays: it starts what was programmed through
its boot ROM (:mod:`edgekit.sim.rom`), and the ELF file, if any, only explains it. ``boot`` is
"rom" when the boot pin or button is held at power-on; ``power_loss_after`` cuts the supply.
``debug_port``, a TCP port or 0, opens the board's debug port (:mod:`edgekit.sim.debug`); the
first answer then has it as ``debug_port``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import EdgekitError
from edgekit.records import from_json, to_json
from edgekit.sim.rom import RESET
from edgekit.sim.rom.memory import EXIT_POWER_LOSS, FlashMemory, PowerLoss

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.debug.core import CoreDebug
    from edgekit.sim.debug.runner import DebugRunner
    from edgekit.sim.debug.server import DebugServer
    from edgekit.sim.line import Line
    from edgekit.sim.rom import Rom
    from edgekit.sim.symbols import Image

#: How long a byte that the firmware sent may wait for more before it leaves
_FLUSH_S = 0.01
#: How often a boot ROM looks around when nothing comes in
_ROM_POLL_S = 0.02


class BoardRunner:
    """Runs a board in a thread and keeps the fault that ended it."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.board.run()
        except PowerLoss:
            os._exit(EXIT_POWER_LOSS)
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


class RomRunner:
    """Runs a boot ROM in a thread until it hands over."""

    def __init__(self, rom: Rom, line: Line) -> None:
        self.rom = rom
        self.error: BaseException | None = None
        self._line = line
        self._wanted = True
        self._thread = threading.Thread(target=self._run, name="rom", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._wanted and self.rom.leaves_to is None:
                self._line.wait(_ROM_POLL_S)
                answer = self.rom.step(self._line.read())
                if answer:
                    self._line.write(answer)
        except PowerLoss:
            os._exit(EXIT_POWER_LOSS)
        except BaseException as error:  # told by whoever started the thread
            self.error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._wanted = False
        self._line.wake()
        self._thread.join(timeout=2)
        self.rom.close()


class Supply:
    """A board under power: what resets it, and whether it is in its ROM or in its firmware.

    Raises:
        UsageError: the setup asks for a board that cannot be.
    """

    def __init__(self, setup: dict[str, Any], line: Line) -> None:
        from edgekit.targets import Target

        self.target: Target = from_json(Target, setup["target"])
        self.error: BaseException | None = None
        self._setup = setup
        self._line = line
        self._elf = Path(setup["elf"]) if setup.get("elf") else None
        self._flash: FlashMemory | None = None
        self._board: Board | None = None
        self._runner: BoardRunner | RomRunner | DebugRunner | None = None
        self._debugged: DebugRunner | None = None
        self._known = False
        self._changing = threading.RLock()
        self._held = False
        if setup.get("state"):
            self._flash = FlashMemory(
                self.target, Path(setup["state"]), setup.get("power_loss_after")
            )
        self._debug_server: DebugServer | None = None
        rom = setup.get("boot") == "rom"
        if setup.get("debug_port") is not None:
            self._start_debugged(int(setup["debug_port"]), rom=rom)
        else:
            self._start(rom=rom)

    @property
    def board(self) -> Board | None:
        if self._debugged is not None:
            return None if self.in_rom else self._debugged.board
        return None if self.in_rom else self._board

    @property
    def in_rom(self) -> bool:
        return self._rom is not None

    @property
    def _rom(self) -> Rom | None:
        if self._debugged is not None:
            return self._debugged.rom
        return self._runner.rom if isinstance(self._runner, RomRunner) else None

    @property
    def running(self) -> bool:
        return self._runner is not None and self._runner.running

    @property
    def volume(self) -> Path | None:
        """Where the ROM's drive is mounted."""
        rom = self._rom
        return rom.volume if rom is not None else None

    @property
    def debug_port(self) -> int | None:
        """The TCP port where debuggers attach."""
        return self._debug_server.port if self._debug_server is not None else None

    @property
    def flash_operations(self) -> int:
        """Pages erased and units programmed since power was applied."""
        return self._flash.operations if self._flash is not None else 0

    @property
    def counter_title(self) -> str:
        board = self._debugged.board if self._debugged is not None else self._board
        return board.counter.title if board is not None else "compiled"

    def _start(self, *, rom: bool, address: int | None = None) -> None:
        from edgekit.sim.board import Fault
        from edgekit.sim.families import has_debug_port
        from edgekit.sim.rom import has_rom, start_rom, takes_over, wants_rom

        self.error = None
        flash = self._flash
        by_debug_port_only = not has_rom(self.target) and has_debug_port(self.target)
        if flash is None or by_debug_port_only or address is not None:
            rom = rom and flash is not None
        else:
            rom = rom or wants_rom(self.target, flash)
        if rom and flash is not None:
            self._board = None
            self._runner = RomRunner(start_rom(self.target, flash, flash.folder), self._line)
            return
        try:
            board = self._make_board(self._image())
        except Fault:
            if flash is None or not takes_over(self.target):
                raise
            self._start(rom=True)
            return
        if address is not None:
            board.start_at(address)
        self._board = board
        self._runner = BoardRunner(board)

    def _image(self) -> Path | Image:
        """What is known of the program that runs."""
        from edgekit.sim.symbols import Image, UnknownImage

        if self._elf is None:
            return UnknownImage()
        if self._flash is None:
            return self._elf
        known = Image(self._elf)
        return known if self._flash.holds(known) else UnknownImage()

    def _make_board(self, image: Path | Image, debug: CoreDebug | None = None) -> Board:
        from edgekit.sim import board_class

        return board_class(self.target)(
            self.target,
            image,
            profile=bool(self._setup.get("profile")),
            line=self._line,
            python_counter=bool(self._setup.get("python_counter")),
            flash=self._flash,
            debug=debug,
        )

    def _start_debugged(self, port: int, *, rom: bool) -> None:
        """The board with a debug port, which stays open through every reset."""
        from edgekit.sim.debug.core import CoreDebug
        from edgekit.sim.debug.runner import DebugRunner
        from edgekit.sim.debug.server import DebugServer
        from edgekit.sim.families import wiring
        from edgekit.sim.rom import has_rom, start_rom, wants_rom
        from edgekit.sim.symbols import UnknownImage

        target, flash = self.target, self._flash
        pins = wiring(target)
        core = CoreDebug(str(target.core), target.isa)

        def make_board() -> Board | None:
            image = self._image()
            known = not isinstance(image, UnknownImage)
            if self._debugged is not None and known == self._known:
                return None  # the one that there is
            self._known = known
            return self._make_board(image, core)

        def make_rom(wanted: bool) -> Rom | None:
            if flash is None or not has_rom(target):
                return None
            if not wanted and not wants_rom(target, flash):
                return None
            return start_rom(target, flash, flash.folder)

        self._debugged = DebugRunner(core, pins, self._line, make_board, make_rom, rom=rom)
        self._runner = self._debugged
        self._debug_server = DebugServer(port, lambda: self._debugged, target.name)

    def _stop(self) -> None:
        if self._runner is not None:
            self._runner.stop()
            self._runner = None

    def attend(self) -> None:
        """Lets go of what the firmware has sent, and follows the ROM to where it leaves."""
        with self._changing:
            runner = self._runner
            if runner is not None and not isinstance(runner, RomRunner):
                runner.flush()
                self.error = runner.error
            elif runner is not None:
                self.error = runner.error
                leaves_to = runner.rom.leaves_to
                if leaves_to is not None and not runner.running:
                    self._stop()
                    self._try_to_start(address=leaves_to if leaves_to != RESET else None)

    def _try_to_start(self, *, rom: bool = False, address: int | None = None) -> None:
        try:
            self._start(rom=rom, address=address)
        except EdgekitError as error:
            self.error = error

    def restart(self, *, rom: bool = False) -> None:
        """A reset from outside: the board starts again, memory and all."""
        with self._changing:
            if self._debugged is not None:
                self._debugged.restart(rom=rom)
                return
            self._stop()
            if self._flash is None and self._board is not None:
                self._board.reset()
                self._board.fault = None
                self.error = None
                self._runner = BoardRunner(self._board)
            else:
                self._try_to_start(rom=rom)

    def set_lines(self, dtr: bool, rts: bool) -> None:
        """The serial adapter's lines, wired to reset and boot selection as is the custom."""
        from edgekit.sim.rom import boot_pins

        if self._flash is None:
            return
        with self._changing:
            held, rom = boot_pins(self.target, dtr=dtr, rts=rts)
            if self._debugged is not None:
                if held and not self._held:
                    self._debugged.hold()
                elif not held and self._held:
                    self._debugged.release(rom=rom)
                self._held = held
                return
            if held and not self._held:
                self._stop()
            elif not held and self._held:
                self._stop()
                # what is in the air during a reset reaches nobody
                self._line.read()
                self._try_to_start(rom=rom)
            self._held = held

    def close(self) -> None:
        with self._changing:
            if self._debug_server is not None:
                self._debug_server.close()
            self._stop()


def serve_lines(supply: Supply, name: str) -> None:
    """Takes the modem lines that a pseudo-terminal lacks from tools that set them.

    See :mod:`edgekit.flashers.modem_lines`, the other side. Each change is acknowledged, so
    that what is sent after it reaches a board that has seen it.
    """
    if not sys.platform.startswith("linux"):
        return
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(f"\0edgekit-lines:{name}")
    server.listen()

    def run() -> None:
        while True:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.settimeout(5)
                message = client.recv(2)
                if len(message) == 2:
                    supply.set_lines(message[:1] == b"1", message[1:] == b"1")
                    client.sendall(b"+")

    threading.Thread(target=run, name="lines", daemon=True).start()


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


def _answer(runner: Supply, request: dict[str, Any]) -> dict[str, Any]:
    board = runner.board
    what = request.get("do")
    if what == "reset":
        runner.restart(rom=request.get("boot") == "rom")
        return {"reset": True}
    if what == "state" and runner.in_rom:
        return {"running": True, "rom": True, "reports": [], "instructions": 0, "clock_hz": 0,
                "flash_operations": runner.flash_operations}  # fmt: skip
    if board is None:
        return {
            "error": {"what": "the board is in its boot ROM", "where": None, "fix": None,
                      "exit_code": 6}
        }  # fmt: skip
    if what == "counters":
        return {"counters": to_json(board.counters(request.get("model")))}
    if what == "state":
        return {
            "running": runner.running,
            "rom": False,
            "reports": list(board.reports),
            "instructions": board.counter.instructions,
            "clock_hz": round(board.cpu_hz()),
            "flash_operations": runner.flash_operations,
        }
    return {"error": {"what": f"unknown request {what!r}", "where": None, "fix": None}}


def _tell(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def serve(source: TextIO, out: TextIO) -> int:
    """Runs one board until ``source`` ends. Returns an exit code."""
    setup = json.loads(source.readline() or "{}")
    try:
        line = make_line(setup.get("tcp"))
        supply = Supply(setup, line)
    except EdgekitError as error:
        _tell(out, {"error": describe_error(error)})
        return error.exit_code
    if setup.get("state") and setup.get("tcp") is None:
        serve_lines(supply, line.name)
    volume = supply.volume
    _tell(
        out,
        {
            "port": line.name,
            "counter": supply.counter_title,
            "volume": str(volume) if volume is not None else None,
            "debug_port": supply.debug_port,
        },
    )
    told = False
    pending = b""
    descriptor = source.fileno()
    while True:
        supply.attend()
        if supply.error is None:
            if told:
                _tell(out, {"fault": None})
            told = False
        elif not told:
            _tell(out, {"fault": describe_error(supply.error)})
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
                answer = _answer(supply, json.loads(text))
            except EdgekitError as error:
                answer = {"error": describe_error(error)}
            _tell(out, answer)
    supply.close()
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
