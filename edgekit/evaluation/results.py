"""The file of an evaluation: every result as soon as it is there, nothing is ever changed.

The first line says of what, each other line is one inference: ``index``, ``port``, ``ticks``,
``tick_hz`` and the raw ``outputs`` in hexadecimal. A run that was killed leaves at most half a
line, which the next one cuts off before it goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError

VERSION = 1
#: Results may be lost to a power failure, not to a killed process, for so many seconds.
_SYNC_S = 1.0


@dataclass(frozen=True)
class Result:
    """One inference: the raw bytes of all outputs, ticks of the device's counter."""

    index: int
    port: str
    outputs: tuple[bytes, ...]
    ticks: int
    tick_hz: int


class ResultsFile:
    """An append-only file that one process has open. Use as a context manager.

    Args:
        path: where; begun when it does not exist.
        subject: of what these are results (build, data); the same in every run that adds to them.

    Raises:
        UsageError: the file is of something else, damaged, in use, or cannot be written.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any]) -> None:
        self.path = path
        self.results: dict[int, Result] = {}
        self._synced = time.monotonic()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise UsageError(f"cannot write here: {error.strerror}", str(path)) from None
        try:
            self._lock()
            self._read(dict(subject))
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def add(self, result: Result) -> None:
        """Appends one line.

        Raises:
            UsageError: there is a result for this input already, or the disk is full.
        """
        if result.index in self.results:
            raise UsageError(f"input {result.index} has a result already", str(self.path))
        self.results[result.index] = result
        self._append(
            {
                "index": result.index,
                "port": result.port,
                "ticks": result.ticks,
                "tick_hz": result.tick_hz,
                "outputs": [data.hex() for data in result.outputs],
            }
        )
        if time.monotonic() - self._synced > _SYNC_S:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = (json.dumps(entry) + "\n").encode()
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise UsageError(f"cannot write here: {error.strerror}", str(self.path)) from None
        if written != len(line):
            raise UsageError("the disk is full", str(self.path))

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                "another evaluation writes to this file", str(self.path), "--results ANOTHER-FILE"
            ) from None

    def _read(self, subject: dict[str, Any]) -> None:
        content = self.path.read_bytes()
        *lines, rest = content.split(b"\n")
        if rest:
            os.ftruncate(self._file, len(content) - len(rest))
        if not lines:
            self._append({"edgekit_evaluation": VERSION, **subject})
            return
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    self._check(entry, subject)
                    continue
                result = Result(
                    int(entry["index"]),
                    str(entry["port"]),
                    tuple(bytes.fromhex(text) for text in entry["outputs"]),
                    int(entry["ticks"]),
                    int(entry["tick_hz"]),
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"this is no line of an evaluation ({type(error).__name__}: {error})",
                    f"{self.path}:{number}",
                    "--results ANOTHER-FILE",
                ) from None
            if result.index in self.results:
                raise UsageError(f"input {result.index} is there twice", f"{self.path}:{number}")
            self.results[result.index] = result

    def _check(self, entry: dict[str, Any], subject: dict[str, Any]) -> None:
        wanted = {"edgekit_evaluation": VERSION, **subject}
        differ = [key for key, value in wanted.items() if entry.get(key) != value]
        if differ:
            key = differ[0]
            raise UsageError(
                f"these are results of something else: {key.replace('_', ' ')} "
                f"{entry.get(key)!r}, now {wanted[key]!r}",
                str(self.path),
                "--results ANOTHER-FILE, or remove this one",
            )
