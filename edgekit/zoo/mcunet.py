"""Images on very little memory: inverted residuals with mixed kernels, as MCUNet's search finds.

MCUNet's networks come from a search for one device each, over ProxylessNAS' stages with kernels
of 3, 5 or 7, expansions of 3, 4 or 6 and two to four blocks a stage. This is one member of that
family with the choices as parameters, not one of its published results: blocks with a stride
take the large ``kernel`` and ``expansion``, the others 3x3 and the smaller expansion of the
two, there is no wide layer at the end, and the first block has half the channels of the first
convolution. A width of 0.5 gives the 8, 16, 24, 40, 48, 96 and 160 channels of the published
networks; their inputs have 48 to 176 pixels a side.

On a microcontroller: the first two stages decide the RAM; ``edgekit compile --max-ram`` runs
them in strips, as MCUNetV2 does, if it has to be smaller.
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
    "Lin et al., MCUNet: Tiny Deep Learning on IoT Devices, arXiv:2007.10319, 2020",
    "Lin et al., MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning, "
    "arXiv:2110.15352, 2021",
    "Cai et al., ProxylessNAS, arXiv:1812.00332, 2018",
)
PARAMETERS, MACS = 278_882, 7_396_936

#: Channels at a width of 1 and stride of the stages.
_STAGES = ((32, 2), (40, 2), (80, 2), (96, 1), (192, 2))
_LAST = 320


@checked
def build(
    *,
    width: Width = 0.5,
    resolution: Resolution = (80, 80),
    channels: Channels = 3,
    classes: Classes = 2,
    depth: Annotated[int, Whole("blocks of each stage", 1, 4)] = 2,
    kernel: Annotated[int, Whole("side of the large depthwise kernels", 3, 7, 2)] = 5,
    expansion: Annotated[int, Whole("largest expansion inside a block", 3, 6)] = 4,
    dropout: Dropout = 0.0,
) -> Model:
    """[1, height, width, channels] to probabilities of classes [1, classes]."""
    keras = _layers.keras()
    divisible = _layers.divisible
    image = keras.Input((*resolution, channels), name="image")
    x = _layers.convolution(image, divisible(32 * width), 3, "stem", stride=2, activation="relu6")
    x = _layers.inverted_residual(x, x.shape[-1], divisible(16 * width), "block1")
    index = 1
    for number, stride in _STAGES:
        for block in range(depth):
            index += 1
            first = block == 0
            x = _layers.inverted_residual(
                x,
                (expansion if first else 3) * x.shape[-1],
                divisible(number * width),
                f"block{index}",
                kernel=kernel if first else 3,
                stride=stride if first else 1,
            )
    index += 1
    x = _layers.inverted_residual(
        x, expansion * x.shape[-1], divisible(_LAST * width), f"block{index}", kernel=kernel
    )
    return keras.Model(image, _layers.image_classifier(x, classes, dropout), name="mcunet")
