"""The families of chips that can be simulated, by the name in a target's ``sim.family``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgekit.errors import UsageError
from edgekit.sim.cmsdk import Mps2
from edgekit.sim.rp2040 import SPACES as RP2040_SPACES
from edgekit.sim.rp2040 import Rp2040
from edgekit.sim.stm32 import Stm32G0, Stm32H7, Stm32L4, Stm32U5

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.targets import Target


class Family(Protocol):
    """Peripherals of a chip family, put on a board's bus when it is made."""

    def cpu_hz(self) -> float:
        """The CPU clock that the registers give, in hertz."""

    def boot(self) -> None:
        """What happens out of reset up to the first instruction of the firmware."""


FAMILIES: dict[str, Callable[[Board], Family]] = {
    "mps2": Mps2,
    "stm32l4": Stm32L4,
    "stm32h7": Stm32H7,
    "stm32u5": Stm32U5,
    "stm32g0": Stm32G0,
    "rp2040": Rp2040,
}


def spaces(target: Target) -> tuple[tuple[int, int], ...]:
    """Address spaces of peripherals beyond the architecture's, as (base, bytes)."""
    return RP2040_SPACES if target.sim.get("family") == "rp2040" else ()


def assemble(board: Board) -> Family:
    """Puts a family's peripherals on a board.

    Raises:
        UsageError: the target names no family that can be simulated.
    """
    name = str(board.target.sim.get("family", ""))
    if name not in FAMILIES:
        raise UsageError(
            f"{board.target.name} has no virtual board"
            + (f": family '{name}' is not known" if name else ""),
            fix=f"families that can be simulated: {', '.join(sorted(FAMILIES))}",
        )
    return FAMILIES[name](board)
