"""SOFTMAX, int8. Reference: reference/softmax.h of TensorFlow Lite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgekit.engines.aot.lowering import (
    Data,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Overlap,
    Table,
    Unsupported,
    check_dtype,
    quantize_multiplier,
)
from edgekit.engines.aot.ops._fixed_point import exp_on_negative_values, multiply_high

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    check_dtype(input_, "int8")
    check_dtype(output, "int8")
    if output.scale != 1 / 256 or output.zero_point != -128:
        raise Unsupported(
            f"its output has the scale {output.scale} and the zero point {output.zero_point}, "
            "where the reference takes only 1/256 and -128"
        )
    depth = input_.shape[-1]
    rows = input_.elements // depth
    if depth >= 1 << 12:
        raise Unsupported(f"rows of {depth} may overflow the sum of the reference")
    # PreprocessSoftmaxScaling: differences in Q5.26.
    beta = float(np.float32(node.options.get("beta", 1.0)))
    real = min(beta * input_.scale * (1 << 26), float((1 << 31) - 1))
    multiplier, shift = quantize_multiplier(real)
    if shift < 0:
        raise Unsupported(f"its scale {input_.scale} is below what the reference takes")
    limit = math.floor(31.0 * (1 << 26) / 2.0**shift)
    exps = [
        exp_on_negative_values(multiply_high(-d << shift, multiplier))
        for d in range(min(limit, 255) + 1)
    ]
    while len(exps) > 1 and exps[-1] == 0:
        exps.pop()
    return (
        Kernel(
            function="ek_softmax_s8",
            header="ek_softmax_s8.h",
            args=(
                Input(0),
                Data("exps"),
                Literal("exps_count", len(exps), extent=True),
                Literal("rows", rows, extent=True),
                Literal("depth", depth, extent=True),
                Output(0),
            ),
            tables=(Table("exps", "int32_t", np.array(exps, np.int32)),),
            overlaps=(Overlap(max_shift=0),),
            cost=rows * (40.0 * depth + 150),
        ),
    )
