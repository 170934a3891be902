"""What is not normal, in machine sounds or sensor values: a dense autoencoder.

Dense layers with batch normalisation and ReLU down to a narrow one and back: the baseline of
DCASE 2020's task on machine condition, and MLPerf Tiny's anomaly detection. It is trained to
give back its input on normal data only (loss: mean squared error); how far off it is then says
how unusual an input is. The input is a vector, there 5 frames of 128 mel bands.

On a microcontroller: all weights are used once per inference, so that it is flash that it costs,
and hardly any RAM.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model
from edgekit.zoo._parameters import Whole, Width, checked

PAPERS = (
    "Koizumi et al., Description and Discussion on DCASE2020 Challenge Task2, arXiv:2006.05822, "
    "2020",
    "Banbury et al., MLPerf Tiny Benchmark, arXiv:2106.07597, 2021",
)
PARAMETERS, MACS = 269_992, 264_192


@checked
def build(
    *,
    width: Width = 1.0,
    features: Annotated[int, Whole("values of an input", 2, 4096)] = 640,
    bottleneck: Annotated[int, Whole("values in the middle", 1, 128)] = 8,
    depth: Annotated[int, Whole("hidden layers on each side of the middle", 1, 6)] = 4,
) -> Model:
    """[1, features] to [1, features]."""
    keras = _layers.keras()
    units = _layers.divisible(128 * width, 4)
    sizes = [*[units] * depth, bottleneck, *[units] * depth]
    x = values = keras.Input((features,), name="values")
    for index, size in enumerate(sizes, 1):
        name = "bottleneck" if index == depth + 1 else f"dense{index}"
        x = keras.layers.Dense(size, kernel_initializer="he_normal", name=name)(x)
        x = _layers.normalise(x, name, "relu")
    return keras.Model(
        values, keras.layers.Dense(features, name="reconstruction")(x), name="autoencoder"
    )
