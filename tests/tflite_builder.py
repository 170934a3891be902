"""Builds small ``.tflite`` models for tests: any operator, shape, quantisation and constant.

::

    builder = TfliteBuilder()
    x = builder.tensor((1, 8, 8, 3), scale=0.5, zero_point=-3)
    w = builder.constant(weights, scale=[0.1, 0.2], zero_point=[0, 0], axis=0)
    y = builder.tensor((1, 8, 8, 2), scale=0.7, zero_point=4)
    builder.op("CONV_2D", [x, w], [y], padding="SAME", stride_h=1, stride_w=1)
    model_bytes = builder.build([x], [y])

Option names and enumerations are the schema's, as ``edgekit.graph`` reports them
(``fused_activation_function="RELU6"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

#: Operators whose options table is not named after them.
_OPTIONS = {
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "REDUCE_ALL": "ReducerOptions",
    "CONCATENATION": "ConcatenationOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "SVDF": "SVDFOptions",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
}

_ENUMS = {
    "padding": schema.Padding,
    "fused_activation_function": schema.ActivationFunctionType,
    "mode": schema.MirrorPadMode,
}


class TfliteBuilder:
    """Collects tensors and operators of one graph; :meth:`build` returns the file's bytes."""

    def __init__(self, description: str = "") -> None:
        self._buffers: list[Any] = [_buffer(None)]
        self._tensors: list[Any] = []
        self._ops: list[Any] = []
        self._codes: list[tuple[str, int]] = []
        self._description = description

    def tensor(
        self,
        shape: Sequence[int],
        *,
        dtype: str = "int8",
        scale: float | Sequence[float] | None = None,
        zero_point: int | Sequence[int] = 0,
        axis: int = 0,
        name: str | None = None,
        data: np.ndarray | None = None,
        is_variable: bool = False,
    ) -> int:
        """Adds a tensor and returns its index. ``scale=None`` means not quantised."""
        tensor = schema.TensorT()
        tensor.shape = [int(d) for d in shape]
        tensor.type = getattr(schema.TensorType, dtype.upper())
        tensor.name = name or f"t{len(self._tensors)}"
        tensor.isVariable = is_variable
        tensor.buffer = 0
        if data is not None:
            self._buffers.append(_buffer(np.ascontiguousarray(data).tobytes()))
            tensor.buffer = len(self._buffers) - 1
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            points = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape)
            quantization.scale = [float(s) for s in scales]
            quantization.zeroPoint = [int(z) for z in points]
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(
        self,
        data: np.ndarray,
        *,
        scale: float | Sequence[float] | None = None,
        zero_point: int | Sequence[int] = 0,
        axis: int = 0,
        name: str | None = None,
    ) -> int:
        """Adds a constant tensor; its shape and type are the array's."""
        data = np.asarray(data)
        return self.tensor(
            data.shape,
            dtype=str(data.dtype),
            scale=scale,
            zero_point=zero_point,
            axis=axis,
            name=name,
            data=data,
        )

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        version: int = 1,
        **options: Any,
    ) -> None:
        """Adds an operator; ``options`` are fields of its options table by schema name."""
        if (kind, version) not in self._codes:
            self._codes.append((kind, version))
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.index((kind, version))
        operator.inputs = [int(i) for i in inputs]
        operator.outputs = [int(i) for i in outputs]
        table = _options_table(kind)
        if table is not None:
            body = getattr(schema, table + "T")()
            for key, value in options.items():
                field = _camel(key)
                if not hasattr(body, field):
                    raise ValueError(f"{table} has no field {key}")
                if isinstance(value, str) and key in _ENUMS:
                    value = getattr(_ENUMS[key], value)
                setattr(body, field, value)
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            operator.builtinOptions = body
        elif options:
            raise ValueError(f"{kind} has no options table")
        self._ops.append(operator)

    def build(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The ``.tflite`` file of a model with these graph inputs and outputs."""
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors = self._tensors
        graph.operators = self._ops
        graph.inputs = [int(i) for i in inputs]
        graph.outputs = [int(i) for i in outputs]
        model = schema.ModelT()
        model.version = 3
        model.description = self._description
        model.buffers = self._buffers
        model.subgraphs = [graph]
        model.operatorCodes = [_code(kind, version) for kind, version in self._codes]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _buffer(data: bytes | None) -> Any:
    buffer = schema.BufferT()
    if data is not None:
        buffer.data = np.frombuffer(data, np.uint8)
    return buffer


def _code(kind: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    number = getattr(schema.BuiltinOperator, kind)
    code.builtinCode = number
    code.deprecatedBuiltinCode = min(number, 127)
    code.version = version
    return code


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _options_table(kind: str) -> str | None:
    if kind in _OPTIONS:
        return _OPTIONS[kind]
    wanted = kind.replace("_", "").lower() + "options"
    for name in vars(schema.BuiltinOptions):
        if name.lower() == wanted:
            return name
    return None
