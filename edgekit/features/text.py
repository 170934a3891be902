"""Words as ternary features by hashing: the input of ``edgekit zoo``'s ``text_projection``.

A text is cut into words (:func:`words`). Each word, between ``<`` and ``>``, gives the hashes of
all its groups of three bytes and of itself. A hash stands for a ternary vector, and the sign of
the sum of these vectors are the word's features: words that share most of their letters share
most of their features, and there is no vocabulary. The projection to ternary values by pairs of
hash bits is that of PRADO (Kaliamoorthi et al., EMNLP 2019), the groups of letters those of
fastText (Bojanowski et al., arXiv:1607.04606, 2017), the sign of a sum that of Charikar's
similarity hashing (STOC 2002).

Hashes are 32-bit FNV-1a; feature ``i`` is taken from bits ``2 * (i % 16)`` and up of the hash's
word ``i // 16``, which is MurmurHash3's finaliser of ``hash + word * 0x9e3779b9``. Both are in the
public domain.

``firmware/include/ek_text.h`` computes the same values from the same bytes on a device.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from edgekit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Bytes of a word that count; the rest of a longer one is ignored.
WORD_BYTES = 64

_MASK = 0xFFFFFFFF


def words(text: str | bytes) -> list[bytes]:
    """The words of a text: runs of letters and digits in lower case, and single other characters.

    Bytes of 128 and more (UTF-8 beyond ASCII) count as letters and keep their case. White space
    and control characters separate. Text is encoded as UTF-8.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    found: list[bytes] = []
    word = bytearray()
    for byte in data:
        if 0x41 <= byte <= 0x5A:
            byte += 0x20
        if byte >= 0x80 or 0x61 <= byte <= 0x7A or 0x30 <= byte <= 0x39:
            word.append(byte)
            continue
        if word:
            found.append(bytes(word[:WORD_BYTES]))
            word.clear()
        if 0x20 < byte < 0x7F:
            found.append(bytes([byte]))
    if word:
        found.append(bytes(word[:WORD_BYTES]))
    return found


def project(text: str | bytes, tokens: int = 32, features: int = 128) -> NDArray[np.int8]:
    """The features of a text's first ``tokens`` words, int8 [tokens, features] of -1, 0 and 1.

    Where there are fewer words the rest is 0.

    Args:
        text: a string, or bytes in UTF-8.
        tokens: the model's parameter of that name.
        features: likewise; a multiple of 16.

    Raises:
        UsageError: ``features`` is no multiple of 16, or one of both is not positive.
    """
    import numpy as np

    if tokens < 1 or features < 16 or features % 16:
        raise UsageError(f"{tokens} tokens of {features} features: features come in sixteens")
    found = np.zeros((tokens, features), np.int8)
    for row, word in zip(found, words(text), strict=False):
        row[:] = _word(word, features)
    return found


def batch(
    texts: Iterable[str | bytes], tokens: int = 32, features: int = 128
) -> NDArray[np.float32]:
    """:func:`project` of several texts as the float model takes them, [N, tokens, features]."""
    import numpy as np

    rows = [project(text, tokens, features) for text in texts]
    return np.asarray(rows, np.float32).reshape(-1, tokens, features)


def codes(scale: float, zero_point: int) -> tuple[int, int, int]:
    """What -1, 0 and 1 are in a model's int8 input: the ``codes`` of ``ek_text_features``."""
    import numpy as np

    values = np.array([-1.0, 0.0, 1.0]) / scale
    rounded = np.trunc(values + np.copysign(0.5, values)).astype(int) + zero_point
    low, middle, high = (int(v) for v in np.clip(rounded, -128, 127))
    return low, middle, high


@lru_cache(maxsize=65536)
def _word(word: bytes, features: int) -> NDArray[np.int8]:
    import numpy as np

    bounded = b"<" + word + b">"
    groups = [bounded[i : i + 3] for i in range(len(bounded) - 2)]
    hashes = np.array([_fnv(group) for group in (*groups, bounded)], np.uint32)
    # [groups, words of 32 bits]
    offsets = np.arange(features // 16, dtype=np.uint32) * np.uint32(0x9E3779B9)
    bits = _finish(hashes[:, None] + offsets)
    # [groups, words, 16 pairs]: 1 is +1, 2 is -1, 0 and 3 are 0
    pairs = (bits[:, :, None] >> (2 * np.arange(16, dtype=np.uint32))) & 3
    ternary = (pairs & 1).astype(np.int32) - (pairs >> 1).astype(np.int32)
    sign: NDArray[np.int8] = np.sign(ternary.sum(axis=0)).astype(np.int8).reshape(-1)
    return sign


def _fnv(data: bytes) -> int:
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & _MASK
    return value


def _finish(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    import numpy as np

    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
