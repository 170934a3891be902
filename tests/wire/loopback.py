"""The firmware's side of the wire as a shared object, and a line of which time is simulated."""

from __future__ import annotations

import ctypes
import random
from collections import deque
from collections.abc import Callable

BUILD_ID = bytes(range(1, 17)).hex()


class Harness:
    """wire.c with the toy model, booted anew for each test."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._buffer = ctypes.create_string_buffer(65536)
        self.boot()

    def boot(self, staged: bool = False) -> None:
        self._library.harness_boot(int(staged))

    def boot_fed(self) -> None:
        """The toy with an input in two pieces of 150 bytes, before steps 0 and 2 of 7."""
        self._library.harness_boot_fed()

    def boot_big(self) -> None:
        """A model that copies 27,648 bytes."""
        self._library.harness_boot_big()

    def feed(self, data: bytes) -> bytes:
        """Bytes to the device; what it answers."""
        self._library.harness_feed(data, len(data))
        count = self._library.harness_take(self._buffer)
        return self._buffer.raw[:count]

    @property
    def intact(self) -> bool:
        return bool(self._library.harness_intact())

    @property
    def invocations(self) -> int:
        return int(self._library.harness_invocations())

    @property
    def resets(self) -> int:
        return int(self._library.harness_resets())


class Line:
    """A serial line with simulated time: bytes take their time, and may be mistreated.

    Args:
        baud: bits per second; a byte takes ten.
        latency_s: delay of each transfer, as USB adapters have, in both directions.
        mistreat: what becomes of a byte: itself, nothing, another one, or two.
        reset_after: numbers of bytes received by the device after which it restarts.
    """

    name = "simulated line"

    def __init__(
        self,
        harness: Harness,
        *,
        baud: float = 115200,
        latency_s: float = 0.001,
        mistreat: Callable[[int], bytes] = lambda byte: bytes([byte]),
        reset_after: tuple[int, ...] = (),
        staged: bool = False,
    ) -> None:
        self.baud = baud
        self.now = 0.0
        self._harness = harness
        self._byte_s = 10 / baud
        self._latency_s = latency_s
        self._mistreat = mistreat
        self._staged = staged
        self._resets = deque(reset_after)
        self._fed = 0
        self._to_device: deque[tuple[float, int]] = deque()
        self._to_host: deque[tuple[float, int]] = deque()
        self.closed = False

    def clock(self) -> float:
        return self.now

    def _put(self, queue: deque[tuple[float, int]], data: bytes, start: float) -> None:
        at = max(start + self._latency_s, queue[-1][0] if queue else 0.0)
        for byte in data:
            at += self._byte_s
            for kept in self._mistreat(byte):
                queue.append((at, kept))

    def write(self, data: bytes) -> None:
        self._put(self._to_device, data, self.now)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        deadline = self.now + max(timeout_s, 1e-6)
        while True:
            device = self._to_device[0][0] if self._to_device else float("inf")
            host = self._to_host[0][0] if self._to_host else float("inf")
            if min(device, host) > deadline:
                self.now = deadline
                return b""
            if device <= host:
                at, byte = self._to_device.popleft()
                self._fed += 1
                if self._resets and self._fed >= self._resets[0]:
                    self._resets.popleft()
                    self._harness.boot(self._staged)
                answer = self._harness.feed(bytes([byte]))
                if answer:
                    self._put(self._to_host, answer, at)
            else:
                data = bytearray()
                self.now = max(self.now, host)
                while self._to_host and self._to_host[0][0] <= self.now:
                    if len(data) == max_bytes:
                        break
                    data.append(self._to_host.popleft()[1])
                return bytes(data)

    def close(self) -> None:
        self.closed = True


def mistreatment(seed: int, share: float) -> Callable[[int], bytes]:
    """Drops, corrupts or doubles ``share`` of all bytes."""
    generator = random.Random(seed)

    def treat(byte: int) -> bytes:
        if generator.random() >= share:
            return bytes([byte])
        kind = generator.randrange(3)
        if kind == 0:
            return b""
        if kind == 1:
            return bytes([byte ^ 1 << generator.randrange(8)])
        return bytes([byte, byte])

    return treat
