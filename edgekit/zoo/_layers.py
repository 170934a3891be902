"""Pieces that the architectures share, made of Keras 3 layers with fixed names.

Convolutions come without a bias and with batch normalisation, which conversion folds into
weights and bias; weights start as He et al., arXiv:1502.01852, 2015, propose for ReLU. Strided
layers pad "same" the way TensorFlow does (more at the end), which TensorFlow Lite's operators do
by themselves: there is no padding operator on the device.
"""

from __future__ import annotations

from typing import Any, Literal

#: keras.Model and keras.KerasTensor: importing Keras takes seconds, so that names are no types.
Model = Any
Tensor = Any

#: Share of the old in the moving averages of batch normalisation. Keras' 0.99 follows the data
#: after hundreds of steps, which small data sets do not have: after 12 epochs of 23 steps on 8x8
#: digits a MobileNetV2 had 77 % with the batches' own statistics, 15 % with the averages.
MOMENTUM = 0.9

Activation = Literal["relu", "relu6", "hard_swish", "none"]


def keras() -> Any:
    """The ``keras`` module, version 3 on TensorFlow.

    Raises:
        MissingDependency: it is not installed.
    """
    from edgekit.convert import frameworks

    return frameworks.keras3()


def divisible(channels: float, divisor: int = 8) -> int:
    """Channels as a multiple of ``divisor``: the nearest one that loses at most a tenth.

    The rule of MobileNetV2 and V3 (``_make_divisible`` in the authors' TensorFlow models).
    Kernels take channels in groups of four, so that other numbers cost without giving.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def normalise(x: Tensor, name: str, activation: Activation) -> Tensor:
    """Batch normalisation (Ioffe and Szegedy, arXiv:1502.03167, 2015), then the activation."""
    x = keras().layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return activate(x, name, activation)


def activate(x: Tensor, name: str, activation: Activation) -> Tensor:
    """The activation as a layer of its own; ``none`` is no layer."""
    layers = keras().layers
    if activation == "relu":
        return layers.ReLU(name=f"{name}_relu")(x)
    if activation == "relu6":
        return layers.ReLU(6.0, name=f"{name}_relu")(x)
    if activation == "hard_swish":
        # Keras' name for it; conversion makes HARD_SWISH of it, a table of 256 bytes.
        return layers.Activation("hard_silu", name=f"{name}_hard_swish")(x)
    return x


def convolution(
    x: Tensor,
    channels: int,
    kernel: int | tuple[int, int],
    name: str,
    *,
    stride: int | tuple[int, int] = 1,
    activation: Activation = "relu",
) -> Tensor:
    """Convolution, batch normalisation, activation: [1, h, w, c] to [1, h/stride, …, channels]."""
    x = keras().layers.Conv2D(
        channels,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return normalise(x, name, activation)


def depthwise(
    x: Tensor,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    activation: Activation = "relu",
) -> Tensor:
    """Depthwise convolution, batch normalisation, activation: as many channels as ``x`` has."""
    module = keras()
    # Keras takes all channels for inputs of each output, where it is one: without the factor the
    # initial weights, and from layer to layer the activations, would be far too small.
    initializer = module.initializers.VarianceScaling(
        2.0 * x.shape[-1], "fan_in", "truncated_normal"
    )
    x = module.layers.DepthwiseConv2D(
        kernel,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=initializer,
        name=name,
    )(x)
    return normalise(x, name, activation)


def inverted_residual(
    x: Tensor,
    expanded: int,
    channels: int,
    name: str,
    *,
    kernel: int = 3,
    stride: int = 1,
    activation: Activation = "relu6",
    squeeze: bool = False,
) -> Tensor:
    """The block of MobileNetV2 (Sandler et al., arXiv:1801.04381, 2018, section 3).

    Expansion to ``expanded`` channels (left out where ``x`` has as many), a depthwise
    convolution, with ``squeeze`` a squeeze-and-excite gate, and a projection without activation;
    the input is added where the shapes allow it.
    """
    inner = x
    if expanded != x.shape[-1]:
        inner = convolution(inner, expanded, 1, f"{name}_expand", activation=activation)
    inner = depthwise(inner, kernel, f"{name}_depthwise", stride=stride, activation=activation)
    if squeeze:
        inner = squeeze_excite(inner, f"{name}_squeeze")
    inner = convolution(inner, channels, 1, f"{name}_project", activation="none")
    if inner.shape == x.shape:
        inner = keras().layers.Add(name=f"{name}_add")([x, inner])
    return inner


def squeeze_excite(x: Tensor, name: str, ratio: float = 0.25) -> Tensor:
    """Weighs every channel by what all of them are on average (Hu et al., arXiv:1709.01507, 2018).

    As in MobileNetV3: a quarter of the channels inside, ReLU, and the piecewise linear sigmoid
    relu6(x + 3) / 6, which conversion folds into the convolution before it.
    """
    layers = keras().layers
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    gate = layers.Conv2D(
        divisible(ratio * x.shape[-1]), 1, activation="relu", name=f"{name}_reduce"
    )(gate)
    gate = layers.Conv2D(x.shape[-1], 1, name=f"{name}_expand")(gate)
    gate = layers.Activation("hard_sigmoid", name=f"{name}_sigmoid")(gate)
    return layers.Multiply(name=f"{name}_scale")([x, gate])


def classifier(x: Tensor, classes: int, dropout: float) -> Tensor:
    """A vector of features to probabilities of classes."""
    layers = keras().layers
    if dropout > 0:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(classes, activation="softmax", name="classes")(x)


def image_classifier(x: Tensor, classes: int, dropout: float) -> Tensor:
    """Maps of features, averaged over the image, to probabilities of classes."""
    x = keras().layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(x, classes, dropout)
