"""Broadcasting of two inputs, for ADD, SUB, MUL and SQUARED_DIFFERENCE."""

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
    quantize_multiplier,
)
from edgekit.engines.aot.ops._linear_add import LinearAdd, linear_add

if TYPE_CHECKING:
    from edgekit.graph import Tensor
    from edgekit.targets import Target


def broadcast(
    first: tuple[int, ...], second: tuple[int, ...], output: tuple[int, ...]
) -> tuple[list[int], list[int], list[int]]:
    """Four dimensions of the output and the strides of both inputs along them, in elements.

    Neighbouring dimensions that both inputs walk alike are merged.

    Raises:
        Unsupported: more than four dimensions remain, or the shapes do not fit.
    """
    rank = len(output)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in (first, second)]
    kept: list[tuple[int, bool, bool]] = []
    for axis, size in enumerate(output):
        sizes = [shape[axis] for shape in padded]
        if any(s not in (1, size) for s in sizes):
            raise Unsupported(f"shapes {list(first)} and {list(second)} do not broadcast")
        if size == 1:
            continue
        walks = (sizes[0] == size, sizes[1] == size)
        if kept and kept[-1][1:] == walks:
            kept[-1] = (kept[-1][0] * size, *walks)
        else:
            kept.append((size, *walks))
    if len(kept) > 4:
        raise Unsupported(f"shapes {list(first)} and {list(second)} alternate too often")
    kept = [(1, False, False)] * (4 - len(kept)) + kept
    strides: list[list[int]] = []
    for which in (1, 2):
        step, found = 1, []
        for entry in reversed(kept):
            found.append(step if entry[which] else 0)
            step *= entry[0] if entry[which] else 1
        strides.append(found[::-1])
    return [size for size, _, _ in kept], strides[0], strides[1]


def lower_binary(node: Node, kind: str, target: Target | None) -> tuple[Kernel, ...]:
    """``kind`` is ADD, SUB, MUL or SQUARED_DIFFERENCE."""
    first, second = node.inputs[0], node.inputs[1]
    output = node.output
    if first is None or second is None:
        raise Unsupported("an input is missing")
    for tensor in (first, second, output):
        check_dtype(tensor, "int8")
    dims, strides_a, strides_b = broadcast(first.shape, second.shape, output.shape)
    low, high = activation_range(node.options.get("fused_activation_function", "NONE"), output)
    special: tuple[Kernel, ...] = ()
    geometry = [Literal(f"d{i}", d, extent=True) for i, d in enumerate(dims)]
    geometry += [Literal(f"a{i}", s) for i, s in enumerate(strides_a)]
    geometry += [Literal(f"b{i}", s) for i, s in enumerate(strides_b)]
    if kind == "MUL":
        function, parameters = "ek_mul_s8", _mul(first.scale, second.scale, output.scale)
        zeros = [
            Literal("zero_a", first.zero_point, soft=True),
            Literal("zero_b", second.zero_point, soft=True),
        ]
        scaling = [*zeros, *parameters]
        scale = first.scale * second.scale / output.scale
        special = mve.mul(node, quantize_multiplier(scale), low, high)
    elif kind == "SQUARED_DIFFERENCE":
        function = "ek_squared_difference_s8"
        scaling = _squared_difference(first, second, output.scale)
    else:
        function = "ek_add_s8"
        pairs = _add(first.scale, second.scale, output.scale)
        sign = -1 if kind == "SUB" else 1
        special = mve.add(node, sign, pairs, low, high, target)
        linear = linear_add(
            first.zero_point, second.zero_point, output.zero_point, pairs, sign, low, high
        )
        if linear is not None:
            special += (_linear_kernel(node, geometry, linear, low, high),)
        scaling = [Literal("sign", sign)]
        for name, tensor, (multiplier, shift) in zip("ab", (first, second), pairs, strict=False):
            scaling += [
                Literal(f"zero_{name}", tensor.zero_point, soft=True),
                Literal(f"multiplier_{name}", multiplier, soft=True),
                Literal(f"shift_{name}", shift),
            ]
        scaling += [
            Literal("multiplier", pairs[2][0], soft=True),
            Literal("shift", pairs[2][1]),
        ]
    return (
        *special,
        Kernel(
            function=function,
            header="ek_binary_s8.h",
            args=(
                Input(0),
                Input(1),
                *geometry,
                *scaling,
                Literal("zero", output.zero_point, soft=True),
                Literal("low", low, soft=True),
                Literal("high", high, soft=True),
                Output(0),
            ),
            overlaps=_overlaps(node),
            cost=(15.0 if kind == "MUL" else 30.0) * output.elements,
        ),
    )


def _overlaps(node: Node) -> tuple[Overlap, ...]:
    return tuple(
        Overlap(input=index, max_shift=0)
        for index, tensor in enumerate(node.inputs[:2])
        if tensor is not None and not tensor.is_constant and tensor.elements == node.output.elements
    )


def _linear_kernel(
    node: Node, geometry: list[Literal], linear: LinearAdd, low: int, high: int
) -> Kernel:
    return Kernel(
        function="ek_add_linear_s8",
        header="ek_binary_s8.h",
        args=(
            Input(0),
            Input(1),
            *geometry,
            Literal("factor_a", linear.factor_a, soft=True),
            Literal("factor_b", linear.factor_b, soft=True),
            Literal("bias", linear.bias, soft=True),
            Literal("q", linear.q),
            Literal("low", low),
            Literal("high", high),
            Output(0),
        ),
        overlaps=_overlaps(node),
        cost=8.0 * node.output.elements,
    )


def _add(first: float, second: float, output: float) -> list[tuple[int, int]]:
    """Multipliers and shifts of both inputs and the output (CalculateOpDataAdd)."""
    twice = 2 * max(first, second)
    pairs = [
        quantize_multiplier(first / twice),
        quantize_multiplier(second / twice),
        quantize_multiplier(twice / ((1 << 20) * output)),
    ]
    # ek_add_scaled takes the shift 0 for a factor of exactly one half.
    exact = all(shift < 0 or (shift, multiplier) == (0, 1 << 30) for multiplier, shift in pairs[:2])
    if not exact or pairs[2][1] > 0:
        raise Unsupported(f"the output's scale {output} is too small for the reference")
    return pairs


def _squared_difference(first: Tensor, second: Tensor, output: float) -> list[Literal]:
    twice = 2 * max(first.scale, second.scale)
    literals = []
    for name, tensor in (("a", first), ("b", second)):
        multiplier, shift = quantize_multiplier(tensor.scale / twice)
        literals += [
            Literal(f"zero_{name}", tensor.zero_point, soft=True),
            Literal(f"multiplier_{name}", multiplier, soft=True),
            Literal(f"shift_{name}", shift),
        ]
    # The reference multiplies 2^14 with the output's scale in float32, which is exact.
    multiplier, shift = quantize_multiplier(twice * twice / ((1 << 14) * output))
    return [
        *literals,
        Literal("multiplier", multiplier, soft=True),
        Literal("shift", shift),
    ]


def _mul(first: float, second: float, output: float) -> list[Literal]:
    multiplier, shift = quantize_multiplier(first * second / output)
    return [Literal("multiplier", multiplier, soft=True), Literal("shift", shift)]
