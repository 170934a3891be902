"""DEPTHWISE_CONV_2D, int8. Reference: integer_ops/depthwise_conv.h of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.engines.aot import dsp, m0, mve
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
    Unsupported,
    check_dtype,
    padding,
)
from edgekit.engines.aot.ops._sums import (
    effective_scales,
    geometry,
    pair,
    per_channel,
    sums,
)

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_ = node.activation_input(0)
    weights = node.constant_input(1, "weights")
    bias = node.optional_constant(2, "bias")
    output = node.output
    for tensor in (input_, weights, output):
        check_dtype(tensor, "int8")
    if weights.quantization is not None and any(weights.quantization.zero_points):
        raise Unsupported("its weights have a zero point")
    batches, in_h, in_w, in_c = input_.shape
    _, window_h, window_w, out_c = weights.shape
    _, out_h, out_w, _ = output.shape
    if in_c == 0 or out_c % in_c:
        raise Unsupported(f"{out_c} output channels are no multiple of {in_c} input channels")
    multiplier = out_c // in_c
    stride, dilation = pair(node, "stride"), pair(node, "dilation")
    pad = padding(node, (in_h, in_w), (window_h, window_w), stride, dilation, (out_h, out_w))
    # The kernel wants each channel's window in one piece.
    rows = np.ascontiguousarray(weights.data().reshape(window_h * window_w, out_c).T)
    scales = per_channel(effective_scales(input_, weights, output), out_c)
    result = m0.small_sums(sums(node, rows, bias, scales), target)
    plane_h = (out_h - 1) * stride[0] + (window_h - 1) * dilation[0] + 1
    plane_w = (out_w - 1) * stride[1] + (window_w - 1) * dilation[1] + 1
    columns, block = _blocks(out_h, out_w)
    shape = {
        "in_h": in_h, "in_w": in_w, "in_c": in_c, "out_h": out_h, "out_w": out_w,
        "pad_top": pad[0], "pad_left": pad[1],
    }  # fmt: skip
    form = {
        "batches": batches, "depth_multiplier": multiplier,
        "window_h": window_h, "window_w": window_w, "stride_h": stride[0], "stride_w": stride[1],
        "dilation_h": dilation[0], "dilation_w": dilation[1], "columns": columns, "block": block,
    }  # fmt: skip
    return (
        *(dsp.depthwise_conv_2d(node, scales, target) if batches == 1 else ()),
        *mve.depthwise_conv_2d(node, scales, target),
        *mve.depthwise_any(node, scales, target),
        Kernel(
            function="ek_depthwise_conv_2d_s8",
            header="ek_depthwise_conv_2d_s8.h",
            args=(
                Input(0),
                Data("weights"),
                Data("bias"),
                Data("multipliers"),
                Data("shifts"),
                Scratch(),
                *geometry(shape, form),
                result.mode_literal,
                Literal("input_zero", input_.zero_point, soft=True),
                *result.output_literals,
                Output(0),
            ),
            tables=(Table("weights", "int8_t", rows, align_bytes=1), *result.tables),
            scratch_bytes=plane_h * plane_w,
            scratch_align=1,
            # A channel's bytes are all read before its outputs are written, and they lie at
            # the same remainder modulo the channels when the distance is a multiple of them.
            overlaps=(Overlap(multiple=in_c),) if multiplier == batches == 1 else (),
            table_reads=batches * out_h * out_w / block,
            cost=batches
            * (
                out_h * out_w * out_c * (2.4 * window_h * window_w + 18)
                + plane_h * plane_w * in_c * 2.5
            ),
        ),
    )


def _blocks(height: int, width: int) -> tuple[int, int]:
    """Direction (1: columns) and size of the blocks with the least work for their loads."""
    best: tuple[float, int, int] | None = None
    for columns, (length, lines) in enumerate(((width, height), (height, width))):
        for block in range(1, min(4, length) + 1):
            count = -(-length // block) * lines
            # Per tap: one weight for the block, then a load and a product for each output;
            # per output: about 15 instructions of requantisation.
            work = count * (9 * (1 + 2 * block) + 15 * block + 12)
            if best is None or work < best[0]:
                best = (work, columns, block)
    if best is None:
        raise Unsupported("its output is empty")
    return best[1], best[2]


def macs(node: Node) -> int:
    weights = node.constant_input(1, "weights")
    return node.output.elements * weights.shape[1] * weights.shape[2]
