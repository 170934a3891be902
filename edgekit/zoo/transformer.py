"""Sequences where distant steps matter: a tiny transformer.

An encoder as the Keyword Transformer of Berg et al. (tokens are the time steps of a spectrogram
or signal, with a learned position each), with the normalisation before attention and
feed-forward part (Xiong et al.), ReLU inside, and the mean over tokens instead of a class token.

``normalization=layer`` is layer normalisation without scale and offset, which the dense layer
after it can learn as well. It is spelt out in operators that have an int8 form:
``keras.layers.LayerNormalization`` converts with a float negation inside. ``batch`` is batch
normalisation at the end of each residual branch (LeViT, Graham et al.), which conversion folds
into the dense layer before it: it costs nothing on the device.

On a microcontroller: attention over n tokens has n*n scores per head, int8: RAM, and a softmax
each. GELU is no operator of TensorFlow Lite Micro; ReLU is.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model, Tensor
from edgekit.zoo._parameters import Choice, Classes, Dropout, Features, Whole, checked

PAPERS = (
    "Vaswani et al., Attention Is All You Need, arXiv:1706.03762, 2017",
    "Berg, O'Connor and Cruz, Keyword Transformer: A Self-Attention Model for Keyword Spotting, "
    "arXiv:2104.00769, 2021",
    "Xiong et al., On Layer Normalization in the Transformer Architecture, arXiv:2002.04745, 2020",
    "Graham et al., LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference, "
    "arXiv:2104.01136, 2021",
)
PARAMETERS, MACS = 19_116, 1_126_208

#: Variance below which a token counts as constant; Keras' default for layer normalisation.
_EPSILON = 1e-3


@checked
def build(
    *,
    steps: Annotated[int, Whole("tokens: time steps of a window", 2, 256)] = 49,
    features: Features = 10,
    dim: Annotated[int, Whole("channels of a token", 8, 256, 4)] = 32,
    heads: Annotated[int, Whole("attention heads; they divide dim", 1, 8)] = 2,
    depth: Annotated[int, Whole("blocks of attention and feed-forward part", 1, 8)] = 2,
    mlp: Annotated[int, Whole("how much wider the feed-forward part is inside", 1, 4)] = 2,
    normalization: Annotated[
        str, Choice("of tokens, or of batches in training", ("layer", "batch"))
    ] = "layer",
    classes: Classes = 12,
    dropout: Dropout = 0.1,
) -> Model:
    """[1, steps, features] to probabilities of classes [1, classes]."""
    from edgekit.errors import UsageError

    if dim % heads:
        raise UsageError(f"{heads} heads do not divide dim, which is {dim}")
    keras = _layers.keras()
    layers = keras.layers
    per_token = normalization == "layer"

    def before(x: Tensor, name: str) -> Tensor:
        return _standardize(x, name) if per_token else x

    def add(x: Tensor, inner: Tensor, name: str) -> Tensor:
        if not per_token:
            inner = _layers.normalise(inner, name, "none")
        return layers.Add(name=f"{name}_add")([x, inner])

    signal = keras.Input((steps, features), name="signal")
    # A dense layer whose bias differs from step to step: the embedding and the positions.
    x = layers.EinsumDense(
        "bsf,fd->bsd",
        (steps, dim),
        bias_axes="sd",
        bias_initializer=keras.initializers.RandomNormal(stddev=0.1),
        name="embedding",
    )(signal)
    for block in range(1, depth + 1):
        name = f"block{block}_attention"
        tokens = before(x, name)
        mixed = layers.MultiHeadAttention(heads, dim // heads, name=name)(tokens, tokens)
        x = add(x, mixed, name)
        name = f"block{block}_mlp"
        inner = layers.Dense(
            mlp * dim, activation="relu", kernel_initializer="he_normal", name=f"{name}_expand"
        )(before(x, name))
        x = add(x, layers.Dense(dim, name=f"{name}_project")(inner), name)
    x = layers.GlobalAveragePooling1D(name="average")(before(x, "last"))
    return keras.Model(signal, _layers.classifier(x, classes, dropout), name="transformer")


def _standardize(x: Tensor, name: str) -> Tensor:
    """Each token with mean 0 and variance 1 (Ba et al., arXiv:1607.06450, 2016)."""
    keras = _layers.keras()
    layers, ops = keras.layers, keras.ops
    mean = ops.mean(x, axis=-1, keepdims=True)
    centred = layers.Subtract(name=f"{name}_centred")([x, mean])
    squares = layers.Multiply(name=f"{name}_squares")([centred, centred])
    scale = ops.rsqrt(ops.mean(squares, axis=-1, keepdims=True) + _EPSILON)
    return layers.Multiply(name=f"{name}_standardized")([centred, scale])
