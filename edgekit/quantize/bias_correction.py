"""Empirical bias correction: the mean error that rounding makes is taken out of the biases.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
section 4.2, with data (appendix D): rounded weights shift the mean of a layer's results, channel
by channel, and later layers see inputs that they were not trained for. Layer after layer the mean
of the results before the activation is compared with the float model's, with all layers before
it rounded and corrected, and the difference is subtracted from the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.graph.model import Graph, Model, Op, Tensor
from edgekit.graph.reader import read_model
from edgekit.graph.writer import write_graph
from edgekit.quantize.execute import Executor, stacked
from edgekit.quantize.plan import (
    Magnitudes,
    Plan,
    bias_slot,
    constant_values,
    largest_magnitude,
    linear_parameters,
)
from edgekit.quantize.policy import RULES
from edgekit.quantize.prepare import constant
from edgekit.quantize.simulate import Simulator
from edgekit.quantize.walk import Walk, affordable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals = NDArray[np.float64]

_BATCH = 32


@dataclass(frozen=True)
class Correction:
    """What was subtracted from one layer's biases.

    ``largest_steps`` is the largest change in steps of the layer's result in int8,
    ``mean_steps`` the mean magnitude over its channels.
    """

    op: int
    kind: str
    name: str
    largest_steps: float
    mean_steps: float


@dataclass(frozen=True)
class BiasCorrection:
    """All corrections, and on how many samples they are based."""

    samples: int
    layers: tuple[Correction, ...]


def with_biases(model: Model) -> Model:
    """The model with a bias of zeros where a linear operator has none."""
    graph = model.main
    tensors, ops = list(graph.tensors), list(graph.ops)
    for op in graph.ops:
        rule = RULES.get(op.kind)
        if rule is None or rule.bias is None or rule.weights is None:
            continue
        weights = graph.tensors[op.inputs[rule.weights]]
        if bias_slot(graph, op.index) is None and weights.raw is not None:
            tensors.append(_zeros(len(tensors), weights.shape[rule.axis], op, graph))
            inputs = [*op.inputs, *[-1] * (rule.bias + 1 - len(op.inputs))]
            inputs[rule.bias] = len(tensors) - 1
            ops[op.index] = replace(op, inputs=tuple(inputs))
    if len(tensors) == len(graph.tensors):
        return model
    changed = replace(graph, tensors=tuple(tensors), ops=tuple(ops))
    return read_model(write_graph(changed, description=model.description), model.name)


def _zeros(index: int, count: int, op: Op, graph: Graph) -> Tensor:
    import numpy as np

    name = f"{graph.tensors[op.outputs[0]].name}_bias"
    return constant(Tensor(index, name, (count,), "float32"), np.zeros(count, np.float32))


def correct_biases(
    model: Model,
    plan: Plan,
    inputs: Sequence[Sequence[NDArray[Any]]],
    magnitudes: Magnitudes = largest_magnitude,
    on_layer: Callable[[Op], None] = lambda op: None,
) -> tuple[Model, Plan, BiasCorrection]:
    """Corrects the biases of all linear operators that have one.

    Args:
        model: the prepared model; :func:`with_biases` gives all linear operators one.
        plan: its plan.
        inputs: samples with a batch of 1.
        magnitudes: what the plan's scales of weights were chosen by.
        on_layer: called with every operator that was corrected.

    Returns:
        The float model with corrected biases, its plan, and what was changed.

    Raises:
        ModelError: the model's activations do not fit into memory.
    """
    graph = model.main
    count = affordable(graph, len(inputs))
    samples = inputs[:: max(len(inputs) // count, 1)][:count]
    wanted = _float_means(graph, samples)
    simulator = Simulator(graph, plan)
    walk = Walk(simulator, samples)
    corrections: list[Correction] = []
    for op in graph.ops:
        slot = bias_slot(graph, op.index) if op.kind in RULES else None
        if slot is not None and op.index in wanted:
            found = _means(list(walk.before_activation(op)))
            shift = found - wanted[op.index]
            graph, plan = _shifted(graph, plan, op, shift, magnitudes)
            simulator.update(graph, plan, op.index)
            steps = plan.groups[plan.scheme.writes[op.index, 0][0]]["int8"].scale
            corrections.append(
                Correction(
                    op.index,
                    op.kind,
                    graph.tensors[op.outputs[0]].name,
                    float(abs(shift).max() / steps),
                    float(abs(shift).mean() / steps),
                )
            )
            on_layer(op)
        walk.advance(op)
    raw = write_graph(graph, description=model.description)
    return read_model(raw, model.name), plan, BiasCorrection(len(samples), tuple(corrections))


def _float_means(graph: Graph, samples: Sequence[Sequence[NDArray[Any]]]) -> dict[int, Reals]:
    """The mean result before activation of every linear operator, by channel."""
    executor = Executor(graph)
    sums: dict[int, Reals] = {}
    total = 0
    linear = {op.index for op in graph.ops if op.kind in RULES
              and RULES[op.kind].weights is not None}  # fmt: skip

    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        seen: dict[int, list[Any]] = {}

        def observe(op: Op, value: Any, seen: dict[int, list[Any]] = seen) -> None:
            if op.index in linear:
                seen.setdefault(op.index, []).append(value)

        executor.run(stacked(part), before_activation=observe)
        for index, values in seen.items():
            sums[index] = sums.get(index, 0.0) + _means(values) * len(part)
        total += len(part)
    return {index: value / total for index, value in sums.items()}


def _means(chunks: Sequence[Any]) -> Reals:
    """Means over all but the last dimension of several tensors together."""
    import numpy as np

    total: Any = 0.0
    count = 0
    for chunk in chunks:
        rows = np.asarray(chunk, np.float64)
        rows = rows.reshape(-1, rows.shape[-1])
        total = total + rows.sum(axis=0)
        count += rows.shape[0]
    result: Reals = total / max(count, 1)
    return result


def _shifted(
    graph: Graph, plan: Plan, op: Op, shift: Reals, magnitudes: Magnitudes
) -> tuple[Graph, Plan]:
    """The graph with ``shift`` subtracted from a bias, and the plan with its scale.

    The shift was seen with the rounded bias, so that it is taken from that one: what rounding the
    bias had added would stay otherwise.
    """
    import numpy as np

    at = RULES[op.kind].bias or 0
    index = op.inputs[at]
    tensors, ops = list(graph.tensors), list(graph.ops)
    values = tensors[index].data().astype(np.float64)
    slot = op.index, at
    if slot in plan.scheme.constants:
        bias = plan.constants[slot]
        steps = constant_values(graph, plan, slot).astype(np.float64) - bias.zero_point
        values = steps.reshape(values.shape) * np.array(bias.scales, np.float64)
    changed = (values.reshape(-1) - shift).astype(np.float32).reshape(values.shape)
    shared = sum(index in other.inputs for other in graph.ops) > 1
    if shared:
        # Another operator keeps the bias as it was.
        tensors.append(replace(tensors[index], index=len(tensors), name=f"{tensors[index].name}_"))
        index = len(tensors) - 1
        inputs = list(op.inputs)
        inputs[at] = index
        ops[op.index] = replace(op, inputs=tuple(inputs))
        roles = dict(plan.scheme.constants)
        roles[op.index, at] = replace(roles[op.index, at], tensor=index)
        plan = replace(plan, scheme=replace(plan.scheme, constants=roles))
    tensors[index] = constant(tensors[index], changed)
    graph = replace(graph, tensors=tuple(tensors), ops=tuple(ops))
    weights = (op.index, RULES[op.kind].weights or 0)
    if weights not in plan.scheme.constants or weights in plan.integers:
        # Weights whose rounding was chosen keep their scales, and so does the bias.
        return graph, plan
    fresh = linear_parameters(graph, plan, weights, magnitudes)
    return graph, replace(plan, constants={**plan.constants, **fresh})
