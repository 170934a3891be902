"""Adds normal noise, relative to each sample's standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress.settings import option

RANK = None


@dataclass(frozen=True)
class Augmentation:
    share: float = option(0.05, "noise relative to the sample's standard deviation", above=0)

    def __call__(self, images: Any, wanted: Any, seed: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        axes = list(range(1, len(images.shape)))
        spread = tf.math.reduce_std(images, axis=axes, keepdims=True)
        draws = tf.random.stateless_normal(tf.shape(images), seed)
        return images + self.share * spread * draws, wanted
