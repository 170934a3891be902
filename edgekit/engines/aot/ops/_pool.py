"""Pooling, int8. Reference: integer_ops/pooling.h of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot import mve
from edgekit.engines.aot.lowering import (
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Overlap,
    Unsupported,
    activation_range,
    check_dtype,
    padding,
    sliding_shift,
)
from edgekit.engines.aot.ops._sums import geometry, pair

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower_pool(node: Node, function: str, target: Target | None) -> tuple[Kernel, ...]:
    """A call of ``function``, which is one of ek_pool_2d_s8.h; the scales play no part."""
    input_ = node.activation_input(0)
    output = node.output
    check_dtype(input_, "int8")
    check_dtype(output, "int8")
    batches, in_h, in_w, channels = input_.shape
    _, out_h, out_w, _ = output.shape
    window = int(node.options["filter_height"]), int(node.options["filter_width"])
    stride = pair(node, "stride")
    if node.options.get("padding") == "EXPLICIT":
        raise Unsupported("explicit padding would count in the average")
    pad = padding(node, (in_h, in_w), window, stride, (1, 1), (out_h, out_w))
    low, high = activation_range(node.options.get("fused_activation_function", "NONE"), output)
    overlaps: tuple[Overlap, ...] = ()
    if batches == 1:
        shift = sliding_shift(
            (in_h, in_w, channels), (out_h, out_w, channels), window=window, stride=stride,
            pad=pad, order="channel",
        )  # fmt: skip
        overlaps = (Overlap(max_shift=shift),)
    shape = {
        "in_h": in_h, "in_w": in_w, "channels": channels, "out_h": out_h, "out_w": out_w,
    }  # fmt: skip
    form = {
        "batches": batches, "window_h": window[0], "window_w": window[1],
        "stride_h": stride[0], "stride_w": stride[1], "pad_top": pad[0], "pad_left": pad[1],
    }  # fmt: skip
    return (
        *mve.pool_2d(node, function, low, high, target),
        Kernel(
            function=function,
            header="ek_pool_2d_s8.h",
            args=(
                Input(0),
                *geometry(shape, form),
                Literal("low", low, soft=True),
                Literal("high", high, soft=True),
                Output(0),
            ),
            overlaps=overlaps,
            cost=output.elements * (5.0 * window[0] * window[1] + 20),
        ),
    )
