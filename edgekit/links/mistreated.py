"""Another port whose bytes are mistreated on purpose: ``mistreated:0.01:virtual``.

Shows that a bad line costs time, never a wrong result: the given share of bytes is dropped,
changed or doubled, in both directions, the same ones each time (``mistreated:0.01@7:…`` takes
another seed).
"""

from __future__ import annotations

import random
from typing import Any

from edgekit.errors import UsageError
from edgekit.links import Link, open_link
from edgekit.records import Firmware
from edgekit.targets import Target


class MistreatedLink:
    """A link that passes bytes on badly. Everything else is the inner link's."""

    def __init__(self, inner: Link, share: float, seed: int) -> None:
        self.inner = inner
        self.name = f"{inner.name}, {100 * share:g} % of bytes mistreated"
        #: bytes that were dropped, changed or doubled
        self.mistreated_bytes = 0
        self._share = share
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        return self._treat(self.inner.read(max_bytes, timeout_s))

    def write(self, data: bytes) -> None:
        self.inner.write(self._treat(data))

    def close(self) -> None:
        self.inner.close()

    def _treat(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            if self._random.random() >= self._share:
                out.append(byte)
                continue
            self.mistreated_bytes += 1
            kind = self._random.randrange(3)
            if kind == 1:
                out.append(byte ^ 1 << self._random.randrange(8))
            elif kind == 2:
                out += bytes([byte, byte])
        return bytes(out)


def open(rest: str, target: Target | None, firmware: Firmware | None) -> MistreatedLink:
    """Opens ``SHARE[@SEED]:PORT``.

    Raises:
        UsageError: the share is no number from 0 to 0.5, or the port is missing.
    """
    how, _, port = rest.partition(":")
    share, _, seed = how.partition("@")
    try:
        settings = float(share), int(seed or "1")
    except ValueError:
        settings = -1.0, 0
    if not 0 <= settings[0] <= 0.5 or not port:
        raise UsageError(
            f"'{rest}' does not say how to mistreat which port", fix="mistreated:0.01:virtual"
        )
    return MistreatedLink(open_link(port, target, firmware), *settings)
