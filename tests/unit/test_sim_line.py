"""The pseudo-terminal of a virtual board."""

from __future__ import annotations

import os
import select

from edgekit.sim.line import PtyLine


def _received(terminal: int, line: PtyLine, wanted: int) -> bytes:
    data = b""
    for _ in range(50):
        line.read()
        if select.select([terminal], [], [], 0.02)[0]:
            data += os.read(terminal, 4096)
        if len(data) >= wanted:
            break
    return data


def test_first_words_wait_for_the_first_listener() -> None:
    line = PtyLine()
    line.write(b"before ")
    line.write(b"anybody\r\n")
    terminal = os.open(line.name, os.O_RDWR | os.O_NOCTTY)
    try:
        assert _received(terminal, line, 16) == b"before anybody\r\n"
        line.write(b"now")
        assert _received(terminal, line, 3) == b"now"
    finally:
        os.close(terminal)
        line.close()


def test_later_silence_loses() -> None:
    """Like a wire: once somebody has listened, what is said to nobody is gone."""
    line = PtyLine()
    first = os.open(line.name, os.O_RDWR | os.O_NOCTTY)
    line.read()
    os.close(first)
    line.write(b"lost")
    second = os.open(line.name, os.O_RDWR | os.O_NOCTTY)
    try:
        line.write(b"heard")
        assert _received(second, line, 5) == b"heard"
    finally:
        os.close(second)
        line.close()
