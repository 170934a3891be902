"""Keeps what native libraries print on standard error from the user, and hands it to the code."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Redirects file descriptor 2 for the block; yields a function that returns what came.

    C++ code writes to the descriptor, past ``sys.stderr``. The function works inside the block
    and after it. Where descriptor 2 is closed nothing is captured.
    """
    sys.stderr.flush()
    text = ""
    try:
        saved = os.dup(2)
    except OSError:
        yield lambda: ""
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def read() -> str:
            if file.closed:
                return text
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            content = bytearray()
            while chunk := os.read(file.fileno(), 1 << 16):
                content += chunk
            return content.decode("utf-8", "replace")

        try:
            yield read
        finally:
            text = read()
            os.dup2(saved, 2)
            os.close(saved)
