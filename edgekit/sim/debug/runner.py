"""A board with a debug port: its CPU, its boot ROM and the debugger's accesses in one thread.

Whatever a debugger wants is done between two blocks of the CPU's code, so that an access
neither tears nor waits: the board is stopped for it, as a bus is taken for it in silicon.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit.sim.board import HALTED, Fault
from edgekit.sim.debug.dap import AccessFault, DebugPort
from edgekit.sim.debug.tables import core_tables
from edgekit.sim.device import BoardFault
from edgekit.sim.rom import RESET
from edgekit.sim.rom.memory import EXIT_POWER_LOSS, PowerLoss

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.sim.debug.core import CoreDebug
    from edgekit.sim.debug.dap import Wiring
    from edgekit.sim.line import Line
    from edgekit.sim.rom import Rom

_T = TypeVar("_T")
#: How often a boot ROM looks around, and a halted board for who wants something
_POLL_S = 0.02
#: What an access takes at least: some 50 bits at 1 MHz
_ACCESS_S = 50e-6


class DebugRunner:
    """Runs a board until :meth:`stop`, with a debug port that can take it over.

    Args:
        core: the debug registers, which live as long as the board has power.
        make_board: the board as it is after power-on; called again when what is in its flash
            is another program.
        make_rom: the boot ROM when the board starts in it, else ``None``.
    """

    def __init__(
        self,
        core: CoreDebug,
        wiring: Wiring,
        line: Line,
        make_board: Callable[[], Board | None],
        make_rom: Callable[[bool], Rom | None],
        *,
        rom: bool,
    ) -> None:
        self.core = core
        self.error: BaseException | None = None
        self.in_reset = False
        self.rom: Rom | None = None
        self._wiring = wiring
        self._line = line
        self._make_board, self._make_rom = make_board, make_rom
        self._wanted = True
        self._requests: queue.SimpleQueue[tuple[Callable[[], Any], _Answer]] = queue.SimpleQueue()
        self._woken = threading.Event()
        self._entered = False
        self.board = self._first_board(rom)
        port = wiring.memory_ports[0]
        self._tables = core_tables(str(self.board.target.core), port.base)
        self.port = DebugPort(wiring, self)
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def _first_board(self, rom: bool) -> Board:
        self.rom = self._make_rom(rom)
        self.core.rom_at = self._wiring.rom_at if self.rom is not None else None
        board = self._make_board()
        assert board is not None
        return board

    # the thread

    def _run(self) -> None:
        try:
            while self._wanted:
                self._serve()
                if self.board.reset_wanted:
                    self.core.leave_for_reset()
                    self._boot(rom=False)
                elif self.in_reset or self.core.halted or self.core.lockup:
                    self._woken.wait(_POLL_S)
                    self._woken.clear()
                elif self.rom is not None:
                    self._run_rom(self.rom)
                else:
                    self._run_cpu()
        except PowerLoss:
            os._exit(EXIT_POWER_LOSS)
        except BaseException as error:  # told by whoever started the thread
            self.error = error

    def _run_cpu(self) -> None:
        self.core.before_running()
        try:
            self.board.run_once()
        except Fault as fault:
            self.error = fault
            self.core.lockup = True

    def _run_rom(self, rom: Rom) -> None:
        if self.board.pc != self._wiring.rom_at:  # a debugger has sent the CPU elsewhere
            self._leave_rom()
            return
        self._line.wait(_POLL_S)
        answer = rom.step(self._line.read())
        if answer:
            self._line.write(answer)
        if rom.leaves_to is None:
            return
        leaves_to = rom.leaves_to
        self._leave_rom()
        if leaves_to == RESET:
            self.core.leave_for_reset()
            self._boot(rom=False)
            return
        try:
            self.board.start_at(leaves_to)
        except Fault as fault:
            self.error = fault
            self.core.lockup = True

    def _leave_rom(self) -> None:
        if self.rom is not None:
            self.rom.close()
            self.rom = None

    def _boot(self, *, rom: bool) -> None:
        """What a reset does."""
        self._leave_rom()
        self.error = None
        self.board.flush()
        self.rom = self._make_rom(rom)
        self.core.rom_at = self._wiring.rom_at if self.rom is not None else None
        board = self._make_board()
        if board is not None:
            self.board = board
        else:
            self.board.reset()

    def _serve(self) -> None:
        while True:
            try:
                function, answer = self._requests.get_nowait()
            except queue.Empty:
                return
            answer.fill(function)

    # for other threads

    def call(self, function: Callable[[], _T]) -> _T:
        """Runs a function in the board's thread, soon, and returns what it returns."""
        answer = _Answer()
        self._requests.put((function, answer))
        self._wake()
        result: _T = answer.take(self._thread)
        return result

    def _wake(self) -> None:
        self._woken.set()
        self.board.counter.deadline = 0
        self._line.wake()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def flush(self) -> None:
        self.board.flush()

    def restart(self, *, rom: bool) -> None:
        """A reset from outside."""

        def go() -> None:
            self.core.leave_for_reset()
            self._boot(rom=rom)

        self.call(go)

    def hold(self) -> None:
        """The reset pin is held."""
        self.call(lambda: self.drive_reset(True))

    def release(self, *, rom: bool) -> None:
        def go() -> None:
            self._line.read()  # what is in the air during a reset reaches nobody
            self.in_reset = False
            self._boot(rom=rom)

        self.call(go)

    def stop(self) -> None:
        self._wanted = False
        self._wake()
        self._thread.join(timeout=2)
        self._leave_rom()

    # what access ports do, in the board's thread

    @property
    def protected(self) -> bool:
        """Whether the chip keeps debuggers away from its memory."""
        return self.board.nvm is not None and self.board.nvm.protection == "port"

    def drive_reset(self, held: bool) -> None:
        if held:
            self._leave_rom()
            self.core.leave_for_reset()
            self.in_reset = True
        elif self.in_reset:
            self.in_reset = False
            self._boot(rom=False)

    def erase_all(self) -> None:
        erase = getattr(self.board.nvm, "erase_all", None)
        if erase is not None:
            erase()

    def read_memory(self, address: int, nbytes: int) -> int:
        """Reads from the CPU's address space.

        Raises:
            AccessFault: there is nothing, or it is protected.
        """
        if address % nbytes:
            raise AccessFault
        word = self._tables.get(address & ~3)
        if word is None:
            word = self.core.read(address & ~3)
        if word is not None:
            return word >> 8 * (address & 3) & (1 << 8 * nbytes) - 1
        board = self.board
        if board.has_memory(address, nbytes):
            nvm = board.nvm
            if nvm is not None and nvm.protection == "flash" and board.is_flash(address):
                raise AccessFault
            return int.from_bytes(board.memory(address, nbytes), "little")
        device = board.bus.find(address)
        if device is None:
            raise AccessFault
        if device.gate is not None and device.gate():
            return 0  # a peripheral without its clock reads as zero
        try:
            if self.core.halted:
                board.wait_halted(_ACCESS_S)
            return board.bus.read(address, nbytes)
        except BoardFault as error:
            board.report(f"by the debugger: {error}")
            raise AccessFault from None

    def write_memory(self, address: int, nbytes: int, value: int) -> None:
        """Writes to the CPU's address space.

        Raises:
            AccessFault: there is nothing that could be written.
        """
        if address % nbytes:
            raise AccessFault
        board = self.board
        if nbytes == 4 and self.core.write(address, value):
            return
        if board.has_memory(address, nbytes):
            data = value.to_bytes(nbytes, "little")
            if board.is_flash(address):
                if board.nvm is None:
                    raise AccessFault
                try:
                    data = board.nvm.store(address, data)
                except BoardFault:
                    raise AccessFault from None
            elif board.is_read_only(address):
                raise AccessFault
            board.write_memory(address, data)
            self.core.memory_changed(address, nbytes)
            return
        device = board.bus.find(address)
        if device is None:
            raise AccessFault
        if device.gate is not None and device.gate():
            return
        try:
            if self.core.halted:
                board.wait_halted(_ACCESS_S)
            if board.bus.write(address, nbytes, value):
                board.settings += 1
        except BoardFault as error:
            board.report(f"by the debugger: {error}")
            raise AccessFault from None


class _Answer:
    """What a function that runs in another thread returned or raised."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def fill(self, function: Callable[[], Any]) -> None:
        try:
            self._result = function()
        except PowerLoss:
            os._exit(EXIT_POWER_LOSS)
        except BaseException as error:  # raised where it was asked for
            self._error = error
        self._done.set()

    def take(self, thread: threading.Thread) -> Any:
        while not self._done.wait(1.0):
            if not thread.is_alive():
                raise BoardFault("the board has stopped")
        if self._error is not None:
            raise self._error
        return self._result


__all__ = ["HALTED", "DebugRunner"]
