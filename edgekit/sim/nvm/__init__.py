"""Flash controllers: how loaders, debuggers and firmware program a chip's flash.

Flash only clears bits; an erase sets those of a whole page. What may be programmed when, in
which units, and what is wrong otherwise, each family's controller says in its registers. An
operation takes no simulated time: a status register shows it as busy once and then as done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgekit.sim.board import Board


class Cells(Protocol):
    """The flash's memory cells, as :class:`edgekit.sim.rom.memory.FlashMemory` has them."""

    def read(self, address: int, nbytes: int) -> bytes: ...

    def erase(self, address: int, nbytes: int, page_bytes: int) -> None: ...

    def program(self, address: int, data: bytes, unit_bytes: int) -> bool: ...

    def options(self) -> dict[str, Any]: ...

    def set_options(self, options: dict[str, Any]) -> None: ...


class Controller(Protocol):
    """What stands between the bus and the cells."""

    @property
    def protection(self) -> str:
        """ "flash": a debugger cannot read it; "port": nor anything else; "none"."""

    def programs(self, address: int) -> bool:
        """Whether a store to an address of the flash does anything now. Where it does not, a
        store of the firmware is taken to be an error."""

    def store(self, address: int, data: bytes) -> bytes:
        """A store to the flash, of 1, 2 or 4 bytes; returns what is read there afterwards.

        What waits for the rest of a programming unit may be seen there already.

        Raises:
            BoardFault: the bus answers with an error.
        """

    def give_up(self) -> None:
        """Forgets what waits for the rest of a programming unit: a reset does so."""


class LooseCells:
    """Cells of a board whose flash is not kept in files."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._options: dict[str, Any] = {}

    def read(self, address: int, nbytes: int) -> bytes:
        return self._board.memory(address, nbytes)

    def erase(self, address: int, nbytes: int, page_bytes: int) -> None:
        self._board.write_memory(address, b"\xff" * nbytes)

    def program(self, address: int, data: bytes, unit_bytes: int) -> bool:
        old = self._board.memory(address, len(data))
        self._board.write_memory(address, bytes(a & b for a, b in zip(old, data, strict=True)))
        return self._board.memory(address, len(data)) == data

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def set_options(self, options: dict[str, Any]) -> None:
        self._options = dict(options)


def cells_of(board: Board) -> Cells:
    """Where a board's flash is kept."""
    return board.flash_memory if board.flash_memory is not None else LooseCells(board)
