"""Sets the smallest weights to zero, step by step (magnitude pruning).

Zhu and Gupta, "To prune, or not to prune", arXiv:1710.01878 (2018). The zeros shrink a
compressed file; what is flashed and how long an inference takes stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.compress import sparsity
from edgekit.compress.settings import option
from edgekit.compress.techniques import _pruning
from edgekit.compress.training import Training

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject


@dataclass(frozen=True)
class Settings:
    sparsity: float = option(0.8, "share of weights that are zero in the end", above=0, below=1)
    distribution: Literal["uniform", "global", "erk"] = option(
        "uniform", "the same share in every layer, the smallest of all, or Erdős–Rényi"
    )
    begin: float = option(0.0, "share of the training before the first zeros", at_least=0, below=1)
    end: float = option(
        0.75, "share of the training after which they are final", above=0, at_most=1
    )
    skip: tuple[str, ...] = option((), "layers to leave alone")
    training: Training = option(Training(), "how it is trained meanwhile")


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    _pruning.prunable(subject, settings.skip, "prune")
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    kernels = _pruning.prunable(subject, settings.skip, "prune")
    finals = sparsity.shares_of(kernels, settings.sparsity, settings.distribution)
    return _pruning.prune(
        subject, session, settings.training, kernels, lambda kernel: sparsity.unstructured,
        finals, settings.begin, settings.end,
    )  # fmt: skip
