"""STRIDED_SLICE of up to four stepping dimensions. Reference: strided_slice_logic.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import (
    CTYPE_BYTES,
    CTYPES,
    Input,
    Kernel,
    Literal,
    Node,
    Output,
    Unsupported,
)

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    if output.dtype != "int8" or input_.dtype != output.dtype:
        raise Unsupported(f"it goes from {input_.dtype} to {output.dtype}")
    for mask in ("ellipsis_mask", "new_axis_mask"):
        if node.options.get(mask, 0):
            raise Unsupported(f"it has the option {mask}")
    size = CTYPE_BYTES[CTYPES[output.dtype]]
    begins, ends, strides = (
        [int(v) for v in node.constant_input(i, name).data().reshape(-1)]
        for i, name in ((1, "begin"), (2, "end"), (3, "strides"))
    )
    start = 0
    dims: list[tuple[int, int]] = []
    pitch = size
    for axis in reversed(range(len(input_.shape))):
        length = input_.shape[axis]
        if axis < len(begins):
            first, count, step = _range(node, axis, length, begins, ends, strides)
        else:
            first, count, step = 0, length, 1
        start += first * pitch
        if count != 1:
            dims.insert(0, (count, step * pitch))
        pitch *= length
    # Neighbours that continue each other are one dimension; whole runs are one element.
    merged: list[tuple[int, int]] = []
    for count, step in dims:
        if merged and merged[-1][1] == count * step:
            merged[-1] = (merged[-1][0] * count, step)
        else:
            merged.append((count, step))
    nbytes = size
    if merged and merged[-1][1] == size:
        nbytes = merged.pop()[0] * size
    if len(merged) > 4:
        raise Unsupported(f"it steps along {len(merged)} dimensions, more than 4")
    merged = [(1, 0)] * (4 - len(merged)) + merged
    return (
        Kernel(
            function="ek_strided_slice",
            header="ek_move.h",
            args=(
                Input(0),
                Literal("nbytes", nbytes),
                Literal("start", start),
                *(Literal(f"d{i}", d[0]) for i, d in enumerate(merged)),
                *(Literal(f"step_{i}", d[1]) for i, d in enumerate(merged)),
                Output(0),
            ),
            cost=output.elements * size * (1.0 + 8.0 / nbytes),
        ),
    )


def _range(
    node: Node, axis: int, length: int, begins: list[int], ends: list[int], strides: list[int]
) -> tuple[int, int, int]:
    """First index, count and step along an axis."""
    step = strides[axis]
    if step == 0:
        raise Unsupported("a stride is 0")
    bit = 1 << axis
    if node.options.get("shrink_axis_mask", 0) & bit:
        first = begins[axis] + (length if begins[axis] < 0 else 0)
        if not 0 <= first < length:
            raise Unsupported(f"index {begins[axis]} is outside of dimension {axis}")
        return first, 1, 1
    begin = None if node.options.get("begin_mask", 0) & bit else begins[axis]
    end = ends[axis]
    if node.options.get("offset", False):
        end += begins[axis]
    stop = None if node.options.get("end_mask", 0) & bit else end
    chosen = range(length)[begin:stop:step]
    return (chosen[0] if chosen else 0), len(chosen), step
