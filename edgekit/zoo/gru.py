"""Sequences: gated recurrent units, unrolled.

Cho et al.'s unit over the time steps of a window, with the reset gate after the recurrent
product as in cuDNN and Keras (``reset_after``); the last state is classified. A quarter fewer
weights than an LSTM of as many units, and one state less to keep.

On a microcontroller: unrolled into plain layers, with differences instead of sums, for the
reasons that ``lstm`` states, and with the same price: tables and code grow with ``steps``. The
new state is ``candidate - update * (candidate - old)``, one multiplication less than usual.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model, Tensor
from edgekit.zoo._parameters import Classes, Dropout, Features, Whole, checked

PAPERS = (
    "Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical "
    "Machine Translation, arXiv:1406.1078, 2014",
)
PARAMETERS, MACS = 4_614, 66_240


@checked
def build(
    *,
    steps: Annotated[int, Whole("time steps of a window", 2, 128)] = 16,
    features: Features = 13,
    units: Annotated[int, Whole("units of a layer", 4, 256, 4)] = 32,
    depth: Annotated[int, Whole("layers", 1, 3)] = 1,
    classes: Classes = 6,
    dropout: Dropout = 0.0,
) -> Model:
    """[1, steps, features] to probabilities of classes [1, classes]."""
    keras = _layers.keras()
    signal = keras.Input((steps, features), name="signal")
    states: list[Tensor] = []
    for layer in range(1, depth + 1):
        given = keras.layers.Dense(3 * units, name=f"gru{layer}_input")
        if layer == 1:
            everything = given(signal)
            inputs = [everything[:, step] for step in range(steps)]
        else:
            inputs = [given(state) for state in states]
        states = _run(inputs, units, f"gru{layer}")
    return keras.Model(signal, _layers.classifier(states[-1], classes, dropout), name="gru")


def _run(inputs: list[Tensor], units: int, name: str) -> list[Tensor]:
    """The states after each step, of the inputs' share of the gates [1, 3 * units] each.

    The gates' order is update, reset, candidate. The recurrent weights have the opposite of their
    usual sign.
    """
    layers = _layers.keras().layers
    recurrent = layers.Dense(
        3 * units,
        use_bias=False,  # in int8 each step would have its own
        kernel_initializer="orthogonal",
        name=f"{name}_recurrent",
    )
    states: list[Tensor] = []
    for step, given in enumerate(inputs):
        place = f"{name}_step{step}"
        candidate = given[:, 2 * units :]
        if not states:  # the old state is zero
            update = layers.Activation("sigmoid", name=f"{place}_update")(given[:, :units])
            candidate = layers.Activation("tanh", name=f"{place}_candidate")(candidate)
            kept = layers.Multiply(name=f"{place}_kept")([update, candidate])
            states.append(layers.Subtract(name=f"{place}_state")([candidate, kept]))
            continue
        old = states[-1]
        own = recurrent(old)
        total = layers.Subtract(name=f"{place}_total")([given[:, : 2 * units], own[:, : 2 * units]])
        gates = layers.Activation("sigmoid", name=f"{place}_gates")(total)
        reset = layers.Multiply(name=f"{place}_reset")([gates[:, units:], own[:, 2 * units :]])
        candidate = layers.Subtract(name=f"{place}_sum")([candidate, reset])
        candidate = layers.Activation("tanh", name=f"{place}_candidate")(candidate)
        change = layers.Subtract(name=f"{place}_change")([candidate, old])
        kept = layers.Multiply(name=f"{place}_kept")([gates[:, :units], change])
        states.append(layers.Subtract(name=f"{place}_state")([candidate, kept]))
    return states
