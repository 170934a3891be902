"""A float ``.tflite`` graph as a Keras model that can be trained.

SavedModels and ``.tflite`` files hold no Keras model, so there would be nothing to prune or to
fine-tune. Their graphs are made of few operators, though, each of which is a Keras layer. Batch
normalisations are folded into the convolutions by then: training goes on without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.convert import frameworks
from edgekit.errors import ModelError

if TYPE_CHECKING:
    from edgekit.graph import Model, Op, Tensor

_ACTIVATIONS = {"NONE": None, "RELU": "relu", "RELU6": "relu6", "TANH": "tanh"}


def lift(model: Model) -> tuple[Any, Any]:
    """The model in Keras 3: the ``keras`` module and a functional model with equal outputs.

    Raises:
        ModelError: the model is not float, or an operator has no Keras layer here.
    """
    keras = frameworks.keras3()
    return keras, _Lifter(keras, model).model()


class _Lifter:
    def __init__(self, keras: Any, model: Model) -> None:
        self.keras, self.graph = keras, model
        self.names: set[str] = set()
        self.values: dict[int, Any] = {}
        #: weights to set once the model is built
        self.weights: list[tuple[Any, list[Any]]] = []

    def model(self) -> Any:
        inputs = []
        for tensor in self.graph.input_tensors:
            if not tensor.dtype.startswith("float"):
                raise ModelError(
                    f"the input '{tensor.name}' is {tensor.dtype}: a quantised model cannot be "
                    "trained",
                    self.graph.name,
                    "the float model that it was made from",
                )
            value = self.keras.Input(tensor.shape[1:], name=self._name(tensor.name))
            self.values[tensor.index] = value
            inputs.append(value)
        for op in self.graph.ops:
            if op.kind == "DEQUANTIZE" and self.tensor(op.inputs[0]).is_constant:
                continue
            lifted = _OPERATORS.get(op.kind)
            if lifted is None:
                raise self._refused(op, "has no Keras layer here")
            self.values[op.outputs[0]] = lifted(self, op)
        outputs = [self.values[index] for index in self.graph.outputs]
        model = self.keras.Model(
            inputs if len(inputs) > 1 else inputs[0],
            outputs if len(outputs) > 1 else outputs[0],
            name=_identifier(self.graph.name),
        )
        for layer, weights in self.weights:
            layer.set_weights(weights)
        return model

    def _name(self, text: str) -> str:
        """A layer's name that no other layer has."""
        base = _identifier(text.partition(";")[0])
        name, number = base, 1
        while name in self.names:
            name, number = f"{base}_{number}", number + 1
        self.names.add(name)
        return name

    def _refused(self, op: Op, why: str) -> ModelError:
        return ModelError(
            f"{op.kind} {why}, so that this graph cannot be trained",
            f"operator {op.index}",
            "the .keras or .h5 file of the model, if there is one",
        )

    def tensor(self, index: int) -> Tensor:
        return self.graph.tensors[index]

    def layer(
        self, op: Op, kind: str, inputs: Any, weights: list[Any] | None = None, **settings: Any
    ) -> Any:
        """A Keras layer in the place of an operator, its fused activation behind it."""
        name = self._name(self.tensor(op.outputs[0]).name)
        layer = getattr(self.keras.layers, kind)(name=name, **settings)
        value = layer(inputs)
        if weights is not None:
            self.weights.append((layer, weights))
        return self.activated(op, value)

    def activated(self, op: Op, value: Any) -> Any:
        fused = str(op.options.get("fused_activation_function", "NONE"))
        if fused not in _ACTIVATIONS:
            raise self._refused(op, f"with the activation {fused} has no Keras layer here")
        if fused == "NONE":
            return value
        name = self._name(f"{self.tensor(op.outputs[0]).name}_{fused.lower()}")
        if fused == "TANH":
            return self.keras.layers.Activation("tanh", name=name)(value)
        most = 6.0 if fused == "RELU6" else None
        return self.keras.layers.ReLU(most, name=name)(value)

    def value(self, op: Op, place: int) -> Any:
        index = op.inputs[place]
        if index not in self.values:
            raise self._refused(op, "with a constant operand has no Keras layer here")
        return self.values[index]

    def constant(self, op: Op, place: int) -> Any:
        """A constant operand as an array, ``None`` where it is absent."""
        if place >= len(op.inputs) or op.inputs[place] < 0:
            return None
        found = self.tensor(op.inputs[place])
        producer = self.graph.main.producer(found.index)
        if producer is not None and producer.kind == "DEQUANTIZE":  # float16 weights
            found = self.tensor(producer.inputs[0])
        if not found.is_constant:
            raise self._refused(op, f"with a computed operand {place} has no Keras layer here")
        if found.dtype in ("int8", "float16"):  # the weights alone were made smaller
            return _real(found)
        return found.data()


def _real(tensor: Tensor) -> Any:
    """A constant of a smaller type as float32."""
    import numpy as np

    values = tensor.data().astype(np.float32)
    if tensor.quantization is None:
        return values
    shape = [1] * values.ndim
    shape[tensor.quantization.axis if tensor.quantization.per_channel else 0] = -1
    zero_points = np.array(tensor.quantization.zero_points or (0,), np.float32)
    scales = np.array(tensor.quantization.scales, np.float32)
    return (values - zero_points.reshape(shape)) * scales.reshape(shape)


def _identifier(text: str) -> str:
    import re

    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_.") or "layer"


def _padding(op: Op) -> str:
    return str(op.options["padding"]).lower()


def _convolution(lifter: _Lifter, op: Op) -> Any:
    kernel, bias = lifter.constant(op, 1), lifter.constant(op, 2)
    options = op.options
    weights = [kernel.transpose(1, 2, 3, 0)]  # OHWI -> HWIO
    return lifter.layer(
        op, "Conv2D", lifter.value(op, 0), weights if bias is None else [*weights, bias],
        filters=kernel.shape[0], kernel_size=kernel.shape[1:3],
        strides=(options["stride_h"], options["stride_w"]), padding=_padding(op),
        dilation_rate=(options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1)),
        groups=lifter.tensor(op.inputs[0]).shape[-1] // kernel.shape[3], use_bias=bias is not None,
    )  # fmt: skip


def _depthwise(lifter: _Lifter, op: Op) -> Any:
    kernel, bias = lifter.constant(op, 1), lifter.constant(op, 2)
    options = op.options
    channels = lifter.tensor(op.inputs[0]).shape[-1]
    _, height, width, outputs = kernel.shape
    weights = [kernel.reshape(height, width, channels, outputs // channels)]
    if options["stride_h"] != options["stride_w"]:
        raise lifter._refused(op, "with different strides has no Keras layer here")
    return lifter.layer(
        op, "DepthwiseConv2D", lifter.value(op, 0), weights if bias is None else [*weights, bias],
        kernel_size=(height, width), strides=(options["stride_h"], options["stride_w"]),
        padding=_padding(op), depth_multiplier=outputs // channels, use_bias=bias is not None,
        dilation_rate=(options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1)),
    )  # fmt: skip


def _dense(lifter: _Lifter, op: Op) -> Any:
    kernel, bias = lifter.constant(op, 1), lifter.constant(op, 2)
    value = lifter.value(op, 0)
    if not op.options.get("keep_num_dims") and len(value.shape) > 2:
        value = lifter.keras.layers.Flatten(name=lifter._name("flatten"))(value)
    weights = [kernel.T]
    return lifter.layer(
        op, "Dense", value, weights if bias is None else [*weights, bias],
        units=kernel.shape[0], use_bias=bias is not None,
    )  # fmt: skip


def _pool(kind: str) -> Callable[[_Lifter, Op], Any]:
    def lifted(lifter: _Lifter, op: Op) -> Any:
        options = op.options
        return lifter.layer(
            op, kind, lifter.value(op, 0),
            pool_size=(options["filter_height"], options["filter_width"]),
            strides=(options["stride_h"], options["stride_w"]), padding=_padding(op),
        )  # fmt: skip

    return lifted


def _mean(lifter: _Lifter, op: Op) -> Any:
    rank = len(lifter.tensor(op.inputs[0]).shape)
    axes = sorted(int(axis) % rank for axis in lifter.constant(op, 1).reshape(-1))
    if rank not in (3, 4) or axes != list(range(1, rank - 1)):
        raise lifter._refused(op, f"over the axes {axes} has no Keras layer here")
    return lifter.layer(
        op, f"GlobalAveragePooling{rank - 2}D", lifter.value(op, 0),
        keepdims=bool(op.options.get("keep_dims")),
    )  # fmt: skip


def _reshape(lifter: _Lifter, op: Op) -> Any:
    shape = lifter.tensor(op.outputs[0]).shape
    value = lifter.value(op, 0)
    if len(shape) == 2:
        return lifter.layer(op, "Flatten", value)
    return lifter.layer(op, "Reshape", value, target_shape=shape[1:])


def _transpose(lifter: _Lifter, op: Op) -> Any:
    order = [int(d) for d in lifter.constant(op, 1).reshape(-1)]
    if order[0] != 0:
        raise lifter._refused(op, "that moves the batch has no Keras layer here")
    return lifter.layer(op, "Permute", lifter.value(op, 0), dims=tuple(order[1:]))


def _pad(lifter: _Lifter, op: Op) -> Any:
    amounts = lifter.constant(op, 1).reshape(-1, 2).tolist()
    if len(amounts) == 4 and amounts[0] == [0, 0] and amounts[3] == [0, 0]:
        return lifter.layer(
            op, "ZeroPadding2D", lifter.value(op, 0), padding=tuple(map(tuple, amounts[1:3]))
        )
    raise lifter._refused(op, "of these dimensions has no Keras layer here")


def _elementwise(kind: str) -> Callable[[_Lifter, Op], Any]:
    def lifted(lifter: _Lifter, op: Op) -> Any:
        return lifter.layer(op, kind, [lifter.value(op, 0), lifter.value(op, 1)])

    return lifted


def _concatenation(lifter: _Lifter, op: Op) -> Any:
    values = [lifter.value(op, place) for place in range(len(op.inputs))]
    return lifter.layer(op, "Concatenate", values, axis=int(op.options["axis"]))


def _activation(kind: str, **settings: Any) -> Callable[[_Lifter, Op], Any]:
    return lambda lifter, op: lifter.layer(op, kind, lifter.value(op, 0), **settings)


def _leaky(lifter: _Lifter, op: Op) -> Any:
    slope = float(op.options["alpha"])
    return lifter.layer(op, "LeakyReLU", lifter.value(op, 0), negative_slope=slope)


_OPERATORS: dict[str, Callable[[_Lifter, Op], Any]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": _pool("AveragePooling2D"),
    "MAX_POOL_2D": _pool("MaxPooling2D"),
    "MEAN": _mean,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "TRANSPOSE": _transpose,
    "PAD": _pad,
    "ADD": _elementwise("Add"),
    "SUB": _elementwise("Subtract"),
    "MUL": _elementwise("Multiply"),
    "MAXIMUM": _elementwise("Maximum"),
    "MINIMUM": _elementwise("Minimum"),
    "CONCATENATION": _concatenation,
    "SOFTMAX": _activation("Softmax"),
    "LOGISTIC": _activation("Activation", activation="sigmoid"),
    "TANH": _activation("Activation", activation="tanh"),
    "RELU": _activation("ReLU"),
    "RELU6": _activation("ReLU", max_value=6.0),
    "HARD_SWISH": _activation("Activation", activation="hard_swish"),
    "ELU": _activation("ELU"),
    "LEAKY_RELU": _leaky,
}
