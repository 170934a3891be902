"""A virtual board for the length of a command: ``virtual``, ``virtual:profile``.

``virtual:state=FOLDER`` is a board whose flash stays in a folder: it starts what was programmed
into it (``edgekit flash --port virtual:state=FOLDER``) and not the ELF file.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import DeviceError, EdgekitError, UsageError
from edgekit.links.pty import FileLink
from edgekit.links.pty import open as open_terminal
from edgekit.records import Firmware, from_json, to_json
from edgekit.targets import Target

if TYPE_CHECKING:
    from edgekit.sim.board import Counters

#: A board must be up within this many seconds; compiling the counter is part of it once.
_START_S = 120.0
_ANSWER_S = 30.0


def _start_failed(answer: dict[str, Any]) -> EdgekitError:
    """The error of the board's process, as the class that has its exit code."""
    from edgekit import errors

    classes = {
        kind.exit_code: kind
        for kind in (errors.UsageError, errors.MissingDependency, errors.DeviceError)
    }
    kind = classes.get(answer.get("exit_code", 6), DeviceError)
    return kind(answer["what"], answer.get("where"), answer.get("fix"))


class VirtualLink:
    """The serial line of a board that runs in a process of its own.

    The board's process ends with the link: it watches a pipe that closes with this process,
    however that ends.
    """

    def __init__(
        self,
        target: Target,
        elf: Path | None,
        *,
        profile: bool = False,
        tcp: int | None = None,
        python_counter: bool = False,
        connect: bool = True,
        state: Path | None = None,
        boot_rom: bool = False,
        power_loss_after: int | None = None,
        debug_port: int | None = None,
    ) -> None:
        """Starts the board; without ``connect`` its terminal is left to another program.

        Args:
            state: folder of a board whose flash stays; ``elf`` only explains what runs then.
            boot_rom: hold the boot pin or button at power-on.
            power_loss_after: operations of the flash after which the supply is cut.
            debug_port: TCP port for debuggers, 0 for any free one.

        Raises:
            UsageError: the target cannot be simulated, or the file is not for it.
            MissingDependency: a package of the simulator is not installed.
            DeviceError: the board did not start.
        """
        self.name = f"virtual {target.name}"
        self.target = target
        self._fault: dict[str, Any] | None = None
        self._lines: list[dict[str, Any]] = []
        self._pending = b""
        self._terminal: FileLink | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.sim.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # a process group of its own: Ctrl-C is ours to handle
            start_new_session=True,
        )
        try:
            setup = {
                "target": to_json(target),
                "elf": str(Path(elf).resolve()) if elf is not None else None,
                "profile": profile,
                "tcp": tcp,
                "python_counter": python_counter,
                "state": str(state.resolve()) if state is not None else None,
                "boot": "rom" if boot_rom else "auto",
                "power_loss_after": power_loss_after,
                "debug_port": debug_port,
            }
            self._ask_raw(setup)
            answer = self._answer(_START_S)
            if "error" in answer:
                raise _start_failed(answer["error"])
            self.port = str(answer["port"])
            #: how blocks are counted: compiled, or slowly in Python
            self.counter_title = str(answer["counter"])
            #: the drive that its boot ROM offers
            self.volume = Path(answer["volume"]) if answer.get("volume") else None
            #: the TCP port on this machine where debuggers attach
            self.debug_port: int | None = answer.get("debug_port")
            if tcp is None and connect:
                self._terminal = open_terminal(self.port, target, None)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The board's process."""
        return self._process.pid

    # out of band

    def _ask_raw(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._ended() from None

    def _collect(self, timeout_s: float) -> None:
        """Takes in what the board's process says; faults are kept apart from answers."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, timeout_s))
        if not ready:
            return
        data = os.read(self._process.stdout.fileno(), 65536)
        if not data:
            raise self._ended()
        self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "fault" in message:
                self._fault = message["fault"]
            else:
                self._lines.append(message)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while not self._lines:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeviceError(
                    f"the virtual board's process said nothing for {timeout_s:g} s", self.name
                )
            self._collect(min(left, 1.0))
        return self._lines.pop(0)

    def _request(self, message: dict[str, Any]) -> dict[str, Any]:
        self._ask_raw(message)
        answer = self._answer(_ANSWER_S)
        if "error" in answer:
            raise _start_failed(answer["error"])
        return answer

    def _ended(self) -> DeviceError:
        from edgekit.sim.rom.memory import EXIT_POWER_LOSS

        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.returncode
        if code == EXIT_POWER_LOSS:
            return DeviceError("the virtual board lost power", self.name)
        return DeviceError(f"the virtual board's process ended (code {code})", self.name)

    def check_fault(self) -> None:
        """Raises what stopped the board.

        Raises:
            DeviceError: the fault, with function and line.
        """
        if self._fault is not None:
            raise DeviceError(
                f"the virtual board stopped: {self._fault['what']}",
                self._fault.get("where"),
                self._fault.get("fix"),
            )

    def counters(self, model: str | None = None) -> Counters:
        """Executed instructions of the last inference, in all, by step and by function.

        Raises:
            DeviceError: the board has stopped.
            UsageError: the firmware has no such model.
        """
        from edgekit.sim.board import Counters

        self.check_fault()
        return from_json(Counters, self._request({"do": "counters", "model": model})["counters"])

    def counters_or_none(self) -> Counters | None:
        """The counters, or ``None`` when the firmware holds no model; after a fault as well."""
        from edgekit.sim.board import Counters

        try:
            answer = self._request({"do": "counters"})
        except UsageError:
            return None
        return from_json(Counters, answer["counters"])

    def wait(self) -> None:
        """Returns when the board stops by itself: a fault, which :meth:`check_fault` raises."""
        while self._fault is None:
            self._collect(1.0)

    def take_fault(self) -> str:
        """What stopped the board, and where; it is not raised any more."""
        fault, self._fault = self._fault or {}, None
        where = fault.get("where")
        return f"the virtual board stopped: {fault.get('what')}" + (f" ({where})" if where else "")

    def state(self) -> dict[str, Any]:
        """``running``, ``reports`` (what a real board would not forgive), ``instructions``
        since the start, ``clock_hz`` from the clock registers, ``flash_operations`` (pages
        erased and units programmed)."""
        return self._request({"do": "state"})

    def reset(self, *, boot_rom: bool = False) -> None:
        """What the reset button does, with the boot pin or button held or not."""
        self._fault = None
        self._request({"do": "reset", "boot": "rom" if boot_rom else "auto"})

    # the serial line

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if self._terminal is None:
            raise UsageError("this board's line is a TCP port", self.port, f"tcp:{self.port}")
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(0.0, deadline - time.monotonic())
            watched: list[Any] = [self._terminal.fileno(), self._process.stdout]
            ready, _, _ = select.select(watched, [], [], left)
            if self._process.stdout in ready:
                self._collect(0)
            if self._terminal.fileno() in ready:
                return self._terminal.read(max_bytes, 0)
            self.check_fault()
            if not ready:
                return b""

    def write(self, data: bytes) -> None:
        if self._terminal is None:
            raise UsageError("this board's line is a TCP port", self.port, f"tcp:{self.port}")
        self.check_fault()
        self._terminal.write(data)

    def close(self) -> None:
        if self._terminal is not None:
            self._terminal.close()
            self._terminal = None
        process = self._process
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def find_elf(path: Path) -> Path:
    """The ELF file that ``path`` is, or that a folder of ``edgekit build`` holds.

    Raises:
        UsageError: there is none.
    """
    if not path.is_dir():
        if not path.exists():
            raise UsageError("there is no such firmware", str(path), "edgekit build --help")
        return path
    from edgekit.build import load_firmware

    return load_firmware(path).elf


def state_folder(rest: str) -> Path | None:
    """The folder in ``state=FOLDER`` among the options behind ``virtual:``.

    Raises:
        UsageError: there is no such folder.
    """
    for option in rest.split(","):
        if option.startswith("state="):
            folder = Path(option.partition("=")[2])
            if not folder.is_dir():
                raise UsageError(
                    "there is no board's state in this folder",
                    str(folder),
                    f"edgekit flash FIRMWARE --port virtual:{option}",
                )
            return folder
    return None


def open(rest: str, target: Target | None, firmware: Firmware | None) -> VirtualLink:
    """Starts a virtual board with a firmware; ``profile`` in ``rest`` counts features too,
    ``state=FOLDER`` starts what was flashed into the board of that folder.

    Raises:
        UsageError: no target or no firmware is given, or the target cannot be simulated.
        DeviceError: the board did not start.
    """
    if target is None or firmware is None:
        raise UsageError(
            "a virtual board needs a target and a firmware",
            "--port virtual",
            "edgekit build ARTIFACT-FOLDER, then give its folder",
        )
    options = set(filter(None, rest.split(",")))
    states = {option for option in options if option.startswith("state=")}
    unknown = options - {"profile", "python"} - states
    if unknown or len(states) > 1:
        raise UsageError(
            f"virtual has no option '{', '.join(sorted(unknown or states))}'",
            f"--port virtual:{rest}",
            "virtual, virtual:profile, or virtual:state=FOLDER",
        )
    link = VirtualLink(
        target,
        firmware.elf,
        profile="profile" in options,
        python_counter="python" in options,
        state=state_folder(rest),
    )
    if link.counter_title != "compiled" and "python" not in options:
        from edgekit.console import warn

        warn(f"the virtual board counts in {link.counter_title}")
    return link
