"""Modem lines for pseudo-terminals: what they lack, and flashing tools want.

A serial adapter's DTR and RTS reset a board and select its boot ROM. A pseudo-terminal refuses
to set them, and some tools end there. ``environment`` puts a module of the standard kind
(``sitecustomize``) before the tool's Python: where the system answers that a pseudo-terminal has
no such lines, it passes them to the virtual board behind it. The tool itself is not touched. For
tools that can leave the lines alone ``reset_into_boot_rom`` moves them instead, as a hand on
BOOT0 and the reset button would.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

_FOLDER = Path(__file__).parent / "modem_lines"


def is_terminal(port: str) -> bool:
    """Whether a port is a pseudo-terminal."""
    return port.startswith("/dev/pts/")


def environment(port: str) -> dict[str, str]:
    """Variables for a tool that is run on ``port``; none unless it is a pseudo-terminal."""
    if not is_terminal(port):
        return {}
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(_FOLDER), before)))}


def reset_into_boot_rom(port: str) -> None:
    """Resets the virtual STM32 behind a pseudo-terminal with BOOT0 held; no other port."""
    if not is_terminal(port):
        return
    # (DTR, RTS): NRST low with BOOT0 high, then NRST high
    for lines in (b"10", b"00"):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as board,
        ):
            board.settimeout(10)
            board.connect(f"\0edgekit-lines:{port}")
            board.sendall(lines)
            board.recv(1)
