"""Images: MobileNetV2, inverted residuals with linear bottlenecks.

Table 2 of the paper: wide ReLU6 layers between narrow linear ones, which are added to what came
in. ``width`` multiplies all channels but the head's (rounded to multiples of 8, as the authors
do), ``depth`` the repetitions of every stage. The head has 1280 channels in the paper, which is
sized for a thousand classes; the default is smaller.

On a microcontroller: the expanded maps of the first blocks decide the RAM, and where it is short
a smaller ``expansion`` or ``resolution`` helps more than a smaller width.
"""

from __future__ import annotations

import math
from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model
from edgekit.zoo._parameters import (
    Channels,
    Classes,
    Dropout,
    Number,
    Resolution,
    Whole,
    Width,
    checked,
)

PAPERS = (
    "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv:1801.04381, "
    "2018",
)
PARAMETERS, MACS = 293_994, 9_624_496

#: Channels, repetitions and stride of the stages after the first (table 2: c, n, s).
_STAGES = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


@checked
def build(
    *,
    width: Width = 0.35,
    resolution: Resolution = (96, 96),
    channels: Channels = 3,
    classes: Classes = 10,
    depth: Annotated[float, Number("multiplies the repetitions of each stage", 0.25, 2)] = 1.0,
    expansion: Annotated[int, Whole("how much wider a block is inside (t)", 1, 8)] = 6,
    head: Annotated[int, Whole("channels before the mean; 1280 in the paper", 16, 1280)] = 256,
    dropout: Dropout = 0.2,
) -> Model:
    """[1, height, width, channels] to probabilities of classes [1, classes]."""
    keras = _layers.keras()
    divisible = _layers.divisible
    image = keras.Input((*resolution, channels), name="image")
    x = _layers.convolution(image, divisible(32 * width), 3, "stem", stride=2, activation="relu6")
    # The first stage does not expand (t = 1).
    x = _layers.inverted_residual(x, x.shape[-1], divisible(16 * width), "block1")
    index = 1
    for number, repetitions, stride in _STAGES:
        for repetition in range(math.ceil(repetitions * depth)):
            index += 1
            x = _layers.inverted_residual(
                x,
                expansion * x.shape[-1],
                divisible(number * width),
                f"block{index}",
                stride=stride if repetition == 0 else 1,
            )
    x = _layers.convolution(x, head, 1, "head", activation="relu6")
    return keras.Model(image, _layers.image_classifier(x, classes, dropout), name="mobilenet_v2")
