"""What a Keras model will cost, before it is trained or quantised."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.convert import frameworks
from edgekit.errors import ModelError
from edgekit.graph import Model as Graph
from edgekit.graph import read_model
from edgekit.graph.macs import model_cost
from edgekit.zoo._layers import Model

#: A bias, of an int32 with a scale (4 bytes) and a zero point (8), and the weights' scale and
#: zero point: what an output channel has in an int8 file beside its weights.
_BIAS_BYTES, _SCALE_BYTES = 16, 12
#: The entries of a tensor, with its name, and of an operator, and the file as such: least squares
#: over the int8 files of the architectures at their default and 24 random settings.
_TENSOR_BYTES, _OPERATOR_BYTES, _FILE_BYTES = 138, 33, 740
#: Largest relative error of the estimate for the architectures; a test keeps it.
ERROR = 0.05
#: Operators with weights: their place among the inputs, and the axis of output channels.
_WEIGHTED = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": -1, "FULLY_CONNECTED": 0}


@dataclass(frozen=True)
class Costs:
    """``parameters`` as Keras counts them and ``macs`` as ``edgekit inspect`` does, exact;
    ``int8_bytes`` estimates the file that ``edgekit convert`` makes once it is trained."""

    parameters: int
    macs: int
    int8_bytes: int


def costs(model: Model) -> Costs:
    """Counts a model with one input, by converting it to a float ``.tflite`` graph in memory.

    Raises:
        ModelError: TensorFlow Lite has no operator for a part of it.
    """
    graph = _float_graph(model)
    return Costs(int(model.count_params()), model_cost(graph).macs, _int8_bytes(graph))


def _float_graph(model: Model) -> Graph:
    """The model, as it will be when it is trained, in TensorFlow Lite's operators."""
    tf = frameworks.tensorflow()
    subject = _filled(model)
    (tensor,) = subject.inputs
    spec = tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype)
    with frameworks.captured_output():
        try:
            function = tf.function(
                lambda x: subject(x, training=False), autograph=False
            ).get_concrete_function(spec)
            content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            failure = " ".join(str(error).split())[:300]
        else:
            return read_model(bytes(content), model.name)
    raise ModelError(f"the model has no form in TensorFlow Lite: {failure}", model.name)


def _filled(model: Model) -> Model:
    """A copy without constant weights: biases that are still zero would be converted away."""
    import numpy as np

    rng = np.random.default_rng(0)
    copy = frameworks.keras3().models.clone_model(model)
    for variable in copy.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape).astype(variable.dtype))
    return copy


def _int8_bytes(graph: Graph) -> int:
    """The size of the int8 file: a byte per weight, and what describes them."""
    size = _FILE_BYTES + _TENSOR_BYTES * len(graph.tensors) + _OPERATOR_BYTES * len(graph.ops)
    seen: set[int] = set()
    for op in graph.ops:
        for place, index in enumerate(op.inputs):
            tensor = graph.tensors[index]
            if index < 0 or not tensor.is_constant or tensor.dtype != "float32":
                continue
            weighted = op.kind in _WEIGHTED
            if weighted and place == 2:
                # Operators share weights, but a bias has the scale of its operator's input.
                size += _BIAS_BYTES * tensor.elements + (_TENSOR_BYTES if index in seen else 0)
            elif index not in seen:
                size += tensor.elements
                if weighted:
                    size += _SCALE_BYTES * tensor.shape[_WEIGHTED[op.kind]]
            seen.add(index)
    return size
