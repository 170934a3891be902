"""HARD_SWISH, int8. Reference: HardSwish in reference/hard_swish.h of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.engines.aot.lowering import Kernel, Node, Unsupported, quantize_multiplier
from edgekit.engines.aot.ops._elementwise import lookup
from edgekit.engines.aot.ops._fixed_point import INT16_MAX, INT16_MIN, saturate, shift_right

if TYPE_CHECKING:
    from edgekit.targets import Target


def _multiplier_16(real: float) -> tuple[int, int]:
    multiplier, shift = quantize_multiplier(real)
    # DownScaleInt32ToInt16Multiplier
    return (INT16_MAX if multiplier >= INT16_MAX << 16 else (multiplier + (1 << 15)) >> 16), shift


def _multiply_high_16(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul on int16."""
    return saturate((a * b + (1 << 14)) >> 15, INT16_MIN, INT16_MAX)


def _shift_left_16(x: int, exponent: int) -> int:
    return saturate(x << exponent, INT16_MIN, INT16_MAX)


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    # The reference computes its scales in float32.
    fine = np.float32(1.0 / 128.0) * np.float32(input_.scale)
    output_multiplier, output_shift = _multiplier_16(float(fine / np.float32(output.scale)))
    if output_shift > 0:
        raise Unsupported(f"the output's scale {output.scale} is too small for the reference")
    relu_multiplier, relu_shift = _multiplier_16(float(fine / np.float32(3.0 / 32768.0)))

    def answer(x: int) -> int:
        value = (x - input_.zero_point) * 128
        scaled = _multiply_high_16(value, output_multiplier)
        gate = value
        if relu_shift > 0:
            gate = _shift_left_16(gate, relu_shift - 1)
        gate = _multiply_high_16(gate, relu_multiplier)
        if relu_shift > 0:
            gate = _shift_left_16(gate, 1)
        if relu_shift < 0:
            gate = shift_right(gate, -relu_shift)
        gate = (gate + (1 << 15)) >> 1
        # SaturatingDoublingHighMul: without rounding, towards zero.
        product = gate * scaled
        high = abs(product) >> 15
        high = saturate(high if product >= 0 else -high, INT16_MIN, INT16_MAX)
        result = shift_right(high, -output_shift)
        return saturate(result + output.zero_point, -128, 127)

    return lookup(node, answer)
