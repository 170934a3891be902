"""A TCP port on this machine where debuggers attach; the first byte tells which protocol it is."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol

from edgekit.errors import DeviceError
from edgekit.sim.debug.bitbang import Bitbang
from edgekit.sim.debug.remote import RemoteProbe
from edgekit.sim.debug.runner import DebugRunner
from edgekit.sim.debug.stlink import Stlink
from edgekit.sim.device import BoardFault


class _Session(Protocol):
    def serve(self, connection: socket.socket, first: bytes) -> None: ...


class DebugServer:
    """Serves the debug port of whatever runs now.

    Args:
        port: the TCP port, 0 for any free one.
        runner: the board, asked for at each connection.

    Raises:
        DeviceError: the port is taken.
    """

    def __init__(self, port: int, runner: Callable[[], DebugRunner | None], name: str) -> None:
        self._runner = runner
        self._board_name = name
        try:
            self._server = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise DeviceError(
                f"cannot open the debug port tcp:{port}: {os.strerror(error.errno or 0)}",
                fix="--debug-port 0 takes any free one",
            ) from None
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, name="debug", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # a board that ends breaks the connection off: pyOCD waits for ever behind an orderly
            # end of it
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            threading.Thread(
                target=self._serve, args=(connection,), name="debugger", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        # a debugger that breaks off, or a board that ends, is no error of ours
        with connection, contextlib.suppress(OSError, BoardFault):
            first = connection.recv(65536)
            runner = self._runner()
            if first and runner is not None:
                self._session(first, runner).serve(connection, first)

    def _session(self, first: bytes, runner: DebugRunner) -> _Session:
        if first[:1] == b"{":
            return RemoteProbe(runner, f"virtual {self._board_name}")
        if first[0] < 0x20:
            return Stlink(runner)
        return Bitbang(runner)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.close()
