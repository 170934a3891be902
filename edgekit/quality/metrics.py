"""Task accuracy of anything that runs a model: a runtime on the host, or a device.

``accuracy(invoke, dataset, model, metric)`` only needs a function from a model's inputs to its
outputs, so that a runner's ``invoke`` and a device's are measured by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgekit.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model
    from edgekit.quality.dataset import Dataset

Metric = Literal["top1", "auc", "mse"]
METRICS: tuple[str, ...] = get_args(Metric)
Invoke = Callable[..., Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The value of a metric over ``samples`` samples.

    ``top1`` is a share (0 to 1) with ``right`` samples, ``auc`` the area under the ROC curve,
    ``mse`` a mean squared error in real units. ``scores`` has one value per sample: the
    predicted class, the score, the squared error. ``outputs`` are the model's raw outputs,
    the first one, ``[N * windows, …]``.
    """

    metric: Metric
    value: float
    samples: int
    right: int | None
    score: str
    scores: NDArray[Any]
    outputs: NDArray[Any]


def accuracy(
    invoke: Invoke,
    dataset: Dataset,
    model: Model,
    metric: Metric,
    on_sample: Callable[[int], None] = lambda count: None,
) -> Accuracy:
    """Runs a model over data and measures it.

    Args:
        invoke: takes the model's inputs, returns its outputs (arrays of the model's types).
        dataset: data adapted to the model.
        model: the model, for the shape and quantisation of its output.
        metric: ``top1``: the largest value of the first output against the class in ``y``.
            ``auc``: ``y`` is 0 or 1; the score is the output with one element, the second
            of two, or, where the model reconstructs its input, the mean squared error of the
            reconstruction, averaged over a sample's windows. ``mse``: against ``y``, or
            against the input where there is no ``y``.
        on_sample: called with 1 after every invocation.

    Raises:
        ModelError: the data or the model do not fit the metric.
    """
    import numpy as np

    _check(dataset, model, metric)
    outputs = []
    for inputs in dataset.samples():
        outputs.append(np.asarray(invoke(*inputs)[0]))
        on_sample(1)
    first = np.stack(outputs)
    if metric == "top1":
        scores, score = _top1(first), "largest output"
        wanted = _labels(dataset).astype(np.int64).reshape(-1)
        right = int((scores == wanted).sum())
        value = right / len(dataset)
    elif metric == "auc":
        scores, score = _auc_scores(first, dataset, model)
        value, right = area_under_curve(scores, _labels(dataset)), None
    else:
        scores, score = _squared_errors(first, dataset, model)
        value, right = float(scores.mean()), None
    return Accuracy(metric, float(value), len(dataset), right, score, scores, first)


def area_under_curve(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Area under the ROC curve: how often a positive outranks a negative, ties by halves.

    From ranks (Mann and Whitney's U, 1947).
    """
    import numpy as np

    positive = np.asarray(labels).reshape(-1) != 0
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _labels(dataset: Dataset) -> NDArray[Any]:
    if dataset.labels is None:
        raise ModelError("the metric needs labels 'y' in the data", dataset.source)
    return dataset.labels


def _check(dataset: Dataset, model: Model, metric: Metric) -> None:
    import numpy as np

    if not model.outputs:
        raise ModelError("the model has no output", model.name)
    output = model.output_tensors[0]
    if metric == "top1":
        labels = _labels(dataset)
        if labels.size != len(dataset) or labels.dtype.kind not in "iub":
            raise ModelError(f"top1 needs one class per sample in 'y', not {labels.dtype} "
                             f"of shape {list(labels.shape)}", dataset.source)  # fmt: skip
        if dataset.windows > 1:
            raise ModelError("top1 needs samples of the input's shape", dataset.source)
        if output.elements < 2:
            raise ModelError("top1 needs an output with at least two classes", output.name)
        if int(labels.max()) >= output.elements or int(labels.min()) < 0:
            raise ModelError(
                f"'y' has classes from {labels.min()} to {labels.max()}, the model has "
                f"{output.elements}",
                dataset.source,
            )
    if metric == "auc":
        labels = _labels(dataset)
        if labels.size != len(dataset) or set(np.unique(labels).tolist()) != {0, 1}:
            raise ModelError("auc needs 'y' with 0 and 1, both of them", dataset.source)
    if (
        metric == "mse"
        and dataset.labels is not None
        and dataset.labels.size != len(dataset) * output.elements * dataset.windows
    ):
        raise ModelError(
            f"mse needs 'y' of the output's shape {list(output.shape)} per sample",
            dataset.source,
        )


def _top1(outputs: NDArray[Any]) -> NDArray[Any]:
    classes: NDArray[Any] = outputs.reshape(len(outputs), -1).argmax(axis=1)
    return classes


def _real_outputs(outputs: NDArray[Any], model: Model) -> NDArray[Any]:
    from edgekit.convert.verify import dequantize_array

    return dequantize_array(outputs, model.output_tensors[0]).reshape(len(outputs), -1)


def _reconstruction_errors(outputs: NDArray[Any], dataset: Dataset, model: Model) -> NDArray[Any]:
    """Mean squared error of the output against the input, in real units, per invocation."""
    from edgekit.convert.verify import dequantize_array

    source = model.input_tensors[0]
    if source.elements != model.output_tensors[0].elements:
        raise ModelError(
            f"the output of {model.output_tensors[0].elements} elements is no reconstruction "
            f"of the input of {source.elements}",
            model.name,
        )
    inputs = dequantize_array(dataset.inputs[0], source).reshape(len(outputs), -1)
    errors: NDArray[Any] = ((inputs - _real_outputs(outputs, model)) ** 2).mean(axis=1)
    return errors


def _auc_scores(outputs: NDArray[Any], dataset: Dataset, model: Model) -> tuple[NDArray[Any], str]:
    elements = model.output_tensors[0].elements
    if elements <= 2 and dataset.windows == 1:
        return _real_outputs(outputs, model)[:, -1], f"output {elements - 1}"
    errors = _reconstruction_errors(outputs, dataset, model)
    text = "error of the reconstruction"
    if dataset.windows > 1:
        text += f", mean of {dataset.windows} windows"
    return errors.reshape(len(dataset), dataset.windows).mean(axis=1), text


def _squared_errors(
    outputs: NDArray[Any], dataset: Dataset, model: Model
) -> tuple[NDArray[Any], str]:
    if dataset.labels is None:
        errors = _reconstruction_errors(outputs, dataset, model)
        text = "output against input"
    else:
        wanted = dataset.labels.reshape(len(outputs), -1)
        errors = ((wanted - _real_outputs(outputs, model)) ** 2).mean(axis=1)
        text = "output against y"
    return errors.reshape(len(dataset), dataset.windows).mean(axis=1), text
