"""Keywords in audio: a depthwise-separable CNN over a spectrogram.

The DS-CNN of Zhang et al. as MLPerf Tiny's keyword spotting has it: a convolution of 10x4 with
a stride of 2, then blocks of a depthwise 3x3 and a pointwise convolution, all with ReLU, and
the mean over time and frequency. The input is [frames, coefficients, 1]; 49x10 are the MFCCs of
a second in windows of 40 ms every 20 ms. A width of 2.6875 gives the 172 channels of the
paper's medium network, 4.3125 the 276 of its large one (which has five blocks).

On a microcontroller: convolutions, a mean and a dense layer; nothing to avoid.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model
from edgekit.zoo._parameters import Classes, Dropout, Number, Size, Whole, checked

PAPERS = (
    "Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, arXiv:1711.07128, 2017",
    "Banbury et al., MLPerf Tiny Benchmark, arXiv:2106.07597, 2021",
)
#: Of the default settings, for the list of models; a test compares them.
PARAMETERS, MACS = 24_332, 2_656_768


@checked
def build(
    *,
    width: Annotated[float, Number("multiplies the 64 channels", 0.1, 4.5)] = 1.0,
    resolution: Annotated[
        tuple[int, int], Size("frames and coefficients of the spectrogram", 8, 256)
    ] = (49, 10),
    blocks: Annotated[int, Whole("separable blocks", 1, 8)] = 4,
    classes: Classes = 12,
    dropout: Dropout = 0.2,
) -> Model:
    """[1, frames, coefficients, 1] to probabilities of classes [1, classes]."""
    keras = _layers.keras()
    channels = _layers.divisible(64 * width, 4)
    spectrogram = keras.Input((*resolution, 1), name="spectrogram")
    x = _layers.convolution(spectrogram, channels, (10, 4), "stem", stride=2)
    for index in range(1, blocks + 1):
        x = _layers.depthwise(x, 3, f"block{index}_depthwise")
        x = _layers.convolution(x, channels, 1, f"block{index}_pointwise")
    return keras.Model(spectrogram, _layers.image_classifier(x, classes, dropout), name="ds_cnn")
