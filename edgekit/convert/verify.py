"""Proves what a converted model is: integer throughout, and how close to the float model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.convert.calibration import Samples
    from edgekit.convert.sources import FloatFile, FloatModel
    from edgekit.graph import Model, Op, Tensor

_INTEGERS = {
    "int2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64", "bool",
}  # fmt: skip


@dataclass(frozen=True)
class NonInteger:
    """A tensor that is not integer, at the operator where it is met, and why."""

    op: int | None
    kind: str
    tensor: str
    dtype: str
    reason: str


@dataclass(frozen=True)
class Quality:
    """The integer model against the float model, on ``samples`` samples.

    ``data`` says which samples: held out of the given set, a validation set, or those that
    calibrated. ``sqnr_db`` is 10 log10 (signal power / error power) over all outputs, cosine
    the mean over samples; ``top1_agreement`` is the share of samples with the same first
    class and ``None`` where the output is no vector of classes. Accuracies are shares of the
    labels, where the data have some. ``runtime`` computed the integer outputs.
    """

    data: str
    samples: int
    runtime: str
    sqnr_db: float | None
    cosine: float | None
    top1_agreement: float | None
    accuracy_float: float | None = None
    accuracy_integer: float | None = None


def non_integer_tensors(model: Model) -> tuple[NonInteger, ...]:
    """Every tensor that is not integer, once, at its first operator; empty if there is none."""
    found = []
    for graph in model.graphs:
        seen: set[int] = set()
        for op in graph.ops:
            for index in (*op.inputs, *op.outputs):
                if index < 0 or index in seen or graph.tensors[index].dtype in _INTEGERS:
                    continue
                seen.add(index)
                tensor = graph.tensors[index]
                reason = _reason(op, tensor, index in graph.inputs, index in graph.outputs)
                found.append(NonInteger(op.index, op.kind, tensor.name, tensor.dtype, reason))
        for index in (*graph.inputs, *graph.outputs):
            tensor = graph.tensors[index]
            if index not in seen and tensor.dtype not in _INTEGERS:
                seen.add(index)
                found.append(
                    NonInteger(None, "", tensor.name, tensor.dtype, "an unused input or output")
                )
    return tuple(found)


def _reason(op: Op, tensor: Tensor, is_input: bool, is_output: bool) -> str:
    if tensor.is_constant:
        return f"a constant of an operator that computes in {tensor.dtype}"
    if is_input and op.kind == "QUANTIZE":
        return "the input is float and is quantised on the device; an integer --io avoids it"
    if is_output and op.kind == "DEQUANTIZE":
        return "the output is turned to float on the device; an integer --io avoids it"
    if op.kind == "DEQUANTIZE":
        return "a float operator follows, which has no integer form"
    return f"{op.kind} computes in {tensor.dtype}"


def is_quantized(model: Model) -> bool:
    """Whether any activation of the model is a quantised integer."""
    for graph in model.graphs:
        for op in graph.ops:
            for index in op.outputs:
                tensor = graph.tensors[index]
                if tensor.dtype in _INTEGERS and tensor.quantization is not None:
                    return True
    return False


def float_outputs(model: FloatModel | FloatFile, samples: Samples) -> list[list[NDArray[Any]]]:
    """The float model's outputs, one list per sample."""
    return [model.run(samples.sample(i)) for i in range(len(samples))]


def integer_outputs(
    model: Model, samples: Samples, input_order: Sequence[int]
) -> tuple[str, list[list[NDArray[np.float64]]]]:
    """The converted model's outputs as real numbers, and the runtime that computed them.

    TFLM computes where it has the operators; otherwise TensorFlow Lite's reference kernels.

    Args:
        model: the converted model.
        samples: inputs in the float model's order.
        input_order: for each input of ``model``, its place in the float model's order.
    """
    runner = _runner(model)
    try:
        results = []
        for i in range(len(samples)):
            sample = samples.sample(i)
            arrays = [
                quantize_array(sample[place], tensor)
                for place, tensor in zip(input_order, model.input_tensors, strict=True)
            ]
            outputs = runner.invoke(*arrays)
            results.append(
                [
                    dequantize_array(output, tensor)
                    for output, tensor in zip(outputs, model.output_tensors, strict=True)
                ]
            )
        return runner.title, results
    finally:
        runner.close()


def _runner(model: Model) -> Any:
    from edgekit.runtimes import open_runner

    # The bytes are the converter's own, in a process that only converts: no other is needed.
    try:
        return open_runner("tflm", model.raw, isolated=False)
    except ModelError:
        # float16 and dynamic models, and operators that TFLM lacks
        return open_runner("litert-ref", model.raw, isolated=False)


def quantize_array(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """Real values as the tensor's integers (rounded half away from zero, saturated)."""
    import numpy as np

    if tensor.quantization is None or tensor.dtype.startswith("float"):
        return values.astype(tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    scaled = values.astype(np.float64) / tensor.scale
    rounded = np.trunc(scaled + np.copysign(0.5, scaled)) + tensor.zero_point
    result: NDArray[Any] = np.clip(rounded, limits.min, limits.max).astype(tensor.dtype)
    return result


def dequantize_array(values: NDArray[Any], tensor: Tensor) -> NDArray[np.float64]:
    """A tensor's integers as real values."""
    import numpy as np

    if tensor.quantization is None:
        return values.astype(np.float64)
    return (values.astype(np.float64) - tensor.zero_point) * tensor.scale


def compare(
    floats: Sequence[Sequence[NDArray[Any]]],
    integers: Sequence[Sequence[NDArray[Any]]],
    *,
    labels: NDArray[Any] | None,
    data: str,
    runtime: str,
    output_is_input: bool = False,
) -> Quality:
    """Figures of merit over samples; the first output is the one with classes.

    Args:
        floats: outputs of the float model, per sample.
        integers: outputs of the integer model as real numbers, per sample.
        labels: classes [N], or ``None``.
        data: what the samples are, for the record.
        runtime: what computed ``integers``, for the record.
        output_is_input: the model reconstructs its input, so that there are no classes.
    """
    import numpy as np

    signal = error = 0.0
    cosines, same, right_float, right_integer = [], 0, 0, 0
    first = floats[0][0]
    classes = first.size if first.ndim == 2 and first.shape[0] == 1 and not output_is_input else 0
    for i, (want, got) in enumerate(zip(floats, integers, strict=True)):
        a = np.concatenate([np.asarray(x, np.float64).ravel() for x in want])
        b = np.concatenate([np.asarray(x, np.float64).ravel() for x in got])
        signal += float(a @ a)
        error += float((a - b) @ (a - b))
        norm = math.sqrt(float(a @ a) * float(b @ b))
        if norm > 0:
            cosines.append(float(a @ b) / norm)
        if classes > 1:
            top_float = int(np.argmax(want[0]))
            top_integer = int(np.argmax(got[0]))
            same += top_float == top_integer
            if labels is not None:
                right_float += top_float == int(labels[i])
                right_integer += top_integer == int(labels[i])
    count = len(floats)
    labelled = labels is not None and classes > 1 and int(labels.max()) < classes
    return Quality(
        data=data,
        samples=count,
        runtime=runtime,
        sqnr_db=10 * math.log10(signal / error) if signal > 0 and error > 0 else None,
        cosine=sum(cosines) / len(cosines) if cosines else None,
        top1_agreement=same / count if classes > 1 else None,
        accuracy_float=right_float / count if labelled else None,
        accuracy_integer=right_integer / count if labelled else None,
    )


def on_targets(model: Model) -> Mapping[str, Any]:
    """What each known target makes of the model, with each of its engines; estimates.

    Keys are targets; values say ``engines: {name: {verdict, reasons, ram_bytes, flash_bytes}}``
    where ``verdict`` is ``runs``, ``unsupported`` or ``does not fit``.
    """
    from edgekit.engines import support_table

    targets: dict[str, dict[str, Any]] = {}
    for row in support_table(model):
        targets.setdefault(row.target, {})[row.engine] = {
            "verdict": row.verdict,
            "reasons": list(row.reasons),
            "ram_bytes": row.ram_bytes,
            "flash_bytes": row.flash_bytes,
            "kind": "estimated",
        }
    return targets
