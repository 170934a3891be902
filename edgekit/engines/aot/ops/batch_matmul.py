"""BATCH_MATMUL, int8. Reference: batch_matmul.cc of TensorFlow Lite Micro."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot import dsp, m0
from edgekit.engines.aot.lowering import (
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Unsupported,
    check_dtype,
    quantize_multiplier,
)
from edgekit.engines.aot.ops._binary import broadcast

if TYPE_CHECKING:
    from edgekit.graph import Tensor
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    first, second = node.inputs[0], node.inputs[1]
    output = node.output
    if first is None or second is None:
        raise Unsupported("an input is missing")
    for tensor in (first, second, output):
        check_dtype(tensor, "int8")
    rows, depth, l_row, l_step = _matrix(first, turned=bool(node.options.get("adj_x", False)))
    inner, columns, r_step, r_column = _matrix(
        second, turned=bool(node.options.get("adj_y", False))
    )
    if inner != depth or tuple(output.shape[-2:]) != (rows, columns):
        raise Unsupported(f"{list(first.shape)} and {list(second.shape)} do not multiply")
    dims, walk_l, walk_r = broadcast(first.shape[:-2], second.shape[:-2], output.shape[:-2])
    if dims[0] * dims[1] != 1:
        raise Unsupported("its batches alternate too often")
    # The reference multiplies the scales in double (GetQuantizedConvolutionMultipler): in float32
    # one output in a million would differ.
    product = first.scale * second.scale
    multiplier, shift = quantize_multiplier(product / output.scale)
    if depth * 255 * 255 >= 1 << 31:
        raise Unsupported(f"sums of {depth} products may leave 32 bits")
    geometry = (
        Literal("n0", dims[2]),
        Literal("n1", dims[3]),
        *(Literal(f"l{i}", walk_l[2 + i] * rows * depth) for i in range(2)),
        *(Literal(f"r{i}", walk_r[2 + i] * depth * columns) for i in range(2)),
        Literal("rows", rows),
        Literal("depth", depth),
        Literal("columns", columns),
        Literal("l_row", l_row),
        Literal("l_step", l_step),
        Literal("r_step", r_step),
        Literal("r_column", r_column),
        Literal("zero_l", first.zero_point, soft=True),
    )
    return (
        *dsp.batch_matmul(node, geometry, (multiplier, shift), target),
        *m0.batch_matmul(node, geometry, (multiplier, shift), target),
        Kernel(
            function="ek_batch_matmul_s8",
            header="ek_batch_matmul_s8.h",
            args=(
                Input(0),
                Input(1),
                *geometry,
                Literal("zero_r", second.zero_point, soft=True),
                Literal("multiplier", multiplier, soft=True),
                Literal("shift", shift),
                Literal("zero", output.zero_point, soft=True),
                Output(0),
            ),
            cost=m0.slowdown(target) * output.elements * (3.3 * depth + 25),
        ),
    )


def _matrix(tensor: Tensor, *, turned: bool) -> tuple[int, int, int, int]:
    """Rows, columns and the steps along each of a tensor's matrices, in bytes."""
    if len(tensor.shape) < 2:
        raise Unsupported(f"tensor '{tensor.name}' is no matrix")
    rows, columns = tensor.shape[-2:]
    return (columns, rows, 1, columns) if turned else (rows, columns, columns, 1)


def macs(node: Node) -> int:
    first = node.inputs[0]
    if first is None:
        return 0
    turned = bool(node.options.get("adj_x", False))
    return node.output.elements * first.shape[-2 if turned else -1]
