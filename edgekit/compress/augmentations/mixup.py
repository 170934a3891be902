"""Mixes pairs of samples and of their targets in the same proportion.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412 (2018). One
proportion per batch, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress.settings import option

RANK = None


@dataclass(frozen=True)
class Augmentation:
    alpha: float = option(0.2, "parameter of the Beta distribution of proportions", above=0)

    def __call__(self, images: Any, wanted: Any, seed: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        # two Gamma variates make a Beta variate
        gammas = tf.random.stateless_gamma([2], seed, self.alpha)
        share = gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-12)
        # which partner: a rotation of the shuffled batch pairs every sample with another one
        partner = tf.roll(tf.range(tf.shape(images)[0]), 1, 0)

        def mixed(values: Any) -> Any:
            return share * values + (1 - share) * tf.gather(values, partner)

        return mixed(images), mixed(wanted)
