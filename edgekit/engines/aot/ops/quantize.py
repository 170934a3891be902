"""QUANTIZE: between 8-bit types, and from float32. Reference: TensorFlow Lite's Requantize and
AffineQuantize."""

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
    quantize_multiplier,
)
from edgekit.engines.aot.ops._elementwise import lookup_bytes
from edgekit.engines.aot.ops._fixed_point import requantize, saturate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.targets import Target

_BYTE_KERNELS = {
    ("int8", "int8"): "ek_lookup_s8",
    ("uint8", "int8"): "ek_lookup_u8",
    ("int8", "uint8"): "ek_lookup_s8_u8",
}


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    if output.quantization is None:
        raise Unsupported("its output has no quantisation")
    if input_.dtype == "float32" and output.dtype == "int8":
        return (
            Kernel(
                function="ek_quantize_f32_s8",
                header="ek_quantize_f32.h",
                args=(
                    Input(0),
                    Data("thresholds"),
                    Literal("count", output.elements, extent=True),
                    Output(0),
                ),
                tables=(
                    Table("thresholds", "int32_t", thresholds(output.scale, output.zero_point)),
                ),
                cost=50.0 * output.elements,
            ),
        )
    name = _BYTE_KERNELS.get((input_.dtype, output.dtype))
    if name is None or input_.quantization is None:
        raise Unsupported(f"it goes from {input_.dtype} to {output.dtype}")
    multiplier, shift = quantize_multiplier(input_.scale / output.scale)
    low, high = (0, 255) if output.dtype == "uint8" else (-128, 127)

    def answer(x: int) -> int:
        value = x & 0xFF if input_.dtype == "uint8" else x
        scaled = requantize(value - input_.zero_point, multiplier, shift)
        return saturate(scaled + output.zero_point, low, high)

    return lookup_bytes(node, answer, name)


def thresholds(scale: float, zero_point: int) -> NDArray[np.int32]:
    """Keys (ek_quantize_f32_s8) of the least float32 that becomes -127, -126, … 127.

    Quantising is monotonous, so each is found by bisection over all float32 numbers.
    """
    targets = np.arange(-127, 128)
    # Keys of -infinity and infinity; every key between is a number.
    low = np.full(255, -0x7F800001, np.int64)
    high = np.full(255, 0x7F800000, np.int64)
    while np.any(high - low > 1):
        middle = (low + high) >> 1
        reached = _quantized(middle, scale, zero_point) >= targets
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle)
    return high.astype(np.int32)


def _quantized(keys: NDArray[np.int64], scale: float, zero_point: int) -> NDArray[np.float64]:
    bits = np.where(keys < 0, keys ^ 0x7FFFFFFF, keys).astype(np.int32)
    with np.errstate(over="ignore"):
        # The division is float32's, as in the reference; rounding is half away from zero.
        ratio = (bits.view(np.float32) / np.float32(scale)).astype(np.float64)
    rounded: NDArray[np.float64] = np.copysign(np.floor(np.abs(ratio) + 0.5), ratio)
    return rounded + zero_point
