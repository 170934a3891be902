"""RELU, int8, with requantisation. Reference: ReluQuantized of TensorFlow Lite Micro."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.engines.aot.lowering import Kernel, Node, check_dtype, quantize_multiplier
from edgekit.engines.aot.ops._elementwise import clamp, lookup
from edgekit.engines.aot.ops._fixed_point import requantize, saturate

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    check_dtype(input_, "int8")
    check_dtype(output, "int8")
    low = max(-128, output.zero_point)
    # The reference divides in float32.
    ratio = float(np.float32(input_.scale) / np.float32(output.scale))
    multiplier, shift = quantize_multiplier(ratio)
    if ratio == 1.0 and input_.zero_point == output.zero_point:
        return clamp(node, low, 127)

    def answer(x: int) -> int:
        scaled = requantize(x - input_.zero_point, multiplier, shift)
        return saturate(scaled + output.zero_point, low, 127)

    return lookup(node, answer)
