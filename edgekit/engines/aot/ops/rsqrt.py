"""RSQRT, int8. Reference: elementwise.cc of TensorFlow Lite Micro.

Below the zero point the reference refuses to run; there the table repeats the answer of zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node, check_dtype, quantize_multiplier
from edgekit.engines.aot.ops._elementwise import lookup
from edgekit.engines.aot.ops._fixed_point import inverse_square_root, requantize, saturate

if TYPE_CHECKING:
    from edgekit.targets import Target

#: The reference keeps this many bits below the point between its two multiplications.
_BITS = 20


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    check_dtype(input_, "int8")
    check_dtype(output, "int8")
    multiplier, shift = quantize_multiplier(1.0 / (math.sqrt(input_.scale) * output.scale))

    def answer(x: int) -> int:
        value = x - input_.zero_point
        if value <= 0:
            return 127
        root, places = inverse_square_root(value)
        scaled = requantize(requantize(1, root, places + _BITS), multiplier, shift - _BITS)
        return saturate(scaled + output.zero_point, -128, 127)

    return lookup(node, answer)
