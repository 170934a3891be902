"""PAD and PADV2, int8: surrounds with the zero point, or with the constant of PADV2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import (
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Unsupported,
    check_dtype,
)

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    check_dtype(input_, "int8")
    check_dtype(output, "int8")
    pads = [(int(a), int(b)) for a, b in node.constant_input(1, "paddings").data().tolist()]
    constant = node.optional_constant(2, "value")
    value = output.zero_point if constant is None else int(constant.data().reshape(-1)[0])
    dims: list[tuple[int, int, int]] = []
    for size, (before, after) in zip(input_.shape, pads, strict=True):
        if dims and before == after == 0:
            # A whole dimension below: the one above counts in its units.
            dims[-1] = (dims[-1][0] * size, dims[-1][1] * size, dims[-1][2] * size)
        else:
            dims.append((size, before, after))
    if len(dims) > 4:
        raise Unsupported(f"{len(dims)} dimensions are padded, more than 4")
    dims = [(1, 0, 0)] * (4 - len(dims)) + dims
    return (
        Kernel(
            function="ek_pad_s8",
            header="ek_move.h",
            args=(
                Input(0),
                *(Literal(f"d{i}", d[0]) for i, d in enumerate(dims)),
                *(Literal(f"before_{i}", d[1]) for i, d in enumerate(dims)),
                *(Literal(f"after_{i}", d[2]) for i, d in enumerate(dims)),
                Literal("value", value, soft=True),
                Output(0),
            ),
            cost=2.0 * output.elements,
        ),
    )
