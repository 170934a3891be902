"""LOGISTIC and TANH, int8. Reference: integer_ops/logistic.h and tanh.h of TensorFlow Lite."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgekit.engines.aot.lowering import Kernel, Node, Unsupported, quantize_multiplier
from edgekit.engines.aot.ops._elementwise import lookup
from edgekit.engines.aot.ops._fixed_point import requantize, saturate, shift_right


def lower_sigmoid(
    node: Node, function: Callable[[int], int], scale: float, zero: int
) -> tuple[Kernel, ...]:
    """``function`` takes Q4.27 and gives Q0.31; the output's quantisation is fixed by it."""
    input_, output = node.activation_input(0), node.output
    if output.scale != scale or output.zero_point != zero:
        raise Unsupported(
            f"its output has the scale {output.scale} and the zero point {output.zero_point}, "
            f"where the reference takes only {scale} and {zero}"
        )
    multiplier, shift = quantize_multiplier(input_.scale * (1 << 27))
    # Beyond this distance from the zero point Q4.27 would overflow (CalculateInputRadius).
    radius = math.floor(15.0 * (1 << 27) / 2.0**shift)

    def answer(x: int) -> int:
        value = x - input_.zero_point
        if value <= -radius:
            return -128
        if value >= radius:
            return 127
        raw = function(requantize(value, multiplier, shift))
        return saturate(shift_right(raw, 31 + round(math.log2(scale))) + zero, -128, 127)

    return lookup(node, answer)
