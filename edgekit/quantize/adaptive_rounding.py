"""Adaptive rounding: each weight is rounded up or down so that the layer's results come closest.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020): rounding to
the nearest minimises the error of the weights, not that of the results. Layer after layer, the
way each weight is rounded is relaxed to a value between 0 and 1 (the rectified sigmoid, equation
23), and the results' error after the activation, with inputs as the layers before give them when
rounded (equation 25), is minimised together with a regulariser (equation 24) that drives all
values to 0 or 1 as its exponent falls. A layer's results are compared at positions drawn from all
samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.graph.model import Graph, Model, Op
from edgekit.quantize.execute import Executor
from edgekit.quantize.operators import activate
from edgekit.quantize.parameters import WEIGHT_LIMIT
from edgekit.quantize.plan import Plan
from edgekit.quantize.policy import RULES
from edgekit.quantize.scheme import Slot
from edgekit.quantize.simulate import Simulator
from edgekit.quantize.walk import Walk, affordable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

#: The stretch of the rectified sigmoid (equation 23).
_ZETA, _GAMMA = 1.1, -0.1
#: The regulariser's exponent falls from the first to the second, after the warm-up.
_BETA = (20.0, 2.0)
_WARM_UP = 0.2
_LEARNING_RATE = 1e-2
#: Positions of a layer's results that are drawn from all samples, and used in one step.
_ROWS = 12_288
_BATCH_ROWS = 512
#: A layer's drawn inputs may take this much memory.
_ROWS_BYTES = 256 << 20

_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class RoundingSettings:
    """How long and how hard the search is.

    ``regularisation`` weighs the regulariser (per weight) against the error, which is taken
    in units of that of rounding to the nearest.
    """

    iterations: int = 1_000
    regularisation: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class LayerRounding:
    """One layer: mean squared errors of its results with both ways of rounding.

    ``changed`` is the share of weights that are not rounded to the nearest.
    """

    op: int
    kind: str
    name: str
    nearest_error: float
    adaptive_error: float
    changed: float


@dataclass(frozen=True)
class AdaptiveRounding:
    """All layers, those that were left to the nearest with the reason, and the samples used."""

    samples: int
    layers: tuple[LayerRounding, ...]
    skipped: tuple[tuple[str, str], ...]


def round_adaptively(
    model: Model,
    plan: Plan,
    inputs: Sequence[Sequence[NDArray[Any]]],
    settings: RoundingSettings | None = None,
    *,
    done: Mapping[Slot, NDArray[Any]] | None = None,
    on_layer: Callable[[LayerRounding, Slot, NDArray[Any]], None] = lambda *_: None,
) -> tuple[Plan, AdaptiveRounding]:
    """Chooses the rounding of all weights.

    Args:
        model: the prepared model.
        plan: its plan; scales stay as they are.
        inputs: samples with a batch of 1.
        settings: iterations, regularisation and seed; the same give the same result.
        done: integers of layers that an interrupted run had finished.
        on_layer: called with every finished layer, its slot and its integers.

    Raises:
        ModelError: the model's activations do not fit into memory.
    """
    settings = settings or RoundingSettings()
    graph = model.main
    count = affordable(graph, len(inputs), walks=2)
    samples = inputs[:: max(len(inputs) // count, 1)][:count]
    simulator = Simulator(graph, plan)
    floats = Walk(Executor(graph), samples)
    rounded = Walk(simulator, samples)
    layers: list[LayerRounding] = []
    skipped: list[tuple[str, str]] = []
    finished = dict(done or {})
    for op in graph.ops:
        slot = (op.index, RULES[op.kind].weights or 0) if op.kind in RULES else (op.index, 0)
        constant = plan.scheme.constants.get(slot)
        if constant is not None and constant.role == "weights":
            reason = _refused(graph, op)
            if reason:
                skipped.append((graph.tensors[op.outputs[0]].name, reason))
            else:
                if slot not in finished:
                    layer, integers = _round_layer(graph, plan, op, floats, rounded, settings)
                    layers.append(layer)
                    finished[slot] = integers
                    on_layer(layer, slot, integers)
                plan = replace(plan, integers={**plan.integers, slot: finished[slot]})
                simulator.update(graph, plan, op.index)
        floats.advance(op)
        rounded.advance(op)
    return plan, AdaptiveRounding(len(samples), tuple(layers), tuple(skipped))


def _refused(graph: Graph, op: Op) -> str:
    if op.kind not in _KINDS:
        return f"{op.kind} is rounded to the nearest"
    weights = graph.tensors[op.inputs[1]]
    if op.kind == "CONV_2D" and weights.shape[-1] != graph.tensors[op.inputs[0]].shape[-1]:
        return "a grouped convolution is rounded to the nearest"
    return ""


def _round_layer(
    graph: Graph, plan: Plan, op: Op, floats: Walk, rounded: Walk, settings: RoundingSettings
) -> tuple[LayerRounding, NDArray[Any]]:
    import numpy as np

    layer = _Layer.of(graph, plan, op)
    stream = np.random.RandomState((settings.seed * 1_000_003 + op.index) % 2**32)
    inputs, wanted = _drawn(graph, op, floats, rounded, layer, stream)
    bias = layer.bias
    nearest = np.clip(np.trunc(layer.ratio + np.copysign(0.5, layer.ratio)), -WEIGHT_LIMIT,
                      WEIGHT_LIMIT)  # fmt: skip
    nearest_error = layer.error(nearest, inputs, wanted, bias)
    found = nearest
    adaptive_error = nearest_error
    if nearest_error > 0:
        tf = rounded.executor.tf
        searched = _search(tf, layer, inputs, wanted, nearest_error, settings, stream)
        adaptive_error = layer.error(searched, inputs, wanted, bias)
        found = searched if adaptive_error < nearest_error else nearest
    result = LayerRounding(
        op=op.index,
        kind=op.kind,
        name=graph.tensors[op.outputs[0]].name,
        nearest_error=nearest_error,
        adaptive_error=min(adaptive_error, nearest_error),
        changed=float((found != nearest).mean()),
    )
    return result, layer.integers(found)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A linear operator as a product of drawn inputs and weights.

    ``ratio`` are the weights in steps: [out, products], or [products, out] where every output
    channel has inputs of its own (depthwise); ``scales`` [out] belong to the outputs.
    """

    ratio: Floats
    scales: Floats
    bias: Floats
    activation: str
    depthwise: bool
    shape: tuple[int, ...]

    @staticmethod
    def of(graph: Graph, plan: Plan, op: Op) -> _Layer:
        import numpy as np

        weights = graph.tensors[op.inputs[1]]
        values = weights.data().astype(np.float64)
        depthwise = op.kind == "DEPTHWISE_CONV_2D"
        out = weights.shape[-1] if depthwise else weights.shape[0]
        rows = values.reshape(-1, out) if depthwise else values.reshape(out, -1)
        scales = np.broadcast_to(np.array(plan.constants[op.index, 1].scales), (out,))
        ratio = rows / (scales[None, :] if depthwise else scales[:, None])
        at = RULES[op.kind].bias or 2
        has_bias = len(op.inputs) > at and op.inputs[at] >= 0
        bias = graph.tensors[op.inputs[at]].data().reshape(-1) if has_bias else np.zeros(out)
        return _Layer(
            ratio.astype(np.float32),
            scales.astype(np.float32),
            bias.astype(np.float32),
            str(op.options.get("fused_activation_function", "NONE")),
            depthwise,
            weights.shape,
        )

    def results(self, steps: Floats, inputs: Floats) -> Floats:
        """Sums of products [rows, out] of weights in steps, without bias."""
        import numpy as np

        if self.depthwise:
            sums: Floats = np.einsum("rko,ko->ro", inputs, steps, optimize=True)
        else:
            sums = inputs @ steps.T
        return sums * self.scales

    def error(self, steps: Floats, inputs: Floats, wanted: Floats, bias: Floats) -> float:
        """The mean squared error after the activation."""
        import numpy as np

        total, count = 0.0, 0
        for start in range(0, len(inputs), 4096):
            part = slice(start, start + 4096)
            got = _activated(self.results(steps, inputs[part]) + bias, self.activation)
            total += float(((got - wanted[part]) ** 2).sum(dtype=np.float64))
            count += got.size
        return total / max(count, 1)

    def integers(self, steps: Floats) -> NDArray[Any]:
        import numpy as np

        return np.rint(steps).astype(np.int8).reshape(self.shape)


def _activated(values: Floats, name: str) -> Floats:
    import numpy as np

    if name == "RELU":
        return np.maximum(values, np.float32(0))
    if name == "RELU6":
        return np.clip(values, np.float32(0), np.float32(6))
    if name == "RELU_N1_TO_1":
        return np.clip(values, np.float32(-1), np.float32(1))
    return values


def _passes(tf: Any, values: Any, name: str) -> Any:
    """1 where the activation lets a gradient through."""
    if name == "RELU":
        inside = values > 0
    elif name == "RELU6":
        inside = (values > 0) & (values < 6)
    elif name == "RELU_N1_TO_1":
        inside = tf.abs(values) < 1
    else:
        return 1.0
    return tf.cast(inside, tf.float32)


def _search(
    tf: Any,
    layer: _Layer,
    inputs: Floats,
    wanted: Floats,
    nearest_error: float,
    settings: RoundingSettings,
    stream: Any,
) -> Floats:
    """Gradient descent (Adam) over how each weight is rounded."""
    import numpy as np

    floor = np.floor(layer.ratio)
    rest = np.clip(layer.ratio - floor, 1e-4, 1 - 1e-4)
    # The rectified sigmoid starts at the weight itself.
    start = -np.log((_ZETA - _GAMMA) / (rest - _GAMMA) - 1).astype(np.float32)
    value = tf.Variable(start)
    first, second = tf.Variable(tf.zeros_like(start)), tf.Variable(tf.zeros_like(start))
    base, scales, bias = tf.constant(floor), tf.constant(layer.scales), tf.constant(layer.bias)
    data, targets = tf.constant(inputs), tf.constant(wanted)
    limit = float(WEIGHT_LIMIT)
    pull_weight = settings.regularisation / start.size * layer.scales.size

    rows_at_once = min(_BATCH_ROWS, len(inputs))

    def step(rows: Any, beta: Any, corrections: Any) -> None:
        batch, target = tf.gather(data, rows), tf.gather(targets, rows)
        sigmoid = tf.sigmoid(value)
        stretched = sigmoid * (_ZETA - _GAMMA) + _GAMMA
        share = tf.clip_by_value(stretched, 0.0, 1.0)
        inside = tf.cast((stretched > 0) & (stretched < 1), tf.float32)
        slope = inside * sigmoid * (1 - sigmoid) * (_ZETA - _GAMMA)
        steps = tf.clip_by_value(base + share, -limit, limit)
        if layer.depthwise:
            sums = tf.reduce_sum(batch * steps, axis=1) * scales + bias
        else:
            sums = tf.matmul(batch, steps, transpose_b=True) * scales + bias
        errors = activate(tf, layer.activation, sums) - target
        errors = errors * _passes(tf, sums, layer.activation)
        # In units of the error of rounding to the nearest.
        errors = errors * scales * (2 / (layer.scales.size * rows_at_once * nearest_error))
        if layer.depthwise:
            gradient = tf.reduce_sum(batch * errors[:, None, :], axis=0)
        else:
            gradient = tf.matmul(errors, batch, transpose_a=True)
        centred = 2 * share - 1
        # The regulariser's derivative; beta is 0 during the warm-up.
        pull = 2 * beta * tf.pow(tf.abs(centred) + 1e-12, beta - 1) * tf.sign(centred)
        gradient = (gradient - pull_weight * pull) * slope
        first.assign(0.9 * first + 0.1 * gradient)
        second.assign(0.999 * second + 0.001 * gradient * gradient)
        unbiased = tf.sqrt(second / corrections[1]) + 1e-12
        value.assign_sub(_LEARNING_RATE * first / corrections[0] / unbiased)

    compiled = tf.function(step, autograph=False)
    for number in range(settings.iterations):
        progress, beta = number / settings.iterations, 0.0
        if progress >= _WARM_UP:
            done = (progress - _WARM_UP) / (1 - _WARM_UP)
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * 0.5 * (1 + math.cos(math.pi * done))
        corrections = [1 - 0.9 ** (number + 1), 1 - 0.999 ** (number + 1)]
        compiled(
            tf.constant(stream.randint(0, len(inputs), rows_at_once).astype(np.int32)),
            tf.constant(beta, tf.float32),
            tf.constant(corrections, tf.float32),
        )
    up = value.numpy() >= 0
    found: Floats = np.clip(floor + up, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.float32)
    return found


def _drawn(
    graph: Graph, op: Op, floats: Walk, rounded: Walk, layer: _Layer, stream: Any
) -> tuple[Floats, Floats]:
    """Inputs as the rounded layers give them, and the float results, at drawn positions.

    Inputs are [rows, products], for depthwise operators [rows, products, out]; results
    [rows, out].
    """
    import numpy as np

    samples = sum(len(next(iter(c.values()))) for c in rounded.chunks) if rounded.chunks else 1
    width = layer.ratio.size if layer.depthwise else layer.ratio.shape[1]
    most = max(min(_ROWS, _ROWS_BYTES // (4 * width)), 64)
    positions = max(int(np.prod(graph.tensors[op.outputs[0]].shape[:-1])), 1)
    each = max(min(-(-most // max(samples, 1)), positions), 1)
    found, wanted = [], []
    for data, result in zip(rounded.operands(op, 0), floats.before_activation(op), strict=True):
        patches = _patches(rounded.executor.tf, graph, op, data)
        targets = np.asarray(result).reshape(patches.shape[0], -1, result.shape[-1])
        for sample in range(patches.shape[0]):
            if each < patches.shape[1]:
                chosen = stream.choice(patches.shape[1], each, replace=False)
            else:
                chosen = np.arange(patches.shape[1])
            found.append(patches[sample][chosen])
            wanted.append(_activated(targets[sample][chosen], layer.activation))
    inputs = np.concatenate(found).astype(np.float32)
    if layer.depthwise:
        inputs = _per_output(inputs, layer)
    return inputs, np.concatenate(wanted).astype(np.float32)


def _per_output(patches: Floats, layer: _Layer) -> Floats:
    """Patches [rows, taps * channels] as [rows, taps, out]: channels repeat for multipliers."""
    import numpy as np

    taps, out = layer.ratio.shape
    split = patches.reshape(len(patches), taps, -1)
    repeated: Floats = np.repeat(split, out // split.shape[-1], axis=-1)
    return repeated


def _patches(tf: Any, graph: Graph, op: Op, data: Any) -> Any:
    """What each position of the result sees: [samples, positions, products]."""
    import numpy as np

    weights = graph.tensors[op.inputs[1]]
    if op.kind == "FULLY_CONNECTED":
        rows = max(graph.tensors[op.inputs[0]].elements // weights.shape[1], 1)
        return np.asarray(data).reshape(-1, rows, weights.shape[1])
    height, width = weights.shape[1:3]
    options = op.options
    patches = tf.image.extract_patches(
        data,
        [1, height, width, 1],
        [1, options.get("stride_h", 1), options.get("stride_w", 1), 1],
        [1, options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1), 1],
        options.get("padding", "SAME"),
    )
    return np.asarray(patches).reshape(patches.shape[0], -1, patches.shape[-1])
