"""What techniques share: the model between two steps, data, task, and how to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.compress import clusters, normalization_statistics, sparsity
from edgekit.compress.keras_graph import KerasGraph
from edgekit.compress.trainable import KerasTrainable
from edgekit.compress.training import History, Hook, Progress, Trainer, Training, forward

if TYPE_CHECKING:
    from edgekit.compress.data import Data, Examples
    from edgekit.compress.distillation import Distillation, Teacher
    from edgekit.compress.task import Task


@dataclass(frozen=True, eq=False)
class Subject:
    """A model between two steps, and what later steps must keep of it.

    ``sparse`` are layers whose zeros stay, ``shared`` layers whose equal weights stay equal.
    ``quantized`` is the full-integer file that ends a recipe. ``facts`` are what a technique
    says of its result.
    """

    graph: KerasGraph
    sparse: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    quantized: bytes | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def kernels(self, names: Sequence[str]) -> tuple[sparsity.Kernel, ...]:
        return tuple(k for k in sparsity.kernels(self.graph) if k.layer in names)


@dataclass(frozen=True, eq=False)
class Session:
    """Everything around the model. ``work`` is the folder of checkpoints, if they are kept."""

    data: Data
    task: Task
    original: KerasGraph
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    target: str | None = None
    work: Path | None = None
    step: int = 0
    #: what the step is called in progress
    title: str = ""
    progress: Progress = lambda text, done, total: None
    note: Any = lambda text: None

    def train(
        self,
        subject: Subject,
        settings: Training,
        hooks: Sequence[Hook] = (),
        *,
        part: str = "",
    ) -> History:
        """Trains a subject's model in place, keeping zeros and shared weights that are there.

        Args:
            subject: whose model is trained.
            settings: how.
            hooks: the technique's own.
            part: distinguishes the checkpoints of several trainings in one step.
        """
        model = KerasTrainable(subject.graph, seed=settings.seed)
        history = self.trainer(model, settings, [*keeping(subject), *hooks], part=part).run()
        normalization_statistics.renew(model, self.data.training, settings.batch, settings.seed)
        return history

    def trainer(
        self, model: Any, settings: Training, hooks: Sequence[Hook] = (), *, part: str = ""
    ) -> Trainer:
        """A trainer for anything trainable, with this session's data and checkpoints."""
        return Trainer(
            model,
            self.data.training,
            self.task,
            settings,
            hooks,
            self.teachers_of(settings.distillation),
            None if self.work is None else self.work / f"step{self.step:02d}{part}.checkpoint.npz",
            self.progress,
            f"{self.title}{' ' + part.strip('-') if part else ''}",
        )

    def teachers_of(self, settings: Distillation | None) -> list[Teacher]:
        return [self.teachers[name] for name in settings.teacher] if settings else []

    def score(self, graph: KerasGraph, examples: Examples | None = None) -> float:
        """The metric of a float model on the held-out examples (or others)."""
        examples = self.data.held_out if examples is None else examples
        return self.task.score(forward(KerasTrainable(graph), examples), examples)

    def at_step(self, step: int, title: str) -> Session:
        return replace(self, step=step, title=title)


def keeping(subject: Subject) -> list[Hook]:
    """Hooks that keep what earlier steps made: shared weights first, then zeros."""
    hooks: list[Hook] = []
    if subject.shared:
        kernels = subject.kernels(subject.shared)
        numbers = [clusters.numbers_of(kernel.variable.numpy()) for kernel in kernels]
        hooks.append(clusters.SharedHook(kernels, numbers))
    if subject.sparse:
        kernels = subject.kernels(subject.sparse)
        hooks.append(sparsity.MaskedHook(kernels, sparsity.zero_masks(kernels)))
    return hooks
