"""The plain terminal, over a pseudo-terminal with a real process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tty

import pytest

from edgekit.errors import DeviceError
from edgekit.monitor import Format, find_port

if os.name != "posix":
    pytest.skip("pseudo-terminals are POSIX only", allow_module_level=True)


def monitor(port: str, keys: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", "monitor", "--port", port, *options],
        input=keys,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_both_directions() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    heard = bytearray()

    def echo() -> None:
        while not heard.endswith(b"\n"):
            heard.extend(os.read(master, 100))
        os.write(master, b"you said " + bytes(heard))

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    done = monitor(f"pty:{os.ttyname(slave)}", b"hello\n")
    thread.join(10)
    os.close(master)
    os.close(slave)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"you said hello\n"
    assert bytes(heard) == b"hello\n"


def test_ctrl_bracket_ends_it() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    started = time.monotonic()
    done = monitor(f"pty:{os.ttyname(slave)}", b"ab\x1dcd")
    assert done.returncode == 0
    assert os.read(master, 100) == b"ab"
    assert time.monotonic() - started < 30
    os.close(master)
    os.close(slave)


def test_a_port_that_is_not_there() -> None:
    done = monitor("serial:/dev/nothing", b"")
    assert done.returncode == 6
    assert b"there is no port /dev/nothing" in done.stderr
    with pytest.raises(DeviceError, match="there is no port"):
        find_port("serial:/dev/nothing:9600", None)


def test_formats() -> None:
    assert Format(as_hex=True).show(b"A\nB") == b"41 0a\n42 "
    stamped = Format(timestamps=True)
    shown = (stamped.show(b"one\ntw") + stamped.show(b"o\n")).decode().splitlines()
    assert [line.split()[1] for line in shown] == ["one", "two"]
    assert all(float(line.split()[0]) >= 0 for line in shown)
