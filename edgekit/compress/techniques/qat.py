"""Trains with the rounding of the integer model in the forward pass (quantisation-aware).

Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", arXiv:1712.05877 (2018), on the very graph that is written in
the end: what training rounds is what the device rounds. Zeros and shared weights of earlier
steps stay. Ranges follow averages (the paper), or are learnt: PACT (Choi et al.,
arXiv:1805.06085, 2018) or LSQ (Esser et al., arXiv:1902.08153, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgekit.compress import conversion
from edgekit.compress.settings import option
from edgekit.compress.training import Hook, Training

if TYPE_CHECKING:
    from edgekit.compress.data import Examples
    from edgekit.compress.session import Session, Subject
    from edgekit.compress.training import Trainer
    from edgekit.quantize.qat import FakeQuantModel

#: The result is a full-integer file.
LAST = True


@dataclass(frozen=True)
class Settings:
    activation_ranges: Literal["average", "pact", "lsq"] = option(
        "average", "moving averages, learnt ends, or learnt steps"
    )
    weight_ranges: Literal["max", "lsq"] = option("max", "largest magnitude, or learnt steps")
    first_ranges: str = option("minmax", "where ranges start: minmax, percentile=P or mse")
    delay: float = option(
        0.0, "share of the training before activations are rounded", at_least=0, below=1
    )
    freeze_ranges: float = option(
        0.5, "share of the epochs after which ranges change no more", above=0, at_most=1
    )
    per_tensor_dense: bool = option(False, "one scale for the weights of a dense layer")
    samples: int = option(200, "training samples that find the first ranges", at_least=1)
    training: Training = option(
        Training(epochs=10, learning_rate=1e-4), "how it is trained with quantisation"
    )


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    from edgekit.quantize.prepare import prepare
    from edgekit.quantize.ranges import parse
    from edgekit.quantize.scheme import decide

    parse(settings.first_ranges)
    graph = prepare(conversion.to_float(subject.graph)).main
    decide(graph, form="int8", per_tensor_dense=settings.per_tensor_dense)
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    from edgekit.quantize.qat import QatSettings, trainable_model

    training = settings.training
    per_epoch = max(1, len(session.data.training) // training.batch)
    samples, _ = conversion.samples(session.data.training.first(settings.samples))
    model = trainable_model(
        conversion.to_float(subject.graph),
        samples,
        QatSettings(
            activation_ranges=settings.activation_ranges,
            weight_ranges=settings.weight_ranges,
            freeze_after_epochs=round(settings.freeze_ranges * training.epochs),
            delay_steps=round(settings.delay * training.epochs * per_epoch),
            per_tensor_dense=settings.per_tensor_dense,
        ),
        ranges=settings.first_ranges,
        keep_zeros=bool(subject.sparse),
        keep_clusters=bool(subject.shared),
    )
    wrapped = _Wrapped(model, session.task.name in ("classification", "binary"))
    task = session.task
    if wrapped.gives_logits:
        session = replace(session, task=replace(task, head="linear"))
    history = session.trainer(wrapped, training, [_Steps(model)]).run()
    return replace(subject, quantized=model.export(), facts={"training": history})


class _Wrapped:
    """The quantised graph as the trainer wants it: logits where there are some."""

    def __init__(self, model: FakeQuantModel, logits: bool) -> None:
        self._model = model
        self.gives_logits = logits and model.final_activation is not None
        self.trainable: Sequence[Any] = model.trainable
        self.state: Sequence[Any] = model.state

    def __call__(self, inputs: Sequence[Any], training: bool) -> list[Any]:
        return self._model(inputs, training, logits=self.gives_logits)

    def penalties(self) -> list[Any]:
        return []

    def on_epoch(self, epoch: int) -> None:
        self._model.on_epoch(epoch)


class _Steps(Hook):
    """Tells the model how many steps were taken."""

    def __init__(self, model: FakeQuantModel) -> None:
        import tensorflow as tf

        self._model = model
        self._taken = tf.Variable(0, dtype=tf.int64, trainable=False)

    def state(self) -> Sequence[Any]:
        return [self._taken]

    def before_step(self, trainer: Trainer, share: float, batch: Examples) -> None:
        self._model.on_step(int(self._taken.numpy()))
        self._taken.assign_add(1)
