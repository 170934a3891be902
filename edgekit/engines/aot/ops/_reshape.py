"""Operators that change only the shape, where a pass did not make them vanish."""

from __future__ import annotations

from edgekit.engines.aot.lowering import Input, Kernel, Literal, Node, Output, Overlap, Unsupported


def lower_reshape(node: Node) -> tuple[Kernel, ...]:
    """A copy, or nothing when the memory plan puts the output where the input is."""
    input_, output = node.activation_input(0), node.output
    if input_.dtype != output.dtype or input_.nbytes != output.nbytes:
        raise Unsupported(f"it makes {output.nbytes} bytes of {input_.nbytes}")
    return (
        Kernel(
            function="ek_reshape",
            header="ek_move.h",
            args=(Input(0), Literal("nbytes", output.nbytes), Output(0)),
            overlaps=(Overlap(max_shift=0),),
            cost=float(output.nbytes),
        ),
    )
