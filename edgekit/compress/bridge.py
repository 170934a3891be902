"""Keras 3 models as Keras 2 models: for TensorFlow's toolkit, which knows no other.

Both generations have the same layers with nearly the same settings. What a layer was initialised
with does not matter, since its weights are carried over; regularisers that are only numbers are
carried over as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.compress.keras_graph import Call, KerasGraph, Slot, flat, functional, read_graph
from edgekit.convert import frameworks
from edgekit.errors import ModelError

#: Settings that only one of the generations has, or that weights make pointless.
_DROPPED = (
    "dtype", "build_config", "autocast", "quantization_config", "renorm", "renorm_clipping",
    "renorm_momentum", "synchronized", "lora_rank", "lora_alpha", "flash_attention",
    "zero_output_for_mask",
)  # fmt: skip
#: Activations by whose names Keras 2 means another function, or none.
_OTHER_FUNCTIONS = {"hard_sigmoid", "hard_silu", "hard_swish", "leaky_relu"}
_MERGED = {"Add": "Add", "Multiply": "Multiply", "Subtract": "Subtract", "Maximum": "Maximum"}


def to_keras2(graph: KerasGraph) -> KerasGraph:
    """The model in Keras 2, with the same weights; one of Keras 2 is given back as it is.

    Raises:
        ModelError: a layer has no counterpart, or refuses the settings.
    """
    if graph.keras.__name__ != "keras":
        return graph
    keras = frameworks.keras2()
    made: dict[int, Any] = {}
    tensors: dict[int, Any] = {}
    inputs = []
    for old, tensor in zip(flat(functional(graph.model).inputs), graph.inputs, strict=True):
        tensors[tensor] = keras.Input(
            graph.shapes[tensor][1:], dtype=str(old.dtype), name=str(old.name)
        )
        inputs.append(tensors[tensor])
    for call in graph.calls:
        layer = made.get(id(call.layer))
        if layer is None:
            layer = made[id(call.layer)] = _counterpart(keras, call)
        tensors.update(zip(call.outputs, flat(layer(_arguments(call, tensors))), strict=True))
    outputs = [tensors[tensor] for tensor in graph.outputs]
    model = keras.Model(
        inputs if len(inputs) > 1 else inputs[0],
        outputs if len(outputs) > 1 else outputs[0],
        name=graph.model.name,
    )
    for layer in graph.layers():
        if hasattr(layer, "get_weights") and layer.weights:
            made[id(layer)].set_weights(layer.get_weights())
    return read_graph(keras, model)


def _arguments(call: Call, tensors: Mapping[int, Any]) -> Any:
    """What the layer is called on: a tensor, or a list of tensors."""
    args, kwargs = call.arguments
    if any(isinstance(value, Slot) for value in kwargs.values()) or len(args) > 1:
        values = [v for v in (*args, *kwargs.values()) if isinstance(v, Slot)]
        if len(values) != len(call.inputs) or type(call.layer).__name__ not in _MERGED:
            raise ModelError(
                f"{call.kind} '{call.name}' is called in a way that Keras 2 does not know"
            )
        return [tensors[value.tensor] for value in values]
    if isinstance(args[0], Slot):
        return tensors[args[0].tensor]
    return [tensors[value.tensor] for value in args[0]]


def _counterpart(keras: Any, call: Call) -> Any:
    kind = getattr(keras.layers, _MERGED.get(call.kind, call.kind), None)
    if kind is None or not hasattr(call.layer, "get_config"):
        raise ModelError(f"{call.kind} '{call.name}' has no counterpart in Keras 2")
    if not hasattr(call.layer, "get_weights"):  # an operation without a layer
        return kind(name=call.name)
    config = {
        key: _plain(value, call)
        for key, value in call.layer.get_config().items()
        if key not in _DROPPED and not key.endswith(("_initializer", "_constraint"))
    }
    if call.kind == "LeakyReLU":
        config["alpha"] = config.pop("negative_slope")
    try:
        return kind.from_config(config)
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"Keras 2 does not take {call.kind} '{call.name}': {text}") from None


def _same_function(name: str, call: Call) -> str:
    if name in _OTHER_FUNCTIONS:
        raise ModelError(
            f"{call.kind} '{call.name}' uses {name}, which is another function in Keras 2"
        )
    return name


def _plain(value: Any, call: Call) -> Any:
    """A setting without Keras 3's way of naming classes."""
    if isinstance(value, str) and value in _OTHER_FUNCTIONS:
        return _same_function(value, call)
    if not (isinstance(value, dict) and "class_name" in value):
        return value
    inner = value.get("config")
    if value["class_name"] in ("L1", "L2", "L1L2") and isinstance(inner, dict):
        return {"class_name": value["class_name"], "config": inner}
    if value["class_name"] == "function" and isinstance(inner, str):
        return _same_function(inner, call)
    raise ModelError(
        f"{call.kind} '{call.name}' uses {value['class_name']}, which is not carried to Keras 2"
    )
