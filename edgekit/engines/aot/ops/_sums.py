"""Quantisation of sums of products: what CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.engines.aot.lowering import (
    Literal,
    Node,
    Table,
    Unsupported,
    activation_range,
    check_dtype,
    quantize_multiplier,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Tensor

#: EK_ANY, EK_DOWN, EK_RELU and the flag EK_SMALL of firmware/include/ek_math.h
ANY, DOWN, RELU, SMALL = 0, 1, 2, 4


@dataclass(frozen=True)
class Sums:
    """How sums become outputs: tables per channel (or of one entry) and the literals."""

    bias: Table
    multipliers: Table
    shifts: Table
    mode: int
    output_zero: int
    low: int
    high: int
    #: no sum's magnitude exceeds this
    bound: int = 1 << 31

    @property
    def tables(self) -> tuple[Table, ...]:
        return self.bias, self.multipliers, self.shifts

    @property
    def mode_literal(self) -> Literal:
        return Literal("mode", self.mode)

    @property
    def output_literals(self) -> tuple[Literal, ...]:
        return (
            Literal("output_zero", self.output_zero, soft=True),
            Literal("low", self.low, soft=True),
            Literal("high", self.high, soft=True),
        )


def effective_scales(input_: Tensor, weights: Tensor, output: Tensor) -> list[float]:
    """Input scale times each weight scale over the output scale, in double precision
    (TensorFlow Lite's PopulateConvolutionQuantizationParams)."""
    if weights.quantization is None:
        raise Unsupported("its weights are not quantised")
    return [input_.scale * s / output.scale for s in weights.quantization.scales]


def sums(
    node: Node,
    rows: NDArray[Any],
    bias: Tensor | None,
    scales: list[float],
    *,
    weights_zero: int = 0,
) -> Sums:
    """Folds the zero points into the bias and proves which requantisation is exact.

    Args:
        rows: the int8 weights as (output channel, everything else).
        bias: int32, one value per channel, or ``None``.
        scales: effective scales, one per channel or one for all.

    Raises:
        Unsupported: a sum may leave 32 bits, where the reference is undefined too.
    """
    input_zero = node.activation_input(0).zero_point
    output = node.output
    wide = rows.astype(np.int64)
    folded = -input_zero * (wide - weights_zero).sum(axis=1)
    if bias is not None:
        check_dtype(bias, "int32")
        folded = folded + bias.data().astype(np.int64).reshape(-1)
    bound = int((np.abs(folded) + 128 * (np.abs(wide).sum(axis=1))).max(initial=0))
    bound += 128 * rows.shape[1] * abs(weights_zero)
    if bound >= 1 << 31:
        raise Unsupported(f"its sums may reach {bound}, beyond 32 bits")
    pairs = [quantize_multiplier(scale) for scale in scales]
    low, high = activation_range(node.options.get("fused_activation_function", "NONE"), output)
    # A multiplier of 0 gives 0 by any shift.
    down = bound < 1 << 30 and all(shift < 0 or multiplier == 0 for multiplier, shift in pairs)
    mode = ANY
    if down:
        pairs = [(m, -1 if m == 0 else s) for m, s in pairs]
        mode = RELU if low >= output.zero_point else DOWN
    shifts = [(-shift - 1 if down else shift) for _, shift in pairs]
    return Sums(
        bias=Table("bias", "int32_t", folded.astype(np.int32)),
        multipliers=Table("multipliers", "int32_t", np.array([m for m, _ in pairs], np.int32)),
        shifts=Table("shifts", "int8_t", np.array(shifts, np.int8), align_bytes=1),
        mode=mode,
        output_zero=output.zero_point,
        low=low,
        high=high,
        bound=bound,
    )


def per_channel(scales: list[float], channels: int) -> list[float]:
    """One scale per channel, from one for all or from as many."""
    return scales * channels if len(scales) == 1 else scales


def pair(node: Node, name: str, default: int = 1) -> tuple[int, int]:
    """An option that exists per direction, as (height, width)."""
    if name == "dilation":
        keys = ("dilation_h_factor", "dilation_w_factor")
    else:
        keys = (f"{name}_h", f"{name}_w")
    height, width = (int(node.options.get(key, default)) for key in keys)
    return height, width


def geometry(shape: dict[str, int], form: dict[str, int]) -> tuple[Literal, ...]:
    """Literals of sizes, then of what the code's form depends on."""
    return (
        *(Literal(name, value, extent=True) for name, value in shape.items()),
        *(Literal(name, value) for name, value in form.items()),
    )
