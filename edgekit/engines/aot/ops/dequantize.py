"""DEQUANTIZE, int8 to float32. Reference: reference/dequantize.h of TensorFlow Lite."""

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
    check_dtype,
)

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    check_dtype(input_, "int8")
    if output.dtype != "float32":
        raise Unsupported(f"it goes from int8 to {output.dtype}")
    codes = np.concatenate([np.arange(128), np.arange(-128, 0)]) - input_.zero_point
    floats = (np.float64(input_.scale) * codes).astype(np.float32)
    return (
        Kernel(
            function="ek_dequantize_s8_f32",
            header="ek_quantize_f32.h",
            args=(
                Input(0),
                Data("table"),
                Literal("count", output.elements, extent=True),
                Output(0),
            ),
            tables=(Table("table", "uint32_t", floats.view(np.uint32)),),
            cost=6.0 * output.elements,
        ),
    )
