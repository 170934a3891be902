"""Images: MobileNetV3, with squeeze-and-excite gates and hard-swish.

Tables 1 and 2 of the paper (``variant``: large or small). ``minimalistic`` is the variant of
the authors' code for hardware that likes plain operators: no gates, ReLU instead of hard-swish,
3x3 instead of 5x5. The layer before the classifier has 1024 or 1280 channels in the paper, for a
thousand classes; the default is smaller.

On a microcontroller: hard-swish is a table of 256 bytes, a gate is a mean, two small layers and
a multiplication of the whole map. The 5x5 depthwise layers cost nearly three times a 3x3.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from edgekit.zoo import _layers
from edgekit.zoo._layers import Activation, Model
from edgekit.zoo._parameters import (
    Channels,
    Choice,
    Classes,
    Dropout,
    Flag,
    Resolution,
    Whole,
    Width,
    checked,
)

PAPERS = ("Howard et al., Searching for MobileNetV3, arXiv:1905.02244, 2019",)
PARAMETERS, MACS = 159_810, 2_059_800


class _Block(NamedTuple):
    kernel: int
    expanded: int
    channels: int
    squeeze: bool
    hard_swish: bool
    stride: int


_LARGE = (
    _Block(3, 16, 16, False, False, 1),
    _Block(3, 64, 24, False, False, 2),
    _Block(3, 72, 24, False, False, 1),
    _Block(5, 72, 40, True, False, 2),
    _Block(5, 120, 40, True, False, 1),
    _Block(5, 120, 40, True, False, 1),
    _Block(3, 240, 80, False, True, 2),
    _Block(3, 200, 80, False, True, 1),
    _Block(3, 184, 80, False, True, 1),
    _Block(3, 184, 80, False, True, 1),
    _Block(3, 480, 112, True, True, 1),
    _Block(3, 672, 112, True, True, 1),
    _Block(5, 672, 160, True, True, 2),
    _Block(5, 960, 160, True, True, 1),
    _Block(5, 960, 160, True, True, 1),
)
_SMALL = (
    _Block(3, 16, 16, True, False, 2),
    _Block(3, 72, 24, False, False, 2),
    _Block(3, 88, 24, False, False, 1),
    _Block(5, 96, 40, True, True, 2),
    _Block(5, 240, 40, True, True, 1),
    _Block(5, 240, 40, True, True, 1),
    _Block(5, 120, 48, True, True, 1),
    _Block(5, 144, 48, True, True, 1),
    _Block(5, 288, 96, True, True, 2),
    _Block(5, 576, 96, True, True, 1),
    _Block(5, 576, 96, True, True, 1),
)


@checked
def build(
    *,
    width: Width = 0.35,
    resolution: Resolution = (96, 96),
    channels: Channels = 3,
    classes: Classes = 10,
    variant: Annotated[str, Choice("which of the paper's networks", ("small", "large"))] = "small",
    minimalistic: Annotated[bool, Flag("no gates, no hard-swish, 3x3 only")] = False,
    head: Annotated[
        int, Whole("channels before the classifier; 1024 or 1280 in the paper", 16, 1280)
    ] = 128,
    dropout: Dropout = 0.2,
) -> Model:
    """[1, height, width, channels] to probabilities of classes [1, classes]."""
    keras = _layers.keras()
    blocks = _SMALL if variant == "small" else _LARGE
    swish: Activation = "relu" if minimalistic else "hard_swish"

    def scaled(number: int) -> int:
        return _layers.divisible(number * width)

    image = keras.Input((*resolution, channels), name="image")
    x = _layers.convolution(image, scaled(16), 3, "stem", stride=2, activation=swish)
    for index, block in enumerate(blocks, 1):
        x = _layers.inverted_residual(
            x,
            scaled(block.expanded),
            scaled(block.channels),
            f"block{index}",
            kernel=3 if minimalistic else block.kernel,
            stride=block.stride,
            activation=swish if block.hard_swish else "relu",
            squeeze=block.squeeze and not minimalistic,
        )
    x = _layers.convolution(x, scaled(blocks[-1].expanded), 1, "last", activation=swish)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="average")(x)
    x = keras.layers.Conv2D(head, 1, kernel_initializer="he_normal", name="head")(x)
    x = keras.layers.Flatten(name="flat")(_layers.activate(x, "head", swish))
    return keras.Model(image, _layers.classifier(x, classes, dropout), name="mobilenet_v3")
