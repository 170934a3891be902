"""Images: MobileNetV1, depthwise-separable convolutions throughout.

Table 1 of the paper, with its two knobs: the width multiplier (its α) and the resolution (its
ρ). ``shallow`` leaves out the five layers of 512 channels in the middle, the paper's "shallow
MobileNet". A width of 0.25 with 96x96 and two classes is MLPerf Tiny's visual wake words.

On a microcontroller: convolutions, a mean and a dense layer. The first layers' maps decide the
RAM, the last layers' weights the flash, so that the resolution buys RAM and the width both.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model
from edgekit.zoo._parameters import (
    Channels,
    Classes,
    Dropout,
    Flag,
    Number,
    Resolution,
    checked,
)

PAPERS = (
    "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision "
    "Applications, arXiv:1704.04861, 2017",
)
PARAMETERS, MACS = 219_058, 7_489_664

#: Channels and stride of the separable layers after the first convolution (table 1).
_LAYERS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
#: Where the five layers are that a shallow network leaves out.
_DEEP = slice(6, 11)


@checked
def build(
    *,
    width: Annotated[float, Number("multiplies the channels of every layer (α)", 0.1, 2)] = 0.25,
    resolution: Resolution = (96, 96),
    channels: Channels = 3,
    classes: Classes = 2,
    shallow: Annotated[bool, Flag("leaves out the five layers of 512 channels")] = False,
    dropout: Dropout = 0.0,
) -> Model:
    """[1, height, width, channels] to probabilities of classes [1, classes]."""
    keras = _layers.keras()

    def scaled(number: int) -> int:
        # The authors' code (mobilenet_v1.py in TF-slim) cuts off, with at least 8.
        return max(int(width * number), 8)

    image = keras.Input((*resolution, channels), name="image")
    x = _layers.convolution(image, scaled(32), 3, "stem", stride=2, activation="relu6")
    layers = list(_LAYERS)
    if shallow:
        del layers[_DEEP]
    for index, (number, stride) in enumerate(layers, 1):
        x = _layers.depthwise(x, 3, f"block{index}_depthwise", stride=stride, activation="relu6")
        x = _layers.convolution(x, scaled(number), 1, f"block{index}_pointwise", activation="relu6")
    return keras.Model(image, _layers.image_classifier(x, classes, dropout), name="mobilenet_v1")
