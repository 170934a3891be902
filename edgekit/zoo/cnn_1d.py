"""Signals of sensors: convolutions along time.

The fully convolutional network of Wang et al.: kernels of 8, 5 and 3 steps, batch normalisation
and ReLU, the mean over time. A width of 1 has the paper's 128, 256 and 128 channels; maxima over
``pool`` steps after each layer (the paper has none, ``pool=1``) make the later ones cheap.

The input is [steps, features], for instance two seconds of an accelerometer's three axes.

On a microcontroller: a convolution along time runs as CONV_2D of height 1. More than
``depth=3`` layers repeat the last one.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model
from edgekit.zoo._parameters import Classes, Dropout, Features, Steps, Whole, Width, checked

PAPERS = (
    "Wang, Yan and Oates, Time Series Classification from Scratch with Deep Neural Networks: "
    "A Strong Baseline, arXiv:1611.06455, 2016",
)
PARAMETERS, MACS = 17_862, 950_464

#: Kernel and channels of the layers.
_LAYERS = ((8, 128), (5, 256), (3, 128))


@checked
def build(
    *,
    width: Width = 0.25,
    steps: Steps = 128,
    features: Features = 3,
    classes: Classes = 6,
    depth: Annotated[int, Whole("convolutions", 1, 8)] = 3,
    pool: Annotated[int, Whole("steps that a maximum after each layer takes", 1, 4)] = 2,
    dropout: Dropout = 0.0,
) -> Model:
    """[1, steps, features] to probabilities of classes [1, classes]."""
    from edgekit.errors import UsageError

    keras = _layers.keras()
    layers = keras.layers
    if steps < pool**depth:
        raise UsageError(
            f"{steps} steps are too few for {depth} maxima over {pool} steps each",
            fix="more steps, or a smaller pool or depth",
        )
    x = signal = keras.Input((steps, features), name="signal")
    for index in range(depth):
        kernel, number = _LAYERS[min(index, len(_LAYERS) - 1)]
        name = f"conv{index + 1}"
        x = layers.Conv1D(
            _layers.divisible(number * width, 4),
            kernel,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=name,
        )(x)
        x = _layers.normalise(x, name, "relu")
        if pool > 1:
            x = layers.MaxPooling1D(pool, name=f"{name}_max")(x)
    x = layers.GlobalAveragePooling1D(name="average")(x)
    return keras.Model(signal, _layers.classifier(x, classes, dropout), name="cnn_1d")
