"""Which channels of a Keras graph belong together, and the graph without some of them.

Every channel of every tensor gets a number; layers pass numbers on (pooling), make new ones (a
convolution's outputs), put them side by side (concatenation) or declare two the same (an
addition). What ends up the same must be removed together, in every layer that makes or reads
it: kernels, biases, normalisations, depthwise filters, rows of a dense layer behind a flatten.
The idea of dependency groups is that of Fang et al., "DepGraph: Towards Any Structural Pruning"
(arXiv:2301.12900, 2023), here down to the single channel, so that concatenations need no
special case.

Channels that cannot go say why: they are inputs or outputs of the model, or an operation reads
them whose effect on channels is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.compress.keras_graph import Call, KerasGraph, Part, copy_of, rebuild

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Layers that make new channels: the axes of inputs and outputs in their kernel.
_KERNELS = {
    "Conv1D": (-2, -1), "Conv2D": (-2, -1), "Conv3D": (-2, -1), "Dense": (-2, -1),
    "Conv1DTranspose": (-1, -2), "Conv2DTranspose": (-1, -2),
}  # fmt: skip
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
#: Layers that work on each channel by itself and leave their number and order alone.
_CHANNELWISE = {
    "ReLU", "LeakyReLU", "ELU", "PReLU", "Dropout", "SpatialDropout1D", "SpatialDropout2D",
    "GaussianNoise", "GaussianDropout", "AlphaDropout", "BatchNormalization", "Relu", "Relu6",
    "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "ZeroPadding1D",
    "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling1D", "UpSampling2D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D", "Identity", "ActivityRegularization", "HardSwish", "Silu", "Sigmoid",
    "Tanh", "HardSigmoid",
}  # fmt: skip
_ELEMENTWISE = {"Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average"}
#: Functions that Keras 2 wraps into layers, by name.
_WRAPPED = {
    "nn.relu": "Relu", "nn.relu6": "Relu6", "math.add": "Add", "__operators__.add": "Add",
    "math.multiply": "Multiply", "math.subtract": "Subtract", "math.maximum": "Maximum",
    "math.sigmoid": "Sigmoid", "math.tanh": "Tanh",
}  # fmt: skip
#: Activations that mix channels.
_MIXING = {"softmax", "log_softmax", "sparsemax", "glu"}


@dataclass(frozen=True)
class Site:
    """A layer that makes a channel, and the channel's place among the layer's outputs."""

    layer: str
    index: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that the same layers make, each of which can be removed by itself.

    ``classes`` are the numbers of :class:`Channels`; one class may be several channels (those
    that an addition joins).
    """

    layers: tuple[str, ...]
    classes: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.layers[0]


@dataclass(eq=False)
class Channels:
    """The channels of a graph; ``labels`` has the numbers of each tensor's last axis."""

    graph: KerasGraph
    labels: dict[int, NDArray[Any]] = field(default_factory=dict)
    #: numbers that a layer makes, by the layer's identity
    made: dict[int, NDArray[Any]] = field(default_factory=dict)
    _parents: list[int] = field(default_factory=list)
    _pinned: dict[int, str] = field(default_factory=dict)

    def fresh(self, count: int) -> NDArray[Any]:
        import numpy as np

        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, number: int) -> int:
        """The representative of a number's class."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def join(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self.find(a), self.find(b)
            if a != b:
                self._parents[max(a, b)] = min(a, b)
                reason = self._pinned.get(a) or self._pinned.get(b)
                if reason:
                    self._pinned[min(a, b)] = reason

    def pin(self, numbers: NDArray[Any] | None, reason: str) -> None:
        """Keeps channels from being removed."""
        if numbers is None:
            return
        for number in numbers.tolist():
            self._pinned.setdefault(self.find(number), reason)

    def reason(self, number: int) -> str | None:
        """Why a channel cannot be removed, or ``None`` if it can."""
        return self._pinned.get(self.find(number))

    def classes(self, tensor: int) -> NDArray[Any]:
        """The classes of a tensor's channels."""
        import numpy as np

        return np.array([self.find(n) for n in self.labels[tensor].tolist()], dtype=np.int64)

    def sites(self) -> dict[int, tuple[Site, ...]]:
        """Where each class is made, by class."""
        found: dict[int, list[Site]] = {}
        for layer in self.graph.layers():
            for index, number in enumerate(self.made.get(id(layer), [])):
                found.setdefault(self.find(int(number)), []).append(Site(layer.name, index))
        return {number: tuple(sites) for number, sites in found.items()}

    def groups(self) -> tuple[ChannelGroup, ...]:
        """The removable channels, grouped by the layers that make them."""
        found: dict[tuple[str, ...], list[int]] = {}
        for number, sites in self.sites().items():
            if self.reason(number) is None:
                makers = tuple(dict.fromkeys(site.layer for site in sites))
                found.setdefault(makers, []).append(number)
        return tuple(ChannelGroup(makers, tuple(numbers)) for makers, numbers in found.items())

    def kept_whole(self) -> dict[str, str]:
        """Layers that make channels of which none can go, with the reason."""
        reasons: dict[str, str] = {}
        for layer in self.graph.layers():
            numbers = self.made.get(id(layer))
            if numbers is None or type(layer).__name__ in _DEPTHWISE:
                continue
            found = [self.reason(int(number)) for number in numbers]
            if found and all(found):
                reasons[layer.name] = str(found[0])
        return reasons


def analyse(graph: KerasGraph) -> Channels:
    """Follows the channels through a graph."""
    channels = Channels(graph)
    for tensor in graph.inputs:
        numbers = _new_labels(channels, tensor)
        channels.pin(numbers, "it is the model's input")
    for call in graph.calls:
        _follow(channels, call)
    for tensor in graph.outputs:
        channels.pin(channels.labels.get(tensor), "it is the model's output")
    return channels


def _new_labels(channels: Channels, tensor: int) -> NDArray[Any] | None:
    shape = channels.graph.shapes[tensor]
    if len(shape) < 2 or shape[-1] is None:
        return None
    channels.labels[tensor] = channels.fresh(int(shape[-1]))
    return channels.labels[tensor]


def kind_of(call: Call) -> str:
    """A call's kind, with the functions that Keras 2 wraps under their Keras 3 names."""
    if call.kind in ("TFOpLambda", "SlicingOpLambda"):
        return _WRAPPED.get(str(call.layer.get_config().get("function")), call.kind)
    if call.kind == "Activation":
        name = getattr(call.layer.activation, "__name__", "")
        return "Softmax" if name in _MIXING else "ReLU"
    return call.kind


def _follow(channels: Channels, call: Call) -> None:
    kind = kind_of(call)
    shapes = channels.graph.shapes
    inputs = [channels.labels.get(tensor) for tensor in call.inputs]
    output = call.outputs[0]
    known = all(numbers is not None for numbers in inputs) and len(call.outputs) == 1
    first_format = getattr(call.layer, "data_format", "channels_last") == "channels_first"
    result: NDArray[Any] | None = None
    if known and not first_format:
        if kind in _KERNELS or kind in _SEPARABLE or kind == "Embedding":
            result = _made_by(channels, call, inputs)
            if _mixes(call):
                channels.pin(result, f"the activation of '{call.name}' needs all of them")
        elif kind in _DEPTHWISE:
            result = _depthwise(channels, call, inputs[0])
        elif kind in _CHANNELWISE:
            result = _channelwise(channels, call, inputs)
        elif kind in _ELEMENTWISE:
            result = _elementwise(channels, call, inputs)
        elif kind == "Concatenate":
            result = _concatenated(channels, call, inputs)
        elif kind in ("Flatten", "Reshape", "Permute"):
            result = _reshaped(channels, call, inputs[0])
    if result is not None:
        channels.labels[output] = result
        return
    reason = f"{call.kind} '{call.name}' reads or makes it"
    for numbers in inputs:
        channels.pin(numbers, reason)
    for tensor in call.outputs:
        if len(shapes[tensor]) >= 2 and shapes[tensor][-1] is not None:
            channels.pin(_new_labels(channels, tensor), reason)


def _mixes(call: Call) -> bool:
    """Whether a layer's own activation needs all channels at once."""
    activation = getattr(call.layer, "activation", None)
    return call.kind != "Activation" and getattr(activation, "__name__", "") in _MIXING


def _made_by(
    channels: Channels, call: Call, inputs: Sequence[NDArray[Any] | None]
) -> NDArray[Any] | None:
    layer = call.layer
    if getattr(layer, "groups", 1) != 1:
        return None
    # an operation that multiplies two activations is no layer with a kernel
    if len(inputs) != 1 or not hasattr(layer, "get_weights"):
        return None
    if call.kind == "Embedding":
        channels.pin(inputs[0], "it is an index")
    earlier = channels.graph.calls_of(layer)[0]
    if earlier is not call:
        # the kernel is the same: so must be the channels that it reads
        source = channels.labels[earlier.inputs[0]]
        if inputs[0] is None or len(inputs[0]) != len(source):
            return None
        channels.join(source, inputs[0])
        return channels.made[id(layer)]
    numbers = channels.fresh(int(channels.graph.shapes[call.outputs[0]][-1] or 0))
    channels.made[id(layer)] = numbers
    return numbers


def _depthwise(channels: Channels, call: Call, numbers: NDArray[Any] | None) -> NDArray[Any] | None:
    import numpy as np

    if numbers is None:
        return None
    result: NDArray[Any] = np.repeat(numbers, call.layer.depth_multiplier)
    earlier = channels.made.get(id(call.layer))
    if earlier is not None:
        if len(earlier) != len(result):
            return None
        channels.join(earlier, result)
    else:
        channels.made[id(call.layer)] = result
    return result


def _channelwise(
    channels: Channels, call: Call, inputs: Sequence[NDArray[Any] | None]
) -> NDArray[Any] | None:
    numbers = inputs[0]
    rank = len(channels.graph.shapes[call.inputs[0]])
    if len(inputs) != 1 or numbers is None:
        return None
    if call.kind == "BatchNormalization":
        axis = call.layer.axis
        axis = axis[0] if isinstance(axis, (list, tuple)) else axis
        if axis not in (-1, rank - 1):
            return None
    if len(numbers) != channels.graph.shapes[call.outputs[0]][-1]:
        return None
    if call.layer.get_weights() if hasattr(call.layer, "get_weights") else ():
        earlier = channels.graph.calls_of(call.layer)[0]
        if earlier is not call:
            channels.join(channels.labels[earlier.inputs[0]], numbers)
    return numbers


def _elementwise(
    channels: Channels, call: Call, inputs: Sequence[NDArray[Any] | None]
) -> NDArray[Any] | None:
    arrays = [numbers for numbers in inputs if numbers is not None]
    if len(arrays) == 1 and call.kind not in _ELEMENTWISE:
        # a function of one tensor and a constant, which is a number for all channels or a
        # vector that would have to be cut
        return arrays[0] if _scalars_only(call) else None
    widest = max(arrays, key=len)
    for numbers in arrays:
        if len(numbers) == len(widest):
            channels.join(widest, numbers)
        elif len(numbers) != 1:
            return None
        else:
            channels.pin(numbers, f"{call.kind} '{call.name}' spreads it over all channels")
    if len(arrays) == 1 and not _scalars_only(call):
        return None
    return widest


def _scalars_only(call: Call) -> bool:
    import numpy as np

    args, kwargs = call.arguments
    values = [*args, *(v for k, v in kwargs.items() if k != "name")]
    return all(type(v).__name__ == "Slot" or v is None or np.ndim(v) == 0 for v in values)


def _concatenated(
    channels: Channels, call: Call, inputs: Sequence[NDArray[Any] | None]
) -> NDArray[Any] | None:
    import numpy as np

    arrays = [numbers for numbers in inputs if numbers is not None]
    rank = len(channels.graph.shapes[call.outputs[0]])
    axis = getattr(call.layer, "axis", None)
    if axis is None:
        return None
    if axis in (-1, rank - 1):
        joined: NDArray[Any] = np.concatenate(arrays)
        return joined
    for numbers in arrays[1:]:
        if len(numbers) != len(arrays[0]):
            return None
        channels.join(arrays[0], numbers)
    return arrays[0]


def _reshaped(channels: Channels, call: Call, numbers: NDArray[Any] | None) -> NDArray[Any] | None:
    """Labels behind a rearrangement, where the last axis still has one number per place."""
    import numpy as np

    shape = channels.graph.shapes[call.inputs[0]][1:]
    target = channels.graph.shapes[call.outputs[0]][1:]
    if numbers is None or None in shape or None in target or not target:
        return None
    dims = tuple(int(d or 0) for d in shape)
    whole = np.broadcast_to(numbers, dims)
    if call.kind == "Permute":
        whole = whole.transpose([int(d) - 1 for d in call.layer.dims])
    rows = whole.reshape(-1, int(target[-1] or 0))
    if (rows != rows[:1]).any():
        return None
    row: NDArray[Any] = rows[0]
    return row


# -- what goes -----------------------------------------------------------------------------


def removed(channels: Channels, classes: Collection[int]) -> Any:
    """The model without some classes of channels, weights cut to fit; not trained further.

    Args:
        channels: what :func:`analyse` found.
        classes: numbers of removable classes (see :meth:`Channels.groups`).

    Raises:
        ModelError: the cut layers do not fit each other.
        ValueError: a class cannot be removed, or a layer would lose all its channels.
    """
    import numpy as np

    gone = {channels.find(number) for number in classes}
    for number in gone:
        reason = channels.reason(number)
        if reason is not None:
            raise ValueError(f"channel class {number} cannot be removed: {reason}")

    def kept(numbers: NDArray[Any]) -> NDArray[Any]:
        stays = [i for i, n in enumerate(numbers.tolist()) if channels.find(n) not in gone]
        if not stays:
            raise ValueError("a layer would lose all its channels")
        return np.array(stays, dtype=np.int64)

    def replace(layer: Any) -> list[Part] | None:
        call = channels.graph.calls_of(layer)[0]
        source = channels.labels.get(call.inputs[0]) if call.inputs else None
        result = channels.labels.get(call.outputs[0])
        if source is None or result is None or len(call.inputs) != 1:
            return None
        into, out = kept(source), kept(result)
        if len(into) == len(source) and len(out) == len(result):
            return None
        return [_cut(call, into, out)]

    return rebuild(channels.graph, replace)


def _cut(call: Call, into: NDArray[Any], out: NDArray[Any]) -> Part:
    """A layer with only some inputs and outputs."""
    import numpy as np

    layer, kind = call.layer, call.kind
    weights = list(layer.get_weights())
    changes: dict[str, Any] = {}
    if kind in _KERNELS:
        source, result = _KERNELS[kind]
        kernel = np.take(np.take(weights[0], into, axis=source), out, axis=result)
        weights = [kernel, *(bias[out] for bias in weights[1:])]
        changes["units" if kind == "Dense" else "filters"] = len(out)
    elif kind in _SEPARABLE:
        multiplier = layer.depth_multiplier
        inner = (into[:, None] * multiplier + np.arange(multiplier)).reshape(-1)
        pointwise = np.take(np.take(weights[1], inner, axis=-2), out, axis=-1)
        weights = [np.take(weights[0], into, axis=-2), pointwise, *(b[out] for b in weights[2:])]
        changes["filters"] = len(out)
    elif kind in _DEPTHWISE:
        weights = [np.take(weights[0], into, axis=-2), *(bias[out] for bias in weights[1:])]
    elif kind == "Embedding":
        weights = [weights[0][:, out]]
        changes["output_dim"] = len(out)
    elif kind == "Reshape":
        target = list(layer.target_shape)
        target[-1] = len(out)
        changes["target_shape"] = tuple(target)
    elif weights:  # normalisations and PReLU: vectors over channels, or maps that end in them
        weights = [w[..., into] if w.shape[-1] > 1 or len(into) == 1 else w for w in weights]
    return Part(copy_of(layer, **changes), weights)


def multiplications(channels: Channels) -> dict[int, float]:
    """Multiply-accumulates of one inference that go with a class, made and read."""
    found: dict[int, float] = {}
    graph = channels.graph

    def add(numbers: NDArray[Any], each: float) -> None:
        for number in numbers.tolist():
            root = channels.find(number)
            found[root] = found.get(root, 0.0) + each

    for call in graph.calls:
        if call.kind not in (*_KERNELS, *_SEPARABLE, *_DEPTHWISE) or len(call.inputs) != 1:
            continue
        shapes = [graph.shapes[t] for t in (call.outputs[0], call.inputs[0])]
        transposed = call.kind.endswith("Transpose")
        places = math.prod(int(d or 1) for d in shapes[1 if transposed else 0][1:-1])
        # a kernel's weights are each used once at every place
        kernels = call.layer.get_weights()
        size = sum(w.size for w in kernels if w.ndim >= 2) * places
        source, result = (channels.labels.get(t) for t in (call.inputs[0], call.outputs[0]))
        if result is not None:
            add(result, size / len(result))
        if source is not None and call.kind not in _DEPTHWISE:
            add(source, size / len(source))
    return found


# -- how much a channel matters ------------------------------------------------------------


def magnitudes(channels: Channels) -> dict[int, float]:
    """Norm of the filters that make a class, each relative to its layer's root mean square.

    A batch normalisation behind a filter counts as part of it (its factor is folded in).
    Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710 (2017).
    """
    import numpy as np

    sums: dict[int, list[float]] = {}
    for layer in channels.graph.layers():
        numbers = channels.made.get(id(layer))
        if numbers is None:
            continue
        norms = filter_norms(channels.graph, layer) * _factor(channels.graph, layer)
        mean = float(np.sqrt((norms**2).mean())) or 1.0
        for number, norm in zip(numbers.tolist(), (norms / mean).tolist(), strict=True):
            sums.setdefault(channels.find(number), []).append(norm)
    return {number: float(np.mean(values)) for number, values in sums.items()}


def filter_norms(graph: KerasGraph, layer: Any) -> NDArray[Any]:
    """Euclidean norm of each output channel's weights, bias left out: ``[outputs]``."""
    import numpy as np

    weights = layer.get_weights()
    kind = type(layer).__name__
    if kind in _DEPTHWISE:
        kernel = weights[0].reshape(-1, weights[0].shape[-2] * weights[0].shape[-1])
    elif kind in _SEPARABLE:
        kernel = weights[1].reshape(-1, weights[1].shape[-1])
    else:
        axis = _KERNELS.get(kind, (-2, -1))[1]
        kernel = np.moveaxis(weights[0], axis, -1).reshape(-1, weights[0].shape[axis])
    norms: NDArray[Any] = np.sqrt((kernel.astype(np.float64) ** 2).sum(axis=0))
    return norms


def _factor(graph: KerasGraph, layer: Any) -> Any:
    """What a batch normalisation right behind a layer multiplies its channels by."""
    import numpy as np

    consumers = graph.consumers(graph.calls_of(layer)[0].outputs[0])
    if len(consumers) != 1 or consumers[0].kind != "BatchNormalization":
        return 1.0
    norm = consumers[0].layer
    weights = norm.get_weights()
    gamma = weights[0] if norm.scale else 1.0
    return np.abs(gamma) / np.sqrt(weights[-1] + norm.epsilon)


def saliencies(channels: Channels, products: Callable[[Any], NDArray[Any]]) -> dict[int, float]:
    """First-order estimate of what removing a class does to the loss.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771
    (2019), eq. 8: the square of the sum of gradient times value over a filter's parameters,
    averaged over batches; here its root.

    Args:
        channels: what :func:`analyse` found.
        products: gives a layer's sums of gradient times value per output channel,
            ``[batches, outputs]``.
    """
    totals: dict[int, Any] = {}
    for layer in channels.graph.layers():
        numbers = channels.made.get(id(layer))
        if numbers is None:
            continue
        found = products(layer)
        for place, number in enumerate(numbers.tolist()):
            root = channels.find(number)
            totals[root] = totals.get(root, 0.0) + found[:, place]
    return {number: float((values**2).mean() ** 0.5) for number, values in totals.items()}
