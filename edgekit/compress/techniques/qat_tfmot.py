"""Trains with quantisation by TensorFlow's Model Optimization Toolkit.

The same idea as ``qat`` (Jacob et al., arXiv:1712.05877, 2018) in Google's implementation, which
works on Keras 2 layers: Keras 3 models are carried over. It takes fewer layers than ``qat``; it is
here for those who know it, and to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.compress import bridge
from edgekit.compress.keras_graph import KerasGraph, read_graph
from edgekit.compress.settings import option
from edgekit.compress.training import Training
from edgekit.convert import frameworks, quantize, sources
from edgekit.errors import ModelError

if TYPE_CHECKING:
    from edgekit.compress.data import TrainingSet
    from edgekit.compress.session import Session, Subject

#: Decay of the ranges' averages while they are found, and batches for that: what they began with
#: is then forgotten (0.8 ** 40 is 0.0001).
_DECAY, _BATCHES = 0.8, 40

#: The result is a full-integer file.
LAST = True


@dataclass(frozen=True)
class Settings:
    training: Training = option(
        Training(epochs=5, learning_rate=1e-4), "how it is trained with quantisation"
    )


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    _quantized(subject)
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    graph = _quantized(subject)
    trained = replace(subject, graph=graph, sparse=(), shared=())
    _find_ranges(graph.model, session.data.training, settings.training.batch)
    history = session.train(trained, settings.training)
    traced = sources.traced_keras(graph.model, graph.model.name)
    content = quantize.quantize(traced)
    return replace(subject, quantized=content, facts={"training": history})


def _find_ranges(model: Any, data: TrainingSet, batch: int) -> None:
    """Moves the ranges of activations to those of the data before the training begins.

    The toolkit lets them begin at -6 to 6 and averages with a decay of 0.999: trainings of less
    than some thousand batches end with ranges that reach below the zero of a ReLU, which costs
    half of the integers, and kernels that count on nothing being there.
    """
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    average = quant_ops.MovingAvgQuantize

    def fast(*arguments: Any, **settings: Any) -> Any:
        return average(*arguments, **{**settings, "ema_decay": _DECAY})

    inputs = data.first(_BATCHES * batch).inputs
    starts = range(0, len(inputs[0]), batch)
    quant_ops.MovingAvgQuantize = fast
    try:
        for index in range(_BATCHES):
            start = starts[index % len(starts)]
            chunk = [array[start : start + batch] for array in inputs]
            model(chunk if len(chunk) > 1 else chunk[0], training=True)
    finally:
        quant_ops.MovingAvgQuantize = average


def _quantized(subject: Subject) -> KerasGraph:
    """The model with the toolkit's wrappers; zeros and shared weights are kept by its schemes.

    Raises:
        ModelError: the toolkit does not take a layer.
    """
    toolkit = frameworks.optimization_toolkit()
    keras = frameworks.keras2()
    graph = bridge.to_keras2(subject.graph)
    module = toolkit.quantization.keras
    combined = toolkit.experimental.combine
    scheme: Any = None
    if subject.shared:
        scheme = combined.Default8BitClusterPreserveQuantizeScheme(bool(subject.sparse))
    elif subject.sparse:
        scheme = combined.Default8BitPrunePreserveQuantizeScheme()
    try:
        with frameworks.captured_output(), module.quantize_scope():
            annotated = module.quantize_annotate_model(keras.models.clone_model(graph.model))
            annotated.set_weights(graph.model.get_weights())
            model = (
                module.quantize_apply(annotated)
                if scheme is None
                else module.quantize_apply(annotated, scheme)
            )
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"TensorFlow's toolkit does not take the model: {text}", "qat-tfmot", "qat instead"
        ) from None
    return read_graph(keras, model)
