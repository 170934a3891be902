"""One piece of a SPLIT, SPLIT_V or UNPACK (see :mod:`edgekit.engines.aot.passes.splits`)."""

from __future__ import annotations

import math
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
    if "begin" not in node.options:
        raise Unsupported("its axis must be constant")
    input_, output = node.activation_input(0), node.output
    if input_.dtype != output.dtype or input_.dtype not in CTYPES:
        raise Unsupported(f"it goes from {input_.dtype} to {output.dtype}")
    axis, begin, size = (int(node.options[name]) for name in ("axis", "begin", "size"))
    inner = math.prod(input_.shape[axis + 1 :]) * CTYPE_BYTES[CTYPES[input_.dtype]]
    outer = math.prod(input_.shape[:axis])
    run, pitch = size * inner, input_.shape[axis] * inner
    if not 0 <= begin <= begin + size <= input_.shape[axis] or outer * run != output.nbytes:
        raise Unsupported(f"piece {begin} to {begin + size} is not in {list(input_.shape)}")
    return (
        Kernel(
            function="ek_split",
            header="ek_move.h",
            args=(
                Input(0),
                Literal("start", begin * inner),
                Literal("outer", outer),
                Literal("nbytes", run),
                Literal("pitch", pitch),
                Output(0),
            ),
            # Runs are written below where they are read, each later one as well.
            overlaps=(Overlap(max_shift=begin * inner),),
            cost=output.nbytes * 0.8 + 10.0 * outer,
        ),
    )
