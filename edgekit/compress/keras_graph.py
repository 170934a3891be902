"""A functional Keras model as a list of calls, and the model made anew with other layers.

Both Keras generations keep the graph behind a model in nodes, each in its own form. Here it is
one form for both, with nested models laid open, so that techniques that change the structure
(channel pruning, factorisation, smaller images) are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer (or of a Keras 3 operation without a layer).

    ``inputs`` and ``outputs`` are indices into ``KerasGraph.shapes``. ``arguments`` holds the
    call's positional and named arguments with :class:`Slot` where a tensor was.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    @property
    def kind(self) -> str:
        """The layer's class name, such as ``Conv2D``."""
        return type(self.layer).__name__

    @property
    def name(self) -> str:
        return str(self.layer.name)


@dataclass(frozen=True)
class Slot:
    """The place of a tensor among the arguments of a call."""

    tensor: int


@dataclass(frozen=True, eq=False)
class KerasGraph:
    """A model's calls in an order in which they can be executed.

    ``shapes`` has one shape per tensor, ``None`` where a dimension is open (the batch).
    """

    keras: Any
    model: Any
    calls: tuple[Call, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def layers(self) -> tuple[Any, ...]:
        """Every layer once, in the order of its first call."""
        return tuple({id(call.layer): call.layer for call in self.calls}.values())

    def calls_of(self, layer: Any) -> tuple[Call, ...]:
        return tuple(call for call in self.calls if call.layer is layer)

    def consumers(self, tensor: int) -> tuple[Call, ...]:
        return tuple(call for call in self.calls if tensor in call.inputs)

    def producer(self, tensor: int) -> Call | None:
        return next((call for call in self.calls if tensor in call.outputs), None)


def read_graph(keras: Any, model: Any) -> KerasGraph:
    """The graph of a functional or sequential model of either Keras generation.

    Args:
        keras: the module (``keras`` or ``tf_keras``) that the model belongs to.
        model: the model.

    Raises:
        ModelError: the model has no graph (it is subclassed, or was never built).
    """
    reader = _Reader(keras)
    top = functional(model)
    if top is None:
        raise ModelError(
            f"the model '{getattr(model, 'name', '')}' has no graph of layers: it is a subclassed "
            "model, or was never built",
            fix="build it with the functional API; only its float graph can be compressed "
            "otherwise (export it as a SavedModel)",
        )
    inputs = [reader.add(tensor) for tensor in flat(top.inputs)]
    outputs = reader.expand(top, inputs)
    return KerasGraph(
        keras, model, tuple(reader.calls), tuple(reader.shapes), tuple(inputs), tuple(outputs)
    )


class _Reader:
    def __init__(self, keras: Any) -> None:
        self.keras = keras
        self.calls: list[Call] = []
        self.shapes: list[tuple[int | None, ...]] = []

    def add(self, tensor: Any) -> int:
        self.shapes.append(tuple(None if d is None else int(d) for d in tensor.shape))
        return len(self.shapes) - 1

    def expand(self, model: Any, inputs: Sequence[int]) -> list[int]:
        """Appends a model's calls; ``inputs`` are the tensors that it is called on."""
        known = {id(t): i for t, i in zip(flat(model.inputs), inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                layer = getattr(node, "operation", None) or getattr(node, "layer", None)
                if type(layer).__name__ == "InputLayer":
                    continue
                self._call(layer, node, known)
        return [known[id(tensor)] for tensor in flat(model.outputs)]

    def _call(self, layer: Any, node: Any, known: dict[int, int]) -> None:
        if hasattr(node, "arguments"):  # Keras 3
            args, kwargs = node.arguments.args, node.arguments.kwargs
            results = flat(node.output_tensors)
        else:
            args, kwargs = node.call_args, node.call_kwargs
            results = flat(node.outputs)
        tensors: list[int] = []

        def slot(value: Any) -> Any:
            if id(value) in known and hasattr(value, "shape"):
                tensors.append(known[id(value)])
                return Slot(known[id(value)])
            return value

        arguments = (
            tuple(_mapped(value, slot) for value in args),
            {
                key: _mapped(value, slot)
                for key, value in kwargs.items()
                # a mask is found anew where a model is rebuilt
                if not (key == "mask" and value is None) and key != "training"
            },
        )
        inner = functional(layer)
        if inner is not None:
            outputs = self.expand(inner, tensors)
        else:
            outputs = [self.add(tensor) for tensor in results]
            self.calls.append(Call(layer, tuple(tensors), tuple(outputs), arguments))
        known.update({id(t): i for t, i in zip(results, outputs, strict=True)})


def functional(layer: Any) -> Any:
    """The functional model that a layer is, or ``None``."""
    # a Sequential of Keras 3 keeps a functional model inside
    inner = getattr(layer, "_functional", None)
    if inner is not None:
        return inner
    return layer if getattr(layer, "_nodes_by_depth", None) else None


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [item for key in sorted(value) for item in flat(value[key])]
    if isinstance(value, (list, tuple)):
        return [item for entry in value for item in flat(entry)]
    return [value]


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "shape"):
        return type(value)(_mapped(item, function) for item in value)
    return function(value)


@dataclass(frozen=True)
class Part:
    """A new layer with its weights (``None``: those of the layer it replaces)."""

    layer: Any
    weights: Sequence[NDArray[Any]] | None = None


def copy_of(layer: Any, **changes: Any) -> Any:
    """A new, unbuilt layer with the same configuration except for ``changes``."""
    config = dict(layer.get_config())
    config.update(changes)
    # what Keras 3 recorded of the old layer's input would be taken for the new one's
    config.pop("build_config", None)
    return type(layer).from_config(config)


def rebuild(
    graph: KerasGraph,
    replace: Callable[[Any], Sequence[Part] | None] = lambda layer: None,
    *,
    input_shapes: Mapping[int, tuple[int, ...]] | None = None,
    share_layers: bool = False,
    outputs: Sequence[int] | None = None,
) -> Any:
    """The model with some layers replaced, as a new model; the old one is left as it is.

    Args:
        graph: what :func:`read_graph` made of the model.
        replace: gives the parts that take a layer's place, one behind the other, or ``None``
            to copy the layer. It is asked once per layer, however often the layer is called.
        input_shapes: new shapes (without the batch) of inputs, by their place.
        share_layers: use the old layers themselves, with their weights, where they are not
            replaced: both models then train together.
        outputs: tensors of ``graph`` to be the new model's outputs, instead of the old ones.

    Raises:
        ModelError: the layers do not fit each other.
    """
    keras = graph.keras
    made: dict[int, list[Part]] = {}
    tensors: dict[int, Any] = {}
    template = flat(functional(graph.model).inputs)
    inputs = []
    for place, tensor in enumerate(graph.inputs):
        shape = (input_shapes or {}).get(place, graph.shapes[tensor][1:])
        old = template[place]
        name = str(old.name).partition(":")[0]
        dtype = old.dtype if isinstance(old.dtype, str) else old.dtype.name
        tensors[tensor] = keras.Input(shape, dtype=dtype, name=name)
        inputs.append(tensors[tensor])
    for call in graph.calls:
        key = id(call.layer)
        if key not in made:
            made[key] = _parts(call.layer, replace, share_layers)
        try:
            results = _apply(call, made[key], tensors)
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the changed model cannot be built: {type(error).__name__}: {text}",
                f"layer '{call.name}' ({call.kind})",
            ) from None
        tensors.update(zip(call.outputs, flat(results), strict=True))
    wanted = [tensors[i] for i in (graph.outputs if outputs is None else outputs)]
    model = keras.Model(
        inputs if len(inputs) > 1 else inputs[0],
        wanted if len(wanted) > 1 else wanted[0],
        name=graph.model.name,
    )
    for key, parts in made.items():
        old = next(call.layer for call in graph.calls if id(call.layer) == key)
        for part in parts:
            if part.layer is old:
                continue
            weights = old.get_weights() if part.weights is None else list(part.weights)
            if weights or part.layer.get_weights():
                part.layer.set_weights(weights)
    return model


def _parts(layer: Any, replace: Callable[[Any], Sequence[Part] | None], share: bool) -> list[Part]:
    parts = replace(layer) if hasattr(layer, "get_weights") else None
    if parts is not None:
        return list(parts)
    if share or not hasattr(layer, "get_weights"):  # an operation has no state to copy
        return [Part(layer)]
    return [Part(copy_of(layer))]


def _apply(call: Call, parts: Sequence[Part], tensors: Mapping[int, Any]) -> Any:
    def fill(value: Any) -> Any:
        return tensors[value.tensor] if isinstance(value, Slot) else value

    args, kwargs = call.arguments
    result: Any = None
    for position, part in enumerate(parts):
        if position == 0:
            result = part.layer(
                *(_mapped(value, fill) for value in args),
                **{key: _mapped(value, fill) for key, value in kwargs.items()},
            )
        else:
            result = part.layer(result)
    if not parts:  # the layer is left out
        return tensors[call.inputs[0]]
    return result
