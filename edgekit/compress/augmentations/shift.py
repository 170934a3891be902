"""Moves images by some pixels in both directions (random crops of a padded image)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress.settings import option

RANK = 4


@dataclass(frozen=True)
class Augmentation:
    pixels: int = option(1, "farthest move, pixels", at_least=1)

    def __call__(self, images: Any, wanted: Any, seed: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        shape = tf.shape(images)
        count, height, width = shape[0], shape[1], shape[2]
        by = self.pixels
        padded = tf.pad(images, [[0, 0], [by, by], [by, by], [0, 0]])
        offsets = tf.random.stateless_uniform([count, 2], seed, 0, 2 * by + 1, tf.int32)
        rows = offsets[:, :1] + tf.range(height)[tf.newaxis]
        columns = offsets[:, 1:] + tf.range(width)[tf.newaxis]
        moved = tf.gather(padded, rows, axis=1, batch_dims=1)
        moved = tf.gather(moved, columns, axis=2, batch_dims=1)
        return tf.ensure_shape(moved, images.shape), wanted
