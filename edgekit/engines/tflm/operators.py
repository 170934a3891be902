"""The operators that TFLM has, and how firmware registers them.

Facts from TFLM's ``micro_mutable_op_resolver.h`` (August 2026): the ``Add…`` function of each
operator of the schema, and which kernels have registrations for int8 only. The latter leave the
other types' code out of the binary (about 30 KB on a Cortex-M4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.graph.reader import shown

if TYPE_CHECKING:
    from edgekit.graph import Graph, Model, Op

#: Operator of the schema -> member function of ``MicroMutableOpResolver`` without "Add".
BUILTINS: Mapping[str, str] = {
    "ABS": "Abs",
    "ADD": "Add",
    "ADD_N": "AddN",
    "ARG_MAX": "ArgMax",
    "ARG_MIN": "ArgMin",
    "ASSIGN_VARIABLE": "AssignVariable",
    "AVERAGE_POOL_2D": "AveragePool2D",
    "BATCH_MATMUL": "BatchMatMul",
    "BATCH_TO_SPACE_ND": "BatchToSpaceNd",
    "BROADCAST_ARGS": "BroadcastArgs",
    "BROADCAST_TO": "BroadcastTo",
    "CALL_ONCE": "CallOnce",
    "CAST": "Cast",
    "CEIL": "Ceil",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "COS": "Cos",
    "CUMSUM": "CumSum",
    "DEPTH_TO_SPACE": "DepthToSpace",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "DEQUANTIZE": "Dequantize",
    "DIV": "Div",
    "DYNAMIC_UPDATE_SLICE": "DynamicUpdateSlice",
    "ELU": "Elu",
    "EMBEDDING_LOOKUP": "EmbeddingLookup",
    "EQUAL": "Equal",
    "EXP": "Exp",
    "EXPAND_DIMS": "ExpandDims",
    "FILL": "Fill",
    "FLOOR": "Floor",
    "FLOOR_DIV": "FloorDiv",
    "FLOOR_MOD": "FloorMod",
    "FULLY_CONNECTED": "FullyConnected",
    "GATHER": "Gather",
    "GATHER_ND": "GatherNd",
    "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterEqual",
    "HARD_SWISH": "HardSwish",
    "IF": "If",
    "L2_NORMALIZATION": "L2Normalization",
    "L2_POOL_2D": "L2Pool2D",
    "LEAKY_RELU": "LeakyRelu",
    "LESS": "Less",
    "LESS_EQUAL": "LessEqual",
    "LOG": "Log",
    "LOG_SOFTMAX": "LogSoftmax",
    "LOGICAL_AND": "LogicalAnd",
    "LOGICAL_NOT": "LogicalNot",
    "LOGICAL_OR": "LogicalOr",
    "LOGISTIC": "Logistic",
    "MAX_POOL_2D": "MaxPool2D",
    "MAXIMUM": "Maximum",
    "MEAN": "Mean",
    "MINIMUM": "Minimum",
    "MIRROR_PAD": "MirrorPad",
    "MUL": "Mul",
    "NEG": "Neg",
    "NOT_EQUAL": "NotEqual",
    "PACK": "Pack",
    "PAD": "Pad",
    "PADV2": "PadV2",
    "PRELU": "Prelu",
    "QUANTIZE": "Quantize",
    "READ_VARIABLE": "ReadVariable",
    "REDUCE_ALL": "ReduceAll",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "RELU": "Relu",
    "RELU6": "Relu6",
    "RESHAPE": "Reshape",
    "RESIZE_BILINEAR": "ResizeBilinear",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor",
    "REVERSE_V2": "ReverseV2",
    "ROUND": "Round",
    "RSQRT": "Rsqrt",
    "SELECT_V2": "SelectV2",
    "SHAPE": "Shape",
    "SIN": "Sin",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SPACE_TO_BATCH_ND": "SpaceToBatchNd",
    "SPACE_TO_DEPTH": "SpaceToDepth",
    "SPLIT": "Split",
    "SPLIT_V": "SplitV",
    "SQRT": "Sqrt",
    "SQUARE": "Square",
    "SQUARED_DIFFERENCE": "SquaredDifference",
    "SQUEEZE": "Squeeze",
    "STRIDED_SLICE": "StridedSlice",
    "SUB": "Sub",
    "SUM": "Sum",
    "SVDF": "Svdf",
    "TANH": "Tanh",
    "TRANSPOSE": "Transpose",
    "TRANSPOSE_CONV": "TransposeConv",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
    "UNPACK": "Unpack",
    "VAR_HANDLE": "VarHandle",
    "WHILE": "While",
    "ZEROS_LIKE": "ZerosLike",
}

#: Custom operators that come with TFLM: name in the file -> member function without "Add".
CUSTOMS: Mapping[str, str] = {
    "CIRCULAR_BUFFER": "CircularBuffer",
    "SignalDelay": "Delay",
    "SignalEnergy": "Energy",
    "SignalFftAutoScale": "FftAutoScale",
    "SignalFilterBank": "FilterBank",
    "SignalFilterBankLog": "FilterBankLog",
    "SignalFilterBankSpectralSubtraction": "FilterBankSpectralSubtraction",
    "SignalFilterBankSquareRoot": "FilterBankSquareRoot",
    "SignalFramer": "Framer",
    "SignalIrfft": "Irfft",
    "SignalOverlapAdd": "OverlapAdd",
    "SignalPCAN": "PCAN",
    "SignalRfft": "Rfft",
    "SignalStacker": "Stacker",
    "SignalWindow": "Window",
    "TFLM_DECODE": "Decode",
    "TFLite_Detection_PostProcess": "DetectionPostprocess",
    "ethos-u": "EthosU",
}

#: Kernels with a registration for int8 alone, in TFLM since 2022, so in every package of it.
#: Where the kernel library has none TFLM's header makes it the general registration.
INT8_REGISTRATIONS: Mapping[str, str] = {
    "CONV_2D": "Register_CONV_2D_INT8",
    "DEPTHWISE_CONV_2D": "Register_DEPTHWISE_CONV_2D_INT8",
    "FULLY_CONNECTED": "Register_FULLY_CONNECTED_INT8",
}

#: Kernels that refuse uint8, as TensorFlow 1 quantised it (each checks its input's type).
_NO_UINT8 = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED",
    "LOGISTIC", "MAX_POOL_2D", "MUL", "SOFTMAX", "SUB", "TANH",
)  # fmt: skip
#: Operators whose tensors are looked into here: least number of inputs, and the least rank of
#: data, weights and output.
_FORMS: Mapping[str, tuple[int, int]] = {
    "AVERAGE_POOL_2D": (1, 4),
    "CONV_2D": (2, 4),
    "DEPTHWISE_CONV_2D": (2, 4),
    "FULLY_CONNECTED": (2, 1),
    "MAX_POOL_2D": (1, 4),
    "MEAN": (2, 0),
    "REDUCE_MAX": (2, 0),
    "REDUCE_MIN": (2, 0),
    "SOFTMAX": (1, 1),
    "SUM": (2, 0),
    "TRANSPOSE_CONV": (3, 1),
}
_STRIDED = ("CONV_2D", "DEPTHWISE_CONV_2D")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def kinds(model: Model) -> tuple[str, ...]:
    """The kinds of operators of all graphs, sorted."""
    return tuple(sorted({op.kind for graph in model.graphs for op in graph.ops}))


def resolver_name(kind: str) -> str | None:
    """``Conv2D`` for ``CONV_2D``; ``None`` for an operator that TFLM lacks."""
    if kind.startswith("CUSTOM:"):
        return CUSTOMS.get(kind.removeprefix("CUSTOM:"))
    return BUILTINS.get(kind)


def registration(model: Model, kind: str) -> str:
    """The call that registers an operator, e.g. ``AddConv2D(tflite::Register_CONV_2D_INT8())``.

    The int8 registration is taken where every such operator of the model is int8 throughout.
    """
    name = resolver_name(kind)
    if name is None:
        raise ValueError(f"TFLM has no operator {kind}")
    special = INT8_REGISTRATIONS.get(kind)
    if special and all(
        _all_int8(graph, op) for graph in model.graphs for op in graph.ops if op.kind == kind
    ):
        return f"Add{name}(tflite::{special}())"
    return f"Add{name}()"


def _all_int8(graph: Graph, op: Op) -> bool:
    used = [*op.inputs[:2], *op.outputs[:1]]
    return len(used) == 3 and all(i >= 0 and graph.tensors[i].dtype == "int8" for i in used)


def place(model: Model, graph: Graph, op: Op) -> str:
    """Where an operator is, for messages: ``op 3 CONV_2D 'name of its output'``."""
    name = shown(graph.tensors[op.outputs[0]].name) if op.outputs else ""
    inside = "" if graph is model.main else f" of graph '{shown(graph.name)}'"
    return f"op {op.index} {shown(op.kind)} '{name}'{inside}"


def refusals(model: Model) -> list[tuple[str, str]]:
    """What TFLM does not take, each as ``(reason, place)``: missing operators, types, shapes."""
    found: list[tuple[str, str]] = []
    for graph in model.graphs:
        for op in graph.ops:
            reason = _refusal(graph, op)
            if reason:
                found.append((reason, place(model, graph, op)))
    return found


def _refusal(graph: Graph, op: Op) -> str | None:
    if resolver_name(op.kind) is None:
        if op.kind.startswith("CUSTOM:"):
            return f"TFLM has no custom operator '{shown(op.kind.removeprefix('CUSTOM:'))}'"
        return f"TFLM has no operator {op.kind}"
    tensors = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
    dynamic = [t for t in tensors if any(size < 0 for size in t.shape)]
    if dynamic:
        return f"the shape {list(dynamic[0].shape)} of '{shown(dynamic[0].name)}' is not fixed"
    least, rank = _FORMS.get(op.kind, (0, 0))
    used = op.inputs[:least]
    if len(used) < least or not op.outputs or min((*used, *op.outputs)) < 0:
        return f"{op.kind} lacks an input or an output"
    ranks = [len(graph.tensors[i].shape) for i in (*used, op.outputs[0])]
    if min(ranks) < rank:
        return f"{op.kind} has a tensor of {min(ranks)} dimensions instead of {rank}"
    if op.kind in _STRIDED and not {"stride_h", "dilation_h_factor", "padding"} <= set(op.options):
        return f"{op.kind} lacks its options"
    if op.kind == "DEPTHWISE_CONV_2D" and not graph.tensors[op.inputs[0]].shape[-1]:
        return f"{op.kind} has an input without channels"
    if not tensors:
        return None
    first = tensors[0]
    if op.kind in _NO_UINT8 and first.dtype == "uint8":
        return f"TFLM's {op.kind} does not take uint8 (convert the model to int8)"
    data_input = 2 if op.kind == "TRANSPOSE_CONV" else 0
    if op.kind in _WEIGHTED and len(op.inputs) > max(data_input, 1) and min(op.inputs[:2]) >= 0:
        data = graph.tensors[op.inputs[data_input]]
        weights = graph.tensors[op.inputs[1]]
        if data.dtype == "float32" and weights.dtype != "float32":
            return f"TFLM's {op.kind} does not take {weights.dtype} weights with float32 data"
    return None
