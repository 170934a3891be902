"""Sequences: long short-term memory, unrolled.

Hochreiter and Schmidhuber's cell with the forget gate of Gers et al. over the time steps of a
window; the last state is classified. The forget gate starts open (bias 1, Jozefowicz et al.).

On a microcontroller: the loop is unrolled into plain layers, because TensorFlow 2.19's converter
crashes on ``keras.layers.LSTM`` in int8, and unrolled by Keras it leaves a float operator behind
and multiplies every step's input by itself. Here the inputs' share of the gates is one dense
layer over all steps, and the three sigmoids of a step are one table look-up. The recurrent share
is subtracted, so that its weights learn the opposite sign: Keras makes of a sum of two vectors of
one sample a "bias", which the converter then merges into a dense layer with a bias that is no
constant. Weights are shared between the steps, but each step has ranges of its own: tables, code
and the time to convert grow with ``steps``. Tens of steps are fine; for hundreds take ``cnn_1d``,
or frames that are longer.
"""

from __future__ import annotations

from typing import Annotated

from edgekit.zoo import _layers
from edgekit.zoo._layers import Model, Tensor
from edgekit.zoo._parameters import Classes, Dropout, Features, Whole, checked

PAPERS = (
    "Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997",
    "Gers, Schmidhuber and Cummins, Learning to Forget, Neural Computation 12(10), 2000",
    "Jozefowicz, Zaremba and Sutskever, An Empirical Exploration of Recurrent Network "
    "Architectures, ICML 2015",
)
PARAMETERS, MACS = 6_086, 88_256


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
    inputs: list[Tensor] = []
    states: list[Tensor] = []
    gates = []
    for layer in range(1, depth + 1):
        given = keras.layers.Dense(4 * units, name=f"lstm{layer}_input")
        gates.append(given)
        if layer == 1:
            everything = given(signal)
            inputs = [everything[:, step] for step in range(steps)]
        else:
            inputs = [given(state) for state in states]
        states = _run(inputs, units, f"lstm{layer}")
    model = keras.Model(signal, _layers.classifier(states[-1], classes, dropout), name="lstm")
    for given in gates:
        bias = given.bias.numpy()
        bias[units : 2 * units] = 1.0
        given.bias.assign(bias)
    return model


def _run(inputs: list[Tensor], units: int, name: str) -> list[Tensor]:
    """The states after each step, of the inputs' share of the gates [1, 4 * units] each.

    The gates' order is input, forget, output, candidate. The recurrent weights have the opposite
    of their usual sign.
    """
    layers = _layers.keras().layers
    recurrent = layers.Dense(
        4 * units,
        use_bias=False,
        kernel_initializer="orthogonal",
        name=f"{name}_recurrent",
    )
    states: list[Tensor] = []
    cell: Tensor = None
    for step, given in enumerate(inputs):
        place = f"{name}_step{step}"
        total = given
        if states:
            total = layers.Subtract(name=f"{place}_total")([given, recurrent(states[-1])])
        gates = layers.Activation("sigmoid", name=f"{place}_gates")(total[:, : 3 * units])
        candidate = layers.Activation("tanh", name=f"{place}_candidate")(total[:, 3 * units :])
        new = layers.Multiply(name=f"{place}_new")([gates[:, :units], candidate])
        if cell is not None:
            kept = layers.Multiply(name=f"{place}_kept")([gates[:, units : 2 * units], cell])
            new = layers.Add(name=f"{place}_cell")([kept, new])
        cell = new
        shown = layers.Activation("tanh", name=f"{place}_shown")(cell)
        states.append(layers.Multiply(name=f"{place}_state")([gates[:, 2 * units :], shown]))
    return states
