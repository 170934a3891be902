"""CONV_2D, int8. Reference: integer_ops/conv.h ConvPerChannel of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    sliding_shift,
)
from edgekit.engines.aot.ops._sums import effective_scales, geometry, pair, per_channel, sums

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
    out_c, window_h, window_w, depth_c = weights.shape
    _, out_h, out_w, _ = output.shape
    if depth_c == 0 or in_c % depth_c or out_c % (in_c // depth_c):
        raise Unsupported(f"weights of {depth_c} channels do not divide {in_c} input channels")
    groups = in_c // depth_c
    stride, dilation = pair(node, "stride"), pair(node, "dilation")
    pad = padding(node, (in_h, in_w), (window_h, window_w), stride, dilation, (out_h, out_w))
    depth = window_h * window_w * depth_c
    scales = per_channel(effective_scales(input_, weights, output), out_c)
    result = m0.small_sums(sums(node, weights.data().reshape(out_c, depth), bias, scales), target)
    overlaps: tuple[Overlap, ...] = ()
    if batches == 1 and groups == 1:
        shift = sliding_shift(
            (in_h, in_w, in_c), (out_h, out_w, out_c), window=(window_h, window_w),
            stride=stride, dilation=dilation, pad=pad, block=2, buffered=True,
        )  # fmt: skip
        overlaps = (Overlap(max_shift=shift),)
    pixels = batches * out_h * out_w
    shape = {
        "in_h": in_h, "in_w": in_w, "in_c": depth_c, "out_h": out_h, "out_w": out_w,
        "out_c": out_c, "pad_top": pad[0], "pad_left": pad[1],
    }  # fmt: skip
    form = {
        "batches": batches, "groups": groups, "window_h": window_h, "window_w": window_w,
        "stride_h": stride[0], "stride_w": stride[1],
        "dilation_h": dilation[0], "dilation_w": dilation[1],
    }  # fmt: skip
    return (
        *(dsp.conv_2d(node, scales, target) if batches == 1 and groups == 1 else ()),
        *mve.conv_2d(node, scales, target),
        *(m0.conv_2d(node, scales, result, target) if batches == 1 and groups == 1 else ()),
        Kernel(
            function="ek_conv_2d_s8",
            header="ek_conv_2d_s8.h",
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
            tables=(
                Table("weights", "int8_t", weights.data(), align_bytes=1),
                *result.tables,
            ),
            scratch_bytes=2 * depth,
            scratch_align=1,
            overlaps=overlaps,
            table_reads=-(-pixels // 2),
            cost=m0.slowdown(target)
            * pixels
            * (2.4 * out_c * depth + 18.0 * out_c + 1.5 * depth + 30 * window_h),
        ),
    )


def macs(node: Node) -> int:
    weights = node.constant_input(1, "weights")
    return node.output.elements * (weights.elements // weights.shape[0])
