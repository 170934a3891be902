"""What a model is for: its loss while it trains and its metric on what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.compress.data import Examples

TaskName = Literal["classification", "binary", "regression", "autoencoder"]
TASKS: tuple[str, ...] = get_args(TaskName)
#: What the model's last activation makes of its outputs.
Head = Literal["softmax", "sigmoid", "linear"]

_SMALLEST = 1e-30


@dataclass(frozen=True)
class Task:
    """A task with its loss and metric.

    ``classification``: softmax or logits over ``classes``; cross-entropy; top-1 accuracy.
    ``binary``: one output; binary cross-entropy; accuracy. ``regression``: mean squared error
    of the outputs against the targets. ``autoencoder``: the same against the input.
    """

    name: TaskName
    head: Head
    classes: int = 0

    @property
    def metric(self) -> str:
        return "top1" if self.name in ("classification", "binary") else "mse"

    @property
    def higher_is_better(self) -> bool:
        return self.metric == "top1"

    def wanted(self, examples: Examples) -> NDArray[Any]:
        """What the outputs are trained towards: float32 ``[N, outputs]`` (one-hot for classes)."""
        import numpy as np

        if self.name == "autoencoder":
            flat: NDArray[Any] = examples.inputs[0].reshape(len(examples), -1)
            return flat.astype(np.float32)
        targets = _targets(examples)
        if self.name == "classification" and targets.ndim == 1:
            return np.eye(self.classes, dtype=np.float32)[targets.astype(np.int64)]
        return targets.reshape(len(examples), -1).astype(np.float32)

    def logits(self, outputs: Any) -> Any:
        """The model's outputs before their activation, as a tensor ``[N, outputs]``.

        A softmax's logarithm is its input up to a constant, which no loss here depends on.
        """
        import tensorflow as tf

        flat = tf.reshape(tf.cast(outputs, tf.float32), [tf.shape(outputs)[0], -1])
        if self.head == "softmax":
            return tf.math.log(tf.maximum(flat, _SMALLEST))
        if self.head == "sigmoid":
            inner = tf.clip_by_value(flat, 1e-7, 1 - 1e-7)
            return tf.math.log(inner) - tf.math.log1p(-inner)
        return flat

    def loss(self, logits: Any, wanted: Any, label_smoothing: float = 0.0) -> Any:
        """Mean loss of a batch; ``wanted`` is ``[N, outputs]`` and may hold mixtures."""
        import tensorflow as tf

        if self.name == "classification":
            smooth = wanted * (1 - label_smoothing) + label_smoothing / self.classes
            return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(smooth, logits))
        if self.name == "binary":
            smooth = wanted * (1 - label_smoothing) + label_smoothing / 2
            return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(smooth, logits))
        values = tf.sigmoid(logits) if self.head == "sigmoid" else logits
        return tf.reduce_mean(tf.square(values - wanted))

    def score(self, outputs: NDArray[Any], examples: Examples) -> float:
        """The metric of real outputs ``[N, …]``: a share of right ones, or an error."""
        import numpy as np

        flat = outputs.reshape(len(examples), -1).astype(np.float64)
        wanted = self.wanted(examples)
        if self.name == "classification":
            return float((flat.argmax(axis=1) == wanted.argmax(axis=1)).mean())
        if self.name == "binary":
            limit = 0.0 if self.head == "linear" else 0.5
            return float(((flat > limit) == (wanted > 0.5)).mean())
        return float(((flat - wanted) ** 2).mean())

    def is_better(self, first: float, second: float) -> bool:
        return first > second if self.higher_is_better else first < second

    def reaches(self, score: float, target: float) -> bool:
        return score >= target if self.higher_is_better else score <= target


def _targets(examples: Examples) -> NDArray[Any]:
    if examples.targets is None:
        raise ModelError("the data hold no targets 'y'")
    return examples.targets


def find_task(
    head: Head,
    output_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    examples: Examples,
    name: str | None = None,
) -> Task:
    """The task that fits a model and its data.

    Args:
        head: the model's last activation.
        output_shape: shape of its only output, without the batch.
        input_shape: likewise of its first input.
        examples: some data.
        name: the task as the user calls it, or ``None`` to find it.

    Raises:
        UsageError: the task is not clear, or there is no such task.
        ModelError: the data do not fit the task.
    """
    import math

    outputs = math.prod(output_shape)
    if name is not None and name not in TASKS:
        raise UsageError(f"there is no task '{name}'", fix=f"--task {' or '.join(TASKS)}")
    found = name or _guess(head, outputs, output_shape, input_shape, examples)
    if found == "autoencoder":
        if outputs != math.prod(input_shape):
            raise ModelError(
                f"the output {list(output_shape)} is no reconstruction of the input "
                f"{list(input_shape)}",
                fix="--task regression",
            )
        return Task("autoencoder", head)
    _check_targets(found, outputs, examples)
    if found == "classification":
        return Task("classification", head, outputs)
    return Task("binary" if found == "binary" else "regression", head)


def _guess(
    head: Head,
    outputs: int,
    output_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    examples: Examples,
) -> str:
    targets = examples.targets
    if targets is None:
        if output_shape == input_shape:
            return "autoencoder"
        raise UsageError(
            "the data hold no targets 'y', and the model does not reconstruct its input",
            fix="an .npz file with x and y",
        )
    classes = targets.ndim == 1 and targets.dtype.kind in "iub"
    if outputs == 1:
        if head == "sigmoid" or (classes and set(targets.tolist()) <= {0, 1}):
            return "binary"
        return "regression"
    if classes or head == "softmax":
        return "classification"
    rows = targets.reshape(len(examples), -1)
    one_hot = rows.shape[1] == outputs and ((rows == 0) | (rows == 1)).all()
    return "classification" if one_hot and (rows.sum(axis=1) == 1).all() else "regression"


def _check_targets(name: str, outputs: int, examples: Examples) -> None:
    import numpy as np

    targets = _targets(examples)
    per_sample = targets.size // max(len(examples), 1)
    if name == "classification" and targets.ndim == 1:
        if targets.dtype.kind not in "iub":
            raise ModelError(f"classes must be whole numbers, 'y' is {targets.dtype}")
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs:
            raise ModelError(f"'y' has classes from {low} to {high}, the model has {outputs}")
        return
    if per_sample != outputs:
        raise ModelError(f"'y' has {per_sample} values per sample, the model has {outputs} outputs")
    if targets.dtype.kind not in "fiub" or not np.isfinite(targets.astype(np.float64)).all():
        raise ModelError("'y' must hold finite numbers")
