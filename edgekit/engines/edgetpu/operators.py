"""Which operators the Edge TPU takes, and why it refuses the others.

Sources: Google's table of supported operations and limitations, the public log files of the
compiler (versions 1 to 16), and pairs of models before and after the compiler. Where those only
bound a limit (resizing, large reshapes), the comment says between which sizes it was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.graph.reader import shown

if TYPE_CHECKING:
    from edgekit.graph import Graph, Op, Tensor

#: What the compiler writes into its table, with our names for it.
NOT_SUPPORTED = "Operation not supported"
DATA_TYPE = "Operation is working on an unsupported data type"
LIMITATION = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
SUBGRAPH = "More than one subgraph is not supported"

#: On-chip memory for parameters and activations together.
ONCHIP_BYTES = 8 << 20
#: Upscales by 2 were mapped (U-Net, FPN), by 15.5 (33 to 513) and 33 (1 to 33) were not.
_MAX_RESIZE_FACTOR = 4.0
#: 128x128x32 was mapped, 512x512x32 was not.
_MAX_RESIZE_BYTES = ONCHIP_BYTES - 1
#: EfficientDet-Lite0 to 2 compile (1.3 to 2.5 MB); with Lite3 at 512 (3.3 MB) and SSD with FPN at
#: 640 (3.5 MB) the compiler fails or leaves it.
_MAX_RESHAPE_BYTES = 3_000_000
_MAX_SOFTMAX = 16_000
_MEAN_DEPTH_MULTIPLE = 4
_DTYPES = ("int8", "uint8")

#: The newest version of an operator that the TFLite inside compiler 16 reads (register.cc of
#: that time); a newer one makes the compiler refuse the whole file. Others: version 1.
NEWEST_VERSIONS = {
    "ABS": 4, "ADD": 4, "ARG_MAX": 2, "ARG_MIN": 2, "AVERAGE_POOL_2D": 3, "BATCH_MATMUL": 4,
    "BATCH_TO_SPACE_ND": 3, "BIDIRECTIONAL_SEQUENCE_LSTM": 3, "BROADCAST_TO": 3, "CAST": 3,
    "CONCATENATION": 3, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "DEPTH_TO_SPACE": 2,
    "DEQUANTIZE": 5, "DIV": 2, "EQUAL": 3, "FILL": 3, "FLOOR_DIV": 2, "FULLY_CONNECTED": 9,
    "GATHER": 5, "GATHER_ND": 3, "GREATER": 2, "GREATER_EQUAL": 2, "L2_NORMALIZATION": 2,
    "LEAKY_RELU": 2, "LESS": 2, "LESS_EQUAL": 2, "LOGISTIC": 3, "LOG_SOFTMAX": 2, "LSTM": 4,
    "MAXIMUM": 4, "MAX_POOL_2D": 3, "MEAN": 3, "MINIMUM": 4, "MIRROR_PAD": 2, "MUL": 5,
    "NOT_EQUAL": 3, "PACK": 3, "PAD": 4, "PADV2": 4, "QUANTIZE": 3, "REDUCE_MAX": 3,
    "REDUCE_MIN": 3, "REDUCE_PROD": 2, "RELU": 3, "RELU6": 3, "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4, "REVERSE_V2": 3, "RSQRT": 2, "SELECT": 2, "SLICE": 5,
    "SOFTMAX": 3, "SPACE_TO_BATCH_ND": 3, "SPACE_TO_DEPTH": 2, "SPLIT": 4, "SPLIT_V": 2,
    "SQUARED_DIFFERENCE": 2, "SQUEEZE": 2, "STRIDED_SLICE": 6, "SUB": 5, "SUM": 2, "SVDF": 4,
    "TANH": 3, "TILE": 3, "TOPK_V2": 2, "TRANSPOSE": 5, "TRANSPOSE_CONV": 3,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3, "UNPACK": 4, "WHERE": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """Why an operator stays on the CPU: our sentence, and the status the compiler would print."""

    status: str
    reason: str


def refusal(graph: Graph, op: Op) -> Refusal | None:
    """Why the Edge TPU cannot take an operator by itself; ``None`` when it can.

    Whether it is mapped depends on its neighbours too: see ``partition``.
    """
    rule = _RULES.get(op.kind)
    if rule is None:
        # The compiler looks at the types first: post-processing in float is "unsupported type".
        status = NOT_SUPPORTED if _data_type(graph, op) is None else DATA_TYPE
        return Refusal(status, f"the Edge TPU has no {_shown_kind(op.kind)}")
    wanted = _INPUTS.get(op.kind, 1)
    if len(op.inputs) < wanted or any(i < 0 for i in op.inputs[:wanted]) or not op.outputs:
        return Refusal(NOT_SUPPORTED, "it lacks inputs or outputs")
    return (
        _constants(graph, op)
        or _data_type(graph, op)
        or _dimensions(graph, op)
        or _limited(rule(graph, op))
    )


def newer_than_compiler(op: Op) -> int | None:
    """The newest version of an operator that the compiler reads, if this one is newer."""
    if op.kind.startswith(("CUSTOM", "BUILTIN", "STABLEHLO")):
        return None
    newest = NEWEST_VERSIONS.get(op.kind, 1)
    return newest if op.version > newest else None


def _shown_kind(kind: str) -> str:
    return f"custom operator {shown(kind[7:])}" if kind.startswith("CUSTOM:") else kind


def _limited(reason: str | None) -> Refusal | None:
    return None if reason is None else Refusal(LIMITATION, reason)


def activations(graph: Graph, op: Op) -> list[Tensor]:
    """Tensors that an operator reads and writes while it runs: no constants, no inner state."""
    around = [index for index in (*op.inputs, *op.outputs) if index >= 0]
    tensors = [graph.tensors[index] for index in around]
    return [t for t in tensors if not t.is_constant and not t.is_variable]


def _data_type(graph: Graph, op: Op) -> Refusal | None:
    for tensor in activations(graph, op):
        if tensor.dtype in _DTYPES:
            continue
        role = "reads" if tensor.index in op.inputs else "writes"
        status = LIMITATION if op.kind == "QUANTIZE" else DATA_TYPE
        return Refusal(status, f"it {role} {tensor.dtype}; the Edge TPU computes in int8 and uint8")
    return None


def _dimensions(graph: Graph, op: Op) -> Refusal | None:
    for tensor in activations(graph, op):
        if any(dim > 1 for dim in tensor.shape[:-3]):
            shape = "x".join(map(str, tensor.shape))
            return Refusal(
                RANK,
                f"'{shown(tensor.name)}' is {shape}: only the three innermost dimensions may be "
                "greater than 1",
            )
    return None


#: How many inputs an operator cannot do without, where it is not one.
_INPUTS = {
    "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3, "PRELU": 2,
    "ADD": 2, "SUB": 2, "MUL": 2, "MAXIMUM": 2, "MINIMUM": 2, "SQUARED_DIFFERENCE": 2,
    "SPLIT": 2, "RESIZE_BILINEAR": 2, "RESIZE_NEAREST_NEIGHBOR": 2,
}  # fmt: skip

#: Inputs that must be constants: weights, biases, axes, shapes, paddings.
_CONSTANT_INPUTS = {
    "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (0, 1, 3), "PRELU": (1,), "PAD": (1,), "MEAN": (1,), "SUM": (1,),
    "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,), "TRANSPOSE": (1,), "STRIDED_SLICE": (1, 2, 3),
    "RESHAPE": (1,), "SLICE": (1, 2), "SPLIT": (0,), "TILE": (1,), "EXPAND_DIMS": (1,),
}  # fmt: skip


def _constants(graph: Graph, op: Op) -> Refusal | None:
    for position in _CONSTANT_INPUTS.get(op.kind, ()):
        index = op.inputs[position] if position < len(op.inputs) else -1
        if index >= 0 and not graph.tensors[index].is_constant:
            name = shown(graph.tensors[index].name)
            return Refusal(LIMITATION, f"its parameter '{name}' is computed, not a constant")
    return None


def _any(graph: Graph, op: Op) -> str | None:
    return None


def _no_fused_activation(graph: Graph, op: Op) -> str | None:
    fused = op.options.get("fused_activation_function", "NONE")
    return None if fused == "NONE" else f"the activation {fused} is fused into it"


def _concatenation(graph: Graph, op: Op) -> str | None:
    fused = _no_fused_activation(graph, op)
    if fused is not None:
        return fused
    constants = [graph.tensors[i] for i in op.inputs if i >= 0 and graph.tensors[i].is_constant]
    if not constants:
        return None
    if len(op.inputs) != 2 or len(constants) != 1:
        return "it joins a constant with more than one other input"
    zero = constants[0].zero_point % 256
    if any(byte != zero for byte in constants[0].raw or b""):
        return "it joins a constant that is not all zeros"
    return None


def _same_dilation(graph: Graph, op: Op) -> str | None:
    vertical = op.options.get("dilation_h_factor", 1)
    horizontal = op.options.get("dilation_w_factor", 1)
    if vertical != horizontal:
        return f"its dilations differ: {vertical} in y, {horizontal} in x"
    return None


def _fully_connected(graph: Graph, op: Op) -> str | None:
    if op.options.get("weights_format", 0) != 0:
        return "its weights are shuffled (not the default format)"
    shape = graph.tensors[op.outputs[0]].shape
    if sum(dim > 1 for dim in shape) > 1:
        return f"its output {'x'.join(map(str, shape))} is not one-dimensional"
    return None


def _axes(graph: Graph, op: Op, position: int = 1) -> set[int]:
    """Constant axes of a reduction, counted from the left."""
    rank = len(graph.tensors[op.inputs[0]].shape)
    return {int(axis) % max(rank, 1) for axis in _integers(graph, op, position)}


def _integers(graph: Graph, op: Op, position: int) -> list[int]:
    if position >= len(op.inputs) or op.inputs[position] < 0:
        return []
    tensor = graph.tensors[op.inputs[position]]
    if tensor.raw is None or tensor.dtype not in ("int32", "int64"):
        return []
    return [int(value) for value in tensor.data().ravel()]


def _batched(graph: Graph, op: Op, axes: set[int]) -> bool:
    """Whether any of the axes lies outside of the three innermost."""
    shape = graph.tensors[op.inputs[0]].shape
    return any(axis < len(shape) - 3 for axis in axes) or (0 in axes and len(shape) > 1)


def _not_over_batch(graph: Graph, op: Op) -> str | None:
    return "it reduces over the batch" if _batched(graph, op, _axes(graph, op)) else None


def _mean(graph: Graph, op: Op) -> str | None:
    axes = _axes(graph, op)
    if _batched(graph, op, axes):
        return "it reduces over the batch"
    shape = graph.tensors[op.inputs[0]].shape
    if shape and len(shape) - 1 in axes and shape[-1] % _MEAN_DEPTH_MULTIPLE:
        return f"it reduces over {shape[-1]} channels, not a multiple of {_MEAN_DEPTH_MULTIPLE}"
    return None


def _pack(graph: Graph, op: Op) -> str | None:
    rank = len(graph.tensors[op.outputs[0]].shape)
    axis = int(op.options.get("axis", 0)) % max(rank, 1)
    return "it stacks along the batch" if axis < rank - 3 else None


def _pad(graph: Graph, op: Op) -> str | None:
    paddings = _integers(graph, op, 1)
    rank = len(graph.tensors[op.inputs[0]].shape)
    batch = paddings[: 2 * max(rank - 3, 1)] if rank > 1 else []
    return "it pads the batch" if any(batch) else None


def _prelu(graph: Graph, op: Op) -> str | None:
    alpha = graph.tensors[op.inputs[1]].shape
    if any(dim > 1 for dim in alpha[:-1]):
        return f"its alpha {'x'.join(map(str, alpha))} has more than one dimension"
    return None


def _reshape(graph: Graph, op: Op) -> str | None:
    nbytes = graph.tensors[op.outputs[0]].nbytes
    if nbytes > _MAX_RESHAPE_BYTES:
        return f"it moves {nbytes:,} B: large reshapes stay on the CPU"
    return None


def _resize(graph: Graph, op: Op) -> str | None:
    before, after = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
    if len(before) != 4 or len(after) != 4:
        return f"it resizes a tensor of {len(before)} dimensions"
    for name, one, two in (("y", before[1], after[1]), ("x", before[2], after[2])):
        if two > _MAX_RESIZE_FACTOR * max(one, 1):
            return (
                f"it enlarges {one} to {two} in {name}: factors up to 2 are known to be mapped, "
                "15 and more are not"
            )
    nbytes = graph.tensors[op.outputs[0]].nbytes
    if nbytes > _MAX_RESIZE_BYTES:
        return f"its output of {nbytes:,} B does not fit into the memory on the chip"
    return None


def _softmax(graph: Graph, op: Op) -> str | None:
    # Google's table says one dimension; several rows were seen mapped (YOLOv8's box decoder).
    shape = graph.tensors[op.inputs[0]].shape
    if shape and shape[-1] > _MAX_SOFTMAX:
        return f"it normalises {shape[-1]:,} elements, more than {_MAX_SOFTMAX:,}"
    return None


def _squeeze(graph: Graph, op: Op) -> str | None:
    shape = graph.tensors[op.inputs[0]].shape
    squeezed = [int(d) % max(len(shape), 1) for d in op.options.get("squeeze_dims", ())]
    squeezed = squeezed or [i for i, dim in enumerate(shape) if dim == 1]
    elements = math.prod(shape)
    for axis in squeezed:
        # A dimension behind all the data counts as much as one between: both need a new layout.
        if any(dim > 1 for dim in shape[:axis]) and elements > 1:
            return f"it removes dimension {axis} of {'x'.join(map(str, shape))}, no leading 1"
    return None


def _strided_slice(graph: Graph, op: Op) -> str | None:
    if any(stride != 1 for stride in _integers(graph, op, 3)):
        return "its strides are not all 1"
    if op.options.get("ellipsis_mask", 0):
        return "it uses an ellipsis"
    if op.options.get("new_axis_mask", 0):
        return "it makes a new axis"
    return None


_RULES: dict[str, Callable[[Graph, Op], str | None]] = {
    "ADD": _any,
    "AVERAGE_POOL_2D": _no_fused_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _same_dilation,
    "DEPTHWISE_CONV_2D": _same_dilation,
    "EXPAND_DIMS": _any,
    "FULLY_CONNECTED": _fully_connected,
    "L2_NORMALIZATION": _any,
    "LOGISTIC": _any,
    "MAXIMUM": _any,
    "MAX_POOL_2D": _no_fused_activation,
    "MEAN": _mean,
    "MINIMUM": _any,
    "MUL": _any,
    "PACK": _pack,
    "PAD": _pad,
    "PRELU": _prelu,
    "QUANTIZE": _any,
    "REDUCE_MAX": _not_over_batch,
    "REDUCE_MIN": _not_over_batch,
    "RELU": _any,
    "RELU6": _any,
    "RELU_N1_TO_1": _any,
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "RSQRT": _any,
    "SLICE": _any,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": _any,
    "SPLIT": _any,
    "SQUARED_DIFFERENCE": _any,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _any,
    "SUM": _not_over_batch,
    "TANH": _any,
    "TILE": _any,
    "TRANSPOSE": _any,
    "TRANSPOSE_CONV": _same_dilation,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _any,
}
#: Operators that the documents name but that no public pair or log shows mapped.
UNVERIFIED = ("RSQRT", "SQUARED_DIFFERENCE", "SUM", "TRANSPOSE_CONV")
