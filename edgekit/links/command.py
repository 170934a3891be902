"""A program's standard input and output as a line: ``command:ssh pi cat-to-uart``.

For adapters that edgekit does not know, and for the runtime built as a program on this computer.
"""

from __future__ import annotations

import shlex
import subprocess

from edgekit.errors import DeviceError, UsageError
from edgekit.links.pty import FileLink
from edgekit.records import Firmware
from edgekit.targets import Target


class CommandLink(FileLink):
    """The program lives as long as the link."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None:
            raise DeviceError("the program has no pipes", name)
        super().__init__(name, process.stdout.fileno(), process.stdin.fileno())
        self._process = process

    def close(self) -> None:
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None and not stream.closed:
                stream.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def open(rest: str, target: Target | None, firmware: Firmware | None) -> CommandLink:
    """Starts the program, without a shell.

    Raises:
        UsageError: no program is named.
        DeviceError: it cannot be started.
    """
    words = shlex.split(rest)
    if not words:
        raise UsageError("which program?", fix="command:PROGRAM ARGUMENTS")
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # Ctrl-C is ours to handle; closing its input ends the program
            start_new_session=True,
        )
    except OSError as error:
        raise DeviceError(f"the program does not start: {error.strerror}", words[0]) from None
    return CommandLink(rest, process)
