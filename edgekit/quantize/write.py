"""Writes the integer model that a plan describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from edgekit.graph.fixedpoint import INTEGER_RANGES
from edgekit.graph.model import Graph, Op, Quantization, Tensor
from edgekit.graph.writer import write_graph
from edgekit.quantize.parameters import affine
from edgekit.quantize.plan import Plan, constant_dtype, constant_values
from edgekit.quantize.policy import DEQUANTIZE_VERSION, QUANTIZE_VERSION, RULES
from edgekit.quantize.prepare import pruned

if TYPE_CHECKING:
    from numpy.typing import NDArray

Io = Literal["int8", "uint8", "int16", "float32"]
#: uint8 inputs and outputs are int8 ones with another zero point.
_UINT8_SHIFT = 128


def write_quantized(
    graph: Graph,
    plan: Plan,
    io: Io | None = None,
    *,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """The ``.tflite`` file of the integer model.

    Args:
        graph: the prepared float graph.
        plan: its plan.
        io: type of real-valued inputs and outputs; by default as they are stored. A QUANTIZE or
            DEQUANTIZE operator at the ends converts where that differs.
        description: the model's description.
        metadata: contents of metadata entries by name.
    """
    return write_graph(quantized_graph(graph, plan, io), description=description, metadata=metadata)


def quantized_graph(graph: Graph, plan: Plan, io: Io | None = None) -> Graph:
    """The integer model's graph; see :func:`write_quantized`."""
    builder = _Builder(graph, plan)
    inputs = [builder.graph_input(index, io) for index in graph.inputs]
    for op in graph.ops:
        builder.operator(op)
    outputs = [builder.graph_output(index, io) for index in graph.outputs]
    return pruned(
        replace(
            graph,
            tensors=tuple(builder.tensors),
            ops=tuple(builder.ops),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
        )
    )


class _Builder:
    """Collects tensors (the float graph's first, under their numbers) and operators."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.tensors = [self._stored(tensor) for tensor in graph.tensors]
        self.ops: list[Op] = []
        #: tensors that were converted already, by what they became
        self.converted: dict[tuple[int, str, Quantization], int] = {}
        self.constants: dict[tuple[int, str, Quantization, bytes], int] = {}

    def _stored(self, tensor: Tensor) -> Tensor:
        if tensor.index not in self.plan.scheme.group_of:
            return tensor
        form, quantization = self.plan.stored(tensor.index)
        return replace(tensor, dtype=form, quantization=quantization)

    def add(self, like: Tensor, suffix: str, dtype: str, quantization: Quantization | None) -> int:
        """A further tensor of the same shape."""
        index = len(self.tensors)
        self.tensors.append(
            replace(like, index=index, name=f"{like.name}{suffix}", dtype=dtype,
                    quantization=quantization)
        )  # fmt: skip
        return index

    def emit(self, kind: str, inputs: tuple[int, ...], outputs: tuple[int, ...], version: int,
             options: Mapping[str, Any] | None = None, custom: bytes = b"") -> None:  # fmt: skip
        self.ops.append(
            Op(len(self.ops), kind, inputs, outputs, dict(options or {}), custom, version=version)
        )

    def graph_input(self, index: int, io: Io | None) -> int:
        tensor = self.tensors[index]
        if index not in self.plan.scheme.group_of or io in (None, tensor.dtype):
            return index
        if io == "float32":
            outside = self.add(tensor, "_float32", "float32", None)
        else:
            outside = self.add(tensor, f"_{io}", str(io), _as(tensor, str(io)))
        self._swap_names(index, outside)
        self.emit("QUANTIZE", (outside,), (index,), QUANTIZE_VERSION)
        return outside

    def graph_output(self, index: int, io: Io | None) -> int:
        tensor = self.tensors[index]
        if index not in self.plan.scheme.group_of or io in (None, tensor.dtype):
            return index
        if io == "float32":
            outside = self.add(tensor, "_float32", "float32", None)
            self.emit("DEQUANTIZE", (index,), (outside,), DEQUANTIZE_VERSION)
        else:
            outside = self.add(tensor, f"_{io}", str(io), _as(tensor, str(io)))
            self.emit("QUANTIZE", (index,), (outside,), QUANTIZE_VERSION)
        self._swap_names(index, outside)
        return outside

    def _swap_names(self, inside: int, outside: int) -> None:
        """Inputs and outputs keep their names; what is behind them gets the longer one."""
        a, b = self.tensors[inside], self.tensors[outside]
        self.tensors[inside] = replace(a, name=f"{a.name}_{a.dtype}")
        self.tensors[outside] = replace(b, name=a.name)

    def operator(self, op: Op) -> None:
        scheme = self.plan.scheme
        form = scheme.forms.get(op.index)
        if form is None:
            self.emit(op.kind, op.inputs, op.outputs, op.version, op.options, op.custom_options)
            return
        inputs = tuple(self.operand(op, at) for at in range(len(op.inputs)))
        outputs, after = [], []
        for at, index in enumerate(op.outputs):
            if (op.index, at) not in scheme.writes:
                outputs.append(index)
                continue
            quantization = self.plan.written((op.index, at))
            tensor = self.tensors[index]
            if (tensor.dtype, tensor.quantization) == (form, quantization):
                outputs.append(index)
            else:
                outputs.append(self.add(tensor, f"_{form}", form, quantization))
                after.append((outputs[-1], index))
        rule = RULES[op.kind]
        self.emit(
            op.kind, inputs, tuple(outputs), max(op.version, rule.versions[form]),
            {**op.options, **rule.options.get(form, {})}, op.custom_options,
        )  # fmt: skip
        for source, target in after:
            self.emit("QUANTIZE", (source,), (target,), QUANTIZE_VERSION)

    def operand(self, op: Op, at: int) -> int:
        """The tensor that the integer operator takes at this place."""
        index, slot = op.inputs[at], (op.index, at)
        scheme = self.plan.scheme
        if slot in scheme.constants:
            return self.constant(index, slot)
        if slot not in scheme.reads:
            return index
        _, form = scheme.reads[slot]
        quantization = self.plan.read(slot)
        tensor = self.tensors[index]
        if (tensor.dtype, tensor.quantization) == (form, quantization):
            return index
        key = (index, str(form), quantization)
        if key not in self.converted:
            self.converted[key] = self.add(tensor, f"_{form}", form, quantization)
            self.emit("QUANTIZE", (index,), (self.converted[key],), QUANTIZE_VERSION)
        return self.converted[key]

    def constant(self, index: int, slot: tuple[int, int]) -> int:
        values: NDArray[Any] = constant_values(self.graph, self.plan, slot)
        dtype = constant_dtype(self.plan.scheme, slot)
        quantization = self.plan.constants[slot]
        raw = values.tobytes()
        key = (index, dtype, quantization, raw)
        if key not in self.constants:
            taken = any(k[0] == index for k in self.constants)
            suffix = f"_{op_suffix(slot)}" if taken else ""
            number = self.add(self.graph.tensors[index], suffix, dtype, quantization)
            self.tensors[number] = replace(self.tensors[number], raw=raw)
            self.constants[key] = number
        return self.constants[key]


def op_suffix(slot: tuple[int, int]) -> str:
    """Tells copies of a constant apart that operators share but quantise differently."""
    return f"op{slot[0]}"


def _as(tensor: Tensor, io: str) -> Quantization:
    """The quantisation of an input or output of another integer type."""
    found = tensor.quantization
    if found is None:
        raise ValueError(f"'{tensor.name}' is not quantised")
    if io == "uint8" and tensor.dtype == "int8":
        return Quantization(found.scales, (found.zero_point + _UINT8_SHIFT,))
    low, high = INTEGER_RANGES[tensor.dtype]
    return affine(
        (low - found.zero_point) * found.scale, (high - found.zero_point) * found.scale, io
    )
