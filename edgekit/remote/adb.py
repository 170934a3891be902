"""An Android device reached with ``adb``, Android's debug bridge, run as a process."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DeviceError, MissingDependency

#: The folder of a device where programs may be put and run without root.
FOLDER = "/data/local/tmp/edgekit"

_STATES = {
    "unauthorized": "confirm this computer on the device's screen (USB debugging)",
    "offline": "adb reconnect; or plug it in again",
    "no permissions": "sudo apt install android-sdk-platform-tools-common (udev rules), then plug "
    "it in again",
}


@dataclass(frozen=True)
class AdbDevice:
    """One device by its serial number, as ``adb devices`` lists it."""

    serial: str
    program: str

    @classmethod
    def find(cls, serial: str | None) -> AdbDevice:
        """The device of a serial number, or the only one there is.

        Raises:
            MissingDependency: there is no adb.
            DeviceError: there is no such device, or it is not ready.
        """
        program = shutil.which("adb")
        if program is None:
            raise MissingDependency(
                "reaching an Android device needs the program adb",
                fix="sudo apt install adb; on the device: developer options, USB debugging",
            )
        states = dict(_devices(_run([program, "devices"], "adb devices", 30.0)))
        if serial is None:
            if len(states) != 1:
                names = ", ".join(states) or "none"
                raise DeviceError(
                    f"adb lists {len(states)} devices: {names}",
                    "adb devices",
                    "--port adb:SERIAL"
                    if states
                    else "on the device: developer options, USB debugging; then plug it in",
                )
            serial = next(iter(states))
        if serial not in states:
            raise DeviceError(
                f"adb lists no device '{serial}', but: {', '.join(states) or 'none'}",
                f"adb:{serial}",
                "adb devices; over the network first: adb connect HOST:5555",
            )
        state = states[serial]
        if state != "device":
            fix = next((fix for words, fix in _STATES.items() if state.startswith(words)), None)
            raise DeviceError(f"the device is not ready: {state}", f"adb:{serial}", fix)
        return cls(serial, program)

    def shell(self, words: Sequence[str], *, timeout_s: float = 60.0, check: bool = True) -> str:
        """Runs a program there; both its outputs.

        Raises:
            DeviceError: the device went away, the program failed (with ``check``) or hangs.
        """
        # adb joins the words with blanks and gives them to a shell; its own exit code is the
        # program's only since Android 7, so that the code is printed as well.
        line = f"{shlex.join(words)} 2>&1; echo edgekit-exit $?"
        text = _run([self.program, "-s", self.serial, "shell", line], words[0], timeout_s)
        match = re.search(r"edgekit-exit (\d+)\s*$", text)
        if match is None:
            raise DeviceError(
                f"the connection to the device was cut while {Path(words[0]).name} ran",
                f"adb:{self.serial}",
                "plug it in again, and the same command again",
            )
        output = text[: match.start()]
        if check and match[1] != "0":
            lines = output.strip().splitlines()
            last = lines[-1] if lines else "it printed nothing"
            raise DeviceError(
                f"{Path(words[0]).name} ended with code {match[1]}: {last}", f"adb:{self.serial}"
            )
        return output

    def push(self, path: Path, target: str, *, timeout_s: float = 600.0) -> None:
        """Copies a file there.

        Raises:
            DeviceError: the device went away, or has no room for it.
        """
        _run([self.program, "-s", self.serial, "push", str(path), target], "adb push", timeout_s)

    def property(self, name: str) -> str:
        """A property of the system, such as ``ro.product.model``; empty if it is not set."""
        return self.shell(["getprop", name]).strip()


def _devices(text: str) -> list[tuple[str, str]]:
    """Serial numbers and states from ``adb devices``."""
    rows = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\S+)\s+(device|[a-z].*?)\s*", line)
        if match and not line.startswith(("List of", "*", "adb ")):
            rows.append((match[1], match[2]))
    return rows


def _run(command: list[str], what: str, timeout_s: float) -> str:
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"{what} did not end within {timeout_s:g} s", None, "adb kill-server; then again"
        ) from None
    except OSError as error:
        raise MissingDependency(f"adb cannot be run: {error.strerror}", command[0]) from None
    if ended.returncode and "edgekit-exit" not in ended.stdout:
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        last = lines[-1].removeprefix("adb: ").removeprefix("error: ") if lines else "no word"
        raise DeviceError(f"{what} failed: {last}", " ".join(command[1:3]), "adb devices")
    return ended.stdout
