"""The UF2 format (https://github.com/microsoft/uf2): 512-byte blocks with 256 bytes each."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.errors import UsageError

BLOCK_BYTES = 512
PAYLOAD_BYTES = 256
_START, _SECOND, _END = 0x0A324655, 0x9E5D5157, 0x0AB16F30
_NOT_FOR_FLASH, _HAS_FAMILY = 0x00000001, 0x00002000


@dataclass(frozen=True)
class Block:
    address: int
    data: bytes
    index: int
    count: int
    #: ``None`` where the field holds a file's size instead
    family: int | None


def read_block(raw: bytes) -> Block | None:
    """One block of 512 bytes; ``None`` when it is none, or is not meant for the flash."""
    if len(raw) != BLOCK_BYTES:
        return None
    start, second, flags, address, size, index, count, family = struct.unpack_from("<8I", raw)
    (end,) = struct.unpack_from("<I", raw, 508)
    if (start, second, end) != (_START, _SECOND, _END) or size > 476 or flags & _NOT_FOR_FLASH:
        return None
    return Block(
        address, raw[32 : 32 + size], index, count, family if flags & _HAS_FAMILY else None
    )


def read_uf2(content: bytes, where: str) -> tuple[Block, ...]:
    """The blocks of a file.

    Raises:
        UsageError: it holds none, or not all that it announces.
    """
    blocks = tuple(
        block
        for start in range(0, len(content), BLOCK_BYTES)
        if (block := read_block(content[start : start + BLOCK_BYTES])) is not None
    )
    if not blocks:
        raise UsageError("this is no UF2 file: it has no block of the format", where)
    if len({block.index for block in blocks}) != blocks[0].count:
        raise UsageError(
            f"the UF2 file has {len(blocks)} of the {blocks[0].count} blocks that it announces",
            where,
        )
    return blocks


def write_uf2(pieces: Iterable[tuple[int, bytes]], family: int) -> bytes:
    """A file for pieces of (address, content), each filled up to whole blocks with 0xFF."""
    payloads = []
    for address, content in pieces:
        first = address - address % PAYLOAD_BYTES
        content = b"\xff" * (address - first) + content
        content += b"\xff" * (-len(content) % PAYLOAD_BYTES)
        payloads += [
            (first + offset, content[offset : offset + PAYLOAD_BYTES])
            for offset in range(0, len(content), PAYLOAD_BYTES)
        ]
    blocks = []
    for index, (address, data) in enumerate(payloads):
        head = struct.pack(
            "<8I",
            _START,
            _SECOND,
            _HAS_FAMILY,
            address,
            PAYLOAD_BYTES,
            index,
            len(payloads),
            family,
        )
        blocks.append(head + data.ljust(476, b"\0") + struct.pack("<I", _END))
    return b"".join(blocks)
