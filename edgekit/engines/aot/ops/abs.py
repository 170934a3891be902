"""ABS, int8. Reference: elementwise.cc of TensorFlow Lite Micro."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node, check_dtype, quantize_multiplier
from edgekit.engines.aot.ops._elementwise import lookup
from edgekit.engines.aot.ops._fixed_point import requantize, saturate

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    check_dtype(input_, "int8")
    check_dtype(output, "int8")
    same = input_.scale == output.scale
    multiplier, shift = quantize_multiplier(input_.scale / output.scale)

    def answer(x: int) -> int:
        value = abs(x - input_.zero_point)
        scaled = value if same else requantize(value, multiplier, shift)
        return saturate(scaled + output.zero_point, -128, 127)

    return lookup(node, answer)
