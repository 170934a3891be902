"""A pseudo-terminal that something else serves: ``pty:/dev/pts/7``."""

from __future__ import annotations

import os
import select
import time

from edgekit.errors import DeviceError, UsageError
from edgekit.records import Firmware
from edgekit.targets import Target


class FileLink:
    """A file descriptor, or two, as a link."""

    def __init__(self, name: str, read_fd: int, write_fd: int | None = None) -> None:
        self.name = name
        self._read_fd = read_fd
        self._write_fd = read_fd if write_fd is None else write_fd
        self._open = True
        os.set_blocking(self._write_fd, False)
        os.set_blocking(self._read_fd, False)

    def fileno(self) -> int:
        """The descriptor that becomes readable, for ``select``."""
        return self._read_fd

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        try:
            ready, _, _ = select.select([self._read_fd], [], [], max(0.0, timeout_s))
            if not ready:
                return b""
            data = os.read(self._read_fd, max_bytes)
        except BlockingIOError:
            return b""
        except (OSError, ValueError) as error:
            raise self._gone(str(error)) from None
        if not data:
            raise self._gone("end of file")
        return data

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        deadline = time.monotonic() + 30
        while rest:
            try:
                _, ready, _ = select.select([], [self._write_fd], [], 1.0)
                if ready:
                    rest = rest[os.write(self._write_fd, rest) :]
                    deadline = time.monotonic() + 30
            except BlockingIOError:
                continue
            except (OSError, ValueError) as error:
                raise self._gone(str(error)) from None
            if time.monotonic() > deadline:
                raise DeviceError("the device takes no bytes", self.name)

    def close(self) -> None:
        if self._open:
            self._open = False
            for fd in {self._read_fd, self._write_fd}:
                os.close(fd)

    def _gone(self, why: str) -> DeviceError:
        return DeviceError(f"the device on {self.name} went away: {why}", self.name)


def open(rest: str, target: Target | None, firmware: Firmware | None) -> FileLink:
    """Opens a terminal in raw mode: no echo, no line editing, no translation."""
    import termios
    import tty

    if not rest:
        raise UsageError("which pseudo-terminal?", fix="pty:/dev/pts/7")
    try:
        fd = os.open(rest, os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        raise DeviceError(f"the port cannot be opened: {error.strerror}", rest) from None
    try:
        tty.setraw(fd, termios.TCSANOW)
    except termios.error as error:
        os.close(fd)
        raise DeviceError(f"this is no terminal: {error}", rest) from None
    return FileLink(rest, fd)
