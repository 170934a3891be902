"""TRANSPOSE of up to five dimensions of any type: bytes move. Reference: reference/transpose.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import (
    CTYPE_BYTES,
    CTYPES,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Overlap,
    Unsupported,
)

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    if input_.dtype != output.dtype or input_.dtype not in CTYPES:
        raise Unsupported(f"it goes from {input_.dtype} to {output.dtype}")
    rank = len(input_.shape)
    order = [int(a) % rank for a in node.constant_input(1, "permutation").data().reshape(-1)]
    if sorted(order) != list(range(rank)):
        raise Unsupported(f"{order} is no permutation of {rank} dimensions")
    if tuple(input_.shape[a] for a in order) != tuple(output.shape):
        raise Unsupported(f"its output {list(output.shape)} is not {list(input_.shape)} permuted")
    # An element's bytes are the fastest dimension.
    size = CTYPE_BYTES[CTYPES[input_.dtype]]
    steps = pitches(input_.shape, size)
    walks = merged_walks([*((input_.shape[a], steps[a]) for a in order), (size, 1)])
    if len(walks) > 4:
        raise Unsupported(f"{len(walks)} dimensions change places, more than 4")
    walks = [(1, 0)] * (4 - len(walks)) + walks
    run = walks[-1][0] if walks[-1][1] == 1 else 1
    return (
        Kernel(
            function="ek_transpose",
            header="ek_transpose.h",
            args=(
                Input(0),
                *(Literal(f"d{i}", count) for i, (count, _) in enumerate(walks)),
                *(Literal(f"step_{i}", step) for i, (_, step) in enumerate(walks)),
                Output(0),
            ),
            # Nothing moves where the order of the elements stays.
            overlaps=(Overlap(max_shift=0),) if run == output.nbytes else (),
            cost=output.nbytes * (0.8 + (8.0 / run if run > 1 else 2.5)),
        ),
    )


def pitches(shape: tuple[int, ...], size: int) -> list[int]:
    """Bytes from one index to the next along each dimension of a dense tensor."""
    found = [size] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        found[axis] = found[axis + 1] * shape[axis + 1]
    return found


def merged_walks(walks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(count, step in bytes) of dimensions, the fastest last, where neighbours that continue
    each other have become one."""
    found: list[tuple[int, int]] = []
    for count, step in walks:
        if count == 1:
            continue
        if found and found[-1][1] == count * step:
            found[-1] = (found[-1][0] * count, step)
        else:
            found.append((count, step))
    return found or [(1, 1)]
