"""Short texts: hashed n-grams instead of a vocabulary, and a small network over them.

After PRADO and pQRNN: a word becomes ternary features by hashing (here of its letters in groups
of three and of itself: ``edgekit.features.text``), so that there is no table of words, and words
that are spelt alike have like features. A narrow dense layer learns which of them matter
("bottleneck"), convolutions look at neighbouring words, and a maximum, a mean or the recurrent
pooling of a quasi-recurrent network makes one vector of all words (Bradbury et al., f-pooling).

The input is [tokens, features] of -1, 0 and 1. ``edgekit.features.text`` computes it
in Python and ``firmware/include/ek_text.h`` on the device, the same values from the same bytes.

On a microcontroller: nothing but convolutions and dense layers, unless ``pooling=recurrent``,
which is unrolled: three small operators per token.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model, Tensor
from edgekit.zoo._parameters import Choice, Classes, Dropout, Whole, checked

PAPERS = (
    "Kaliamoorthi, Ravi and Kozareva, PRADO: Projection Attention Networks for Document "
    "Classification On-Device, EMNLP 2019",
    "Kaliamoorthi et al., Distilling Large Language Models into Tiny and Effective Students "
    "using pQRNN, arXiv:2101.08890, 2021",
    "Bradbury et al., Quasi-Recurrent Neural Networks, arXiv:1611.01576, 2016",
)
PARAMETERS, MACS = 7_556, 229_504


@checked
def build(
    *,
    tokens: Annotated[int, Whole("words of a text; later ones are cut off", 2, 256)] = 32,
    features: Annotated[int, Whole("hashed features of a word", 16, 1024, 16)] = 128,
    bottleneck: Annotated[int, Whole("channels that they are projected to", 4, 128, 4)] = 32,
    units: Annotated[int, Whole("channels of a convolution", 4, 256, 4)] = 32,
    depth: Annotated[int, Whole("convolutions over words", 0, 4)] = 1,
    kernel: Annotated[int, Whole("words that a convolution sees", 1, 7)] = 3,
    pooling: Annotated[
        str, Choice("how words become a vector", ("max", "mean", "recurrent"))
    ] = "max",
    classes: Classes = 4,
    dropout: Dropout = 0.2,
) -> Model:
    """[1, tokens, features] of -1, 0 and 1 to probabilities of classes [1, classes]."""
    keras = _layers.keras()
    layers = keras.layers
    words = keras.Input((tokens, features), name="words")
    x = layers.Dense(bottleneck, use_bias=False, kernel_initializer="he_normal", name="bottleneck")(
        words
    )
    x = _layers.normalise(x, "bottleneck", "relu")
    for index in range(1, depth + 1):
        x = layers.Conv1D(
            units,
            kernel,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"conv{index}",
        )(x)
        x = _layers.normalise(x, f"conv{index}", "relu")
    if pooling == "recurrent":
        x = _recurrent(x, tokens, units, kernel)
    elif pooling == "mean":
        x = layers.GlobalAveragePooling1D(name="average")(x)
    else:
        # GlobalMaxPooling1D would convert to REDUCE_MAX, a pool is the more common operator.
        x = layers.Flatten(name="flat")(layers.MaxPooling1D(tokens, name="max")(x))
    return keras.Model(words, _layers.classifier(x, classes, dropout), name="text_projection")


def _recurrent(x: Tensor, tokens: int, units: int, kernel: int) -> Tensor:
    """A quasi-recurrent layer's last state: new = candidate - forget * (candidate - old).

    In differences, not sums, for the reason that ``lstm`` states.
    """
    layers = _layers.keras().layers
    both = layers.Conv1D(2 * units, kernel, padding="same", name="recurrent")(x)
    candidates = layers.Activation("tanh", name="recurrent_candidates")(both[:, :, :units])
    forget = layers.Activation("sigmoid", name="recurrent_forget")(both[:, :, units:])
    state = candidates[:, 0]
    for token in range(1, tokens):
        name = f"recurrent_token{token}"
        candidate = candidates[:, token]
        change = layers.Subtract(name=f"{name}_change")([candidate, state])
        kept = layers.Multiply(name=f"{name}_kept")([forget[:, token], change])
        state = layers.Subtract(name=f"{name}_state")([candidate, kept])
    return state
