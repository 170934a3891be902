"""Byte streams to devices. One file per kind, found by its name: ``kind:rest`` opens it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

from edgekit.errors import UsageError
from edgekit.records import Firmware
from edgekit.targets import Target


class Link(Protocol):
    """A stream of bytes in both directions, over which :mod:`edgekit.device` speaks."""

    name: str

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """What has come in, at most ``max_bytes``; empty after ``timeout_s`` seconds of silence.

        Raises:
            DeviceError: the other end is gone.
        """

    def write(self, data: bytes) -> None:
        """Sends all of ``data``.

        Raises:
            DeviceError: the other end is gone.
        """

    def close(self) -> None:
        """Lets go of the port, and ends what was started for it. May be called twice."""


def link_kinds() -> list[str]:
    """The kinds of ports, by the files of this folder."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def unknown_kind(port: str, fix: str) -> UsageError:
    """The error for a port of no kind; ``fix`` where it is not a device's path without its kind."""
    kind = port.partition(":")[0]
    bare = kind.startswith("/") or kind.upper().startswith("COM")
    return UsageError(
        f"no kind of port is called '{kind}'",
        f"--port {port}",
        f"--port serial:{port}" if bare else fix,
    )


def open_link(port: str, target: Target | None, firmware: Firmware | None = None) -> Link:
    """Opens ``port``: ``virtual``, ``qemu``, ``serial:/dev/ttyACM0:921600``, ``tcp:host:port``…

    Raises:
        UsageError: there is no such kind of port.
        DeviceError: it cannot be opened.
    """
    kind, _, rest = port.partition(":")
    if kind not in link_kinds():
        kinds = f"one of: {', '.join(link_kinds())}; for example serial:/dev/ttyACM0:115200"
        raise unknown_kind(port, kinds)
    module = importlib.import_module(f"edgekit.links.{kind}")
    link: Link = module.open(rest, target, firmware)
    return link
