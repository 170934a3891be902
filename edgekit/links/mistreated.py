"""Another port whose bytes are mistreated on purpose: ``mistreated:0.01:virtual``.

Shows that a bad line costs time, never a wrong result: the given share of bytes is dropped,
changed or doubled, in both directions, the same ones each time (``mistreated:0.01@7:…`` takes
another seed). ``mistreated:0.01,delay=0.2,cut=20000:…`` also holds what comes back for up to 0.2 s
now and then, and breaks the link about every 20,000 bytes; whoever uses it must open it again.
"""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from edgekit.errors import DeviceError, UsageError
from edgekit.links import Link, open_link
from edgekit.records import Firmware
from edgekit.targets import Target

#: One of so many pieces that come back is held.
_HELD_EACH = 20


@dataclass(frozen=True)
class Mistreatment:
    """``share`` of bytes is lost, changed or doubled; ``delay_s``: the longest wait of a piece;
    ``cut_bytes``: the mean number of bytes between two disconnections, 0 for none."""

    share: float = 0.0
    delay_s: float = 0.0
    cut_bytes: int = 0
    seed: int = 1


class MistreatedLink:
    """A link that passes bytes on badly. Everything else is the inner link's."""

    def __init__(self, inner: Link, how: Mistreatment) -> None:
        self.inner = inner
        self.name = f"{inner.name}, {100 * how.share:g} % of bytes mistreated"
        #: bytes that were dropped, changed or doubled
        self.mistreated_bytes = 0
        self._how = how
        self._random = random.Random(how.seed)
        self._held: deque[tuple[float, bytes]] = deque()
        self._left = self._next_cut()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        if self._held:
            due, data = self._held[0]
            wait = due - time.monotonic()
            if wait > timeout_s:
                time.sleep(max(0.0, timeout_s))
                return b""
            time.sleep(max(0.0, wait))
            self._held.popleft()
            if len(data) > max_bytes:
                self._held.appendleft((due, data[max_bytes:]))
            return data[:max_bytes]
        data = self._treat(self.inner.read(max_bytes, timeout_s))
        if data and self._how.delay_s and self._random.randrange(_HELD_EACH) == 0:
            self._held.append((time.monotonic() + self._random.random() * self._how.delay_s, data))
            return b""
        return data[:max_bytes]

    def write(self, data: bytes) -> None:
        self.inner.write(self._treat(data))

    def close(self) -> None:
        self.inner.close()

    def _next_cut(self) -> int:
        mean = self._how.cut_bytes
        return self._random.randrange(mean // 2, mean + mean // 2 + 1) if mean else 0

    def _treat(self, data: bytes) -> bytes:
        if self._how.cut_bytes:
            self._left -= len(data)
            if self._left < 0:
                self._left = self._next_cut()
                raise DeviceError("the link was cut on purpose", self.name)
        out = bytearray()
        for byte in data:
            if self._random.random() >= self._how.share:
                out.append(byte)
                continue
            self.mistreated_bytes += 1
            kind = self._random.randrange(3)
            if kind == 1:
                out.append(byte ^ 1 << self._random.randrange(8))
            elif kind == 2:
                out += bytes([byte, byte])
        return bytes(out)


def _parse(how: str) -> Mistreatment | None:
    """``SHARE[,delay=SECONDS][,cut=BYTES][@SEED]``; ``None`` for anything else."""
    words, _, seed = how.partition("@")
    share, *options = words.split(",")
    given = dict(option.partition("=")[::2] for option in options)
    if set(given) - {"delay", "cut"}:
        return None
    try:
        found = Mistreatment(
            float(share), float(given.get("delay", 0)), int(given.get("cut", 0)), int(seed or "1")
        )
    except ValueError:
        return None
    ranges = 0 <= found.share <= 0.5 and 0 <= found.delay_s <= 60
    return found if ranges and (found.cut_bytes == 0 or found.cut_bytes >= 1000) else None


def open(rest: str, target: Target | None, firmware: Firmware | None) -> MistreatedLink:
    """Opens ``SHARE[,delay=SECONDS][,cut=BYTES][@SEED]:PORT``.

    Raises:
        UsageError: the share is no number from 0 to 0.5, the delay longer than a minute, the cuts
            nearer than 1,000 bytes, or the port is missing.
    """
    how, _, port = rest.partition(":")
    found = _parse(how)
    if found is None or not port:
        raise UsageError(
            f"'{rest}' does not say how to mistreat which port",
            fix="mistreated:0.01:virtual, or mistreated:0.01,delay=0.2,cut=20000:virtual",
        )
    return MistreatedLink(open_link(port, target, firmware), found)
