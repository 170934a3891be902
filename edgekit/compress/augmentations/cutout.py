"""Blanks a square of each image.

DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
arXiv:1708.04552 (2017). The square is filled with the image's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress.settings import option

RANK = 4


@dataclass(frozen=True)
class Augmentation:
    share: float = option(
        0.25, "side of the square, of the image's shorter side", above=0, at_most=1
    )

    def __call__(self, images: Any, wanted: Any, seed: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        shape = tf.shape(images)
        side = tf.cast(tf.minimum(shape[1], shape[2]), tf.float32) * self.share
        centre = tf.random.stateless_uniform([shape[0], 2], seed)
        rows = _inside(centre[:, 0], shape[1], side)
        columns = _inside(centre[:, 1], shape[2], side)
        hole = (rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :])[..., tf.newaxis]
        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        return tf.where(hole, mean, images), wanted


def _inside(centre: Any, length: Any, side: Any) -> Any:
    """Which places along an axis are in the square: ``[N, length]``."""
    import tensorflow as tf

    places = tf.cast(tf.range(length), tf.float32)[tf.newaxis] + 0.5
    middle = centre[:, tf.newaxis] * tf.cast(length, tf.float32)
    return tf.abs(places - middle) < side / 2
