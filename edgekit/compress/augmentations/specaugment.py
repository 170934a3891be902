"""Masks bands of time and of frequency in spectrograms ``[N, time, frequency, 1]``.

Park et al., "SpecAugment", arXiv:1904.08779 (2019), section 2, without time warping. Masked
places take the sample's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress.settings import option

RANK = 4


@dataclass(frozen=True)
class Augmentation:
    time: float = option(0.2, "widest mask of time, of the length", at_least=0, at_most=1)
    frequency: float = option(0.2, "widest mask of frequency, of the height", at_least=0, at_most=1)
    masks: int = option(1, "masks of each kind", at_least=1, at_most=10)
    shift: float = option(0.0, "farthest move in time, of the length", at_least=0, at_most=1)

    def __call__(self, images: Any, wanted: Any, seed: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        if self.shift:
            images = self._moved(images, mean, seed)
        for number in range(self.masks):
            for axis, widest in ((1, self.time), (2, self.frequency)):
                if widest:
                    draw = seed + [0, 1_000_003 * (2 * number + axis)]
                    images = tf.where(_band(tf.shape(images), axis, widest, draw), mean, images)
        return images, wanted

    def _moved(self, images: Any, mean: Any, seed: Any) -> Any:
        import tensorflow as tf

        shape = tf.shape(images)
        farthest = tf.cast(tf.cast(shape[1], tf.float32) * self.shift, tf.int32)
        by = tf.random.stateless_uniform([shape[0], 1], seed, -farthest, farthest + 1, tf.int32)
        places = tf.range(shape[1])[tf.newaxis] + by
        moved = tf.gather(images, tf.clip_by_value(places, 0, shape[1] - 1), axis=1, batch_dims=1)
        inside = (places >= 0) & (places < shape[1])
        return tf.where(inside[..., tf.newaxis, tf.newaxis], moved, mean)


def _band(shape: Any, axis: int, widest: float, seed: Any) -> Any:
    """Where a mask of random width and place lies: broadcastable to the batch."""
    import tensorflow as tf

    length = tf.cast(shape[axis], tf.float32)
    draws = tf.random.stateless_uniform([shape[0], 2], seed)
    width = draws[:, 0] * widest * length
    start = draws[:, 1] * (length - width)
    places = tf.cast(tf.range(shape[axis]), tf.float32)[tf.newaxis] + 0.5
    band = (places >= start[:, tf.newaxis]) & (places < (start + width)[:, tf.newaxis])
    return tf.reshape(band, [shape[0], shape[1], 1, 1] if axis == 1 else [shape[0], 1, shape[2], 1])
