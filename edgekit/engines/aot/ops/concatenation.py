"""CONCATENATION: moves bytes; like TFLM it does not requantise."""

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


#: Inputs of the kernels, the last being the most.
_WAYS = (2, 4, 10)
MOST_INPUTS = _WAYS[-1]


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    output = node.output
    if node.options.get("fused_activation_function", "NONE") != "NONE":
        raise Unsupported("it has a fused activation")
    if output.dtype != "int8":
        raise Unsupported(f"its type is {output.dtype}")
    size = CTYPE_BYTES[CTYPES[output.dtype]]
    axis = int(node.options.get("axis", 0)) % len(output.shape)
    outer = math.prod(output.shape[:axis])
    runs: list[int] = []
    for tensor in node.inputs:
        if tensor is None or tensor.dtype != output.dtype:
            raise Unsupported("its inputs differ in type")
        runs.append(tensor.elements // max(outer, 1) * size)
    if outer * sum(runs) != output.nbytes:
        raise Unsupported(f"its inputs make {outer * sum(runs)} bytes of {output.nbytes}")
    ways = next((n for n in _WAYS if n >= len(runs)), None)
    if ways is None:
        raise Unsupported(f"it has {len(runs)} inputs, more than {MOST_INPUTS}")
    starts = [sum(runs[:i]) for i in range(len(runs))]
    return (
        Kernel(
            function=f"ek_concatenation_{ways}",
            header="ek_move.h",
            args=(
                *(Input(i if i < len(runs) else 0) for i in range(ways)),
                Literal("outer", outer),
                *(Literal(f"nbytes_{i}", n) for i, n in enumerate(runs)),
                *(Literal(f"nbytes_{i}", 0) for i in range(len(runs), ways)),
                Output(0),
            ),
            overlaps=tuple(
                Overlap(input=i, min_shift=-start, max_shift=-start)
                for i, start in enumerate(starts)
                if outer == 1
            ),
            cost=outer * (sum(runs) + 15.0 * len(runs)),
        ),
    )
