"""A plain terminal: a link's bytes to standard output, standard input to the link."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.devices import check_serial_port, choose, find_devices
from edgekit.errors import DeviceError
from edgekit.links import Link
from edgekit.targets import Target, list_targets

#: Ctrl-], as telnet and miniterm have it
_ESCAPE = b"\x1d"
_POLL_S = 0.02
#: After the end of standard input that is no terminal: what the board may take to answer
_LAST_WORDS_S = 1.0


@dataclass
class Format:
    """How bytes are shown."""

    as_hex: bool = False
    timestamps: bool = False
    _start: float = 0.0
    _at_line_start: bool = True

    def __post_init__(self) -> None:
        self._start = time.monotonic()

    def show(self, data: bytes) -> bytes:
        """What is written for received bytes."""
        if self.as_hex:
            data = b"".join(b"%02x%s" % (byte, b"\n" if byte == 0x0A else b" ") for byte in data)
        if not self.timestamps:
            return data
        out = bytearray()
        for line in data.splitlines(keepends=True):
            if self._at_line_start:
                out += b"%10.3f  " % (time.monotonic() - self._start)
            out += line
            self._at_line_start = line.endswith(b"\n")
        return bytes(out)


def find_port(port: str, target: Target | None) -> str:
    """The port that is meant; ``auto`` is the only serial port that there is for the target.

    Raises:
        DeviceError: there is none, there are several, or it cannot be used.
    """
    if port == "auto":
        ports = find_devices(list_targets()).of("serial")
        if target is not None:
            hint = "connect the board, or give --port serial:/dev/ttyACM0"
            port = choose(ports, target, "serial port", hint).where
        else:
            usb = tuple(item for item in ports if item.usb_id) or ports
            if len(usb) != 1:
                raise DeviceError(
                    f"{len(usb)} serial ports are there; nothing was touched"
                    if usb
                    else "no serial port is attached",
                    "; ".join(f"{item.where} ({item.title})" for item in usb) or None,
                    f"--port {usb[0].where}" if usb else "edgekit devices",
                )
            port = usb[0].where
    kind, _, rest = port.partition(":")
    if kind == "serial":
        path, _, baud = rest.rpartition(":")
        check_serial_port(path if baud.isdigit() and path else rest)
    return port


@contextlib.contextmanager
def _raw_keyboard() -> Iterator[None]:
    """Every key at once and unechoed, while standard input is a terminal."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin.fileno(), termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def run(link: Link, form: Format) -> None:
    """Passes bytes on in both directions until Ctrl-] or the end of standard input.

    Raises:
        DeviceError: the device went away.
    """
    import select

    out = sys.stdout.buffer
    typing = True
    ends_at = float("inf")
    with _raw_keyboard():
        while time.monotonic() < ends_at:
            data = link.read(4096, _POLL_S)
            if data:
                out.write(form.show(data))
                out.flush()
                if not typing:
                    ends_at = time.monotonic() + _LAST_WORDS_S
            if not typing or not select.select([sys.stdin], [], [], 0)[0]:
                continue
            keys = os.read(sys.stdin.fileno(), 1024)
            before, escape, _ = keys.partition(_ESCAPE)
            if before:
                link.write(before)
            if escape:
                return
            if not keys:
                typing = False
                ends_at = time.monotonic() + _LAST_WORDS_S
