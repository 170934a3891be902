"""A few random changes per image out of a list, all of one strength.

After Cubuk et al., "RandAugment", arXiv:1909.13719 (2019): ``operations`` changes drawn from
rotation, shear and translation in both directions, brightness, contrast, solarising and
posterising, identity among them. Changes of brightness work on each image's own range of
values, so that the normalisation of the input does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress.settings import option

RANK = 4
_KINDS = 10
#: At full strength: degrees, shear, share of the size, and factor of brightness and contrast.
_DEGREES, _SHEAR, _MOVE, _LIGHT = 30.0, 0.3, 0.33, 0.9


@dataclass(frozen=True)
class Augmentation:
    operations: int = option(2, "changes per image", at_least=1, at_most=10)
    strength: float = option(0.3, "of each change", above=0, at_most=1)

    def __call__(self, images: Any, wanted: Any, seed: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        for number in range(self.operations):
            draws = tf.random.stateless_uniform(
                [tf.shape(images)[0], 2], seed + [0, 7_368_787 * (number + 1)]
            )
            kind = tf.cast(draws[:, 0] * _KINDS, tf.int32)
            # strength with a random sign
            amount = tf.where(draws[:, 1] < 0.5, -self.strength, self.strength)
            images = _changed(images, kind, amount)
        return images, wanted


def _changed(images: Any, kind: Any, amount: Any) -> Any:
    import tensorflow as tf

    shape = images.shape
    images = _moved(images, kind, amount)
    wide = [tf.shape(images)[0], 1, 1, 1]
    low = tf.reduce_min(images, axis=[1, 2, 3], keepdims=True)
    high = tf.reduce_max(images, axis=[1, 2, 3], keepdims=True)
    span = tf.maximum(high - low, 1e-12)
    unit = (images - low) / span
    kind, amount = tf.reshape(kind, wide), tf.reshape(amount, wide)
    strength = tf.abs(amount)
    mean = tf.reduce_mean(unit, axis=[1, 2, 3], keepdims=True)
    levels = tf.round(2.0 ** (8.0 - 6.0 * strength))
    unit = tf.where(kind == 5, tf.clip_by_value(unit * (1 + _LIGHT * amount), 0.0, 1.0), unit)
    contrasted = tf.clip_by_value(mean + (unit - mean) * (1 + _LIGHT * amount), 0.0, 1.0)
    unit = tf.where(kind == 6, contrasted, unit)
    unit = tf.where((kind == 7) & (unit > 1 - strength), 1 - unit, unit)
    unit = tf.where(kind == 8, tf.floor(unit * (levels - 1) + 0.5) / (levels - 1), unit)
    return tf.ensure_shape(low + unit * span, shape)


def _moved(images: Any, kind: Any, amount: Any) -> Any:
    """Rotation (0), shear (1, 2) and translation (3, 4) about the centre, bilinear."""
    import math

    import tensorflow as tf

    shape = tf.shape(images)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    zero, one = tf.zeros_like(amount), tf.ones_like(amount)
    angle = tf.where(kind == 0, amount * _DEGREES * math.pi / 180, zero)
    across = tf.where(kind == 1, amount * _SHEAR, zero)
    down = tf.where(kind == 2, amount * _SHEAR, zero)
    a0, a1 = tf.cos(angle), -tf.sin(angle) + across
    b0, b1 = tf.sin(angle) + down, tf.cos(angle)
    # the matrix maps places of the result to places of the image, about the image's centre
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    a2 = (
        middle_x - a0 * middle_x - a1 * middle_y + tf.where(kind == 3, amount * _MOVE * width, zero)
    )
    b2 = (
        middle_y
        - b0 * middle_x
        - b1 * middle_y
        + tf.where(kind == 4, amount * _MOVE * height, zero)
    )
    matrix = tf.stack([a0 * one, a1, a2, b0, b1 * one, b2, zero, zero], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrix,
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
