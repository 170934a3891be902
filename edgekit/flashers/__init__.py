"""Programs boards. One file per tool or protocol, found by its name.

A target's ``flashers`` list names the modules of this folder, preferred first, with their
settings. Tools are run as processes and never imported; what they will do is said beforehand
(:meth:`Flasher.plan`), and what was written where, and how it was verified, afterwards
(:class:`Report`).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from edgekit.errors import UsageError
from edgekit.targets import Target

#: What a flasher reaches the board through
Needs = Literal["serial", "probe", "volume", "dfu", "network"]
#: Called with the share of the work that is done, 0 to 1
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Piece:
    """Bytes for the board's flash."""

    address: int
    #: a raw binary file with exactly these bytes
    path: Path
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Job:
    """What is to be written, and the way to the board."""

    target: Target
    pieces: tuple[Piece, ...]
    #: the flasher's entry in the target file
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: a serial port's path, for flashers that need "serial"
    port: str | None = None
    #: serial number of the debug probe or DFU device; ``None`` when there is only one
    serial_number: str | None = None
    #: TCP port on this machine with a virtual board's debug port, in place of a probe on USB
    debug_port: int | None = None
    #: folder where a UF2 drive is mounted, for flashers that need "volume"
    volume: Path | None = None
    #: the file that the pieces come from, for tools that want an ELF file
    elf: Path | None = None

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)


@dataclass(frozen=True)
class PlanStep:
    """One thing that a flasher will do; ``command`` when it is a program that is run."""

    what: str
    command: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Written:
    """What is in the board's flash now."""

    address: int
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Report:
    """What was done."""

    flasher: str
    #: the tool's version, where it is one
    version: str | None
    #: where the board was found
    where: str
    written: tuple[Written, ...]
    #: how the content was verified, in words
    verified: str


class Flasher(Protocol):
    """A module of this folder. ``NAME`` is its file name with "-" for "_"."""

    NAME: str
    TITLE: str
    NEEDS: Needs
    #: the tool's entry in :mod:`edgekit.doctor`, ``None`` when edgekit does it itself
    TOOL: str | None

    # A flasher that needs a probe and takes a virtual board's debug port in place of one
    # (:attr:`Job.debug_port`) says so with ``TAKES_DEBUG_PORT = True``.

    def plan(self, job: Job) -> tuple[PlanStep, ...]:
        """What :meth:`flash` will do. Touches nothing and needs no tool.

        Raises:
            UsageError: the target's settings do not suffice.
        """

    def flash(self, job: Job, progress: Progress) -> Report:
        """Writes and verifies.

        Raises:
            MissingDependency: the tool is not installed.
            DeviceError: there is no board, or it was not written as it should be.
        """


def flasher_names() -> list[str]:
    """The flashers, by the files of this folder."""
    folder = Path(__file__).parent
    return sorted(
        path.stem.replace("_", "-") for path in folder.glob("*.py") if not path.stem.startswith("_")
    )


def load_flasher(name: str) -> Flasher:
    """The flasher of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in flasher_names():
        raise UsageError(
            f"no flasher is called '{name}'",
            f"--flasher {name}",
            f"one of: {', '.join(flasher_names())}",
        )
    module = importlib.import_module(f"edgekit.flashers.{name.replace('-', '_')}")
    return cast(Flasher, module)


def takes_debug_port(flasher: Flasher) -> bool:
    """Whether the flasher can use a virtual board's debug port."""
    return bool(getattr(flasher, "TAKES_DEBUG_PORT", False))


def make_piece(address: int, path: Path) -> Piece:
    """A raw binary file for an address.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the image: {error.strerror}", str(path)) from None
    if not content:
        raise UsageError("the image is empty", str(path))
    return Piece(address, path, len(content), hashlib.sha256(content).hexdigest())


def written(job: Job) -> tuple[Written, ...]:
    """All of a job as it is reported after it has been done."""
    return tuple(Written(item.address, item.nbytes, item.sha256) for item in job.pieces)


def describe(pieces: tuple[Piece, ...]) -> str:
    """ "16,384 B at 0x08000000", for a sentence."""
    return " and ".join(f"{piece.nbytes:,} B at {piece.address:#010x}" for piece in pieces)
