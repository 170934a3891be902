"""A model as the lines of a C array's initialiser.

Every byte takes four characters, right-aligned decimal and a comma, so that two bytes are one
lookup in a table of 65,536 64-bit words; blocks that stay in the cache, so that no memory for
the whole text is needed, keep it fast (``benchmarks/c_array.py`` measures it).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BYTES_PER_LINE = 24
_CHARACTERS_PER_BYTE = 4
_WIDTH = _BYTES_PER_LINE * _CHARACTERS_PER_BYTE
#: Bytes of model per block: its text and indices are about 2 MB.
_BLOCK_BYTES = _BYTES_PER_LINE * 8192


def array_lines(data: bytes) -> Iterator[bytes]:
    """The initialiser's lines, ``" 28,  0,…\\n"`` with 24 bytes to a line, many at a time."""
    import numpy as np

    pairs = _pairs()
    whole = len(data) - len(data) % _BYTES_PER_LINE
    source = np.frombuffer(data, "<u2", whole // 2)
    lines = _BLOCK_BYTES // _BYTES_PER_LINE
    text = np.empty((lines, _WIDTH + 1), np.uint8)
    text[:, _WIDTH] = ord("\n")
    words = np.empty(_BLOCK_BYTES // 2, np.uint64)
    for start in range(0, source.size, words.size):
        block = source[start : start + words.size]
        found = words[: block.size]
        # "clip" because "raise" makes numpy copy the result once more; two bytes never exceed.
        np.take(pairs, block, out=found, mode="clip")
        count = 2 * block.size // _BYTES_PER_LINE
        text[:count, :_WIDTH] = found.view(np.uint8).reshape(count, _WIDTH)
        yield text[:count].tobytes()
    if whole < len(data):
        yield b"".join(b"%3d," % value for value in data[whole:]) + b"\n"


@cache
def _pairs() -> NDArray[Any]:
    """For each two bytes (little-endian) the eight characters of their initialisers."""
    import numpy as np

    single = np.frombuffer(b"".join(b"%3d," % value for value in range(256)), "<u4")
    pairs = np.empty((256, 256, 2), "<u4")
    pairs[:, :, 0] = single[np.newaxis, :]
    pairs[:, :, 1] = single[:, np.newaxis]
    flat: NDArray[Any] = pairs.reshape(-1).view("<u8")
    return flat
