"""Boards that offer a drive: a UF2 file is copied to it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgekit.errors import DeviceError, UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.uf2 import read_uf2, write_uf2

NAME = "uf2"
TITLE = "a UF2 drive (RP2040, RP2350, SAMD, nRF)"
NEEDS = "volume"
TOOL = None

#: Families by the names that https://github.com/microsoft/uf2 "utils/uf2families.json" gives
FAMILIES = {
    "rp2040": 0xE48BFF56,
    "rp2350-arm-s": 0xE48BFF59,
    "samd21": 0x68ED2B88,
    "samd51": 0x55114460,
    "nrf52840": 0xADA52840,
    "nrf52833": 0x621E937A,
}
INFO = "INFO_UF2.TXT"
_CURRENT = "CURRENT.UF2"
_CHUNK = 16 * 512
#: A drive goes within a second of the last block; a slow flash gets more.
_LEAVES_S = 30.0
#: A board that does not start what it got is back as a drive within this time.
_COMES_BACK_S = 1.0


def family_of(job: Job) -> int:
    """The family id in the target's settings, a number or a name.

    Raises:
        UsageError: there is none, or the name is unknown.
    """
    family = job.settings.get("family")
    if isinstance(family, int):
        return family
    if str(family) in FAMILIES:
        return FAMILIES[str(family)]
    raise UsageError(
        f"the flasher uf2 of {job.target.name} has no 'family'"
        if family is None
        else f"no UF2 family is called '{family}'",
        job.target.name,
        f"a number, or one of: {', '.join(sorted(FAMILIES))}",
    )


def plan(job: Job) -> tuple[PlanStep, ...]:
    drive = job.volume or job.settings.get("volume", "the drive")
    family = family_of(job)
    return (
        PlanStep(f"copy {describe(job.pieces)} as a UF2 file of family {family:#010x} to {drive}"),
        PlanStep("wait for the drive to go, and see that it does not come back"),
    )


def flash(job: Job, progress: Progress) -> Report:
    volume = job.volume
    if volume is None:
        raise DeviceError("there is no UF2 drive", job.target.name)
    pieces = [(piece.address, piece.path.read_bytes()) for piece in job.pieces]
    content = write_uf2(pieces, family_of(job))
    sent = 0
    try:
        with (volume / "FIRMWARE.UF2").open("wb", buffering=0) as file:
            for start in range(0, len(content), _CHUNK):
                file.write(content[start : start + _CHUNK])
                sent = min(start + _CHUNK, len(content))
                progress(sent / len(content))
            os.fsync(file.fileno())
    except OSError as error:
        # boot ROMs leave with the last block, before the file is closed
        if sent < len(content):
            raise _not_written(volume, sent, len(content), error) from None
    _wait_until_gone(volume, job)
    _see_that_it_stays_away(volume, job)
    return Report(
        NAME,
        None,
        str(volume),
        written(job),
        f"the boot ROM took all {len(content) // 512} blocks and started the firmware",
    )


def _not_written(volume: Path, sent: int, total: int, error: OSError) -> DeviceError:
    if isinstance(error, PermissionError):
        return DeviceError(
            "no permission to write to the drive",
            str(volume),
            "mount it as your user (udisksctl mount -b /dev/sdX1)",
        )
    return DeviceError(
        f"the drive went away after {sent:,} of {total:,} B: {error.strerror}",
        str(volume),
        "put the board into its boot ROM again and flash again: an interrupted flash does no harm",
    )


def _wait_until_gone(volume: Path, job: Job) -> None:
    deadline = time.monotonic() + _LEAVES_S
    while (volume / INFO).exists():
        if time.monotonic() > deadline:
            raise DeviceError(
                f"the drive took the file, but the board does not start it: it lost power, or "
                f"it is not of family {family_of(job):#010x}",
                str(volume),
                f"edgekit devices shows what the drive says; is it a {job.target.name}?",
            )
        time.sleep(0.02)


def _see_that_it_stays_away(volume: Path, job: Job) -> None:
    deadline = time.monotonic() + _COMES_BACK_S
    while time.monotonic() < deadline:
        if (volume / INFO).exists():
            raise DeviceError(
                "the drive came back: " + _what_it_holds(volume, job),
                str(volume),
                "edgekit flash again; hold the button only while plugging in",
            )
        time.sleep(0.02)


def _what_it_holds(volume: Path, job: Job) -> str:
    """Boot loaders that show the flash as a file let us compare."""
    try:
        blocks = read_uf2((volume / _CURRENT).read_bytes(), _CURRENT)
    except (OSError, UsageError):
        return "the boot ROM does not start what was written"
    memory = {block.address: block.data for block in blocks}
    for piece in job.pieces:
        data = piece.path.read_bytes()
        for offset in range(0, len(data), 256):
            wanted = data[offset : offset + 256]
            if memory.get(piece.address + offset, b"")[: len(wanted)] != wanted:
                return f"the flash differs from the firmware at {piece.address + offset:#010x}"
    return "the flash holds the firmware, but the boot loader does not start it"
