"""The firmware in QEMU, where a machine fits the target: ``qemu`` (``qemu:shift=N``).

An independent second opinion on outputs and instruction counts. Time in QEMU is counted in
instructions (``-icount``): each takes ``2**shift`` nanoseconds, so that a timer of known
frequency counts executed instructions exactly once an instruction is at least one tick.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from edgekit.errors import DeviceError, MissingDependency, UsageError
from edgekit.links.pty import FileLink
from edgekit.records import Firmware
from edgekit.targets import Target

#: 64 ns per instruction: 1.6 ticks of a 25 MHz timer, which wraps after 2,684 million
#: instructions.
DEFAULT_SHIFT = 6
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs in the child before QEMU starts: it must not outlive us, however we end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class QemuLink:
    """The UART of a machine that QEMU simulates; ends with the link."""

    def __init__(self, machine: str, elf: Path, *, shift: int = DEFAULT_SHIFT) -> None:
        """Starts QEMU.

        Raises:
            MissingDependency: ``qemu-system-arm`` is not installed.
        """
        program = shutil.which("qemu-system-arm")
        if program is None:
            raise MissingDependency(
                "qemu-system-arm is not installed",
                "--port qemu",
                "install QEMU (Debian: apt install qemu-system-arm), or --port virtual",
            )
        self.name = f"qemu {machine}"
        self.machine = machine
        #: simulated time of an instruction
        self.instruction_ns = 1 << shift
        # open as long as QEMU runs; close() closes it
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [
                program,
                "-machine", machine,
                "-kernel", str(elf),
                "-icount", f"shift={shift},sleep=off",
                "-display", "none",
                "-monitor", "none",
                "-parallel", "none",
                "-chardev", "stdio,id=uart,signal=off",
                "-serial", "chardev:uart",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._line = FileLink(
            self.name, self._process.stdout.fileno(), self._process.stdin.fileno()
        )

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    def instructions(self, ticks: int, tick_hz: int) -> int:
        """Executed instructions in a difference of a timer's readings.

        Raises:
            UsageError: the timer is too coarse to tell single instructions apart.
        """
        per_instruction = tick_hz * self.instruction_ns / 1e9
        if per_instruction < 1:
            raise UsageError(
                f"a tick of {tick_hz:,} Hz is longer than an instruction of "
                f"{self.instruction_ns} ns",
                fix=f"--port qemu:shift={(10**9 // tick_hz).bit_length()}",
            )
        return round(ticks / per_instruction)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        try:
            return self._line.read(max_bytes, timeout_s)
        except DeviceError:
            raise self._ended() from None

    def write(self, data: bytes) -> None:
        try:
            self._line.write(data)
        except DeviceError:
            raise self._ended() from None

    def _ended(self) -> DeviceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip().splitlines()
        reason = f": {said[0]}" if said else ""
        return DeviceError(
            f"QEMU ended (code {self._process.returncode}){reason}",
            self.name,
            "--port virtual names the function and line of a fault",
        )

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._messages.close()


def open(rest: str, target: Target | None, firmware: Firmware | None) -> QemuLink:
    """Starts QEMU on a firmware; ``shift=N`` sets an instruction to ``2**N`` ns.

    Raises:
        UsageError: no firmware is given, or QEMU has no machine for the target.
        MissingDependency: QEMU is not installed.
    """
    if target is None or firmware is None:
        raise UsageError(
            "QEMU needs a target and a firmware",
            "--port qemu",
            "edgekit build ARTIFACT-FOLDER, then give its folder",
        )
    machine = target.sim.get("qemu")
    if not machine:
        raise UsageError(
            f"QEMU has no machine for {target.name}",
            "--port qemu",
            "--port virtual",
        )
    shift = DEFAULT_SHIFT
    if rest:
        key, _, value = rest.partition("=")
        if key != "shift" or not value.isdigit() or int(value) > 10:
            raise UsageError(
                f"qemu has no option '{rest}'", f"--port qemu:{rest}", "qemu, or qemu:shift=6"
            )
        shift = int(value)
    return QemuLink(str(machine), firmware.elf, shift=shift)
