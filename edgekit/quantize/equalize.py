"""Cross-layer equalisation: channels of neighbouring layers are rescaled against each other.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
section 4.1: ``f(s x) = s f(x)`` for positive ``s`` where ``f`` is a ReLU or none, so that a
channel may be divided by ``s`` in one layer and multiplied by it in the next without changing
what the float model computes. ``weights`` chooses ``s`` as the paper does, so that the
channel's weights span the same in both layers: what helps where one scale serves all channels.
TensorFlow Lite has a scale per output channel of convolutions, which takes care of the first
layer's; ``activations`` makes the spans of the activations between the layers and of the next
layer's weights equal instead (after Meller et al., "Same, Same But Different", 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import UsageError
from edgekit.graph.model import Graph, Model, Op
from edgekit.graph.reader import read_model
from edgekit.graph.writer import write_graph
from edgekit.quantize.calibrate import Values
from edgekit.quantize.plan import bias_slot
from edgekit.quantize.policy import RULES
from edgekit.quantize.prepare import constant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals = NDArray[np.float64]

By = Literal["weights", "activations"]

_LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
#: Operators that commute with a positive factor per channel.
_PASSES = frozenset(
    "MAX_POOL_2D AVERAGE_POOL_2D PAD MEAN RESHAPE SQUEEZE RELU LEAKY_RELU RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR".split()
)
_HOMOGENEOUS = ("NONE", "RELU")
_ITERATIONS = 40
_CONVERGED = 1e-3
#: Channels whose span is below this share of the largest are dead: they are left alone.
_DEAD = 1e-6
#: No channel's factor, over all iterations, leaves 1 / this … this.
_LARGEST_FACTOR = 1e4


@dataclass(frozen=True)
class Pair:
    """Two layers (operators) whose channels were equalised, and by how much.

    ``spread_before`` and ``spread_after`` are the largest over the median span of a channel
    of what is equalised for: the first layer's weights, or its activations.
    """

    first: int
    second: int
    tensor: str
    spread_before: float
    spread_after: float


@dataclass(frozen=True)
class Equalization:
    """What was done: pairs, layers that were left alone with the reason, replaced RELU6."""

    by: By
    pairs: tuple[Pair, ...]
    skipped: tuple[tuple[str, str], ...]
    relu6_replaced: tuple[str, ...]
    iterations: int


def equalize(
    model: Model,
    by: By = "weights",
    values: Mapping[int, Values] | None = None,
    *,
    replace_relu6: bool = False,
) -> tuple[Model, Equalization]:
    """The model with its channels equalised; it computes the same but for float rounding.

    Args:
        model: a prepared model.
        by: what is equalised.
        values: values of the activations, for ``activations``.
        replace_relu6: turn RELU6 into RELU where a pair needs it. The model then computes
            something else where values exceed 6; without it such layers are left alone.

    Raises:
        UsageError: ``activations`` without values.
    """
    if by == "activations" and values is None:
        raise UsageError("equalising by activations needs samples", fix="--calibration-data FILE")
    links, skipped = _links(model.main, replace_relu6)
    graph, replaced = _without_relu6(model.main, links)
    state = {link: _Channels(graph, link, by, values or {}) for link in links}
    weights = {i: graph.tensors[i].data().astype("float64") for link in links
               for i in (_weights(graph, link.first), _weights(graph, link.second))}  # fmt: skip
    before = {link: _spread(state[link].first_spans(weights)) for link in links}
    iterations, change = 0, math.inf
    while iterations < _ITERATIONS and change >= _CONVERGED:
        change = max((state[link].apply(weights) for link in links), default=0.0)
        iterations += 1
    tensors = list(graph.tensors)
    for index, array in weights.items():
        tensors[index] = constant(tensors[index], array.astype("float32"))
    for link in links:
        slot = bias_slot(graph, link.first)
        if slot is not None:
            index = graph.ops[slot[0]].inputs[slot[1]]
            biased = tensors[index].data().astype("float64").reshape(-1) / state[link].factors
            shape = tensors[index].shape
            tensors[index] = constant(tensors[index], biased.astype("float32").reshape(shape))
    pairs = tuple(
        Pair(
            link.first,
            link.second,
            graph.tensors[graph.ops[link.first].outputs[0]].name,
            before[link],
            _spread(state[link].first_spans(weights)),
        )
        for link in links
    )
    raw = write_graph(replace(graph, tensors=tuple(tensors)), description=model.description)
    report = Equalization(by, pairs, tuple(skipped), tuple(replaced), iterations)
    return read_model(raw, model.name), report


@dataclass(frozen=True)
class _Link:
    """Two linear operators with only channel-wise operators between them."""

    first: int
    second: int
    between: tuple[int, ...]


def _links(graph: Graph, replace_relu6: bool) -> tuple[list[_Link], list[tuple[str, str]]]:
    """Pairs that can be equalised, and linear operators that begin none, with the reason."""
    found: list[_Link] = []
    skipped: list[tuple[str, str]] = []
    owners: dict[int, int] = {}
    for op in graph.ops:
        rule = RULES.get(op.kind)
        if rule is not None and rule.weights is not None:
            for at in (rule.weights, rule.bias):
                if at is not None and at < len(op.inputs) and op.inputs[at] >= 0:
                    owners[op.inputs[at]] = owners.get(op.inputs[at], 0) + 1
    for op in graph.ops:
        if op.kind not in _LINEAR:
            continue
        name = graph.tensors[op.outputs[0]].name
        reason, link = _follow(graph, op, replace_relu6)
        if link is not None:
            shared = [i for o in (link.first, link.second) for i in graph.ops[o].inputs[1:]
                      if owners.get(i, 0) > 1]  # fmt: skip
            if shared:
                reason, link = "its constants are shared with another operator", None
        if link is None:
            skipped.append((name, reason))
        else:
            found.append(link)
    return found, skipped


def _follow(graph: Graph, op: Op, replace_relu6: bool) -> tuple[str, _Link | None]:
    weights = graph.tensors[op.inputs[1]]
    if weights.raw is None:
        return "its weights are no constant", None
    if op.kind == "CONV_2D" and _grouped(graph, op):
        return "its convolution is grouped", None
    between: list[int] = []
    current = op
    while True:
        refused = _refused_activation(current, replace_relu6)
        if refused:
            return refused, None
        index = current.outputs[0]
        readers = graph.consumers(index)
        if index in graph.outputs or not readers:
            return "its result is an output of the model", None
        if len(readers) > 1:
            return f"its result is read by {len(readers)} operators", None
        reader = readers[0]
        if reader.kind in _LINEAR:
            if reader.inputs[0] != index or graph.tensors[reader.inputs[1]].raw is None:
                return f"{reader.kind} reads it as weights", None
            if reader.kind == "CONV_2D" and _grouped(graph, reader):
                return "the convolution that reads it is grouped", None
            channels = _channels(graph, op)
            width = graph.tensors[reader.inputs[1]].shape[-1]
            if reader.kind != "DEPTHWISE_CONV_2D" and width % channels:
                return f"{reader.kind} mixes its channels", None
            return "", _Link(op.index, reader.index, tuple(between))
        if not _passes(graph, reader, _channels(graph, op)):
            return f"{reader.kind} reads its result", None
        between.append(reader.index)
        current = reader


def _grouped(graph: Graph, op: Op) -> bool:
    return graph.tensors[op.inputs[0]].shape[-1] != graph.tensors[op.inputs[1]].shape[-1]


def _channels(graph: Graph, op: Op) -> int:
    return graph.tensors[op.inputs[1]].shape[RULES[op.kind].axis]


def _refused_activation(op: Op, replace_relu6: bool) -> str:
    name = str(op.options.get("fused_activation_function", "NONE"))
    if name in _HOMOGENEOUS or (name == "RELU6" and replace_relu6):
        return ""
    return f"{name} between the layers does not commute with factors"


def _passes(graph: Graph, op: Op, channels: int) -> bool:
    """Whether an operator commutes with a factor per channel, the last dimension."""
    if op.kind not in _PASSES:
        return False
    source, result = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
    if op.kind in ("RESHAPE", "SQUEEZE"):
        # Channels stay innermost: each of them repeats in the result's last dimension.
        return bool(result) and result[-1] % channels == 0 and source[-1] % channels == 0
    if source[-1] != channels:
        return False
    if op.kind == "MEAN":
        axes = graph.tensors[op.inputs[1]].data().reshape(-1)
        return all(int(a) % len(source) != len(source) - 1 for a in axes)
    if op.kind == "PAD":
        return bool((graph.tensors[op.inputs[1]].data()[-1] == 0).all())
    return True


def _without_relu6(graph: Graph, links: list[_Link]) -> tuple[Graph, list[str]]:
    """RELU for RELU6 in what pairs go through."""
    ops, replaced = list(graph.ops), []
    for number in {n for link in links for n in (link.first, *link.between)}:
        op = ops[number]
        if op.options.get("fused_activation_function") == "RELU6":
            ops[number] = replace(op, options={**op.options, "fused_activation_function": "RELU"})
            replaced.append(graph.tensors[op.outputs[0]].name)
    return replace(graph, ops=tuple(ops)), sorted(replaced)


def _weights(graph: Graph, op: int) -> int:
    return graph.ops[op].inputs[1]


class _Channels:
    """The channels between two layers: their spans, and the factors applied so far."""

    def __init__(self, graph: Graph, link: _Link, by: By, values: Mapping[int, Values]) -> None:
        import numpy as np

        self.graph, self.link = graph, link
        first = graph.ops[link.first]
        self.count = _channels(graph, first)
        self.factors: Reals = np.ones(self.count)
        self.activations: Reals | None = None
        if by == "activations":
            seen = values[first.outputs[0]]
            self.activations = np.maximum(seen.channel_high, 0) - np.minimum(seen.channel_low, 0)

    def first_rows(self, weights: Mapping[int, Reals]) -> Any:
        """The first layer's weights with the channel in front (a view)."""
        import numpy as np

        op = self.graph.ops[self.link.first]
        return np.moveaxis(weights[op.inputs[1]], RULES[op.kind].axis, 0)

    def second_rows(self, weights: Mapping[int, Reals]) -> Any:
        """The second layer's weights as [repeats, channel, …] by input channel (a view)."""
        import numpy as np

        op = self.graph.ops[self.link.second]
        values = weights[op.inputs[1]]
        columns = np.moveaxis(values, -1, 0)
        if op.kind == "DEPTHWISE_CONV_2D":
            # Output channels of one input channel lie side by side.
            split = columns.reshape(self.count, -1, *columns.shape[1:])
            return np.moveaxis(split, 1, 0)
        return columns.reshape(-1, self.count, *columns.shape[1:])

    def first_spans(self, weights: Mapping[int, Reals]) -> Reals:
        import numpy as np

        if self.activations is not None:
            return self.activations / self.factors
        rows = self.first_rows(weights)
        spans: Reals = np.abs(rows.reshape(self.count, -1)).max(axis=1)
        return spans

    def apply(self, weights: dict[int, Reals]) -> float:
        """One round; the largest change of a factor, as a share."""
        import numpy as np

        first = self.first_spans(weights)
        rows = self.second_rows(weights)
        axes = tuple(i for i in range(rows.ndim) if i != 1)
        second = np.abs(rows).max(axis=axes)
        alive = (first > _DEAD * first.max(initial=0)) & (second > _DEAD * second.max(initial=0))
        steps = np.ones(self.count)
        # s = sqrt(r1 r2) / r2, equation 11.
        steps[alive] = np.sqrt(first[alive] / second[alive])
        steps[alive] /= np.exp(np.log(steps[alive]).mean()) if self.activations is not None else 1
        total = np.clip(self.factors * steps, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
        steps, self.factors = total / self.factors, total
        shape = (self.count, *[1] * (self.first_rows(weights).ndim - 1))
        self.first_rows(weights)[...] /= steps.reshape(shape)
        shape = (1, self.count, *[1] * (rows.ndim - 2))
        rows *= steps.reshape(shape)
        return float(np.abs(steps - 1).max(initial=0.0))


def _spread(spans: Reals) -> float:
    import numpy as np

    alive = spans[spans > _DEAD * spans.max(initial=0)]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0
