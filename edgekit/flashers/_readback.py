"""Comparing what a tool read back with what was to be written."""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import DeviceError
from edgekit.flashers import Piece


def compare(piece: Piece, read: Path, where: str) -> None:
    """Compares a file that a tool has read from the flash.

    Raises:
        DeviceError: the tool has not read it, or a byte differs.
    """
    wanted = piece.path.read_bytes()
    try:
        found = read.read_bytes()[: len(wanted)]
    except OSError:
        raise DeviceError(
            "the flash was written, but could not be read back", where, "flash again"
        ) from None
    if found == wanted:
        return
    offset = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(found)
    )
    raise DeviceError(
        "what was read back differs from what was written, first at "
        f"{piece.address + offset:#010x}",
        where,
        "flash again; if it stays so, the flash is protected or worn",
    )
