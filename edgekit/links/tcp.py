"""A TCP connection to a device, a virtual board or a serial server: ``tcp:host:port``."""

from __future__ import annotations

import select
import socket

from edgekit.errors import DeviceError, UsageError
from edgekit.records import Firmware
from edgekit.targets import Target


class TcpLink:
    """A connected socket."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.name = name
        self._socket = connection

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        try:
            ready, _, _ = select.select([self._socket], [], [], max(0.0, timeout_s))
            if not ready:
                return b""
            data = self._socket.recv(max_bytes)
        except (OSError, ValueError) as error:
            raise DeviceError(f"the connection broke: {error}", self.name) from None
        if not data:
            raise DeviceError("the other end closed the connection", self.name)
        return data

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise DeviceError(f"the connection broke: {error}", self.name) from None

    def close(self) -> None:
        self._socket.close()


def open(rest: str, target: Target | None, firmware: Firmware | None) -> TcpLink:
    """Connects to ``host:port``."""
    host, _, port = rest.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"'{rest}' is no address", fix="tcp:localhost:3333")
    try:
        connection = socket.create_connection((host, int(port)), timeout=10)
    except OSError as error:
        raise DeviceError(f"no connection: {error.strerror or error}", rest) from None
    connection.settimeout(30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return TcpLink(connection, rest)
