"""Learning from larger models: soft targets and features of one teacher or several.

Soft targets: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
arXiv:1503.02531 (2015). Features: attention transfer, Zagoruyko and Komodakis,
arXiv:1612.03928 (2017), eq. 2 — where a network looks, as the mean square over channels, which
needs no layer in common but the size of a feature map — so that it works for a student whose
channels were pruned away. Teachers' probabilities are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.settings import option

if TYPE_CHECKING:
    from edgekit.compress.keras_graph import KerasGraph
    from edgekit.compress.task import Head, Task

#: The teacher that is the model as it was before anything was done to it.
ORIGINAL = "original"


@dataclass(frozen=True)
class Distillation:
    """How a student learns from teachers."""

    teacher: tuple[str, ...] = option(
        (ORIGINAL,), "trained models to learn from: 'original' (the model as given) or files"
    )
    temperature: float = option(4.0, "softens the targets", at_least=1, at_most=100)
    weight: float = option(
        0.5, "of the teachers' targets; the data's have the rest", above=0, at_most=1
    )
    features: float = option(0.0, "weight of attention transfer; 0 for none", at_least=0)


@dataclass(frozen=True)
class Teacher:
    """A trained model to learn from; ``features`` are tensors of its graph."""

    graph: KerasGraph
    head: Head
    features: tuple[int, ...] = ()


def stage_features(graph: KerasGraph) -> dict[tuple[int, ...], int]:
    """The last feature map of each size, by that size: ``(height, width)`` or ``(steps,)``."""
    found: dict[tuple[int, ...], int] = {}
    for call in graph.calls:
        for tensor in call.outputs:
            shape = graph.shapes[tensor]
            size = tuple(int(d) for d in shape[1:-1] if d is not None)
            if len(shape) in (3, 4) and len(size) == len(shape) - 2 and max(size) > 1:
                found[size] = tensor
    return found


def soft_loss(task: Task, logits: Any, teachers: Sequence[Any], temperature: float) -> Any:
    """Loss against the teachers' outputs; all are logits ``[N, outputs]``.

    For classes the divergence from the mean of the teachers' softened probabilities, times the
    squared temperature (which keeps the gradients' size, Hinton et al., section 2); otherwise
    the mean squared difference.
    """
    import tensorflow as tf

    count = len(teachers)
    if task.name == "classification":
        soft = tf.add_n([tf.nn.softmax(t / temperature) for t in teachers]) / count
        cross = tf.nn.softmax_cross_entropy_with_logits(soft, logits / temperature)
        entropy = -tf.reduce_sum(soft * tf.math.log(tf.maximum(soft, 1e-30)), axis=-1)
        return temperature**2 * tf.reduce_mean(cross - entropy)
    if task.name == "binary":
        soft = tf.add_n([tf.sigmoid(t / temperature) for t in teachers]) / count
        cross = tf.nn.sigmoid_cross_entropy_with_logits(soft, logits / temperature)
        return temperature**2 * tf.reduce_mean(cross)
    return tf.reduce_mean(tf.square(logits - tf.add_n(list(teachers)) / count))


def attention_loss(student: Sequence[Any], teachers: Sequence[Sequence[Any]]) -> Any:
    """Attention transfer, averaged over the pairs of feature maps and the teachers."""
    import tensorflow as tf

    losses = []
    for features in teachers:
        for mine, theirs in zip(student, features, strict=True):
            losses.append(tf.reduce_mean(tf.square(_attention(mine) - _attention(theirs))))
    return tf.add_n(losses) / len(losses)


def _attention(features: Any) -> Any:
    """Mean square over channels, flat and of unit length: ``[N, places]``."""
    import tensorflow as tf

    energy = tf.reduce_mean(tf.square(features), axis=-1)
    flat = tf.reshape(energy, [tf.shape(energy)[0], -1])
    return tf.math.l2_normalize(flat, axis=1) * tf.sqrt(tf.cast(tf.shape(flat)[1], tf.float32))
