"""Exact removal of channels that are the same for every input, or that nobody reads.

:func:`edgekit.graph.ranges.forward_ranges` bounds every channel for every possible input. Going
backwards from the outputs, this pass marks what must be *computed*: a channel that a computed
value reads with a weight that is not zero. A reader can do without a constant channel by taking
its value into its bias, unless the channel meets zero padding with a value other than the zero
point. What is not marked goes: from tensors, weights, biases and scales.

Operators without a rule here read every channel, so that the pass is exact for any graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.engines.aot.ir import Instruction, Program
from edgekit.graph import Quantization, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

#: Operators whose output channel reads the same channel of their first input (and no other),
#: besides MEAN and PAD, for which it depends on their axes.
_CHANNELWISE = (
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "LEAKY_RELU",
    "LOGISTIC",
    "TANH",
    "HARD_SWISH",
    "QUANTIZE",
)
#: The same for operators of two inputs of one shape.
_BINARY = ("ADD", "SUB", "MUL")


def run(program: Program) -> Program:
    kept = decide(program)
    return apply(program, kept)


# -- what must be computed ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Known:
    """Channels whose value is one and the same for every input, and that value."""

    constant: Mask
    value: NDArray[np.int64]


def decide(program: Program) -> Mapping[int, tuple[int, ...]]:
    """The channels to keep, for every tensor that loses some."""
    from edgekit.graph.ranges import forward_ranges

    ranges = forward_ranges(program.model.main)
    known: dict[int, _Known] = {}
    for index, tensor in program.tensors.items():
        count = _width(tensor)
        if index in ranges and ranges[index][0].size == count and not tensor.is_constant:
            low, high = ranges[index]
            known[index] = _Known(low == high, low)
        else:
            known[index] = _Known(np.zeros(count, bool), np.zeros(count, np.int64))
    needed = {index: np.zeros(_width(t), bool) for index, t in program.tensors.items()}
    for index in (*program.inputs, *program.outputs):
        needed[index][:] = True
    # Steps that pass channels through tie their input to their output in both directions.
    marked = -1
    while marked != _count(needed):
        marked = _count(needed)
        for step in reversed(program.steps):
            # Every step that is left runs, and a tensor cannot be empty: keep one channel.
            for index in step.outputs:
                if not needed[index].any():
                    needed[index][0] = True
            _mark(program, step, known, needed)
    return {
        index: tuple(int(c) for c in np.flatnonzero(mask))
        for index, mask in needed.items()
        if not program.tensors[index].is_constant and not mask.all() and mask.any()
    }


def _count(masks: Mapping[int, Mask]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def _mark(
    program: Program, step: Instruction, known: Mapping[int, _Known], needed: dict[int, Mask]
) -> None:
    """Marks the input channels that the needed outputs of a step read."""
    rule = _rule(program, step)
    if rule is None:
        for index in (*step.inputs, *step.outputs):
            if index >= 0:
                needed[index][:] = True
        return
    data, output = step.inputs[0], step.outputs[0]
    wanted = needed[output]
    if rule != "dense":
        # Channel by channel: inputs and output keep the same ones, so that they stay in step.
        others = step.inputs[:2] if rule == "binary" else (data,)
        together = wanted.copy()
        for index in others:
            together |= needed[index]
        for index in (*others, output):
            needed[index] |= together
    else:
        weights = program.tensors[step.inputs[1]].data()
        rows = weights[wanted].astype(bool)
        count = needed[data].size
        reads = rows.reshape(-1, count).any(axis=0) if rows.size else np.zeros(count, bool)
        reads &= ~_absorbed(program, step, known[data])
        needed[data] |= reads


def _rule(program: Program, step: Instruction) -> str | None:
    """Which rule holds for a step; ``None`` if it reads and makes everything."""
    if not step.inputs or step.inputs[0] < 0 or len(step.outputs) != 1:
        return None
    data, output = program.tensors[step.inputs[0]], program.tensors[step.outputs[0]]
    if data.is_constant or output.dtype != "int8" and step.kind != "DEQUANTIZE":
        return None
    same = _width(data) == _width(output)
    if step.kind in _CHANNELWISE:
        return "channelwise" if same and len(data.shape) == len(output.shape) else None
    if step.kind in ("MEAN", "PAD"):
        return "channelwise" if same and _spares_channels(program, step) else None
    if step.kind in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
        return "view" if same and data.shape and output.shape else None
    if step.kind in _BINARY:
        other = program.tensors[step.inputs[1]]
        alike = data.shape == other.shape == output.shape and not other.is_constant
        return "binary" if alike else None
    if step.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return None
    operands = [program.tensors[i] for i in step.inputs[1:] if i >= 0]
    if data.dtype != "int8" or not all(t.is_constant for t in operands):
        return None
    weights = operands[0]
    if weights.dtype != "int8" or any(
        weights.quantization.zero_points if weights.quantization else (1,)
    ):
        return None
    if step.kind == "CONV_2D":
        return "dense" if weights.shape[3] == data.shape[3] else None
    if step.kind == "FULLY_CONNECTED":
        rows = output.elements // weights.shape[0]
        simple = _width(data) == weights.shape[1] and data.elements == rows * weights.shape[1]
        return "dense" if simple and _width(output) == weights.shape[0] else None
    return "depthwise" if same and data.shape[3] == weights.shape[3] else None


def _spares_channels(program: Program, step: Instruction) -> bool:
    """Whether a MEAN or PAD leaves the last axis as it is."""
    rank = len(program.tensors[step.inputs[0]].shape)
    operand = program.tensors[step.inputs[1]] if len(step.inputs) > 1 else None
    if operand is None or not operand.is_constant or rank < 2:
        return False
    values = operand.data().reshape(-1)
    if step.kind == "PAD":
        return values.size == 2 * rank and not values[-2:].any()
    return all(int(axis) % rank != rank - 1 for axis in values)


def _absorbed(program: Program, step: Instruction, known: _Known) -> Mask:
    """Constant input channels whose contribution is a constant that the bias can take."""
    data = program.tensors[step.inputs[0]]
    if step.kind == "FULLY_CONNECTED" or not _padded(program, step):
        return known.constant
    # A padded tap contributes nothing, so that the sum varies along the border, unless the
    # channel contributes nothing anywhere.
    harmless: Mask = known.constant & (known.value == data.zero_point)
    return harmless


def _padded(program: Program, step: Instruction) -> bool:
    """Whether any window of a convolution hangs over the edge of its input."""
    data, weights = (program.tensors[i].shape for i in step.inputs[:2])
    out = program.tensors[step.outputs[0]].shape
    options = step.options
    if options.get("padding") == "EXPLICIT":
        return any(options["pads"])
    if options.get("padding") == "VALID":
        return False
    for axis, (stride, dilation) in enumerate(
        (("stride_h", "dilation_h_factor"), ("stride_w", "dilation_w_factor")), start=1
    ):
        reach = (out[axis] - 1) * int(options.get(stride, 1))
        reach += (weights[axis] - 1) * int(options.get(dilation, 1)) + 1
        if reach > data[axis]:
            return True
    return False


def _width(tensor: Tensor) -> int:
    return tensor.shape[-1] if tensor.shape else 1


# -- taking the rest away ----------------------------------------------------------------------


def apply(program: Program, kept: Mapping[int, tuple[int, ...]]) -> Program:
    """The program with only the channels ``kept`` (of the tensors that are named there)."""
    if not kept:
        return program
    from edgekit.graph.ranges import forward_ranges

    ranges = forward_ranges(program.model.main)
    tensors = dict(program.tensors)
    steps = []
    for step in program.steps:
        if step.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            step = _prune(program, step, kept, ranges, tensors)
        steps.append(step)
    for index, channels in kept.items():
        tensor = tensors[index]
        quantization = tensor.quantization
        if quantization is not None and quantization.per_channel:
            quantization = _subset(quantization, channels)
        tensors[index] = replace(
            tensor, shape=(*tensor.shape[:-1], len(channels)), quantization=quantization
        )
    return replace(program, tensors=tensors, steps=tuple(steps), channels=dict(kept))


def _prune(
    program: Program,
    step: Instruction,
    kept: Mapping[int, tuple[int, ...]],
    ranges: Mapping[int, Any],
    tensors: dict[int, Tensor],
) -> Instruction:
    """Gives a step weights and biases without the channels that are gone.

    They get indices of their own: another step may read the same constants in full.
    """
    data, output = step.inputs[0], step.outputs[0]
    if data not in kept and output not in kept:
        return step
    weights = program.tensors[step.inputs[1]]
    values = weights.data()
    depthwise = step.kind == "DEPTHWISE_CONV_2D"
    out_axis = 3 if depthwise else 0
    outputs = np.array(kept.get(output, range(values.shape[out_axis])), np.int64)
    bias = _bias(program, step, values.shape[out_axis])
    if not depthwise and data in kept:
        bias = bias + _constant_part(program.tensors[data], values, kept[data], ranges.get(data))
        values = values[..., list(kept[data])]
    values = np.take(values, outputs, axis=out_axis)
    quantization = weights.quantization
    if quantization is not None and quantization.per_channel:
        quantization = _subset(quantization, tuple(outputs.tolist()))
    new_weights = replace(
        weights,
        index=max(tensors) + 1,
        shape=values.shape,
        raw=np.ascontiguousarray(values).tobytes(),
        quantization=quantization,
    )
    tensors[new_weights.index] = new_weights
    bias_values = bias[outputs].astype(np.int64).astype(np.int32)  # wraps as the sum would
    new_bias = Tensor(
        index=max(tensors) + 1,
        name=f"{weights.name}/bias",
        shape=bias_values.shape,
        dtype="int32",
        raw=bias_values.tobytes(),
    )
    tensors[new_bias.index] = new_bias
    return replace(step, inputs=(data, new_weights.index, new_bias.index))


def _bias(program: Program, step: Instruction, count: int) -> NDArray[np.int64]:
    if len(step.inputs) < 3 or step.inputs[2] < 0:
        return np.zeros(count, np.int64)
    return program.tensors[step.inputs[2]].data().astype(np.int64).reshape(-1)


def _constant_part(
    data: Tensor, weights: NDArray[Any], kept: tuple[int, ...], interval: Any
) -> NDArray[np.int64]:
    """What the removed input channels add to every sum of the outputs that are left."""
    total = np.zeros(weights.shape[0], np.int64)
    if interval is None:
        return total
    low, high = interval
    removed = np.ones(weights.shape[-1], bool)
    removed[list(kept)] = False
    # A channel that varies was removed because no output that is left has a weight for it.
    constant = removed & (low == high)
    offsets = np.where(constant, low - data.zero_point, 0)
    per_channel = weights.astype(np.int64).reshape(weights.shape[0], -1, weights.shape[-1])
    result: NDArray[np.int64] = per_channel.sum(axis=1) @ offsets
    return result


def _subset(quantization: Quantization, channels: tuple[int, ...]) -> Quantization:
    return Quantization(
        scales=tuple(quantization.scales[c] for c in channels),
        zero_points=tuple(quantization.zero_points[c] for c in channels),
        axis=quantization.axis,
    )
