"""Kernels for cores with MVE, Helium (Cortex-M55, M85), that operators' files offer.

Each function returns the exact candidates for a node, or none where the kernel does not apply.
``scales`` are the effective ones (input times weight over output), one per output channel or
one for all. Sums are requantised as TFLM does it, a vector at a time: VQRDMULH is its doubling
high multiply, VRSHL its shift but for halves of negative numbers, which the kernels correct
unless a ReLU clamps them.
Costs are instructions, from the instruction sequences in ``firmware/kernels/*_mve.h``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.engines.aot.lowering import (
    Argument,
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
from edgekit.graph.fixedpoint import requantize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Tensor
    from edgekit.targets import Target

#: EK_ANY, EK_DOWN and EK_RELU of firmware/include/ek_math.h
_ANY, _DOWN, _RELU = 0, 1, 2
#: Products of one VMLADAVA.
_LANES = 16


@dataclass(frozen=True)
class _Requant:
    """Everything between sums and bytes, one entry per output channel."""

    bias: NDArray[Any]
    left: NDArray[Any]
    multiplier: NDArray[Any]
    #: zero or negative, as VRSHL takes it
    right: NDArray[Any]
    mode: int
    zero: int
    low: int
    high: int

    @property
    def clamps(self) -> bool:
        return (self.low, self.high) != (-128, 127)

    @property
    def literals(self) -> tuple[Literal, ...]:
        return (
            Literal("mode", self.mode),
            Literal("zero", self.zero, soft=True),
            Literal("clamp", int(self.clamps)),
            Literal("low", self.low, soft=True),
            Literal("high", self.high, soft=True),
        )

    def instructions(self, vectors: int) -> int:
        """For ``vectors`` vectors of four sums that share their channels."""
        return vectors * (2 + (4, 2, 0)[self.mode]) + (1 if self.mode == _ANY else 0)

    def rows(self, channels: NDArray[Any]) -> NDArray[Any]:
        """Constants of blocks of channels: [blocks, rows, channels in a block]."""
        kinds = [self.bias, self.left, self.multiplier, self.right]
        if self.mode != _ANY:
            del kinds[1]
        return np.stack([kind[channels] for kind in kinds], axis=1)


def _requantization(node: Node, rows: NDArray[Any], scales: list[float]) -> _Requant | None:
    """``rows``: the weights of each output channel, shape [channels, depth]."""
    output = node.output
    low, high = activation_range(node.options.get("fused_activation_function", "NONE"), output)
    zero = node.activation_input(0).zero_point
    bias = node.optional_constant(2, "bias")
    wide = rows.astype(np.int64)
    folded = -zero * wide.sum(axis=1)
    if bias is not None:
        folded = folded + bias.data().astype(np.int64).reshape(-1)
    every = scales * len(rows) if len(scales) == 1 else scales
    pairs = np.array([quantize_multiplier(scale) for scale in every], np.int64).reshape(-1, 2)
    multiplier, shift = pairs[:, 0], np.where(pairs[:, 0] == 0, -1, pairs[:, 1])
    reach = np.abs(folded) + 128 * np.abs(wide).sum(axis=1)
    if reach.max(initial=0) >= 1 << 31:
        return None
    if (shift > 0).any():
        mode = _ANY
    elif low >= output.zero_point:
        mode = _RELU
    else:
        mode = _DOWN if (shift < 0).all() else _ANY
    return _Requant(
        folded, np.maximum(shift, 0), multiplier, np.minimum(shift, 0),
        mode, output.zero_point, low, high,
    )  # fmt: skip


def _blocks(channels: int, width: int) -> NDArray[Any]:
    """Channels of each block of ``width``; the last block overlaps the one before it."""
    starts = [*range(0, channels - width + 1, width)]
    if channels % width:
        starts.append(channels - width)
    found: NDArray[Any] = np.array(starts)[:, None] + np.arange(width)
    return found


def _interleaved(rows: NDArray[Any], channels: NDArray[Any]) -> NDArray[Any]:
    """Weights as [block][group of 16][channel][16]; ``channels``: those of each block."""
    groups = -(-rows.shape[1] // _LANES)
    padded = np.zeros((len(rows), groups * _LANES), np.int8)
    padded[:, : rows.shape[1]] = rows
    blocks = padded[channels].reshape(*channels.shape, groups, _LANES)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


def _lacks(target: Target | None) -> bool:
    return target is None or not target.has("mve")


def conv_2d(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """CONV_2D without dilation and groups, of at least four output channels."""
    if _lacks(target):
        return ()
    input_, output = node.activation_input(0), node.output
    weights = node.constant_input(1, "weights")
    out_c, k_h, k_w, in_c = weights.shape
    batches, in_h, in_w, channels = input_.shape
    _, out_h, out_w, _ = output.shape
    depth = k_h * k_w * in_c
    if batches != 1 or channels != in_c or not 4 <= out_c < 4096 or _dilated(node):
        return ()
    rows = weights.data().reshape(out_c, depth)
    requant = _requantization(node, rows, scales)
    groups = -(-depth // _LANES)
    if requant is None or groups > 255:
        return ()
    blocks = _blocks(out_c, 4)
    stride = (int(node.options["stride_h"]), int(node.options["stride_w"]))
    pad = padding(node, (in_h, in_w), (k_h, k_w), stride, (1, 1), (out_h, out_w))
    reach = sliding_shift(
        (in_h, in_w, in_c), (out_h, out_w, out_c), window=(k_h, k_w), stride=stride, pad=pad,
        block=2, buffered=True,
    )  # fmt: skip
    pixels = out_h * out_w
    pairs = -(-pixels // 2)
    per_block = (12 if groups == 1 else 14 * groups + 2) + 17 + requant.instructions(2)
    sizes: dict[str, int]
    head: tuple[Argument, ...] = (Input(0), Data("weights"), Data("requant"), Scratch())
    if (k_h, k_w) == (1, 1) and stride == (1, 1) and pad == (0, 0):
        function = "ek_conv_2d_1x1_s8_mve"
        gather = in_c / 4 + 12
        sizes = {"pixels": pixels, "in_c": in_c, "out_c": out_c}
        tail: tuple[Argument, ...] = ()
    else:
        function = "ek_conv_2d_s8_mve"
        run = k_w * in_c
        gather = 70 + 2 * k_h * (2 + 2 * -(-run // (16 if run >= 16 else 4)))
        sizes = {
            "in_h": in_h, "in_w": in_w, "in_c": in_c, "out_h": out_h, "out_w": out_w,
            "out_c": out_c, "k_h": k_h, "k_w": k_w, "stride_h": stride[0], "stride_w": stride[1],
            "pad_h": pad[0], "pad_w": pad[1],
        }  # fmt: skip
        tail = (Literal("in_zero", input_.zero_point, soft=True),)
    columns = Kernel(
        function=function,
        header="ek_conv_2d_s8_mve.h",
        args=(
            *head,
            *(Literal(name, value) for name, value in sizes.items()),
            *tail,
            *requant.literals,
            Output(0),
        ),
        tables=(
            Table("weights", "int8_t", _interleaved(rows, blocks)),
            Table("requant", "int32_t", requant.rows(blocks)),
        ),
        requires=("mve",),
        # The second column's last vector may reach beyond it.
        scratch_bytes=2 * depth + -depth % _LANES,
        overlaps=(Overlap(max_shift=reach),),
        table_reads=pairs,
        cost=pairs * (len(blocks) * per_block + gather)
        + (60 if tail else 50 + pixels % 2 * (len(blocks) * per_block + 70)),
    )
    if not tail or stride[1] < 1:
        return (columns,)
    column = k_h * in_c
    strip = (out_w - 1) * stride[1] + k_w
    wide = min(in_w, strip - pad[1])
    phases = in_c // math.gcd(8, in_c)
    if in_c % _LANES == 0 or phases > 3 or wide < 8 * phases // in_c:
        phases = 0
    step = 8 * phases // in_c * column
    # Immediates of additions have 12 bits, offsets of scatters 16.
    if 2 * stride[1] * column >= 4096 or max(step, column) >= 4096 or pad[1] >= strip:
        return (columns,)
    turned = weights.data().transpose(0, 2, 1, 3).reshape(out_c, depth)
    if phases:
        fill = k_h * -(-wide * in_c // (8 * phases)) * (2 * phases + 2) + 14 * k_h
    elif in_c % _LANES == 0:
        fill = k_h * wide * (2 * in_c // _LANES + 1 + (column > 496)) + 8 * k_h
    else:
        fill = k_h * wide * (8 + 3 * in_c // _LANES)
    whole_rows = Kernel(
        function="ek_conv_2d_rows_s8_mve",
        header="ek_conv_2d_s8_mve.h",
        args=(
            *head,
            *(Literal(name, value) for name, value in sizes.items()),
            Literal("phases", phases),
            *tail,
            *requant.literals,
            Output(0),
        ),
        tables=(
            Table("weights", "int8_t", _interleaved(turned, blocks)),
            Table("requant", "int32_t", requant.rows(blocks)),
        ),
        requires=("mve",),
        scratch_bytes=strip * column + -depth % _LANES,
        overlaps=(
            Overlap(
                max_shift=sliding_shift(
                    (in_h, in_w, in_c), (out_h, out_w, out_c), window=(k_h, k_w), stride=stride,
                    pad=pad, block=out_w, buffered=True,
                )
            ),
        ),
        table_reads=out_h * -(-out_w // 2),
        cost=out_h
        * (-(-out_w // 2) * (len(blocks) * per_block + 12) + 40 * (1 + out_w % 2) + fill + 30),
    )  # fmt: skip
    return (columns, whole_rows)


def _dilated(node: Node) -> bool:
    return (
        int(node.options.get("dilation_h_factor", 1)) != 1
        or int(node.options.get("dilation_w_factor", 1)) != 1
    )


#: Tiles of a depthwise plane that are larger are made and used in strips.
_TILES_BYTES = 2048


def depthwise_conv_2d(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """DEPTHWISE_CONV_2D 3x3 with multiplier 1 and stride 1 or 2, plane by plane, in place."""
    if _lacks(target):
        return ()
    input_, output = node.activation_input(0), node.output
    weights = node.constant_input(1, "weights")
    stride = int(node.options["stride_h"])
    batches, in_h, in_w, channels = input_.shape
    _, out_h, out_w, out_c = output.shape
    applies = (
        weights.shape[1:3] == (3, 3)
        and out_c == channels
        and stride == int(node.options["stride_w"])
        and stride in (1, 2)
        and batches == 1
        and out_w >= 2
        # Offsets of gathers and scatters have 16 bits.
        and (in_w + 8) * channels < 1 << 16
        and (out_w + 4) * channels < 1 << 16
        and not _dilated(node)
    )
    pad = padding(node, (in_h, in_w), (3, 3), (stride, stride), (1, 1), (out_h, out_w))
    columns = stride * out_w + 2
    pitch = 4 * (columns + 1)
    if not applies or pad[1] >= columns or columns > 162:
        return ()
    planes = weights.data().reshape(9, channels).T
    requant = _requantization(node, planes, scales)
    if requant is None:
        return ()
    # [channels][columns, and one of zeros][rows, and one of zeros] after 8 zeros
    table = np.zeros((channels, 4, 4), np.int8)
    table[:, :3, :3] = planes.reshape(channels, 3, 3).transpose(0, 2, 1)
    table = np.concatenate([np.zeros(8, np.int8), table.reshape(-1)])
    rows = -(-out_h // 2) if stride == 1 else out_h
    # A strip ends with a pair of output rows. The smallest one is for those who lack the room.
    least = min(stride, rows)
    strip = rows
    if pitch * (rows + 2) > _TILES_BYTES:
        strip = min(max(least, (_TILES_BYTES // pitch - 2) // 2 * 2), rows)
    sizes = {
        "in_h": in_h, "in_w": in_w, "channels": channels, "out_h": out_h, "out_w": out_w,
        "stride": stride, "pad_h": pad[0], "pad_w": pad[1],
    }  # fmt: skip
    blocks, rest = divmod(out_w, 4)
    more = (9, 1, 0)[requant.mode] + 6 * requant.clamps
    eight = 14 + 8 * stride + requant.instructions(2) + more
    four = 10 + 4 * stride + requant.instructions(1) + more
    per_pair = blocks * eight + (0, four, four, eight if blocks else 2 * four)[rest] + 4 + stride
    gathers = -(-min(in_w, columns - pad[1]) // 8)
    per_channel = -(-out_h // 2) * per_pair + (rows + 1) * (8 * gathers + 1) + 30 * gathers
    tables = (
        Table("weights", "int8_t", table),
        Table("requant", "int32_t", requant.rows(np.arange(channels)).reshape(-1)),
    )

    def in_place(held: int) -> bool:
        return all(
            (2 if stride == 1 else 1) * top * out_w <= (2 * top + 2 - pad[0]) * in_w
            for top in range(held, rows, held)
        )

    return tuple(
        Kernel(
            function="ek_depthwise_conv_2d_3x3_s8_mve",
            header="ek_depthwise_conv_2d_3x3_s8_mve.h",
            args=(
                Input(0),
                Data("weights"),
                Data("requant"),
                Scratch(),
                *(Literal(name, value) for name, value in sizes.items()),
                Literal("strip", held),
                Literal("in_zero", input_.zero_point, soft=True),
                *requant.literals,
                Output(0),
            ),
            tables=tables,
            requires=("mve",),
            scratch_bytes=(held + 2) * pitch,
            # Channel c of the output overwrites nothing but channel c of the input, of rows that
            # no later strip reads.
            overlaps=(Overlap(min_shift=0, max_shift=0),) if in_place(held) else (),
            cost=channels * (per_channel + 100 + 70 * (-(-rows // held) - 1))
            + 250
            + pitch * (held + 2) / 8,
        )
        for held in sorted({strip, least})
    )


def depthwise_any(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """DEPTHWISE_CONV_2D of any window, stride and dilation with multiplier 1."""
    if _lacks(target):
        return ()
    input_, output = node.activation_input(0), node.output
    weights = node.constant_input(1, "weights")
    _, k_h, k_w, out_c = weights.shape
    batches, in_h, in_w, channels = input_.shape
    _, out_h, out_w, _ = output.shape
    stride = (int(node.options["stride_h"]), int(node.options["stride_w"]))
    dilation = tuple(int(node.options.get(f"dilation_{axis}_factor", 1)) for axis in "hw")
    if batches != 1 or out_c != channels:
        return ()
    pad = padding(
        node, (in_h, in_w), (k_h, k_w), stride, (dilation[0], dilation[1]), (out_h, out_w)
    )
    for axis, (size, taps, have) in enumerate(((out_h, k_h, in_h), (out_w, k_w, in_w))):
        at = np.arange(size)[:, None] * stride[axis] - pad[axis] + np.arange(taps) * dilation[axis]
        if not ((at >= 0) & (at < have)).any(axis=1).all():
            return ()  # a window without a tap inside the image
    rows = weights.data().reshape(k_h * k_w, channels)
    requant = _requantization(node, rows.T, scales)
    if requant is None:
        return ()
    bias = node.optional_constant(2, "bias")
    own = np.zeros(channels, np.int64) if bias is None else bias.data().reshape(-1)
    requant = replace(requant, bias=own.astype(np.int64))
    blocks = -(-channels // 8)
    table = np.zeros((k_h * k_w, 8 * blocks), np.int8)
    table[:, :channels] = rows
    table = np.ascontiguousarray(table.reshape(k_h * k_w, blocks, 8).transpose(1, 0, 2))
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7]) + 8 * np.arange(blocks)[:, None]
    constants = requant.rows(np.minimum(order, channels - 1))
    sizes = {
        "in_h": in_h, "in_w": in_w, "channels": channels, "out_h": out_h, "out_w": out_w,
        "k_h": k_h, "k_w": k_w, "stride_h": stride[0], "stride_w": stride[1],
        "dilation_h": dilation[0], "dilation_w": dilation[1], "pad_h": pad[0], "pad_w": pad[1],
    }  # fmt: skip
    shift = sliding_shift(
        (in_h, in_w, channels), (out_h, out_w, channels), window=(k_h, k_w), stride=stride,
        dilation=(dilation[0], dilation[1]), pad=pad, order="channel",
    )  # fmt: skip
    per_block = 9 * k_h * k_w + 8 * k_h + 25 + requant.instructions(2) + 8 * requant.clamps
    return (
        Kernel(
            function="ek_depthwise_conv_2d_s8_mve",
            header="ek_depthwise_conv_2d_s8_mve.h",
            args=(
                Input(0),
                Data("weights"),
                Data("requant"),
                *(Literal(name, value, extent=True) for name, value in sizes.items()),
                Literal("in_zero", input_.zero_point, soft=True),
                *requant.literals,
                Output(0),
            ),
            tables=(
                Table("weights", "int8_t", table),
                Table("requant", "int32_t", constants),
            ),
            requires=("mve",),
            overlaps=(Overlap(max_shift=shift),),
            table_reads=out_h * out_w,
            cost=out_h * out_w * (blocks * per_block + 30),
        ),
    )


def fully_connected(node: Node, scales: list[float], target: Target | None) -> tuple[Kernel, ...]:
    """FULLY_CONNECTED whose weights have no zero point."""
    if _lacks(target):
        return ()
    weights = node.constant_input(1, "weights")
    outputs, depth = weights.shape
    requant = _requantization(node, weights.data(), scales)
    groups = -(-depth // _LANES)
    if requant is None or 16 * groups >= 1 << 16 or depth == 0:
        return ()
    rows = node.output.elements // outputs
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    table = weights.data()
    kinds = [requant.bias, requant.left, requant.multiplier, requant.right]
    if outputs < 8:
        table = np.concatenate([table, np.zeros((8 - outputs, depth), np.int8)])
        kinds = [np.concatenate([kind, np.zeros(8 - outputs, np.int64)]) for kind in kinds]
    channels = _blocks(max(outputs, 8), 8)[:, order]
    each = len({tuple(column) for column in np.stack(kinds[1:], axis=1)[:outputs].tolist()}) > 1
    if not each:
        kinds = kinds[:1]
    elif requant.mode != _ANY:
        del kinds[1]
    per_block = 17 * groups + (1 if depth % _LANES else 0) + 13 + requant.instructions(2)
    return (
        Kernel(
            function="ek_fully_connected_s8_mve",
            header="ek_fully_connected_s8_mve.h",
            args=(
                Input(0),
                Data("weights"),
                Data("requant"),
                Literal("rows", rows),
                Literal("depth", depth),
                Literal("outputs", outputs),
                Literal("each", int(each)),
                Literal("left", int(requant.left[0]), soft=True),
                Literal("multiplier", int(requant.multiplier[0]), soft=True),
                Literal("right", int(requant.right[0]), soft=True),
                *requant.literals,
                Output(0),
            ),
            tables=(
                Table("weights", "int8_t", _interleaved(table, channels)),
                Table("requant", "int32_t", np.stack([k[channels] for k in kinds], axis=1)),
            ),
            requires=("mve",),
            table_reads=rows,
            cost=rows * (len(channels) * (per_block + (6 if each else 3)) + 45),
        ),
    )


def vectorized(plain: Kernel, function: str) -> Kernel:
    """An element-wise kernel's counterpart with the same arguments, 16 bytes at a time."""
    return replace(
        plain,
        function=function,
        header="ek_lookup_s8_mve.h",
        requires=("mve",),
        cost=plain.cost / 12 + 10,
    )


def mul(node: Node, scale: tuple[int, int], low: int, high: int) -> tuple[Kernel, ...]:
    """MUL of two inputs of the output's shape; ``scale``: multiplier and shift of products."""
    first, second, output = node.inputs[0], node.inputs[1], node.output
    multiplier, shift = scale
    if first is None or second is None or shift > 14:
        return ()
    if not first.elements == second.elements == output.elements:
        return ()
    clamps = int((low, high) != (-128, 127))
    return (
        Kernel(
            function="ek_mul_s8_mve",
            header="ek_binary_s8_mve.h",
            args=(
                Input(0),
                Input(1),
                Literal("count", output.elements),
                Literal("zero_a", first.zero_point, soft=True),
                Literal("zero_b", second.zero_point, soft=True),
                Literal("multiplier", multiplier, soft=True),
                Literal("left", max(shift, 0)),
                Literal("right", max(-shift, 0)),
                Literal("zero", output.zero_point, soft=True),
                Literal("clamp", clamps),
                Literal("low", low, soft=True),
                Literal("high", high, soft=True),
                Output(0),
            ),
            requires=("mve",),
            overlaps=tuple(
                Overlap(input=index, max_shift=0)
                for index, tensor in enumerate((first, second))
                if not tensor.is_constant
            ),
            cost=-(-output.elements // 8) * (14 + 2 * clamps + (6 if shift < 0 else 2)) + 20,
        ),
    )


#: Factors tried on either side of the nearest one.
_FACTOR_REACH = 2


def add(
    node: Node, sign: int, pairs: list[tuple[int, int]], low: int, high: int,
    target: Target | None,
) -> tuple[Kernel, ...]:  # fmt: skip
    """ADD and SUB (``sign`` -1) of two inputs of the output's shape.

    Args:
        pairs: multiplier and shift of both inputs and of their sum, as TFLM has them.
        low, high: the output's clamp.
    """
    first, second, output = node.inputs[0], node.inputs[1], node.output
    if _lacks(target) or first is None or second is None:
        return ()
    if not first.elements == second.elements == output.elements:
        return ()
    clamps = int((low, high) != (-128, 127))
    overlaps = tuple(
        Overlap(input=index, max_shift=0)
        for index, tensor in enumerate((first, second))
        if not tensor.is_constant
    )
    tail = (
        Literal("clamp", clamps),
        Literal("low", low, soft=True),
        Literal("high", high, soft=True),
        Output(0),
    )
    blocks = -(-output.elements // 8)
    (mult_a, shift_a), (mult_b, shift_b), (mult, shift) = pairs
    exact = Kernel(
        function="ek_add_s8_mve",
        header="ek_binary_s8_mve.h",
        args=(
            Input(0),
            Input(1),
            Literal("count", output.elements),
            Literal("sign", sign),
            Literal("zero_a", first.zero_point, soft=True),
            Literal("multiplier_a", mult_a, soft=True),
            Literal("shift_a", -shift_a),
            Literal("zero_b", second.zero_point, soft=True),
            Literal("multiplier_b", mult_b, soft=True),
            Literal("shift_b", -shift_b),
            Literal("multiplier", mult, soft=True),
            Literal("shift", -shift),
            Literal("zero", output.zero_point, soft=True),
            *tail,
        ),
        requires=("mve",),
        overlaps=overlaps,
        cost=blocks * (26 + 2 * clamps + 6 * sum(s < 0 for _, s in pairs)),
    )
    found = _linear_sum(first, second, output, sign, pairs, low, high)
    if found is None:
        return (exact,)
    factor_a, factor_b, addend, less = found
    return (
        exact,
        Kernel(
            function="ek_add_linear_s8_mve",
            header="ek_binary_s8_mve.h",
            args=(
                Input(0),
                Input(1),
                Literal("count", output.elements),
                Literal("factor_a", factor_a, soft=True),
                Literal("factor_b", factor_b, soft=True),
                Literal("add", addend, soft=True),
                Literal("less", less),
                *tail,
            ),
            requires=("mve",),
            overlaps=overlaps,
            cost=blocks * (15 + 2 * clamps),
        ),
    )


def _linear_sum(
    first: Tensor, second: Tensor, output: Tensor, sign: int, pairs: list[tuple[int, int]],
    low: int, high: int,
) -> tuple[int, int, int, int] | None:  # fmt: skip
    """Factors, addend and shift beyond 16 such that two rounding shifts of
    ``a * factor_a + b * factor_b + addend``, by 16 and the rest, give TFLM's result for every
    pair of inputs; ``None`` where there are none (sums of both signs round away from zero)."""
    values = np.arange(-128, 128, dtype=np.int64)
    (mult_a, shift_a), (mult_b, shift_b), (mult, shift) = pairs
    one = requantize((values - first.zero_point) << 20, mult_a, shift_a)
    other = requantize((values - second.zero_point) << 20, mult_b, shift_b)
    wanted = requantize(one[:, None] + sign * other[None, :], mult, shift) + output.zero_point
    wanted = np.clip(wanted, low, high)
    above, below = wanted > low, wanted < high
    real_a, real_b = first.scale / output.scale, sign * second.scale / output.scale
    start = abs(real_a * first.zero_point) + abs(real_b * second.zero_point) + 130
    for less in range(8, 0, -1):
        unit = 1 << (16 + less)
        if (128 * (abs(real_a) + abs(real_b)) + start) * unit < 0.99 * 2**31:
            break
    else:
        return None
    steps = sorted(range(-_FACTOR_REACH, _FACTOR_REACH + 1), key=abs)
    for step_a in steps:
        for step_b in steps:
            factor_a, factor_b = round(real_a * unit) + step_a, round(real_b * unit) + step_b
            raw = factor_a * values[:, None] + factor_b * values[None, :]
            least = np.where(above, wanted * unit - raw, -(1 << 62)).max()
            most = np.where(below, (wanted + 1) * unit - 1 - raw, 1 << 62).min()
            if least > most:
                continue
            # Whatever lies between is exact; stay small where one side is open.
            addend = int(least if above.any() else most) - (1 << 15) - (1 << (15 + less))
            reach = 128 * (abs(factor_a) + abs(factor_b)) + abs(addend)
            if reach < 1 << 31:
                return factor_a, factor_b, addend, less
    return None


def pool_2d(
    node: Node, function: str, low: int, high: int, target: Target | None
) -> tuple[Kernel, ...]:
    """AVERAGE_POOL_2D or MAX_POOL_2D of windows that are inside the input."""
    if _lacks(target):
        return ()
    input_, output = node.activation_input(0), node.output
    batches, in_h, in_w, channels = input_.shape
    _, out_h, out_w, _ = output.shape
    window = int(node.options["filter_height"]), int(node.options["filter_width"])
    stride = int(node.options["stride_h"]), int(node.options["stride_w"])
    pad = padding(node, (in_h, in_w), window, stride, (1, 1), (out_h, out_w))
    average = function == "ek_average_pool_2d_s8"
    lanes = 8 if average else 16
    inside = (
        pad == (0, 0)
        and (out_h - 1) * stride[0] + window[0] <= in_h
        and (out_w - 1) * stride[1] + window[1] <= in_w
    )
    if batches != 1 or channels < lanes or not inside:
        return ()
    division: tuple[Literal, ...] = ()
    if average:
        quotient = _quotient(window[0] * window[1])
        if quotient is None:
            return ()
        division = (Literal("multiplier", quotient[0], soft=True), Literal("shift", quotient[1]))
    geometry = {
        "in_w": in_w, "channels": channels, "out_h": out_h, "out_w": out_w,
        "window_h": window[0], "window_w": window[1], "stride_h": stride[0],
        "stride_w": stride[1],
    }  # fmt: skip
    vectors = -(-channels // lanes)
    passes = -(-vectors // 4)
    per_pixel = window[0] * (window[1] * (2 * vectors + 2 * passes) + 4 * passes)
    return (
        Kernel(
            function=f"{function}_mve",
            header="ek_pool_2d_s8_mve.h",
            args=(
                Input(0),
                *(Literal(name, value) for name, value in geometry.items()),
                *division,
                Literal("clamp", int((low, high) != (-128, 127))),
                Literal("low", low, soft=True),
                Literal("high", high, soft=True),
                Output(0),
            ),
            requires=("mve",),
            cost=out_h * out_w * (per_pixel + 9 * vectors + 15 * passes + 10),
        ),
    )


def _quotient(count: int) -> tuple[int, int] | None:
    """Multiplier and shift such that ``(x * multiplier) >> (16 + shift)`` is ``x // count`` for
    every rounded sum of ``count`` int8 values; ``None`` where 16 bits are too few."""
    if not 2 <= count <= 256:
        return None
    sums = np.arange(128 * count + count // 2 + 1, dtype=np.int64)
    shift = (count - 1).bit_length() - 1
    multiplier = -(-(1 << (16 + shift)) // count)
    if multiplier >= 1 << 16 or ((sums * multiplier) >> (16 + shift) != sums // count).any():
        return None
    return multiplier, shift
