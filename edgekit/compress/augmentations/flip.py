"""Mirrors half of the images left to right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RANK = 4


@dataclass(frozen=True)
class Augmentation:
    def __call__(self, images: Any, wanted: Any, seed: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        draws = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed)
        return tf.where(draws < 0.5, tf.reverse(images, [2]), images), wanted
