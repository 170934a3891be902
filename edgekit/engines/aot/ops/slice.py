"""SLICE with constant begin and size: moves bytes. Reference: reference/slice.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import (
    CTYPE_BYTES,
    CTYPES,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Unsupported,
)
from edgekit.engines.aot.ops.transpose import merged_walks, pitches

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    if input_.dtype != output.dtype or input_.dtype not in CTYPES:
        raise Unsupported(f"it goes from {input_.dtype} to {output.dtype}")
    begins = [int(v) for v in node.constant_input(1, "begin").data().reshape(-1)]
    sizes = [int(v) for v in node.constant_input(2, "size").data().reshape(-1)]
    shape = input_.shape
    if not len(begins) == len(sizes) == len(shape):
        raise Unsupported(f"begin {begins} and size {sizes} are not for {list(shape)}")
    sizes = [
        have - begin if size == -1 else size
        for have, begin, size in zip(shape, begins, sizes, strict=True)
    ]
    inside = all(
        0 <= begin <= begin + size <= have
        for have, begin, size in zip(shape, begins, sizes, strict=True)
    )
    if not inside or tuple(sizes) != tuple(output.shape):
        raise Unsupported(f"{begins} and {sizes} do not lead from {list(shape)}")
    element = CTYPE_BYTES[CTYPES[input_.dtype]]
    steps = pitches(shape, element)
    walks = merged_walks([*zip(sizes, steps, strict=True), (element, 1)])
    if len(walks) > 5:
        raise Unsupported(f"it steps along {len(walks)} dimensions, more than 5")
    nbytes = walks.pop()[0] if walks[-1][1] == 1 else 1
    walks = [(1, 0)] * (4 - len(walks)) + walks
    start = sum(begin * step for begin, step in zip(begins, steps, strict=True))
    return (
        Kernel(
            function="ek_strided_slice",
            header="ek_move.h",
            args=(
                Input(0),
                Literal("nbytes", nbytes),
                Literal("start", start),
                *(Literal(f"d{i}", count) for i, (count, _) in enumerate(walks)),
                *(Literal(f"step_{i}", step) for i, (_, step) in enumerate(walks)),
                Output(0),
            ),
            cost=output.nbytes * (1.0 + 8.0 / max(nbytes, 1)),
        ),
    )
