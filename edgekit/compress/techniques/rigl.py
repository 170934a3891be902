"""Trains sparse from the start, moving weights to where the gradient wants them (RigL).

Evci et al., "Rigging the Lottery: Making All Tickets Winners", arXiv:1911.11134 (2020),
algorithm 1: at intervals the smallest active weights are dropped, and as many inactive ones with
the largest gradients grow from zero. The share that moves falls as a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgekit.compress import sparsity
from edgekit.compress.settings import option
from edgekit.compress.sparsity import Kernel, MaskedHook
from edgekit.compress.techniques import _pruning
from edgekit.compress.training import Training

if TYPE_CHECKING:
    from edgekit.compress.data import Examples
    from edgekit.compress.session import Session, Subject
    from edgekit.compress.training import Trainer


@dataclass(frozen=True)
class Settings:
    sparsity: float = option(0.8, "share of weights that are zero throughout", above=0, below=1)
    distribution: Literal["erk", "uniform"] = option("erk", "over the layers; see the paper")
    moved: float = option(0.3, "share of the active weights that move at first", above=0, below=1)
    updates: int = option(20, "how often weights move, in all", at_least=1)
    end: float = option(0.75, "share of the training after which none move", above=0, at_most=1)
    skip: tuple[str, ...] = option((), "layers to leave alone")
    training: Training = option(Training(epochs=20), "how it is trained")


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    _pruning.prunable(subject, settings.skip, "rigl")
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    import numpy as np

    kernels = _pruning.prunable(subject, settings.skip, "rigl")
    shares = sparsity.shares_of(kernels, settings.sparsity, settings.distribution)
    masks = [
        sparsity.unstructured(np.abs(kernel.variable.numpy()), share)
        for kernel, share in zip(kernels, shares, strict=True)
    ]
    hook = _Moving(kernels, masks, settings)
    history = session.train(subject, settings.training, [hook])
    names = tuple(dict.fromkeys((*subject.sparse, *(kernel.layer for kernel in kernels))))
    facts = {
        "training": history,
        "sparsity": sparsity.measured(kernels),
        "sparsity by layer": {k.layer: sparsity.measured([k]) for k in kernels},
        "weights moved": int(hook.moved.numpy()),
    }
    return replace(subject, sparse=names, facts=facts)


class _Moving(MaskedHook):
    def __init__(self, kernels: Sequence[Kernel], masks: Sequence[Any], settings: Settings) -> None:
        import tensorflow as tf

        super().__init__(kernels, masks)
        self._settings = settings
        #: updates so far, and weights that moved
        self._done = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.moved = tf.Variable(0, dtype=tf.int64, trainable=False)

    def state(self) -> Sequence[Any]:
        return [*self.masks, self._done, self.moved]

    def before_step(self, trainer: Trainer, share: float, batch: Examples) -> None:
        due = int(share / self._settings.end * self._settings.updates)
        if share >= self._settings.end or due <= int(self._done.numpy()):
            return
        self._done.assign(due)
        # cosine annealing of the share that moves (section 3(2) of the paper)
        part = self._settings.moved / 2 * (1 + math.cos(math.pi * share / self._settings.end))
        gradients = trainer.gradients(batch, [kernel.variable for kernel in self.kernels])
        for kernel, mask, gradient in zip(self.kernels, self.masks, gradients, strict=True):
            self._move(kernel, mask, gradient.numpy(), part, trainer)

    def _move(
        self, kernel: Kernel, mask: Any, gradient: Any, part: float, trainer: Trainer
    ) -> None:
        import numpy as np

        active = mask.numpy().reshape(-1).astype(bool)
        weights = np.abs(kernel.variable.numpy().reshape(-1))
        count = min(int(active.sum() * part), int((~active).sum()))
        if count == 0:
            return
        inside = np.flatnonzero(active)
        outside = np.flatnonzero(~active)
        drop = inside[np.argsort(weights[inside], kind="stable")[:count]]
        strength = np.abs(gradient.reshape(-1)[outside])
        grow = outside[np.argsort(-strength, kind="stable")[:count]]
        active[drop] = False
        active[grow] = True
        mask.assign(active.reshape(mask.shape).astype(np.float32))
        values = kernel.variable.numpy().reshape(-1)
        values[drop] = 0.0
        values[grow] = 0.0
        kernel.variable.assign(values.reshape(kernel.variable.shape))
        for moment in trainer.optimizer.moments(kernel.variable):
            remembered = moment.numpy().reshape(-1)
            remembered[grow] = 0.0
            moment.assign(remembered.reshape(moment.shape))
        self.moved.assign_add(count)
