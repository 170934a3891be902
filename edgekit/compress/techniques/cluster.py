"""Lets weights share a few values (clustering, weight sharing).

Han, Mao and Dally, "Deep Compression", arXiv:1510.00149 (2016), section 3: k-means per layer,
then training of the shared values. A compressed file shrinks; what is flashed stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgekit.compress import clusters
from edgekit.compress.settings import option
from edgekit.compress.techniques import _pruning
from edgekit.compress.training import Training

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject


@dataclass(frozen=True)
class Settings:
    clusters: int = option(16, "values per layer", at_least=2, at_most=256)
    init: Literal["linear", "density", "kmeans++"] = option("linear", "where the centres begin")
    skip: tuple[str, ...] = option((), "layers to leave alone")
    training: Training = option(
        Training(epochs=5, learning_rate=1e-4), "how the shared values are trained"
    )


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    _pruning.prunable(subject, settings.skip, "cluster")
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    import numpy as np

    kernels = _pruning.prunable(subject, settings.skip, "cluster")
    for kernel in kernels:
        values = kernel.variable.numpy()
        flat = values.reshape(-1)
        # zeros that pruning made stay zero: they are one of the values
        kept = np.flatnonzero(flat != 0) if kernel.layer in subject.sparse else np.arange(flat.size)
        count = settings.clusters - (len(kept) < flat.size)
        if len(kept) and count > 0:
            centres, numbers = clusters.k_means(
                flat[kept], count, settings.init, settings.training.seed
            )
            flat = flat.copy()
            flat[kept] = centres.astype(np.float32)[numbers]
        kernel.variable.assign(flat.reshape(values.shape))
    names = tuple(dict.fromkeys((*subject.shared, *(kernel.layer for kernel in kernels))))
    subject = replace(subject, shared=names)
    history = session.train(subject, settings.training)
    facts = {
        "training": history,
        "values by layer": {k.layer: clusters.distinct_values([k]) for k in kernels},
    }
    return replace(subject, facts=facts)
