"""Families of chips that can be simulated: one module of this folder each, found by its name.

A target's ``sim.family`` names the module. The module has ``assemble(board)``, which puts the
family's peripherals on a board's bus and returns a :class:`Family`, and may have ``SPACES``,
address spaces of peripherals beyond the architecture's, as (base, bytes); ``NONVOLATILE``, flash
beside the target's own, as :class:`~edgekit.targets.Region`; and ``wiring(target)``, what a
debugger finds (:class:`~edgekit.sim.debug.dap.Wiring`).
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.debug.dap import Wiring
    from edgekit.targets import Region, Target


class Family(Protocol):
    """The peripherals of a board's chip."""

    def cpu_hz(self) -> float:
        """The CPU clock that the registers give, in hertz."""

    def boot(self) -> None:
        """What happens out of reset up to the first instruction of the firmware."""


@cache
def family_names() -> tuple[str, ...]:
    """The families that can be simulated, by the modules of this folder."""
    folder = Path(__file__).parent
    return tuple(
        sorted(
            path.stem
            for path in folder.glob("*.py")
            if re.search(r"^assemble\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
    )


def _module(target: Target) -> ModuleType:
    name = str(target.sim.get("family", ""))
    if name not in family_names():
        raise UsageError(
            f"{target.name} has no virtual board"
            + (f": family '{name}' is not known" if name else ""),
            fix=f"families that can be simulated: {', '.join(family_names())}",
        )
    return importlib.import_module(f"edgekit.sim.{name}")


def spaces(target: Target) -> tuple[tuple[int, int], ...]:
    """Address spaces of peripherals beyond the architecture's, as (base, bytes).

    Raises:
        UsageError: the target names no family that can be simulated.
    """
    found: tuple[tuple[int, int], ...] = getattr(_module(target), "SPACES", ())
    return found


def nonvolatile(target: Target) -> tuple[Region, ...]:
    """Flash beside the target's own: pages for settings of the chip.

    Raises:
        UsageError: the target names no family that can be simulated.
    """
    found: tuple[Region, ...] = getattr(_module(target), "NONVOLATILE", ())
    return found


def has_debug_port(target: Target) -> bool:
    """Whether a debugger can be attached to a virtual board of this target."""
    return target.sim.get("family") in family_names() and hasattr(_module(target), "wiring")


def wiring(target: Target) -> Wiring:
    """What a debugger finds behind the target's debug pins.

    Raises:
        UsageError: the virtual board has no debug port.
    """
    if not has_debug_port(target):
        raise UsageError(f"the virtual {target.name} has no debug port", target.name)
    found: Wiring = _module(target).wiring(target)
    return found


def assemble(board: Board) -> Family:
    """Puts a family's peripherals on a board.

    Raises:
        UsageError: the target names no family that can be simulated.
    """
    family: Family = _module(board.target).assemble(board)
    return family
