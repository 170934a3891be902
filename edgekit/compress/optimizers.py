"""Optimisers whose state is a plain list of variables.

Keras' own keep their state by the place of a variable among those of the first call, so that
layers that are frozen for a while would mix it up; and each generation has its own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Adam:
    """Adam with decoupled weight decay.

    Kingma and Ba, "Adam" (arXiv:1412.6980), algorithm 1; Loshchilov and Hutter, "Decoupled
    Weight Decay Regularization" (arXiv:1711.05101), which Adam is without a decay.
    """

    def __init__(self, variables: Sequence[Any], weight_decay: float = 0.0) -> None:
        import tensorflow as tf

        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._moments = [
            (tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in variables
        ]
        self._places = {v.ref(): place for place, v in enumerate(variables)}
        self._decay = weight_decay

    @property
    def state(self) -> list[Any]:
        return [self._step, *(variable for pair in self._moments for variable in pair)]

    def moments(self, variable: Any) -> Sequence[Any]:
        """What the optimiser remembers of a variable's gradients, in the variable's shape."""
        return self._moments[self._places[variable.ref()]]

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any], rate: Any) -> None:
        """One update; variables that are not given keep value and state."""
        import tensorflow as tf

        first, second, small = 0.9, 0.999, 1e-7
        self._step.assign_add(1)
        step = tf.cast(self._step, tf.float32)
        scale = rate * tf.sqrt(1 - second**step) / (1 - first**step)
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                continue
            mean, square = self.moments(variable)
            mean.assign(first * mean + (1 - first) * gradient)
            square.assign(second * square + (1 - second) * tf.square(gradient))
            if self._decay:
                variable.assign(variable * (1 - rate * self._decay))
            variable.assign(variable - scale * mean / (tf.sqrt(square) + small))


class Sgd:
    """Stochastic gradient descent with Nesterov's momentum.

    Sutskever et al., "On the importance of initialization and momentum in deep learning"
    (ICML 2013), eq. 3 and 4 in the form that takes the gradient at the current point.
    """

    def __init__(self, variables: Sequence[Any], weight_decay: float = 0.0) -> None:
        import tensorflow as tf

        self._velocities = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self._places = {v.ref(): place for place, v in enumerate(variables)}
        self._decay = weight_decay

    @property
    def state(self) -> list[Any]:
        return list(self._velocities)

    def moments(self, variable: Any) -> Sequence[Any]:
        """What the optimiser remembers of a variable's gradients, in the variable's shape."""
        return (self._velocities[self._places[variable.ref()]],)

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any], rate: Any) -> None:
        """One update; variables that are not given keep value and state."""
        momentum = 0.9
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                continue
            (velocity,) = self.moments(variable)
            velocity.assign(momentum * velocity - rate * gradient)
            if self._decay:
                variable.assign(variable * (1 - rate * self._decay))
            variable.assign(variable + momentum * velocity - rate * gradient)
