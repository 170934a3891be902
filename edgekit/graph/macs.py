"""What operators cost: multiply-accumulates, weights, biases, activations.

A MAC is one product of a weight and an activation in a convolution or matrix product, taps
that fall into padding included: ``out_h * out_w * out_c * k_h * k_w * in_c`` (a depthwise
convolution without ``in_c``), which is how MLPerf Tiny and the literature count. Element-wise
operators, pools and activations count none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.graph.geometry import windows
from edgekit.graph.model import Graph, Model, Op, Tensor


@dataclass(frozen=True)
class OpCost:
    """One operator's costs; bytes as stored.

    ``inside_macs`` leaves out the taps that fall into padding. ``weights_bytes`` are constants
    that are computed with (filters, tables, constant operands), ``bias_bytes`` the biases,
    ``parameter_bytes`` constants that only steer (shapes, axes, paddings).
    ``activation_bytes``: all inputs and outputs that are no constants.
    """

    macs: int
    inside_macs: int
    weights_bytes: int
    bias_bytes: int
    parameter_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class ModelCost:
    """The sums over all graphs; a constant that several operators share counts once."""

    macs: int
    inside_macs: int
    weights_bytes: int
    bias_bytes: int
    parameter_bytes: int
    ops: tuple[OpCost, ...]


def model_cost(model: Model) -> ModelCost:
    """Costs of a model. ``ops`` are the main graph's; the sums are over all graphs.

    The body of a loop counts as if it ran once, since how often it runs is not in the file.
    """
    totals = {"weights": 0, "bias": 0, "parameter": 0}
    macs = inside = 0
    seen: set[int] = set()
    for graph in model.graphs:
        for op in graph.ops:
            one, within = op_macs(graph, op)
            macs, inside = macs + one, inside + within
            for tensor, role in _constants(graph, op):
                # Constants in the same buffer are the same bytes object.
                if id(tensor.raw) not in seen:
                    seen.add(id(tensor.raw))
                    totals[role] += len(tensor.raw or b"")
    return ModelCost(
        macs=macs,
        inside_macs=inside,
        weights_bytes=totals["weights"],
        bias_bytes=totals["bias"],
        parameter_bytes=totals["parameter"],
        ops=tuple(op_cost(model.main, op) for op in model.ops),
    )


def op_cost(graph: Graph, op: Op) -> OpCost:
    """The costs of one operator."""
    macs, inside = op_macs(graph, op)
    sizes = {"weights": 0, "bias": 0, "parameter": 0}
    for tensor, role in _constants(graph, op):
        sizes[role] += len(tensor.raw or b"")
    around = {index for index in (*op.inputs, *op.outputs) if index >= 0}
    return OpCost(
        macs=macs,
        inside_macs=inside,
        weights_bytes=sizes["weights"],
        bias_bytes=sizes["bias"],
        parameter_bytes=sizes["parameter"],
        activation_bytes=sum(
            graph.tensors[index].nbytes for index in around if not graph.tensors[index].is_constant
        ),
    )


def op_macs(graph: Graph, op: Op) -> tuple[int, int]:
    """MACs of an operator, and those of them that do not fall into padding.

    An operator whose shapes make no sense counts none.
    """
    rule = _MACS.get(op.kind)
    if rule is None:
        return 0, 0
    try:
        return rule(graph, op)
    except (ValueError, IndexError, ZeroDivisionError):
        return 0, 0


#: Where the weights and the bias of an operator are among its inputs; ``None``: no bias.
_WEIGHTED: dict[str, tuple[int, int | None]] = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (1, 3),
    "CONV_3D": (1, 2),
    "CONV_3D_TRANSPOSE": (1, 3),
    "SVDF": (1, 3),
}
#: Operators with many weights: constants of two dimensions, and biases of one.
_RECURRENT = frozenset(
    """
    LSTM UNIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_LSTM RNN
    UNIDIRECTIONAL_SEQUENCE_RNN BIDIRECTIONAL_SEQUENCE_RNN
    """.split()
)
#: Operators that compute with a constant operand; of others constants only steer.
_OPERANDS = frozenset(
    """
    ADD SUB MUL DIV MAXIMUM MINIMUM POW PRELU SQUARED_DIFFERENCE FLOOR_DIV FLOOR_MOD ADD_N
    BATCH_MATMUL CONCATENATION GATHER GATHER_ND EMBEDDING_LOOKUP SELECT SELECT_V2 PACK DEQUANTIZE
    GREATER GREATER_EQUAL LESS LESS_EQUAL EQUAL NOT_EQUAL
    """.split()
)


def _constants(graph: Graph, op: Op) -> list[tuple[Tensor, str]]:
    """The constants an operator reads, each once, with their role."""
    found: dict[int, tuple[Tensor, str]] = {}
    for position, index in enumerate(op.inputs):
        tensor = graph.tensors[index] if index >= 0 else None
        if tensor is None or not tensor.is_constant or index in found:
            continue
        role = "parameter"
        if op.kind in _WEIGHTED:
            weights, bias = _WEIGHTED[op.kind]
            if position == weights or (op.kind == "SVDF" and position == 2):
                role = "weights"
            elif position == bias:
                role = "bias"
        elif op.kind in _RECURRENT:
            role = "weights" if len(tensor.shape) >= 2 else "bias"
        elif op.kind in _OPERANDS or op.kind.startswith(("CUSTOM", "STABLEHLO")):
            role = "weights"
        found[index] = (tensor, role)
    return list(found.values())


def _operands(graph: Graph, op: Op) -> tuple[Tensor, Tensor, Tensor]:
    tensors = graph.tensors
    return tensors[op.inputs[0]], tensors[op.inputs[1]], tensors[op.outputs[0]]


def _conv_macs(graph: Graph, op: Op) -> tuple[int, int]:
    data, weights, output = _operands(graph, op)
    _, height, width, depth = weights.shape
    per_tap = 1 if op.kind == "DEPTHWISE_CONV_2D" else depth
    macs = output.elements * height * width * per_tap
    try:
        vertical, horizontal = windows(data.shape, (height, width), op.options)
        if output.shape[1:3] != (vertical.out, horizontal.out):
            return macs, macs
        inside = vertical.inside * horizontal.inside
    except ValueError:
        return macs, macs
    return macs, output.shape[0] * output.shape[3] * inside * per_tap


def _fully_connected_macs(graph: Graph, op: Op) -> tuple[int, int]:
    _, weights, output = _operands(graph, op)
    _, depth = weights.shape
    macs = output.elements * depth
    return macs, macs


def _transpose_conv_macs(graph: Graph, op: Op) -> tuple[int, int]:
    weights, data = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[2]]
    out_depth, height, width, _ = weights.shape
    macs = data.elements * out_depth * height * width
    return macs, macs


def _conv_3d_macs(graph: Graph, op: Op) -> tuple[int, int]:
    _, weights, output = _operands(graph, op)
    depth, height, width, in_depth, _ = weights.shape
    macs = output.elements * depth * height * width * in_depth
    return macs, macs


def _batch_matmul_macs(graph: Graph, op: Op) -> tuple[int, int]:
    one, _, output = _operands(graph, op)
    inner = one.shape[-2] if op.options.get("adj_x") else one.shape[-1]
    macs = output.elements * inner
    return macs, macs


def _recurrent_macs(graph: Graph, op: Op) -> tuple[int, int]:
    """Every matrix is multiplied once for each step of time and element of the batch."""
    data = graph.tensors[op.inputs[0]]
    matrices = {
        index: graph.tensors[index].elements
        for index in op.inputs[1:]
        if index >= 0 and graph.tensors[index].is_constant and len(graph.tensors[index].shape) == 2
    }
    macs = sum(matrices.values()) * (data.elements // data.shape[-1])
    return macs, macs


def _svdf_macs(graph: Graph, op: Op) -> tuple[int, int]:
    data, feature = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    time = graph.tensors[op.inputs[2]]
    macs = data.shape[0] * (feature.elements + time.elements)
    return macs, macs


_MACS: dict[str, Callable[[Graph, Op], tuple[int, int]]] = {
    "CONV_2D": _conv_macs,
    "DEPTHWISE_CONV_2D": _conv_macs,
    "FULLY_CONNECTED": _fully_connected_macs,
    "TRANSPOSE_CONV": _transpose_conv_macs,
    "CONV_3D": _conv_3d_macs,
    "BATCH_MATMUL": _batch_matmul_macs,
    "SVDF": _svdf_macs,
    **dict.fromkeys(_RECURRENT, _recurrent_macs),
}
