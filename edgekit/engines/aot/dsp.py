"""Kernels for cores with the DSP extension (Cortex-M4, M7, M33) that operators' files offer.

Each function returns the exact candidates for a node, or none where the kernel does not apply.
``scales`` are the effective ones (input times weight over output), one per output channel or
one for all.
Costs are instructions, from the instruction sequences in ``firmware/kernels/*_dsp.h``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
    activation_range,
    padding,
    quantize_multiplier,
    sliding_shift,
)
from edgekit.engines.aot.requant import linear_requantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.targets import Target

#: Output pixels that EK_DOT computes together (EK_DSP_PIXELS in ek_dot_s8_dsp.h).
_PIXELS = 6
#: A depthwise plane that is larger is gathered and computed in strips.
_PLANE_BYTES = 1536
#: Fraction bits of the linear requantisation for which kernels exist, the finer one first.
_FRACTION_BITS = (4, 2)


@dataclass(frozen=True)
class _Requant:
    """A table of constants per output channel; ``q`` 0 means TFLM's double rounding as it is."""

    q: int
    table: NDArray[Any]
    #: of the activation
    low: int = -128
    high: int = 127

    @property
    def instructions(self) -> int:
        """Per output, with its store, before the clamp."""
        return 3 if self.q else 6

    @property
    def clamp(self) -> tuple[Literal, ...]:
        return _clamp(self.low, self.high)

    def clamp_cost(self, outputs: int) -> float:
        return _clamp_cost(self.low, self.high, outputs)


def _clamp(low: int, high: int) -> tuple[Literal, ...]:
    """A kernel's literals for the clamp behind what SSAT does anyway."""
    return (
        Literal("clamp", int((low, high) != (-128, 127))),
        Literal("low", low, soft=True),
        Literal("high", high, soft=True),
    )


def _clamp_cost(low: int, high: int, outputs: int) -> float:
    """Instructions of ek_clamp_s8_dsp."""
    if (low, high) == (-128, 127):
        return 0.0
    return outputs / 4 * (5.0 if high == 127 else 7.0) + 12


def conv_2d(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """CONV_2D without dilation, as a matrix product over widened columns."""
    if target is None or not target.has("dsp"):
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
    requant = _requantization(node, rows, scales)
    if requant is None:
        return ()
    depth = rows.shape[1]
    groups = (depth + 3) // 4
    stride = (int(node.options["stride_h"]), int(node.options["stride_w"]))
    pad = padding(node, (in_h, in_w), (k_h, k_w), stride, (1, 1), (out_h, out_w))
    if (k_h, k_w) == (1, 1) and stride == (1, 1) and pad == (0, 0):
        return (_pointwise(rows, requant, out_h * out_w),)
    padded = np.zeros((out_c, 4 * groups), np.int8)
    padded[:, :depth] = rows
    window: dict[str, Any] = {"window": (k_h, k_w), "stride": stride, "pad": pad}
    reach = sliding_shift(
        (in_h, in_w, in_c), (out_h, out_w, out_c), block=_PIXELS, buffered=True, **window
    )
    pixels = out_h * out_w
    blocks = -(-pixels // _PIXELS)
    widen = (5.0 if in_c % 4 == 0 else 10.0) * groups + 10 * k_h * k_w
    sizes = {
        "in_h": in_h, "in_w": in_w, "in_c": in_c, "out_h": out_h, "out_w": out_w,
        "out_c": out_c, "k_h": k_h, "k_w": k_w, "stride_h": stride[0], "stride_w": stride[1],
        "pad_h": pad[0], "pad_w": pad[1], "zero_point": input_.zero_point,
    }  # fmt: skip
    return (
        Kernel(
            function="ek_conv_2d_s8_dsp",
            header="ek_conv_2d_s8_dsp.h",
            args=(
                Input(0),
                Data("weights"),
                Data("requant"),
                Scratch("int16_t"),
                *(Literal(name, value) for name, value in sizes.items()),
                Literal("q", requant.q),
                *requant.clamp,
                Output(0),
            ),  # fmt: skip
            tables=(
                Table("weights", "int8_t", padded),
                Table("requant", "int32_t", requant.table),
            ),
            requires=("dsp",),
            scratch_bytes=8 * _PIXELS * groups,
            scratch_align=8,
            overlaps=(Overlap(max_shift=reach),),
            table_reads=blocks,
            cost=blocks * _block_cost(out_c, groups, requant)
            + pixels * widen
            + requant.clamp_cost(pixels * out_c),
        ),
    )


def depthwise_conv_2d(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """DEPTHWISE_CONV_2D 3x3 with multiplier 1 and stride 1 or 2, plane by plane, in place."""
    if target is None or not target.has("dsp"):
        return ()
    input_, output = node.activation_input(0), node.output
    weights = node.constant_input(1, "weights")
    stride = int(node.options["stride_h"])
    applies = (
        weights.shape[1:3] == (3, 3)
        and weights.shape[3] == input_.shape[3]
        and stride == int(node.options["stride_w"])
        and stride in (1, 2)
        and input_.shape[0] == 1
        and not dilated(node)
    )
    if not applies:
        return ()
    _, in_h, in_w, channels = input_.shape
    _, out_h, out_w, _ = output.shape
    planes = np.ascontiguousarray(weights.data().reshape(9, channels).T)
    requant = _requantization(node, planes, scales)
    if requant is None:
        return ()
    row = stride * (out_w + out_w % 2) + 2
    if 4 * row > 1016:
        return ()  # the second row is out of LDRD's reach
    strips = 1
    while (strip := -(-out_h // strips)) > 1 and 2 * row * (strip * stride + 2) > _PLANE_BYTES:
        strips += 1
    rows = (strip - 1) * stride + 3
    pad = padding(node, (in_h, in_w), (3, 3), (stride, stride), (1, 1), (out_h, out_w))
    sizes = {
        "in_h": in_h, "in_w": in_w, "channels": channels, "out_h": out_h, "out_w": out_w,
        "stride": stride, "pad_h": pad[0], "pad_w": pad[1], "zero_point": input_.zero_point,
        "strip": strip,
    }  # fmt: skip
    # After a strip's outputs are written, later strips still read from this input row on.
    in_place = all(
        done * out_w <= min(in_h, (done - 1) * stride + 3 - pad[0]) * in_w
        for done in range(strip, out_h, strip)
    )
    per_output = 8.5 + 1.5 * stride + requant.instructions
    in_seen = min(in_h, (out_h - 1) * stride + 3) * min(in_w, row)
    return (
        Kernel(
            function="ek_depthwise_conv_2d_3x3_s8_dsp",
            header="ek_depthwise_conv_2d_3x3_s8_dsp.h",
            args=(
                Input(0),
                Data("weights"),
                Data("requant"),
                Scratch("int16_t"),
                *(Literal(name, value) for name, value in sizes.items()),
                Literal("q", requant.q),
                *requant.clamp,
                Output(0),
            ),  # fmt: skip
            tables=(
                Table("weights", "int8_t", planes),
                Table("requant", "int32_t", requant.table),
            ),
            requires=("dsp",),
            scratch_bytes=2 * row * rows,
            # Channel c of the output overwrites nothing but channel c of the input, and in strips
            # only where these have been gathered.
            overlaps=(Overlap(min_shift=0, max_shift=0),) if in_place else (),
            cost=channels
            * (out_h * out_w * per_output + 2.6 * in_seen + 8 * out_h + 60 + strips * row)
            + 1.5 * row * rows
            + requant.clamp_cost(out_h * out_w * channels),
        ),
    )


def fully_connected(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """FULLY_CONNECTED of one row whose depth is a multiple of four."""
    if target is None or not target.has("dsp"):
        return ()
    output = node.output
    weights = node.constant_input(1, "weights")
    out_c, in_c = weights.shape
    if output.elements != out_c or in_c % 4:
        return ()
    sums = accumulators(node, weights.data())
    low, high = activation_range(node.options.get("fused_activation_function", "NONE"), output)
    factors, shifts = multipliers(scales, out_c)
    if not _exact_applies(sums, shifts):
        return ()
    varied = len(set(zip(factors.tolist(), shifts.tolist(), strict=True))) > 1
    blocks = -(-out_c // 4)
    rows = np.zeros((4 * blocks, in_c), np.int8)
    rows[:out_c] = weights.data()
    interleaved = rows.reshape(blocks, 4, in_c // 4, 4).transpose(0, 2, 1, 3)
    exact = np.zeros((4 * blocks, 4), np.int64)
    exact[:out_c] = _exact_table(sums.bias, factors, shifts, output.zero_point)
    table = exact if varied else exact[:, :1]
    _, multiplier, addend, shift = exact[0].tolist()
    requant_cost = 4 * blocks * 7
    candidates = []
    for wide in (True, False):
        cost = blocks * (in_c // 4) * (18.5 if wide else 20.5) + requant_cost + 14 * blocks
        candidates.append(
            Kernel(
                function="ek_fully_connected_s8_dsp",
                header="ek_fully_connected_s8_dsp.h",
                args=(
                    Input(0),
                    Data("weights"),
                    Data("requant"),
                    Scratch("int16_t"),
                    Literal("use_wide", int(wide)),
                    Literal("per_channel", int(varied)),
                    Literal("in_c", in_c),
                    Literal("out_c", out_c),
                    Literal("multiplier", multiplier, soft=True),
                    Literal("add", addend, soft=True),
                    Literal("shift", shift, soft=True),
                    *_clamp(low, high),
                    Output(0),
                ),  # fmt: skip
                tables=(
                    Table("weights", "int8_t", np.ascontiguousarray(interleaved)),
                    Table("requant", "int32_t", table),
                ),
                requires=("dsp",),
                scratch_bytes=2 * in_c if wide else 0,
                # The widened copy is complete before the first output is written.
                overlaps=(Overlap(),) if wide else (),
                align_bytes=4,
                cost=cost + (in_c if wide else 0) + _clamp_cost(low, high, out_c),
            )
        )
    return tuple(candidates)


def matrix_rows(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """FULLY_CONNECTED of several rows: a 1x1 convolution whose pixels are the rows."""
    if target is None or not target.has("dsp"):
        return ()
    weights = node.constant_input(1, "weights")
    out_c, in_c = weights.shape
    pixels = node.output.elements // out_c
    requant = _requantization(node, weights.data(), per_channel(scales, out_c))
    if pixels == 1 or requant is None:
        return ()
    return (_pointwise(weights.data(), requant, pixels),)


def _pointwise(rows: NDArray[Any], requant: _Requant, pixels: int) -> Kernel:
    """ek_conv_2d_1x1_s8_dsp over ``pixels`` with weights [out_c, in_c]."""
    out_c, in_c = rows.shape
    groups = (in_c + 3) // 4
    padded = np.zeros((out_c, 4 * groups), np.int8)
    padded[:, :in_c] = rows
    reach = sliding_shift((1, pixels, in_c), (1, pixels, out_c), block=_PIXELS, buffered=True)
    return Kernel(
        function="ek_conv_2d_1x1_s8_dsp",
        header="ek_conv_2d_s8_dsp.h",
        args=(
            Input(0),
            Data("weights"),
            Data("requant"),
            Scratch("int16_t"),
            Literal("pixels", pixels, extent=True),
            Literal("in_c", in_c, extent=True),
            Literal("out_c", out_c, extent=True),
            Literal("q", requant.q),
            *requant.clamp,
            Output(0),
        ),
        tables=(
            Table("weights", "int8_t", padded),
            Table("requant", "int32_t", requant.table),
        ),
        requires=("dsp",),
        scratch_bytes=8 * _PIXELS * groups,
        scratch_align=8,
        overlaps=(Overlap(max_shift=reach),),
        table_reads=-(-pixels // _PIXELS),
        cost=-(-pixels // _PIXELS) * _block_cost(out_c, groups, requant)
        + pixels * (4.5 * groups + 8)
        + requant.clamp_cost(pixels * out_c),
    )


def _block_cost(out_c: int, groups: int, requant: _Requant) -> float:
    """Instructions of ek_dot_s8_dsp for one block of pixels."""
    return out_c * (18 * groups + 3 * ((groups + 3) // 4) + 22 + 6 * requant.instructions)


def batch_matmul(
    node: Node, geometry: tuple[Literal, ...], scale: tuple[int, int], target: Target | None
) -> tuple[Kernel, ...]:
    """BATCH_MATMUL: rhs becomes rows of weights at run time.

    Args:
        geometry: the portable kernel's sizes and steps.
        scale: multiplier and shift of the output.
    """
    if target is None or not target.has("dsp"):
        return ()
    number = {literal.name: int(literal.value) for literal in geometry}
    depth, columns, rows = number["depth"], number["columns"], number["rows"]
    multiplier, shift = scale
    second = node.inputs[1]
    # A row's sum must fit 16 bits, and the double rounding shift to the right.
    if second is None or 255 * depth > 32767 or not -30 <= shift <= -1:
        return ()
    zero_r = second.zero_point
    groups = (depth + (2 if zero_r else 0) + 3) // 4
    channels = np.zeros(columns, np.int64)
    table = _exact_table(channels, channels + multiplier, channels + shift, node.output.zero_point)
    requant = _Requant(0, table)
    batches = number["n0"] * number["n1"]
    return (
        Kernel(
            function="ek_batch_matmul_s8_dsp",
            header="ek_batch_matmul_s8_dsp.h",
            args=(
                Input(0),
                Input(1),
                Data("requant"),
                Scratch("int8_t"),
                *geometry,
                Literal("zero_r", zero_r),
                Output(0),
            ),
            tables=(Table("requant", "int32_t", table),),
            requires=("dsp",),
            scratch_bytes=-(-4 * groups * columns // 8) * 8 + 8 * _PIXELS * groups,
            scratch_align=8,
            table_reads=batches * -(-rows // _PIXELS),
            cost=batches
            * (
                -(-rows // _PIXELS) * _block_cost(columns, groups, requant)
                + columns * (4 * depth + 15)
                + rows * (7 * depth + 20)
            ),
        ),
    )


# -- requantisation -------------------------------------------------------------------------


@dataclass(frozen=True)
class Accumulators:
    """Range of every output channel's accumulator, and the bias with the zero point folded in."""

    low: NDArray[Any]
    high: NDArray[Any]
    bias: NDArray[Any]


def accumulators(node: Node, rows: NDArray[Any]) -> Accumulators:
    """``rows``: the weights of each output channel, shape [channels, depth]."""
    zero = node.activation_input(0).zero_point
    bias = node.optional_constant(2, "bias")
    wide = rows.astype(np.int64)
    offset = np.zeros(len(rows), np.int64) if bias is None else bias.data().astype(np.int64)
    ends = wide * (-128 - zero), wide * (127 - zero)
    return Accumulators(
        low=offset + np.minimum(*ends).sum(axis=1),
        high=offset + np.maximum(*ends).sum(axis=1),
        bias=offset - zero * wide.sum(axis=1),
    )


def per_channel(scales: list[float], channels: int) -> list[float]:
    """One scale per channel, from one for all or from as many."""
    return scales * channels if len(scales) == 1 else scales


def multipliers(scales: list[float], channels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Multiplier and shift of every channel."""
    pairs = [quantize_multiplier(scale) for scale in per_channel(scales, channels)]
    return np.array([m for m, _ in pairs], np.int64), np.array([s for _, s in pairs], np.int64)


def _exact_applies(sums: Accumulators, shifts: NDArray[Any]) -> bool:
    """The double rounding in five instructions wants a right shift and a doubling that fits."""
    limit = 1 << 30
    small = sums.low.min() > -limit and sums.high.max() < limit
    return bool(small and shifts.max() <= -1 and shifts.min() >= -30)


def _exact_table(
    bias: NDArray[Any], factors: NDArray[Any], shifts: NDArray[Any], zero_point: int
) -> NDArray[Any]:
    right = -shifts
    add = (zero_point << right) + (1 << (right - 1))
    return np.stack([bias, factors, add, right], axis=1)


def _requantization(node: Node, rows: NDArray[Any], scales: list[float]) -> _Requant | None:
    """The cheapest exact requantisation, ``None`` where neither kind applies."""
    output = node.output
    low, high = activation_range(node.options.get("fused_activation_function", "NONE"), output)
    sums = accumulators(node, rows)
    factors, shifts = multipliers(scales, len(rows))
    for q in _FRACTION_BITS:
        linear = linear_requantization(
            sums.low, sums.high, factors, shifts, output.zero_point, q, clamp=(low, high)
        )
        if linear is not None:
            table = np.stack([sums.bias + linear.delta, linear.mult, linear.add], axis=1)
            return _Requant(q, table, low, high)
    if not _exact_applies(sums, shifts):
        return None
    return _Requant(0, _exact_table(sums.bias, factors, shifts, output.zero_point), low, high)


def dilated(node: Node) -> bool:
    return (
        int(node.options.get("dilation_h_factor", 1)) != 1
        or int(node.options.get("dilation_w_factor", 1)) != 1
    )
