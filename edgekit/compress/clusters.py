"""Weights that share values: clusters, and the hook that keeps them shared in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.compress.training import Hook

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.compress.sparsity import Kernel

_ITERATIONS = 100


def k_means(
    values: NDArray[Any], count: int, init: str, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Clusters of numbers: centres ``[clusters]`` and the number of each value's cluster.

    Lloyd's algorithm on the line. ``linear`` starts from centres evenly over the range, which
    Han et al. found best ("Deep Compression", arXiv:1510.00149, section 3.2), ``density`` from
    quantiles, ``kmeans++`` from random ones far from each other (Arthur and Vassilvitskii, 2007).
    """
    import numpy as np

    values = values.astype(np.float64)
    distinct = np.unique(values)
    if len(distinct) <= count:
        return distinct, np.searchsorted(distinct, values)
    if init == "linear":
        centres = np.linspace(distinct[0], distinct[-1], count)
    elif init == "density":
        centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    else:
        stream = np.random.default_rng([seed, count, values.size])
        chosen = [stream.choice(values)]
        for _ in range(count - 1):
            nearest = np.min((values[:, None] - np.array(chosen)[None]) ** 2, axis=1)
            chosen.append(stream.choice(values, p=nearest / nearest.sum()))
        centres = np.sort(np.array(chosen))
    for _ in range(_ITERATIONS):
        # centres are sorted: a value's nearest one lies between two borders
        numbers = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        sums = np.bincount(numbers, values, len(centres))
        counts = np.bincount(numbers, minlength=len(centres))
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres, np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


class SharedHook(Hook):
    """Weights of a cluster get the same gradient, the sum over the cluster, and so stay equal.

    That is the gradient of a shared weight (Han et al., arXiv:1510.00149, section 3.1).
    """

    def __init__(self, kernels: Sequence[Kernel], numbers: Sequence[NDArray[Any]]) -> None:
        import numpy as np
        import tensorflow as tf

        self._numbers = {
            kernel.variable.ref(): (
                tf.constant(each.reshape(-1).astype(np.int32)), int(each.max()) + 1
            )
            for kernel, each in zip(kernels, numbers, strict=True)
        }  # fmt: skip

    def on_gradients(self, gradients: list[Any], variables: Sequence[Any]) -> list[Any]:
        import tensorflow as tf

        changed = []
        for gradient, variable in zip(gradients, variables, strict=True):
            found = self._numbers.get(variable.ref())
            if found is not None and gradient is not None:
                numbers, count = found
                sums = tf.math.unsorted_segment_sum(tf.reshape(gradient, [-1]), numbers, count)
                gradient = tf.reshape(tf.gather(sums, numbers), tf.shape(gradient))
            changed.append(gradient)
        return changed


def numbers_of(values: NDArray[Any]) -> NDArray[Any]:
    """The cluster of each weight, where weights of a cluster are equal already."""
    import numpy as np

    _, numbers = np.unique(values.reshape(-1), return_inverse=True)
    result: NDArray[Any] = numbers.reshape(values.shape)
    return result


def distinct_values(kernels: Sequence[Kernel]) -> int:
    """The most different values that a kernel has."""
    import numpy as np

    return max((len(np.unique(kernel.variable.numpy())) for kernel in kernels), default=0)
