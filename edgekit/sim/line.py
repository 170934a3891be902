"""The outside end of a board's UART: a pseudo-terminal, a TCP port, or memory."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from typing import Protocol

_CHUNK = 4096
#: How long a writer waits for a listener that does not read before bytes are lost
_STALL_S = 2.0


class Line(Protocol):
    """A serial line, seen from the board."""

    name: str

    def read(self) -> bytes:
        """What has come in, at once; empty when there is nothing."""

    def wait(self, timeout_s: float) -> None:
        """Returns when something comes in or the board must look up, at the latest in time."""

    def write(self, data: bytes) -> None: ...
    def wake(self) -> None:
        """Ends a ``wait`` of another thread."""

    def close(self) -> None: ...


class MemoryLine:
    """A line to the same process, for tests: ``feed`` what the board will receive."""

    def __init__(self) -> None:
        self.name = "memory"
        self.sent = bytearray()
        self._incoming = bytearray()
        self._event = threading.Event()

    def feed(self, data: bytes) -> None:
        self._incoming += data
        self._event.set()

    def read(self) -> bytes:
        data = bytes(self._incoming)
        del self._incoming[: len(data)]
        self._event.clear()
        return data

    def wait(self, timeout_s: float) -> None:
        self._event.wait(timeout_s)

    def write(self, data: bytes) -> None:
        self.sent += data

    def wake(self) -> None:
        self._event.set()

    def close(self) -> None:
        self._event.set()


class _Descriptor:
    """Waiting on a descriptor that another thread can interrupt."""

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def wake(self) -> None:
        # a full pipe wakes the reader just as well, a closed one has no reader left
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"w")

    def _wait_for(self, descriptor: int | None, timeout_s: float) -> None:
        watched = [self._wake_read] if descriptor is None else [self._wake_read, descriptor]
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, _CHUNK)

    def _close_wake(self) -> None:
        os.close(self._wake_read)
        os.close(self._wake_write)


class PtyLine(_Descriptor):
    """A pseudo-terminal in raw mode; ``name`` is the path that a serial program opens.

    Like a wire, it loses what is sent while nobody has it open; but what a board says before
    anybody could open it the first time is kept, as far as it fits.
    """

    def __init__(self) -> None:
        import tty

        super().__init__()
        self._heard = False
        self._early = b""
        self._master, slave = os.openpty()
        self.name = os.ttyname(slave)
        tty.setraw(slave)
        os.close(slave)
        os.set_blocking(self._master, False)

    def read(self) -> bytes:
        self._release()
        try:
            return os.read(self._master, _CHUNK)
        except OSError as error:
            # EIO: nobody has the other end open
            if error.errno in (errno.EAGAIN, errno.EIO):
                return b""
            raise

    def _listener(self) -> bool:
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))

    def wait(self, timeout_s: float) -> None:
        self._release()
        # While nobody listens the descriptor is always "ready": sleep on the wake pipe alone.
        self._wait_for(self._master if self._listener() else None, min(timeout_s, 0.005))

    def _release(self) -> None:
        """Lets go of what was kept, once somebody has opened the other end."""
        if not self._heard and self._listener():
            self._heard = True
            early, self._early = self._early, b""
            self.write(early)

    def write(self, data: bytes) -> None:
        self._release()
        if not self._heard:
            self._early = (self._early + data)[:_CHUNK]
            return
        deadline = time.monotonic() + _STALL_S
        while data and self._listener():
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return
                select.select([], [self._master], [], min(remaining, 0.05))
            except OSError as error:
                if error.errno == errno.EIO:
                    return
                raise

    def close(self) -> None:
        os.close(self._master)
        self._close_wake()


class TcpLine(_Descriptor):
    """A TCP port on this machine; one client at a time, ``name`` is ``host:port``."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__()
        self._server = socket.create_server((host, port))
        self._server.setblocking(False)
        self.name = "{}:{}".format(*self._server.getsockname()[:2])
        self._client: socket.socket | None = None

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            client, _ = self._server.accept()
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._client is not None:
                self._client.close()
            self._client = client

    def read(self) -> bytes:
        self._accept()
        if self._client is None:
            return b""
        try:
            data = self._client.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._client.close()
            self._client = None
        return data

    def wait(self, timeout_s: float) -> None:
        source = self._client if self._client is not None else self._server
        self._wait_for(source.fileno(), min(timeout_s, 0.02))

    def write(self, data: bytes) -> None:
        self._accept()
        deadline = time.monotonic() + _STALL_S
        while data and self._client is not None:
            try:
                data = data[self._client.send(data) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                select.select([], [self._client], [], 0.05)
            except OSError:
                self._client.close()
                self._client = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._server.close()
        self._close_wake()
