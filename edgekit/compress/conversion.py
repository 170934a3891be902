"""From a Keras model in training to a full-integer file, and what that file is worth."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.compress import models
from edgekit.compress.data import Examples
from edgekit.compress.keras_graph import KerasGraph

if TYPE_CHECKING:
    from edgekit.compress.task import Task

#: Samples that find the ranges of activations.
CALIBRATION_SAMPLES = 200
#: Layers at which TensorFlow's converter can crash, and with it the process.
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM2D")


def to_int8(graph: KerasGraph, samples: Examples, name: str, *, isolated: bool = True) -> bytes:
    """The model as ``.tflite``, quantised by TensorFlow Lite's converter with min/max ranges.

    Args:
        graph: the model.
        samples: training examples, of which the first few find the ranges.
        name: what the model is called.
        isolated: convert in a child process, where TensorFlow may crash.

    Raises:
        ModelError: the converter cannot quantise the model.
    """
    import numpy as np

    from edgekit.convert import pipeline

    with tempfile.TemporaryDirectory(prefix="edgekit-") as text:
        folder = Path(text)
        keras3 = graph.keras.__name__ == "keras"
        source = folder / f"{name}{'.keras' if keras3 else '.h5'}"
        models.save(graph, source)
        data = folder / "calibration.npz"
        chosen = samples.first(CALIBRATION_SAMPLES)
        names = [port.name for port in models.ports(graph)]
        keys = ["x"] if len(names) == 1 else names
        np.savez(data, **dict(zip(keys, chosen.inputs, strict=True)))
        request = pipeline.Request(
            source, folder / f"{name}.tflite", calibration_data=data,
            calibration_samples=CALIBRATION_SAMPLES, verification_samples=0,
        )  # fmt: skip
        pipeline.convert(request, isolated=isolated)
        return request.output.read_bytes()


def for_shape(graph: KerasGraph, samples: Examples) -> bytes:
    """The model as full-integer file in a hurry: right in its shapes, rough in its ranges.

    Raises:
        ModelError: the converter cannot quantise the model.
    """
    from edgekit.convert import quantize, sources
    from edgekit.convert.calibration import Samples
    from edgekit.errors import ModelError

    for layer in graph.layers():
        if type(layer).__name__ in _RECURRENT and not getattr(layer, "unroll", False):
            raise ModelError(
                "a recurrent layer that is not unrolled has no full-integer form",
                f"layer '{layer.name}'",
                "unroll=True when the model is built",
            )
    traced = sources.traced_keras(graph.model, graph.model.name)
    return quantize.quantize(traced, samples=Samples("npz", samples.inputs, None))


def score(content: bytes, examples: Examples, task: Task) -> float:
    """The metric of a full-integer model, computed by TFLM (or LiteRT's reference kernels)."""
    return task.score(real_outputs(content, examples), examples)


def file_name(text: str) -> str:
    """A model's name as a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._") or "model"


def real_outputs(content: bytes, examples: Examples) -> Any:
    """The outputs of a full-integer model as real numbers ``[N, outputs]``."""
    import numpy as np

    from edgekit.convert import verify
    from edgekit.convert.calibration import Samples
    from edgekit.graph import read_model

    model = read_model(content, "model")
    samples = Samples("npz", examples.inputs, None)
    _, outputs = verify.integer_outputs(model, samples, range(len(examples.inputs)))
    return np.stack([found[0].reshape(-1) for found in outputs])
