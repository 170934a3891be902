"""What a model is and costs, from its file alone: the content of ``edgekit inspect``.

All figures are exact properties of the graph, except the memory that engines need, which is
estimated and says so.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.graph.liveness import BestOrder, Peak, activation_peak, best_order
from edgekit.graph.macs import ModelCost, OpCost, model_cost
from edgekit.graph.ranges import Channels, channel_liveness, live_macs
from edgekit.graph.reader import shown

if TYPE_CHECKING:
    from edgekit.graph import Graph, Model, Op, Tensor

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
#: Longer lists in metadata (labels of a thousand classes) are cut in reports.
_LABELS_SHOWN = 1_000


def inspect_model(model: Model, *, targets: bool = True) -> dict[str, Any]:
    """Everything that can be told without running the model, as JSON values.

    Args:
        model: the model.
        targets: also ask every engine about every target (the slowest part).
    """
    from edgekit.convert.metadata import read_metadata, read_provenance
    from edgekit.convert.verify import non_integer_tensors
    from edgekit.records import to_json

    graph = model.main
    cost = model_cost(model)
    channels = channel_liveness(graph)
    peak = activation_peak(graph)
    best = best_order(graph)
    not_integer = non_integer_tensors(model)
    metadata, provenance = read_metadata(model), read_provenance(model)
    ops = [_op(graph, op, c, channels) for op, c in zip(graph.ops, cost.ops, strict=True)]
    quantized = {op["quantization"] for op in ops} - {None}
    payload: dict[str, Any] = {
        "model": {
            "name": model.name,
            "sha256": model.sha256,
            "file_bytes": len(model.raw),
            "description": shown(model.description),
            "graphs": len(model.graphs),
        },
        "macs": cost.macs,
        "macs_inside": cost.inside_macs,
        "weights_bytes": cost.weights_bytes,
        "bias_bytes": cost.bias_bytes,
        "parameter_bytes": cost.parameter_bytes,
        "full_integer": not not_integer,
        "not_integer": [to_json(item) for item in not_integer],
        "quantization": sorted(quantized),
        "inputs": [_tensor(t) for t in model.input_tensors],
        "outputs": [_tensor(t) for t in model.output_tensors],
        "peak_activation_bytes": peak.nbytes,
        "peak": _peak(graph, peak),
        "best_order": _best(graph, best),
        "channels": _channels(graph, cost, channels, ops),
        "ops": ops,
        "subgraphs": [
            {"name": shown(g.name), "ops": len(g.ops), "peak": activation_peak(g).nbytes}
            for g in model.graphs[1:]
        ],
        "metadata": to_json(metadata) if metadata else None,
        "provenance": to_json(provenance) if provenance else None,
        "uncalibrated": bool(provenance and provenance.uncalibrated),
        "edgetpu": _edgetpu(model),
        "engines": _engines(model),
        "targets": _targets(model) if targets else None,
    }
    if metadata:
        for output in payload["metadata"]["outputs"]:
            output["labels"] = output["labels"][:_LABELS_SHOWN]
    cleaned: dict[str, Any] = finite(payload)
    return cleaned


def _tensor(tensor: Tensor) -> dict[str, Any]:
    q = tensor.quantization
    return {
        "index": tensor.index,
        "name": shown(tensor.name),
        "shape": list(tensor.shape),
        "shape_signature": list(tensor.shape_signature) or None,
        "dtype": tensor.dtype,
        "nbytes": tensor.nbytes,
        "scale": q.scale if q and not q.per_channel else None,
        "zero_point": q.zero_point if q and not q.per_channel else None,
    }


def _op(graph: Graph, op: Op, cost: OpCost, channels: Mapping[int, Channels]) -> dict[str, Any]:
    outputs = [graph.tensors[i] for i in op.outputs]
    inputs = [graph.tensors[i] for i in op.inputs if i >= 0]
    found = channels.get(op.outputs[0]) if op.outputs else None
    left, weights_left = _left(graph, op, cost, channels)
    weights = graph.tensors[op.inputs[1]] if op.kind in _WEIGHTED and len(op.inputs) > 1 else None
    return {
        "index": op.index,
        "kind": shown(op.kind),
        "name": shown(outputs[0].name) if outputs else "",
        "inputs": [_operand(t) for t in inputs if not t.is_constant],
        "outputs": [_operand(t) for t in outputs],
        "weights_shape": list(weights.shape) if weights else None,
        "quantization": _scheme(inputs, outputs, weights),
        "options": {key: _option(value) for key, value in op.options.items()},
        "macs": cost.macs,
        "macs_inside": cost.inside_macs,
        "weights_bytes": cost.weights_bytes,
        "bias_bytes": cost.bias_bytes,
        "parameter_bytes": cost.parameter_bytes,
        "activation_bytes": cost.activation_bytes,
        "channels": found.count if found else None,
        "live_channels": int(found.live.sum()) if found else None,
        "constant_channels": int(found.constant.sum()) if found else None,
        "live_macs": left,
        "live_weights_bytes": weights_left,
    }


def _operand(tensor: Tensor) -> dict[str, Any]:
    return {
        "tensor": tensor.index,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "nbytes": tensor.nbytes,
    }


def _scheme(inputs: list[Tensor], outputs: list[Tensor], weights: Tensor | None) -> str | None:
    """How an operator computes: ``int8 per-channel``, ``float32``, ``float32 x int8`` …"""
    data = next((t for t in (*outputs, *inputs) if not t.is_constant), None)
    if data is None:
        return None
    if weights is None:
        return data.dtype
    if weights.dtype != data.dtype:
        return f"{data.dtype} x {weights.dtype}"
    if weights.quantization is None:
        return data.dtype
    return f"{data.dtype} {'per-channel' if weights.quantization.per_channel else 'per-tensor'}"


def _left(graph: Graph, op: Op, cost: OpCost, channels: Mapping[int, Channels]) -> tuple[int, int]:
    """MACs and weight bytes after the removal of dead and constant channels."""
    if op.kind not in _WEIGHTED or not op.outputs or op.outputs[0] not in channels:
        return cost.macs, cost.weights_bytes
    try:
        macs, weights = live_macs(graph, op, channels)
    except (ValueError, IndexError, ArithmeticError):
        # Shapes that contradict each other: no engine takes such an operator.
        return cost.macs, cost.weights_bytes
    stored = graph.tensors[op.inputs[1]]
    return macs, (weights * stored.nbytes) // max(stored.elements, 1)


def _peak(graph: Graph, peak: Peak) -> dict[str, Any]:
    return {
        "op": peak.op,
        "kind": shown(graph.ops[peak.op].kind) if peak.op >= 0 else None,
        "live": [
            {"tensor": index, "name": shown(graph.tensors[index].name), "nbytes": nbytes}
            for index, nbytes in peak.live
        ],
    }


def _best(graph: Graph, best: BestOrder) -> dict[str, Any]:
    changed = best.order != tuple(range(len(graph.ops)))
    return {
        "peak_activation_bytes": best.peak.nbytes,
        "proven_optimal": best.proven,
        "lower_bound_bytes": best.lower_bound_bytes,
        "order": list(best.order) if changed else None,
    }


def _channels(
    graph: Graph, cost: ModelCost, channels: Mapping[int, Channels], ops: list[dict[str, Any]]
) -> dict[str, Any]:
    weighted = [op for op in ops if op["kind"] in _WEIGHTED and op["channels"] is not None]
    return {
        "analysed": bool(weighted),
        "live_macs": cost.macs - sum(op["macs"] - op["live_macs"] for op in ops),
        "live_weights_bytes": cost.weights_bytes
        - sum(op["weights_bytes"] - op["live_weights_bytes"] for op in ops),
        "removable_channels": sum(op["channels"] - op["live_channels"] for op in weighted),
        "channels": sum(op["channels"] for op in weighted),
    }


def _edgetpu(model: Model) -> dict[str, Any] | None:
    """What ``edgetpu_compiler`` made of a model; ``None`` for a file it has not made.

    Raises:
        ModelError: the program in the file is damaged.
    """
    from edgekit.engines.edgetpu import compiled_json
    from edgekit.engines.edgetpu.darwinn import read_compiled
    from edgekit.records import to_json

    compiled = read_compiled(model)
    if compiled is None:
        return None
    return {
        **compiled_json(compiled),
        "ops_cpu": [{"index": index, "kind": kind} for index, kind in compiled.cpu_ops],
        "packages": [to_json(package) for package in compiled.packages],
    }


def _engines(model: Model) -> dict[str, Any]:
    """For every engine whether it takes the model, whatever the target."""
    from edgekit import engines

    found = {}
    for name in engines.names():
        engine = importlib.import_module(f"edgekit.engines.{name}")
        if not (hasattr(engine, "TITLE") and hasattr(engine, "supports")):
            # A package beside the engines that is none.
            continue
        try:
            support = engine.supports(model, None)
        except Exception as error:
            # Engines look at operators one by one and trip over some of the ways in which a
            # hostile file can be nonsense; what the file is can be told all the same.
            support = engines.Support(False, (_tripped(error),))
        found[name] = {
            "title": engine.TITLE,
            "ok": support.ok,
            "missing": [shown(reason) for reason in support.missing],
        }
    return found


def _targets(model: Model) -> list[dict[str, Any]]:
    """A verdict for every target and engine; the memory figures are estimates."""
    from edgekit.engines import Verdict, support_table
    from edgekit.records import to_json
    from edgekit.targets import list_targets

    rows = []
    for target in list_targets():
        try:
            verdicts = support_table(model, [target])
        except Exception as error:
            verdicts = (Verdict(target.name, "", "unsupported", (_tripped(error),)),)
        for verdict in verdicts:
            row: dict[str, Any] = to_json(verdict)
            row["reasons"] = [shown(reason) for reason in verdict.reasons]
            row["memory_kind"] = "estimated" if verdict.ram_bytes is not None else None
            rows.append(row)
    return rows


def _tripped(error: Exception) -> str:
    return f"the model makes no sense to the engine ({type(error).__name__}: {error})"


def _option(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, tuple):
        return list(value)
    return value


def finite(value: Any) -> Any:
    """JSON has no infinity and no NaN, which a damaged model's scales may hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value
