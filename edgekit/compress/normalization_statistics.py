"""Statistics of batch normalisations, measured anew after training.

Their moving averages follow the weights with a delay of a hundred steps or so. Where a technique
has just changed the weights, or training was short, they describe a model that is no more; in
training nobody notices, since batches are normalised by their own statistics there. Averages
over batches of the finished model take their place: Wu and Johnson, "Rethinking 'Batch' in
BatchNorm", arXiv:2105.07576 (2021), section 3.2 ("precise BN").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.compress.trainable import as_variable

if TYPE_CHECKING:
    from edgekit.compress.data import TrainingSet
    from edgekit.compress.trainable import KerasTrainable

_BATCHES = 64
#: Stands for an epoch that no training has.
_EPOCH = (1 << 31) - 1


def renew(model: KerasTrainable, data: TrainingSet, batch: int, seed: int) -> None:
    """Sets means and variances of the trainable batch normalisations to averages over batches."""
    import numpy as np
    import tensorflow as tf

    layers = [
        layer
        for layer in model.graph.layers()
        if type(layer).__name__ == "BatchNormalization" and layer.trainable
    ]
    if not layers:
        return
    statistics = [as_variable(v) for layer in layers for v in _moving(layer)]
    sums: list[Any] = [0.0] * len(statistics)
    momenta = [layer.momentum for layer in layers]
    count = 0
    try:
        for layer in layers:
            layer.momentum = 0.0  # the moving statistics are then the last batch's own

        def observe(inputs: Any) -> None:
            model(inputs, training=True)

        observed = tf.function(observe, autograph=False, reduce_retracing=True)
        for chunk in data.batches(_EPOCH, batch, seed):
            observed(tuple(tf.constant(array) for array in chunk.inputs))
            for place, variable in enumerate(statistics):
                sums[place] = sums[place] + variable.numpy().astype(np.float64)
            count += 1
            if count == _BATCHES:
                break
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    for variable, total in zip(statistics, sums, strict=True):
        variable.assign((total / count).astype(np.float32))


def _moving(layer: Any) -> tuple[Any, Any]:
    return layer.moving_mean, layer.moving_variance
