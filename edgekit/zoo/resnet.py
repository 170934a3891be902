"""Small images: a residual network of 3x3 convolutions.

The CIFAR-10 form of He et al. (section 4.2): a first convolution, three stages of residual
blocks with 16, 32 and 64 channels, and the mean. One block a stage, as by default, is MLPerf
Tiny's image classification ("ResNet-8"); three are ResNet-20. Where a stage changes the shape
the shortcut is a 1x1 convolution (the paper's option B).

On a microcontroller: dense 3x3 convolutions are many multiplications per byte of memory: fast
with SIMD, and the RAM is two or three maps of the first stage.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model
from edgekit.zoo._parameters import (
    Channels,
    Classes,
    Dropout,
    Resolution,
    Whole,
    Width,
    checked,
)

PAPERS = (
    "He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, 2015",
    "Banbury et al., MLPerf Tiny Benchmark, arXiv:2106.07597, 2021",
)
PARAMETERS, MACS = 78_714, 12_501_632


@checked
def build(
    *,
    width: Width = 1.0,
    resolution: Resolution = (32, 32),
    channels: Channels = 3,
    classes: Classes = 10,
    blocks: Annotated[int, Whole("residual blocks of each stage", 1, 9)] = 1,
    dropout: Dropout = 0.0,
) -> Model:
    """[1, height, width, channels] to probabilities of classes [1, classes]."""
    keras = _layers.keras()
    image = keras.Input((*resolution, channels), name="image")
    x = _layers.convolution(image, _layers.divisible(16 * width, 4), 3, "stem")
    for stage, factor in enumerate((16, 32, 64), 1):
        number = _layers.divisible(factor * width, 4)
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            inner = _layers.convolution(x, number, 3, f"{name}_first", stride=stride)
            inner = _layers.convolution(inner, number, 3, f"{name}_second", activation="none")
            if inner.shape != x.shape:
                x = _layers.convolution(
                    x, number, 1, f"{name}_shortcut", stride=stride, activation="none"
                )
            x = _layers.activate(keras.layers.Add(name=f"{name}_add")([x, inner]), name, "relu")
    return keras.Model(image, _layers.image_classifier(x, classes, dropout), name="resnet")
