"""Random Keras models of both generations, for tests of what changes their structure."""

from __future__ import annotations

from typing import Any

import numpy as np


def random_model(keras: Any, seed: int) -> Any:
    """A small convolutional model with residuals, branches, depthwise layers and gates.

    Weights and statistics are random, so that no layer is an identity.
    """
    stream = np.random.default_rng(seed)
    layers = keras.layers
    keras.utils.set_random_seed(seed)

    def width() -> int:
        return int(stream.integers(2, 9))

    def activated(x: Any) -> Any:
        kind = stream.integers(0, 4)
        if kind == 0:
            return layers.ReLU(6.0 if stream.integers(2) else None)(x)
        if kind == 1:
            return layers.Activation("tanh")(x)
        if kind == 2:
            return layers.PReLU(shared_axes=[1, 2])(x)
        return layers.LeakyReLU()(x)

    def convolution(x: Any, channels: int, size: int = 3) -> Any:
        x = layers.Conv2D(
            channels, size, padding="same", use_bias=bool(stream.integers(2)),
            dilation_rate=int(stream.integers(1, 3)),
        )(x)  # fmt: skip
        if stream.integers(2):
            x = layers.BatchNormalization(scale=bool(stream.integers(2)))(x)
        return activated(x)

    def residual(x: Any) -> Any:
        y = convolution(convolution(x, width()), x.shape[-1])
        return layers.Add()([x, y]) if stream.integers(2) else layers.Multiply()([x, y])

    def branches(x: Any) -> Any:
        parts = [
            convolution(x, width(), 1),
            convolution(x, width()),
            layers.MaxPooling2D(3, 1, "same")(x),
        ]
        return layers.Concatenate()(parts)

    def depthwise(x: Any) -> Any:
        x = layers.DepthwiseConv2D(
            3, int(stream.integers(1, 3)), "same", depth_multiplier=int(stream.integers(1, 3))
        )(x)
        return convolution(x, width(), 1)

    def gated(x: Any) -> Any:
        g = layers.GlobalAveragePooling2D(keepdims=True)(x)
        g = layers.Conv2D(width(), 1, activation="relu")(g)
        g = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(g)
        return layers.Multiply()([x, g])

    def separable(x: Any) -> Any:
        return layers.SeparableConv2D(width(), 3, padding="same", depth_multiplier=2)(x)

    def twice(x: Any) -> Any:
        shared = layers.Conv2D(x.shape[-1], 3, padding="same")
        return layers.Concatenate()([shared(x), activated(shared(activated(x)))])

    blocks = (residual, branches, depthwise, gated, separable, twice)
    image = keras.Input((8, 6, 3))
    x = convolution(image, width())
    for _ in range(int(stream.integers(3, 6))):
        x = blocks[int(stream.integers(len(blocks)))](x)
    if stream.integers(2):
        x = layers.Flatten()(x)
    else:
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Reshape((1, 1, x.shape[-1]))(x)
        x = layers.Flatten()(x)
    x = layers.Dense(7, activation="relu")(x)
    x = layers.Dense(5, activation="softmax" if stream.integers(2) else None)(x)
    model = keras.Model(image, x, name="random")
    model.set_weights(
        [
            # variances must be positive
            np.abs(w) + 0.5 if "variance" in v.name else stream.normal(0, 0.5, w.shape)
            for v, w in zip(model.weights, model.get_weights(), strict=True)
        ]
    )
    return model
