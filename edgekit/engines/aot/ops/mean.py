"""MEAN, int8. Reference: QuantizedMeanOrSum in reference/reduce.h of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import (
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Unsupported,
    check_dtype,
    quantize_multiplier,
)

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    check_dtype(input_, "int8")
    check_dtype(output, "int8")
    rank = len(input_.shape)
    axes = {int(a) % rank for a in node.constant_input(1, "axes").data().reshape(-1)}
    kept: list[tuple[int, int]] = []
    reduced: list[tuple[int, int]] = []
    pitch = 1
    previous: bool | None = None
    for axis in reversed(range(rank)):
        size, mine = input_.shape[axis], axis in axes
        if size > 1:
            into = reduced if mine else kept
            if previous is mine:
                into[0] = (into[0][0] * size, into[0][1])
            else:
                into.insert(0, (size, pitch))
            previous = mine
        pitch *= size
    if len(kept) > 3 or len(reduced) > 2:
        raise Unsupported("its axes alternate too often")
    count = 1
    for size, _ in reduced:
        count *= size
    multiplier, shift = quantize_multiplier(input_.scale / output.scale)
    # The division by the count goes into the multiplier, with as many bits as there is room.
    room = min(count.bit_length() - 1, 32, 31 + shift)
    multiplier = (multiplier << room) // count
    shift -= room
    kept = [(1, 0)] * (3 - len(kept)) + kept
    reduced = [(1, 0)] * (2 - len(reduced)) + reduced
    return (
        Kernel(
            function="ek_mean_s8",
            header="ek_mean_s8.h",
            args=(
                Input(0),
                *(Literal(f"k{i}", d[0]) for i, d in enumerate(kept)),
                *(Literal(f"r{i}", d[0]) for i, d in enumerate(reduced)),
                *(Literal(f"k{i}_step", d[1]) for i, d in enumerate(kept)),
                *(Literal(f"r{i}_step", d[1]) for i, d in enumerate(reduced)),
                Literal("bias", -count * input_.zero_point, soft=True),
                Literal("multiplier", multiplier, soft=True),
                Literal("shift", shift),
                Literal("zero", output.zero_point, soft=True),
                Output(0),
            ),
            cost=input_.elements * 5.0 + output.elements * 25.0,
        ),
    )
