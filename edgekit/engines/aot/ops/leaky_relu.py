"""LEAKY_RELU, int8. Reference: QuantizeLeakyRelu of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.engines.aot.lowering import Kernel, Node, Unsupported, quantize_multiplier
from edgekit.engines.aot.ops._elementwise import lookup
from edgekit.engines.aot.ops._fixed_point import requantize, saturate

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    alpha = np.float32(node.options.get("alpha", 0.0))
    if alpha < 0:
        raise Unsupported(f"its alpha is negative ({alpha})")
    # The reference computes both factors in float32.
    scale_in, scale_out = np.float32(input_.scale), np.float32(output.scale)
    slope = quantize_multiplier(float(scale_in * alpha / scale_out))
    identity = quantize_multiplier(float(scale_in / scale_out))

    def answer(x: int) -> int:
        value = x - input_.zero_point
        multiplier, shift = identity if value >= 0 else slope
        scaled = requantize(value, multiplier, shift)
        return saturate(scaled + output.zero_point, -128, 127)

    return lookup(node, answer)
