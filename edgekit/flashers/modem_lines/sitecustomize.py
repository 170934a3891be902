"""Gives pseudo-terminals the modem lines of the virtual boards behind them.

Python imports this module by its name when it starts. It stands alone: it runs inside tools
that know nothing of edgekit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from typing import Any

_ioctl = fcntl.ioctl
_lines: dict[int, int] = {}


def _with_lines(fd: Any, request: int, *arguments: Any) -> Any:
    try:
        return _ioctl(fd, request, *arguments)
    except OSError as error:
        wanted = (termios.TIOCMBIS, termios.TIOCMBIC, termios.TIOCMSET, termios.TIOCMGET)
        if error.errno != errno.ENOTTY or request not in wanted:
            raise
        number = fd if isinstance(fd, int) else fd.fileno()
        name = os.ttyname(number)
        old = _lines.get(number, 0)
        if request == termios.TIOCMGET:
            return struct.pack("I", old)
        (value,) = struct.unpack("I", bytes(arguments[0])[:4])
        new = {
            termios.TIOCMBIS: old | value,
            termios.TIOCMBIC: old & ~value,
            termios.TIOCMSET: value,
        }[request]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as board:
            board.settimeout(10)
            dtr, rts = bool(new & termios.TIOCM_DTR), bool(new & termios.TIOCM_RTS)
            # behind other pseudo-terminals (bridges to real boards) the lines end nowhere
            with contextlib.suppress(OSError):
                board.connect(f"\0edgekit-lines:{name}")
                board.sendall(b"01"[dtr : dtr + 1] + b"01"[rts : rts + 1])
                board.recv(1)
        _lines[number] = new
        return b""


fcntl.ioctl = _with_lines
