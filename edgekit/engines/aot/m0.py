"""Kernels for Cortex-M0 and M0+ that operators' files offer.

Costs are instructions, from the instruction sequences in ``firmware/kernels/*_m0.h``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.engines.aot.dsp import accumulators, dilated, multipliers, per_channel
from edgekit.engines.aot.lowering import (
    Data,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Overlap,
    Scratch,
    Table,
    padding,
    sliding_shift,
)
from edgekit.engines.aot.requant import linear_requantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.engines.aot.ops._sums import Sums
    from edgekit.targets import Target

CORES = ("cortex-m0", "cortex-m0plus")

#: Output pixels computed together (EK_M0_PIXELS in ek_dot_s8_m0.h).
_PIXELS = 4
#: Channels whose sums are kept at a time (EK_M0_CHANNELS in ek_conv_2d_s8_m0.h).
_CHANNELS = 16


def slowdown(target: Target | None) -> float:
    """How many more instructions portable kernels take on ``target`` than on a Cortex-M4."""
    return 3.0 if target is not None and target.core in CORES else 1.0


def small_sums(sums: Sums, target: Target | None) -> Sums:
    """The requantisation with fewer multiplications where the sums are small enough for it; other
    cores have a long multiplication, and gain nothing."""
    if target is None or target.core not in CORES or not sums.mode or sums.bound >= 1 << 20:
        return sums
    return replace(sums, mode=sums.mode | 4)


def conv_2d(
    node: Node, scales: list[float], sums: Sums, target: Target | None
) -> tuple[Kernel, ...]:
    """CONV_2D without dilation, as a matrix product over widened columns.

    Args:
        scales: effective scales, one per output channel.
        sums: the portable kernel's requantisation, for channels without a linear one.
    """
    if target is None or target.core not in CORES:
        return ()
    input_, output = node.activation_input(0), node.output
    weights = node.constant_input(1, "weights")
    if dilated(node) or input_.shape[0] != 1:
        return ()
    out_c, k_h, k_w, in_c = weights.shape
    _, in_h, in_w, channels = input_.shape
    _, out_h, out_w, _ = output.shape
    if channels != in_c:
        return ()  # grouped convolution
    rows = weights.data().reshape(out_c, -1)
    stride = (int(node.options["stride_h"]), int(node.options["stride_w"]))
    pad = padding(node, (in_h, in_w), (k_h, k_w), stride, (1, 1), (out_h, out_w))
    return (
        _product(node, rows, scales, sums, (k_h, k_w), stride, pad, (in_h, in_w), (out_h, out_w)),
    )


def _product(
    node: Node, rows: NDArray[Any], scales: list[float], sums: Sums, window: tuple[int, int],
    stride: tuple[int, int], pad: tuple[int, int], in_size: tuple[int, int],
    out_size: tuple[int, int],
) -> Kernel:  # fmt: skip
    """ek_conv_2d_s8_m0 with weights [out_c, window and in_c]; sizes are (height, width)."""
    out_c, depth = rows.shape
    in_c = depth // (window[0] * window[1])
    zero_point = node.activation_input(0).zero_point
    shift, table = _linear(node, rows, per_channel(scales, out_c), sums)
    reach = sliding_shift(
        (*in_size, in_c), (*out_size, out_c), window=window, stride=stride, pad=pad,
        block=_PIXELS, buffered=True,
    )  # fmt: skip
    sizes = {
        "in_h": in_size[0], "in_w": in_size[1], "in_c": in_c, "out_h": out_size[0],
        "out_w": out_size[1], "out_c": out_c, "k_h": window[0], "k_w": window[1],
        "stride_h": stride[0], "stride_w": stride[1], "pad_h": pad[0], "pad_w": pad[1],
        "zero_point": zero_point,
    }  # fmt: skip
    pixels = out_size[0] * out_size[1]
    blocks = -(-pixels // _PIXELS)
    per_channel_cost = 10.4 * depth + 60 + (4 * 19 if shift else 4 * 45)
    clamps = (sums.low, sums.high) != (-128, 127)
    linear = (
        Literal("shift", shift),
        Literal("clamp", int(clamps)),
        Literal("low", sums.low, soft=True),
        Literal("high", sums.high, soft=True),
    )
    multiplier_table, shift_table = sums.multipliers, sums.shifts
    if multiplier_table.values.size == 1:
        # One scale for all channels; the kernel wants one for each.
        multiplier_table, shift_table = (
            replace(t, values=np.repeat(t.values, out_c)) for t in (multiplier_table, shift_table)
        )
    tables: list[Table] = [
        Table("weights", "uint8_t", (rows.astype(np.int16) + 128).astype(np.uint8)),
        Table("requant", "int32_t", table),
    ]
    if not shift:
        tables += [multiplier_table, shift_table]
    return Kernel(
        function="ek_conv_2d_s8_m0" if shift == 0 else "ek_conv_2d_s8_m0_linear",
        header="ek_conv_2d_s8_m0.h",
        args=(
            Input(0),
            Data("weights"),
            Data("requant"),
            *(() if shift else (Data("multipliers"), Data("shifts"))),
            Scratch("int32_t"),
            *(Literal(name, value) for name, value in sizes.items()),
            *(linear if shift else (sums.mode_literal, *sums.output_literals)),
            Output(0),
        ),
        tables=tuple(tables),
        cores=CORES,
        scratch_bytes=16 * depth + (0 if shift else 16 * min(out_c, _CHANNELS)),
        overlaps=(Overlap(max_shift=reach),),
        table_reads=blocks,
        cost=blocks * (out_c * per_channel_cost + 100)
        + pixels * (4 * depth + 20 * window[0])
        + (7 * pixels * out_c if shift and clamps else 0),
    )


def _linear(
    node: Node, rows: NDArray[Any], scales: list[float], sums: Sums
) -> tuple[int, NDArray[Any]]:
    """Shift and table (bias, m2, m1, m0, add) of ek_dot_s8_m0_linear; shift 0 and the biases
    where it cannot be exact."""
    sums_range = accumulators(node, rows)
    biases = sums_range.bias
    factors, shifts = multipliers(scales, len(rows))
    finest = int(10 - np.ceil(np.log2(max(scales))))
    for shift in sorted({min(finest, 14), min(finest, 10)}, reverse=True):
        if shift < 1:
            break
        found = linear_requantization(
            sums_range.low, sums_range.high, factors, shifts, node.output.zero_point, shift,
            clamp=(sums.low, sums.high), high_bits=20, mult_bits=30, acc_bits=20,
        )  # fmt: skip
        # The kernel's accumulators hold the input's zero point folded into the bias, as here.
        if found is not None:
            parts = [found.mult >> 20, (found.mult >> 10) & 1023, found.mult & 1023]
            return shift, np.stack([biases + found.delta, *parts, found.add], axis=1)
    return 0, biases


def matrix_rows(
    node: Node, scales: list[float], sums: Sums, target: Target | None
) -> tuple[Kernel, ...]:
    """FULLY_CONNECTED of several rows: a 1x1 convolution whose pixels are the rows."""
    if target is None or target.core not in CORES:
        return ()
    weights = node.constant_input(1, "weights").data()
    pixels = node.output.elements // len(weights)
    if pixels == 1:
        return ()
    return (
        _product(node, weights, scales, sums, (1, 1), (1, 1), (0, 0), (1, pixels), (1, pixels)),
    )


def batch_matmul(
    node: Node, geometry: tuple[Literal, ...], scale: tuple[int, int], target: Target | None
) -> tuple[Kernel, ...]:
    """BATCH_MATMUL: rhs becomes rows of weights at run time.

    Args:
        geometry: the portable kernel's sizes and steps.
        scale: multiplier and shift of the output.
    """
    second = node.inputs[1]
    if target is None or target.core not in CORES or second is None:
        return ()
    number = {literal.name: int(literal.value) for literal in geometry}
    depth, columns, rows = number["depth"], number["columns"], number["rows"]
    multiplier, shift = scale
    bound = 255 * 255 * depth
    if bound >= 1 << 30 or not -30 <= shift <= -1:
        return ()
    mode = 5 if bound < 1 << 20 else 1  # EK_DOWN, perhaps with EK_SMALL
    blocks = number["n0"] * number["n1"] * -(-rows // _PIXELS)
    return (
        Kernel(
            function="ek_batch_matmul_s8_m0",
            header="ek_batch_matmul_s8_m0.h",
            args=(
                Input(0),
                Input(1),
                Data("zeros"),
                Scratch("int32_t"),
                *geometry,
                Literal("zero_r", second.zero_point, soft=True),
                Literal("mode", mode),
                Literal("multiplier", multiplier, soft=True),
                Literal("shift", -shift - 1),
                Literal("zero", node.output.zero_point, soft=True),
                Output(0),
            ),
            tables=(Table("zeros", "int32_t", np.zeros(_CHANNELS, np.int32)),),
            cores=CORES,
            scratch_bytes=16 * depth + 16 * _CHANNELS + columns * depth,
            cost=blocks * columns * (10.4 * depth + 60 + 4 * (25 if mode == 5 else 45))
            + number["n0"] * number["n1"] * depth * (8 * rows + 7 * columns),
        ),
    )


def fully_connected(node: Node, sums: Sums, target: Target | None) -> tuple[Kernel, ...]:
    """FULLY_CONNECTED of one row whose depth is a multiple of four."""
    if target is None or target.core not in CORES:
        return ()
    weights = node.constant_input(1, "weights")
    outputs, depth = weights.shape
    if node.output.elements != outputs or depth % 4:
        return ()
    blocks = -(-outputs // 4)
    rows = np.full((4 * blocks, depth), 128, np.uint8)
    rows[:outputs] = weights.data().astype(np.int16) + 128
    interleaved = np.ascontiguousarray(rows.reshape(blocks, 4, depth).transpose(0, 2, 1))
    bias, multipliers_, shifts_ = sums.tables
    return (
        Kernel(
            function="ek_fully_connected_s8_m0",
            header="ek_fully_connected_s8_m0.h",
            args=(
                Input(0),
                Data("weights"),
                Data("bias"),
                Data("multipliers"),
                Data("shifts"),
                Literal("per_channel", int(multipliers_.values.size > 1)),
                Literal("depth", depth),
                Literal("outputs", outputs),
                sums.mode_literal,
                *sums.output_literals,
                Output(0),
            ),  # fmt: skip
            tables=(Table("weights", "uint8_t", interleaved), bias, multipliers_, shifts_),
            cores=CORES,
            cost=blocks * (14.8 * depth + 4 * 50 + 60) + 3 * depth,
        ),
    )
