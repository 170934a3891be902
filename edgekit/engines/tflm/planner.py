"""The memory plan that TFLM's greedy planner makes.

TFLM places buffers largest first, each at the lowest offset where it fits between the buffers
that live at the same time (``greedy_memory_planner.cc``, after Pisarchyk and Lee, "Efficient
Memory Management for Deep Neural Net Inference", 2020). This module computes the same sizes, to
predict an arena; the ahead-of-time engine plans on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: TFLM aligns every planned buffer to this (``MicroArenaBufferAlignment``).
ALIGNMENT = 16


@dataclass(frozen=True)
class Request:
    """A buffer to be placed; it lives from ``first`` to ``last``, both inclusive."""

    nbytes: int
    first: int
    last: int
    #: set where the model's metadata fixes the place (offline plan)
    offset: int | None = None


def align_up(value: int, alignment: int = ALIGNMENT) -> int:
    return -(-value // alignment) * alignment


def head_bytes(requests: Sequence[Request]) -> int:
    """Bytes that TFLM's planner needs for the buffers, which is the head of its arena."""
    fixed = [r for r in requests if r.offset is not None]
    # The planner fills its list from the back and then sorts it stably by size, so that of
    # equal buffers the one that was added last comes first.
    free = sorted(
        (r for r in reversed(requests) if r.offset is None),
        key=lambda r: -align_up(r.nbytes),
    )
    placed: list[tuple[int, int, Request]] = []
    for request in [*fixed, *free]:
        size = align_up(request.nbytes)
        offset = request.offset if request.offset is not None else _gap(placed, request, size)
        # By offset; behind those of equal offset, as the planner's list has it.
        at = next((i for i, item in enumerate(placed) if item[0] > offset), len(placed))
        placed.insert(at, (offset, offset + size, request))
    return max((end for _, end, _ in placed), default=0)


def _gap(placed: Sequence[tuple[int, int, Request]], wanted: Request, size: int) -> int:
    offset = 0
    for start, end, other in placed:
        if other.first > wanted.last or wanted.first > other.last:
            continue
        if start - offset >= size:
            break
        offset = max(offset, end)
    return offset
