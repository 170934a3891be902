"""What the trainer trains: variables and a forward pass, whatever is behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.compress import keras_graph
from edgekit.compress.channels import kind_of
from edgekit.compress.keras_graph import KerasGraph, Part, copy_of, rebuild
from edgekit.errors import ModelError

if TYPE_CHECKING:
    from edgekit.compress.task import Head


class Trainable(Protocol):
    """A model as the trainer sees it.

    ``trainable`` are the variables that gradients change; ``state`` is everything that a
    checkpoint must hold, ``trainable`` included, always in the same order.
    """

    @property
    def trainable(self) -> Sequence[Any]: ...

    @property
    def state(self) -> Sequence[Any]: ...

    def __call__(self, inputs: Sequence[Any], training: bool) -> list[Any]:
        """The outputs (and then features, if some were asked for) of a batch."""
        ...

    def penalties(self) -> list[Any]:
        """Regularisation losses of the last call."""
        ...

    def on_epoch(self, epoch: int) -> None:
        """Called before each epoch, which may change what is trained."""
        ...


class KerasTrainable:
    """A Keras model of either generation.

    Args:
        graph: the model's graph.
        features: tensors of the graph that the forward pass returns behind the outputs.
        seed: what the random layers (dropout) are seeded with.
    """

    def __init__(self, graph: KerasGraph, features: Sequence[int] = (), seed: int = 0) -> None:
        self.graph = graph
        self.model = graph.model
        self._features = tuple(features)
        self._forward = graph.model
        if features:
            wanted = [*graph.outputs, *features]
            self._forward = rebuild(graph, share_layers=True, outputs=wanted)
        self._generators = _random_states(graph)
        for place, variable in enumerate(self._generators):
            variable.assign(_seeded(variable, seed, place))

    @property
    def trainable(self) -> list[Any]:
        return [as_variable(v) for v in self.model.trainable_variables]

    @property
    def state(self) -> list[Any]:
        weights = [as_variable(v) for v in self.model.weights]
        return [*weights, *self._generators]

    def __call__(self, inputs: Sequence[Any], training: bool) -> list[Any]:
        import tensorflow as tf

        given = list(inputs)
        result = self._forward(given if len(given) > 1 else given[0], training=training)
        return tf.nest.flatten(result)  # type: ignore[no-any-return]

    def penalties(self) -> list[Any]:
        return list(self.model.losses)

    def on_epoch(self, epoch: int) -> None:
        pass

    def at_size(self, height: int, width: int) -> KerasTrainable:
        """The same layers on smaller or larger images; the weights are shared.

        Raises:
            ModelError: the layers do not take this size.
        """
        graph = self.graph
        shapes = [graph.shapes[tensor][1:] for tensor in graph.inputs]
        if len(shapes) != 1 or len(shapes[0]) != 3:
            raise ModelError("only models with one image as input can change their size")
        resized = rebuild(
            graph,
            lambda layer: _global_window(graph, layer),
            input_shapes={0: (height, width, int(shapes[0][2] or 1))},
            share_layers=True,
        )
        before = [graph.shapes[tensor][1:] for tensor in graph.outputs]
        after = [tuple(tensor.shape)[1:] for tensor in keras_graph.flat(resized.outputs)]
        if before != after:
            raise ModelError(f"on images of {height}x{width} the outputs would be {after}")
        return _Resized(self, resized)


class _Resized(KerasTrainable):
    def __init__(self, original: KerasTrainable, forward: Any) -> None:
        self.graph = original.graph
        self.model = original.model
        self._features = ()
        self._forward = forward
        self._generators = original._generators


def _global_window(graph: KerasGraph, layer: Any) -> list[Part] | None:
    """A pooling layer over its whole input, for whatever size that is."""
    kind = type(layer).__name__
    if kind not in ("AveragePooling2D", "MaxPooling2D"):
        return None
    call = graph.calls_of(layer)[0]
    if tuple(layer.pool_size) != graph.shapes[call.inputs[0]][1:3]:
        return None
    pooled = getattr(graph.keras.layers, f"Global{kind}")
    return [Part(pooled(keepdims=True, name=layer.name))]


def as_variable(variable: Any) -> Any:
    """The TensorFlow variable behind a variable of either Keras generation."""
    import tensorflow as tf

    return variable if isinstance(variable, tf.Variable) else variable.value


def _random_states(graph: KerasGraph) -> list[Any]:
    """States of the generators of random layers, in the order of the layers."""
    found = []
    for layer in graph.layers():
        inner = getattr(layer, "_flatten_layers", None)
        for sublayer in inner() if inner is not None else (layer,):
            generator = getattr(sublayer, "seed_generator", None)  # Keras 3
            if generator is not None:
                found.append(as_variable(generator.state))
            old = getattr(sublayer, "_random_generator", None)  # Keras 2
            if old is not None:
                old._maybe_init()
                if getattr(old, "_generator", None) is not None:
                    found.append(old._generator.state)
    return found


def _seeded(variable: Any, seed: int, place: int) -> Any:
    """A state that follows from a seed, in the generator's own form."""
    import numpy as np

    stream = np.random.default_rng([seed, place, 77])
    shape = tuple(variable.shape)
    return stream.integers(1, 2**31 - 1, shape).astype(variable.dtype.as_numpy_dtype)


def find_head(graph: KerasGraph) -> Head:
    """The activation that makes the model's (only) output."""
    tensor = graph.outputs[0]
    while True:
        call = graph.producer(tensor)
        if call is None:
            return "linear"
        activation = getattr(getattr(call.layer, "activation", None), "__name__", "")
        if call.kind in ("Softmax", "Sigmoid"):
            activation = call.kind.lower()
        if activation == "softmax":
            return "softmax"
        if activation == "sigmoid":
            return "sigmoid"
        if kind_of(call) in ("Flatten", "Reshape", "Identity", "Dropout") and not activation:
            tensor = call.inputs[0]
            continue
        return "linear"


def without_training_state(graph: KerasGraph) -> Any:
    """The model as a new one with the same weights: what was attached in training stays behind."""
    return rebuild(graph, lambda layer: [Part(copy_of(layer))])
