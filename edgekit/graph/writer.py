"""Writes a graph as a ``.tflite`` file: the inverse of :mod:`edgekit.graph.reader`.

Constants are aligned to 16 bytes, as the format asks (``force_align`` in schema.fbs): kernels
that load words or vectors from flash need it. The same graph gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError, missing_extra
from edgekit.graph import schema as facts

if TYPE_CHECKING:
    from edgekit.graph.model import Graph, Op, Tensor

ALIGNMENT = 16

#: Operators whose options table is not named after them.
_SHARED_TABLES: Mapping[str, str] = {
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    **dict.fromkeys(
        ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"),
        "ReducerOptions",
    ),
}
_ENUM_FIELDS = {
    "padding": facts.PADDINGS,
    "fused_activation_function": facts.ACTIVATIONS,
}
#: Subgraphs, variables and StableHLO need more than a graph's records hold.
_UNWRITABLE = ("STABLEHLO_", "VAR_HANDLE", "CALL", "IF", "WHILE", "HASHTABLE")


def write_graph(
    graph: Graph, *, description: str = "", metadata: Mapping[str, bytes] | None = None
) -> bytes:
    """The ``.tflite`` file of one graph.

    Args:
        graph: tensors numbered by their place, operators in execution order.
        description: the model's description.
        metadata: contents of metadata entries by name.

    Raises:
        ModelError: an operator cannot be written from its record.
    """
    import numpy as np

    schema = load_schema()
    tree = schema.ModelT()
    tree.version = 3
    tree.description = description
    # By convention buffer 0 is empty and stands for "no data".
    tree.buffers = [schema.BufferT()]
    places: dict[bytes, int] = {}

    def buffer(content: bytes) -> int:
        if content not in places:
            places[content] = len(tree.buffers)
            body = schema.BufferT()
            body.data = np.frombuffer(content, np.uint8)
            tree.buffers.append(body)
        return places[content]

    body = schema.SubGraphT()
    body.name = graph.name
    body.tensors = [
        _tensor(schema, t, 0 if t.raw is None else buffer(t.raw)) for t in graph.tensors
    ]
    body.inputs, body.outputs = list(graph.inputs), list(graph.outputs)
    codes: dict[tuple[str, int], int] = {}
    body.operators = [
        _operator(schema, op, codes.setdefault((op.kind, op.version), len(codes)))
        for op in graph.ops
    ]
    tree.subgraphs = [body]
    tree.operatorCodes = [_code(schema, kind, version) for kind, version in codes]
    tree.metadata = []
    for name, content in (metadata or {}).items():
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, buffer(content)
        tree.metadata.append(entry)
    return pack(tree)


def pack(tree: Any) -> bytes:
    """The file of a ``ModelT``, with its constants aligned."""
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def StartVector(self, elem_size: int, count: int, alignment: int) -> Any:  # noqa: N802
            # Vectors of bytes are constants' and metadata's data, and custom options.
            return super().StartVector(elem_size, count, ALIGNMENT if elem_size == 1 else alignment)

    size = sum(len(b.data) for b in tree.buffers if b.data is not None)
    builder = Builder(size + 1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def load_schema() -> Any:
    """The FlatBuffer object API of the format, as ``tflite-micro`` ships it.

    Raises:
        MissingDependency: the package is not installed.
    """
    try:
        from tflite_micro.tensorflow.lite.micro.python import schema_py_generated
    except ImportError:
        raise missing_extra("tflite-micro", "convert", "writing a model") from None
    return schema_py_generated


def _tensor(schema: Any, tensor: Tensor, buffer: int) -> Any:
    body = schema.TensorT()
    body.name = tensor.name
    body.shape = list(tensor.shape)
    # A list that is there says that the rank is known, even where it is empty.
    body.hasRank = True
    body.type = facts.TENSOR_TYPES.index(tensor.dtype)
    body.buffer = buffer
    body.isVariable = tensor.is_variable
    if tensor.shape_signature:
        body.shapeSignature = list(tensor.shape_signature)
    if tensor.quantization is not None:
        found = schema.QuantizationParametersT()
        found.scale = list(tensor.quantization.scales)
        found.zeroPoint = list(tensor.quantization.zero_points)
        found.quantizedDimension = tensor.quantization.axis
        body.quantization = found
    return body


def _operator(schema: Any, op: Op, code: int) -> Any:
    body = schema.OperatorT()
    body.opcodeIndex = code
    body.inputs, body.outputs = list(op.inputs), list(op.outputs)
    if op.intermediates:
        body.intermediates = list(op.intermediates)
    if op.custom_options:
        import numpy as np

        body.customOptions = np.frombuffer(op.custom_options, np.uint8)
    table = options_table(op.kind)
    fields = facts.OPTION_FIELDS.get(table or "", ())
    if table is not None and (op.options or not fields):
        body.builtinOptionsType = getattr(schema.BuiltinOptions, table)
        body.builtinOptions = _options(schema, op, table)
    return body


def _options(schema: Any, op: Op, table: str) -> Any:
    body = getattr(schema, f"{table}T")()
    kinds = {name: kind for _, name, kind, _ in facts.OPTION_FIELDS.get(table, ())}
    for name, value in op.options.items():
        if name not in kinds:
            raise ModelError(f"{op.kind} has no option '{name}'", f"operator {op.index}")
        stored = value
        if name in _ENUM_FIELDS and isinstance(value, str):
            if value not in _ENUM_FIELDS[name]:
                raise ModelError(f"{op.kind} has {name} {value}", f"operator {op.index}")
            stored = _ENUM_FIELDS[name].index(value)
        elif kinds[name].startswith("["):
            # A vector that is not there and an empty one are read alike.
            stored = list(value) or None
        setattr(body, _camel(name), stored)
    return body


def options_table(kind: str) -> str | None:
    """The name of an operator's options table, or ``None`` if it has none.

    Raises:
        ModelError: the operator cannot be written from its record.
    """
    if kind.startswith("CUSTOM:"):
        return None
    if kind not in facts.OPERATORS or kind.startswith(_UNWRITABLE):
        raise ModelError(f"the operator {kind} cannot be written")
    if kind in _SHARED_TABLES:
        return _SHARED_TABLES[kind]
    wanted = kind.replace("_", "").lower() + "options"
    return next((name for name in facts.OPTIONS_TABLES if name.lower() == wanted), None)


def _code(schema: Any, kind: str, version: int) -> Any:
    body = schema.OperatorCodeT()
    name, _, custom = kind.partition(":")
    number = facts.OPERATORS.index(name)
    body.builtinCode = number
    # Readers from before 2020 know only this field, which ends at 127.
    body.deprecatedBuiltinCode = min(number, 127)
    body.version = version
    if custom:
        body.customCode = custom
    return body


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
