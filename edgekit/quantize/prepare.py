"""A float ``.tflite`` file as the quantiser wants it: float32, of fixed shapes, nothing to fold.

TensorFlow's converter leaves such files when it is asked for no optimisation, with batch norms
folded and activations fused. Others come close: constants in float16, weights that dynamic-range
quantisation made int8, shapes that the graph works out from its own shapes. All of these become
plain float32 constants here; what cannot is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.model import Graph, Model, Op, Tensor
from edgekit.graph.reader import read_model, shown
from edgekit.graph.writer import write_graph
from edgekit.quantize import parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INTEGERS = ("int4", "int8", "uint8", "int16", "uint16")
#: Operators that make something of nothing or remember: never folded, never quantised.
_STATEFUL = ("RANDOM_", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL", "IF", "WHILE")
#: Folding must not blow a constant up beyond this.
_MOST_FOLDED_BYTES = 64 << 20


def prepare(model: Model, *, isolated: bool = True) -> Model:
    """The model ready for quantisation; a model that is ready comes back with equal contents.

    Args:
        model: a float model.
        isolated: run operators on constants in a process of its own.

    Raises:
        ModelError: the model is quantised, has control flow, open shapes or state, or holds
            constants that are not finite.
    """
    graph = model.main
    _refuse(model)
    graph = _fixed_shapes(graph, model.name)
    graph = _float_constants(graph)
    graph = _folded(graph, isolated)
    graph = _short_names(pruned(graph))
    _check_constants(graph)
    if not graph.ops:
        raise ModelError("the model has no operators to quantise", model.name)
    raw = write_graph(graph, description=model.description)
    return read_model(raw, model.name)


def place(graph: Graph, op: Op) -> str:
    """An operator as error messages name it."""
    name = shown(graph.tensors[op.outputs[0]].name) if op.outputs else ""
    return f"operator {op.index} {op.kind} '{name}'"


def _refuse(model: Model) -> None:
    if len(model.graphs) != 1:
        raise ModelError(
            f"the model has {len(model.graphs)} graphs: control flow is not quantised",
            model.name,
            "unroll loops (unroll=True in Keras' recurrent layers) and export it again",
        )
    graph = model.main
    for op in graph.ops:
        for index in op.outputs:
            tensor = graph.tensors[index]
            if tensor.dtype in _INTEGERS and tensor.quantization is not None:
                raise ModelError(
                    f"the model is quantised already: '{shown(tensor.name)}' is {tensor.dtype}",
                    place(graph, op),
                    "the float model that it was made from",
                )
        if op.kind.startswith(_STATEFUL):
            raise ModelError(f"{op.kind} has no integer form", place(graph, op))
    for tensor in graph.tensors:
        if tensor.is_variable:
            raise ModelError(f"the model keeps state in '{shown(tensor.name)}', which has no "
                             "integer form here", model.name)  # fmt: skip


def _fixed_shapes(graph: Graph, name: str) -> Graph:
    """Without open dimensions; only the batch may be open, and is 1."""
    for index in graph.inputs:
        tensor = graph.tensors[index]
        is_open = [d for d, size in enumerate(tensor.shape_signature) if size < 0]
        if any(d > 0 for d in is_open) or (tensor.shape and tensor.shape[0] != 1):
            shape = [size if size >= 0 else "?" for size in tensor.shape_signature or tensor.shape]
            raise ModelError(
                f"the input '{shown(tensor.name)}' has the shape {shape}; a batch of 1 and "
                "otherwise fixed sizes are needed".replace("'?'", "?"),
                name,
                "convert the trained model with fixed shapes (--input-shape)",
            )
        if 0 in tensor.shape:
            raise ModelError(f"the input '{shown(tensor.name)}' is empty", name)
    return replace(graph, tensors=tuple(replace(t, shape_signature=()) for t in graph.tensors))


def _float_constants(graph: Graph) -> Graph:
    """float16 constants and those of dynamic-range quantisation as float32."""
    import numpy as np

    tensors = list(graph.tensors)
    for tensor in graph.tensors:
        if tensor.raw is None:
            continue
        values: NDArray[Any] | None = None
        if tensor.dtype == "float16":
            values = tensor.data().astype(np.float32)
        elif tensor.dtype in ("int8", "uint8", "int4") and tensor.quantization is not None:
            values = parameters.dequantize(tensor.data(), tensor.quantization).astype(np.float32)
        if values is not None:
            tensors[tensor.index] = constant(tensor, values)
    kept, renamed = [], {}
    for op in graph.ops:
        if op.kind == "DEQUANTIZE" and tensors[op.inputs[0]].raw is not None:
            renamed[op.outputs[0]] = op.inputs[0]
        else:
            kept.append(op)
    ops = tuple(
        replace(op, index=i, inputs=tuple(renamed.get(t, t) for t in op.inputs))
        for i, op in enumerate(kept)
    )
    return replace(graph, tensors=tuple(tensors), ops=ops)


def constant(tensor: Tensor, values: NDArray[Any]) -> Tensor:
    """The tensor as a constant with these values, whose shape and type become its own."""
    import numpy as np

    return replace(
        tensor,
        raw=np.ascontiguousarray(values).tobytes(),
        dtype=str(values.dtype),
        shape=tuple(int(d) for d in values.shape),
        quantization=None,
        shape_signature=(),
    )


def _folded(graph: Graph, isolated: bool) -> Graph:
    """Without operators whose inputs are all constant; SHAPE is one of a fixed shape."""
    import numpy as np

    tensors = list(graph.tensors)
    known = {t.index for t in tensors if t.raw is not None or 0 in t.shape}
    folded: list[Op] = []
    kept: list[Op] = []
    for op in graph.ops:
        if op.kind == "SHAPE":
            shape = np.array(tensors[op.inputs[0]].shape)
            result = tensors[op.outputs[0]]
            tensors[result.index] = constant(result, shape.astype(result.dtype))
            known.add(result.index)
        elif all(i in known for i in op.inputs if i >= 0) and op.inputs:
            folded.append(op)
            known.update(op.outputs)
        else:
            kept.append(op)
    graph = replace(graph, tensors=tuple(tensors))
    if folded:
        for index, values in _evaluate(graph, folded, isolated).items():
            tensors[index] = constant(tensors[index], values)
    ops = tuple(replace(op, index=i) for i, op in enumerate(kept))
    return replace(graph, tensors=tuple(tensors), ops=ops)


def _evaluate(graph: Graph, ops: list[Op], isolated: bool) -> dict[int, NDArray[Any]]:
    """What operators make of constants, computed by TensorFlow Lite."""
    from edgekit.runtimes import open_runner

    wanted = [i for op in ops for i in op.outputs]
    size = sum(graph.tensors[i].nbytes for i in wanted)
    if size > _MOST_FOLDED_BYTES:
        raise ModelError(
            f"operators on constants make {size:,} B of them; at most "
            f"{_MOST_FOLDED_BYTES:,} B are folded",
            place(graph, ops[0]),
        )
    part = replace(
        graph, ops=tuple(replace(op, index=i) for i, op in enumerate(ops)), inputs=(),
        outputs=tuple(wanted),
    )  # fmt: skip
    with open_runner("litert-ref", write_graph(part), isolated=isolated) as runner:
        return dict(zip(wanted, runner.invoke(), strict=True))


def pruned(graph: Graph) -> Graph:
    """Without operators and tensors that no output needs; tensors are numbered anew."""
    needed = set(graph.outputs)
    live: list[Op] = []
    for op in reversed(graph.ops):
        if needed.intersection(op.outputs):
            live.append(op)
            needed.update(i for i in (*op.inputs, *op.outputs) if i >= 0)
    needed.update(graph.inputs)
    order = sorted(needed)
    numbers = {old: new for new, old in enumerate(order)}
    numbers[-1] = -1
    return replace(
        graph,
        tensors=tuple(replace(graph.tensors[old], index=new) for new, old in enumerate(order)),
        ops=tuple(
            replace(
                op,
                index=i,
                inputs=tuple(numbers[t] for t in op.inputs),
                outputs=tuple(numbers[t] for t in op.outputs),
                intermediates=(),
            )
            for i, op in enumerate(reversed(live))
        ),
        inputs=tuple(numbers[t] for t in graph.inputs),
        outputs=tuple(numbers[t] for t in graph.outputs),
    )


def _short_names(graph: Graph) -> Graph:
    """Results of fused operators carry the names of all that were fused: the first is enough."""
    taken = {tensor.name for tensor in graph.tensors}
    tensors = list(graph.tensors)
    for tensor in graph.tensors:
        short = tensor.name.partition(";")[0]
        # Constants that were fused along may carry the same list: the result comes first.
        if tensor.raw is None and short not in taken:
            tensors[tensor.index] = replace(tensor, name=short)
            taken.add(short)
    return replace(graph, tensors=tuple(tensors))


def _check_constants(graph: Graph) -> None:
    import numpy as np

    for op in graph.ops:
        for index in op.inputs:
            tensor = graph.tensors[index] if index >= 0 else None
            if tensor is None or tensor.raw is None or tensor.dtype != "float32":
                continue
            bad = int((~np.isfinite(tensor.data())).sum())
            if bad:
                raise ModelError(
                    f"{bad} of {tensor.elements} values of the constant "
                    f"'{shown(tensor.name)}' are NaN or infinite",
                    place(graph, op),
                    "train or export the model again",
                )
