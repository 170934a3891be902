"""Element-wise functions of one int8 tensor as a table of all 256 answers."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.engines.aot import mve
from edgekit.engines.aot.lowering import (
    Data,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Overlap,
    Unsupported,
    check_dtype,
)
from edgekit.engines.aot.ops._fixed_point import byte_table


def lookup(node: Node, function: Callable[[int], int]) -> tuple[Kernel, ...]:
    """``output = function(input)`` for every int8 input."""
    input_ = node.activation_input(0)
    check_dtype(input_, "int8")
    check_dtype(node.output, "int8")
    (plain,) = lookup_bytes(node, function, "ek_lookup_s8")
    return (mve.vectorized(plain, "ek_lookup_s8_mve"), plain)


def lookup_bytes(node: Node, function: Callable[[int], int], name: str) -> tuple[Kernel, ...]:
    """The same for 8-bit types of any sign; the table is indexed by the input's byte, so
    ``function`` takes it as a signed number."""
    _check_count(node)
    return (
        Kernel(
            function=name,
            header="ek_lookup_s8.h",
            args=(
                Input(0),
                Data("table"),
                Literal("count", node.output.elements, extent=True),
                Output(0),
            ),
            tables=(byte_table(function),),
            table_reads=node.output.elements / 256,
            overlaps=(Overlap(max_shift=0),),
            cost=4.0 * node.output.elements,
        ),
    )


def clamp(node: Node, low: int, high: int) -> tuple[Kernel, ...]:
    """``output = min(max(input, low), high)``, without a table."""
    plain = Kernel(
        function="ek_clamp_s8",
        header="ek_lookup_s8.h",
        args=(
            Input(0),
            Literal("count", node.output.elements, extent=True),
            Literal("low", low, soft=True),
            Literal("high", high, soft=True),
            Output(0),
        ),
        overlaps=(Overlap(max_shift=0),),
        cost=6.0 * node.output.elements,
    )
    return (mve.vectorized(plain, "ek_clamp_s8_mve"), plain)


def _check_count(node: Node) -> None:
    count = node.activation_input(0).elements
    if count != node.output.elements:
        raise Unsupported(f"it makes {node.output.elements} elements of {count}")
