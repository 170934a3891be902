"""FULLY_CONNECTED, int8. Reference: tensorflow/lite/kernels/internal/reference/integer_ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.engines.aot.lowering import (
    Data,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Table,
    Unsupported,
    activation_range,
    check_dtype,
    quantize_multiplier,
)

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_ = node.activation_input(0)
    weights = node.constant_input(1, "weights")
    bias = node.optional_constant(2, "bias")
    output = node.output
    for tensor in (input_, output):
        check_dtype(tensor, "int8")
    check_dtype(weights, "int8")
    if weights.quantization is None or weights.quantization.per_channel:
        raise Unsupported("its weights are quantised per channel")
    if any(weights.quantization.zero_points):
        raise Unsupported("its weights have a zero point")
    outputs, depth = weights.shape
    rows = output.elements // outputs
    # The reference multiplies the scales in float32 (GetQuantizedConvolutionMultipler).
    product = float(np.float32(input_.scale) * np.float32(weights.scale))
    multiplier, shift = quantize_multiplier(product / output.scale)
    low, high = activation_range(node.options.get("fused_activation_function", "NONE"), output)
    # With the input's zero point folded into the bias the inner loop multiplies raw bytes.
    sums = weights.data().astype(np.int64).sum(axis=1)
    folded = -input_.zero_point * sums
    if bias is not None:
        check_dtype(bias, "int32")
        folded = folded + bias.data().reshape(-1)
    return (
        Kernel(
            function="ek_fully_connected_s8",
            header="ek_fully_connected_s8.h",
            args=(
                Input(0),
                Data("weights"),
                Data("bias"),
                Literal("rows", rows),
                Literal("depth", depth),
                Literal("outputs", outputs),
                Literal("multiplier", multiplier, soft=True),
                Literal("shift", shift),
                Literal("output_zero", output.zero_point, soft=True),
                Literal("low", low, soft=True),
                Literal("high", high, soft=True),
                Output(0),
            ),
            tables=(
                Table("weights", "int8_t", weights.data()),
                Table("bias", "int32_t", folded.astype(np.int32)),
            ),
            cost=rows * outputs * (2.5 * depth + 30),
        ),
    )


def macs(node: Node) -> int:
    depth = node.constant_input(1, "weights").shape[-1]
    return node.output.elements * depth
