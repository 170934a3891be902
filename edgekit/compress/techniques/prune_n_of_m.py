"""Keeps N of every M neighbouring weights (N:M sparsity, such as 2:4).

Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
arXiv:2102.04010 (2021), with magnitudes and a gradual schedule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.compress import sparsity
from edgekit.compress.settings import option
from edgekit.compress.techniques import _pruning
from edgekit.compress.training import Training
from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject


@dataclass(frozen=True)
class Settings:
    pattern: str = option("2:4", "weights kept of how many neighbours, such as 2:4 or 1:8")
    begin: float = option(0.0, "share of the training before the first zeros", at_least=0, below=1)
    end: float = option(
        0.75, "share of the training after which they are final", above=0, at_most=1
    )
    skip: tuple[str, ...] = option((), "layers to leave alone")
    training: Training = option(Training(), "how it is trained meanwhile")


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    _, group = _numbers(settings.pattern)
    kernels = _pruning.prunable(subject, settings.skip, "prune-n-of-m")
    rows = {kernel.layer: kernel.size // kernel.variable.shape[-1] for kernel in kernels}
    if all(count < group for count in rows.values()):
        raise ModelError(
            f"no layer has {group} weights per output", "prune-n-of-m", "a smaller pattern"
        )
    uneven = [name for name, count in rows.items() if count % group]
    if not uneven:
        return []
    return [
        f"the last weights of each output of {', '.join(uneven)} stay: their number is no "
        f"multiple of {group}"
    ]


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    kept, group = _numbers(settings.pattern)
    kernels = _pruning.prunable(subject, settings.skip, "prune-n-of-m")
    pattern = sparsity.n_of_m(kept, group)
    return _pruning.prune(
        subject, session, settings.training, kernels, lambda kernel: pattern,
        tuple(1 - kept / group for _ in kernels), settings.begin, settings.end,
    )  # fmt: skip


def _numbers(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,3}) ?: ?([0-9]{1,3})", text)
    if not found or not 0 < int(found[1]) < int(found[2]):
        raise UsageError(f"the pattern '{text}' is not N:M with N below M", fix="pattern: 2:4")
    return int(found[1]), int(found[2])
