"""FULLY_CONNECTED, int8. Reference: integer_ops/fully_connected.h of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot import dsp, m0, mve
from edgekit.engines.aot.lowering import (
    Data,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Table,
    Unsupported,
    check_dtype,
)
from edgekit.engines.aot.ops._sums import effective_scales, sums

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_ = node.activation_input(0)
    weights = node.constant_input(1, "weights")
    bias = node.optional_constant(2, "bias")
    output = node.output
    for tensor in (input_, weights, output):
        check_dtype(tensor, "int8")
    if weights.quantization is None:
        raise Unsupported("its weights are not quantised")
    weights_zero = 0
    if weights.quantization.per_channel:
        if any(weights.quantization.zero_points):
            raise Unsupported("its weights are quantised per channel and have zero points")
        scales = effective_scales(input_, weights, output)
    else:
        weights_zero = weights.zero_point
        # TFLM multiplies the scales in double; TensorFlow Lite does so in float32, and then one
        # output of some 200,000 is another (512,000 of the anomaly detection model's compared).
        scales = [input_.scale * weights.scale / output.scale]
    outputs, depth = weights.shape
    rows = output.elements // outputs
    result = m0.small_sums(
        sums(node, weights.data(), bias, scales, weights_zero=weights_zero), target
    )
    return (
        *(dsp.fully_connected(node, scales, target) if weights_zero == 0 else ()),
        *(dsp.matrix_rows(node, scales, target) if weights_zero == 0 else ()),
        *(mve.fully_connected(node, scales, target) if weights_zero == 0 else ()),
        *(m0.fully_connected(node, result, target) if weights_zero == 0 else ()),
        *(m0.matrix_rows(node, scales, result, target) if weights_zero == 0 else ()),
        Kernel(
            function="ek_fully_connected_s8",
            header="ek_fully_connected_s8.h",
            args=(
                Input(0),
                Data("weights"),
                Data("bias"),
                Data("multipliers"),
                Data("shifts"),
                Literal("per_channel", int(len(scales) > 1)),
                Literal("rows", rows, extent=True),
                Literal("depth", depth, extent=True),
                Literal("outputs", outputs, extent=True),
                Literal("block", min(outputs, 4)),
                Literal("weights_zero", weights_zero),
                result.mode_literal,
                *result.output_literals,
                Output(0),
            ),
            tables=(
                Table("weights", "int8_t", weights.data(), align_bytes=1),
                *result.tables,
            ),
            table_reads=rows,
            cost=m0.slowdown(target) * rows * outputs * (2.5 * depth + 20),
        ),
    )


def macs(node: Node) -> int:
    depth = node.constant_input(1, "weights").shape[-1]
    return node.output.elements * depth
