"""FlatBuffers from untrusted files: every offset is checked before it is followed.

The format is described at flatbuffers.dev/internals: little-endian, tables with vtables, vectors
with a 32-bit length.
"""

from __future__ import annotations

import struct
from typing import Any

_SCALARS = {
    "bool": struct.Struct("<?"), "int8": struct.Struct("<b"), "uint8": struct.Struct("<B"),
    "int16": struct.Struct("<h"), "uint16": struct.Struct("<H"),
    "int32": struct.Struct("<i"), "uint32": struct.Struct("<I"),
    "int64": struct.Struct("<q"), "uint64": struct.Struct("<Q"),
    "float32": struct.Struct("<f"),
}  # fmt: skip

#: More tensors, operators or buffers than this is no model that anybody can run.
_MAX_ITEMS = 1_000_000


class Malformed(Exception):
    """The bytes are no well-formed FlatBuffer; the message says what and where."""


class Budget:
    """Bounds what is read in all: offsets may lead to the same bytes again and again.

    A real file is read about once. One of a few kilobytes could otherwise name the same long
    vector thousands of times and take all memory.
    """

    __slots__ = ("left",)

    def __init__(self, file_bytes: int) -> None:
        self.left = 16 * file_bytes + (1 << 20)

    def spend(self, nbytes: int) -> None:
        self.left -= nbytes
        if self.left < 0:
            raise Malformed("its parts overlap so often that it would never be read")


class Table:
    """A FlatBuffer table at ``pos`` in ``buf``; every accessor checks its bounds."""

    __slots__ = ("buf", "pos", "_vtable", "_slots", "_budget")

    def __init__(self, buf: bytes, pos: int, budget: Budget | None = None) -> None:
        self.buf = buf
        self.pos = pos
        self._budget = budget or Budget(len(buf))
        back = scalar_at(buf, pos, "int32")
        self._vtable = pos - back
        size = scalar_at(buf, self._vtable, "uint16")
        if size < 4 or self._vtable + size > len(buf):
            raise Malformed(f"vtable at byte {self._vtable} is out of bounds")
        self._slots = (size - 4) // 2

    def _field(self, slot: int) -> int:
        """Absolute position of a field, or 0 when the table does not have it."""
        if slot >= self._slots:
            return 0
        offset = scalar_at(self.buf, self._vtable + 4 + 2 * slot, "uint16")
        return self.pos + offset if offset else 0

    def scalar(self, slot: int, kind: str, default: Any) -> Any:
        at = self._field(slot)
        return scalar_at(self.buf, at, kind) if at else default

    def table(self, slot: int) -> Table | None:
        at = self._field(slot)
        return Table(self.buf, follow(self.buf, at), self._budget) if at else None

    def _vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        at = self._field(slot)
        if not at:
            return 0, 0
        start = follow(self.buf, at)
        count = scalar_at(self.buf, start, "uint32")
        if start + 4 + count * item_bytes > len(self.buf):
            raise Malformed(f"vector of {count} items at byte {start} runs past the end")
        self._budget.spend(count * item_bytes)
        return start + 4, count

    def blob(self, slot: int) -> bytes | None:
        """A vector of bytes; ``None`` when absent."""
        if not self._field(slot):
            return None
        start, count = self._vector(slot, 1)
        return self.buf[start : start + count]

    def string(self, slot: int) -> str:
        return (self.blob(slot) or b"").decode("utf-8", "replace")

    def scalars(self, slot: int, kind: str) -> tuple[Any, ...]:
        packer = _SCALARS[kind]
        start, count = self._vector(slot, packer.size)
        return struct.unpack_from(f"<{count}{packer.format[-1]}", self.buf, start) if count else ()

    def blobs(self, slot: int) -> list[bytes]:
        """A vector of strings, as bytes."""
        start, count = self._vector(slot, 4)
        if count > _MAX_ITEMS:
            raise Malformed(f"a list of {count} items at byte {start}")
        found = []
        for index in range(count):
            at = follow(self.buf, start + 4 * index)
            size = scalar_at(self.buf, at, "uint32")
            if at + 4 + size > len(self.buf):
                raise Malformed(f"a string of {size} bytes at byte {at} runs past the end")
            self._budget.spend(size)
            found.append(self.buf[at + 4 : at + 4 + size])
        return found

    def tables(self, slot: int) -> list[Table]:
        start, count = self._vector(slot, 4)
        if count > _MAX_ITEMS:
            raise Malformed(f"a list of {count} items at byte {start}")
        return [
            Table(self.buf, follow(self.buf, start + 4 * i), self._budget) for i in range(count)
        ]


def scalar_at(buf: bytes, pos: int, kind: str) -> Any:
    packer = _SCALARS[kind]
    if pos < 0 or pos + packer.size > len(buf):
        raise Malformed(f"a reference to byte {pos} of {len(buf)}")
    return packer.unpack_from(buf, pos)[0]


def follow(buf: bytes, pos: int) -> int:
    target: int = pos + scalar_at(buf, pos, "uint32")
    if target + 4 > len(buf):
        raise Malformed(f"an offset at byte {pos} leads to byte {target} of {len(buf)}")
    return target
