"""Sets whole blocks of weights to zero, step by step (block-sparse pruning).

Blocks of consecutive weights of one output (rows) by neighbouring outputs (columns), as kernels
that skip blocks want them. Gray, Radford and Kingma, "GPU Kernels for Block-Sparse Weights"
(2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.compress import sparsity
from edgekit.compress.settings import option
from edgekit.compress.techniques import _pruning
from edgekit.compress.training import Training

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject


@dataclass(frozen=True)
class Settings:
    sparsity: float = option(0.7, "share of blocks that are zero in the end", above=0, below=1)
    rows: int = option(4, "weights of one output per block", at_least=1, at_most=64)
    columns: int = option(1, "outputs per block", at_least=1, at_most=64)
    begin: float = option(0.0, "share of the training before the first zeros", at_least=0, below=1)
    end: float = option(
        0.75, "share of the training after which they are final", above=0, at_most=1
    )
    skip: tuple[str, ...] = option((), "layers to leave alone")
    training: Training = option(Training(), "how it is trained meanwhile")


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    _pruning.prunable(subject, settings.skip, "prune-blocks")
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    kernels = _pruning.prunable(subject, settings.skip, "prune-blocks")
    pattern = sparsity.blocks(settings.rows, settings.columns)
    return _pruning.prune(
        subject, session, settings.training, kernels, lambda kernel: pattern,
        tuple(settings.sparsity for _ in kernels), settings.begin, settings.end,
    )  # fmt: skip
