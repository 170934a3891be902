"""Masks over weights: patterns of zeros, and hooks that keep them while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.keras_graph import KerasGraph
from edgekit.compress.trainable import as_variable
from edgekit.compress.training import Hook

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.compress.data import Examples
    from edgekit.compress.training import Trainer

#: Layers whose kernels are worth zeros. A depthwise kernel has few weights, and all matter.
_PRUNED = {"Conv1D", "Conv2D", "Conv3D", "Dense", "Conv1DTranspose", "Conv2DTranspose"}

#: A pattern: magnitudes as a matrix [weights of an output, outputs] and the share of zeros wanted
#: to the places that stay.
Pattern = Callable[["NDArray[Any]", float], "NDArray[Any]"]


@dataclass(frozen=True)
class Kernel:
    """A layer's kernel: the layer's name and the variable, ``[…, inputs, outputs]``."""

    layer: str
    variable: Any

    @property
    def size(self) -> int:
        import math

        return math.prod(self.variable.shape)

    def matrix(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the kernel's shape as ``[weights of an output, outputs]``."""
        return values.reshape(-1, values.shape[-1])


def kernels(graph: KerasGraph, skip: Collection[str] = ()) -> tuple[Kernel, ...]:
    """The kernels that can be made sparse, without the layers named in ``skip``."""
    return tuple(
        Kernel(layer.name, as_variable(layer.kernel))
        for layer in graph.layers()
        if type(layer).__name__ in _PRUNED and layer.name not in skip
    )


def unstructured(magnitudes: NDArray[Any], sparsity: float) -> NDArray[Any]:
    """The largest weights stay, wherever they are."""
    import numpy as np

    flat = magnitudes.reshape(-1)
    gone = round(flat.size * sparsity)
    mask = np.ones(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[:gone]] = False
    return mask.reshape(magnitudes.shape)


def blocks(rows: int, columns: int) -> Pattern:
    """Blocks of ``rows`` weights by ``columns`` outputs stay or go together, by their mean.

    Gray, Radford and Kingma, "GPU Kernels for Block-Sparse Weights" (2017).
    """

    def pattern(magnitudes: NDArray[Any], sparsity: float) -> NDArray[Any]:
        import numpy as np

        height, width = magnitudes.shape
        grid = (-(-height // rows), -(-width // columns))
        padded = np.zeros((grid[0] * rows, grid[1] * columns))
        padded[:height, :width] = magnitudes
        counts = np.zeros_like(padded)
        counts[:height, :width] = 1
        shape = (grid[0], rows, grid[1], columns)
        sums = padded.reshape(shape).sum(axis=(1, 3)) / counts.reshape(shape).sum(axis=(1, 3))
        mask = np.repeat(np.repeat(unstructured(sums, sparsity), rows, axis=0), columns, axis=1)
        whole: NDArray[Any] = mask[:height, :width]
        return whole

    return pattern


def n_of_m(kept: int, group: int) -> Pattern:
    """In every ``group`` weights of an output that follow each other, the ``kept`` largest stay.

    Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
    arXiv:2102.04010 (2021). The share that is asked for scales how many groups are thinned, so
    that the pattern can come about gradually.
    """

    def pattern(magnitudes: NDArray[Any], sparsity: float) -> NDArray[Any]:
        import numpy as np

        height, width = magnitudes.shape
        whole = height - height % group
        grouped = magnitudes[:whole].reshape(-1, group, width)
        order = grouped.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        thin = order >= group - kept
        # the groups that lose least go first
        lost = np.where(thin, 0.0, grouped).sum(axis=1)
        final = 1 - kept / group
        count = round(lost.size * min(1.0, sparsity / final))
        first = np.zeros(lost.size, bool)
        first[np.argsort(lost.reshape(-1), kind="stable")[:count]] = True
        mask = np.ones(magnitudes.shape, bool)
        mask[:whole] = np.where(first.reshape(lost.shape)[:, None], thin, True).reshape(
            whole, width
        )
        return mask

    return pattern


def polynomial(share: float, begin: float, end: float, final: float, power: float = 3.0) -> float:
    """The share of zeros after a share of the training.

    Zhu and Gupta, "To prune, or not to prune", arXiv:1710.01878 (2018), eq. 1, from no zeros.
    """
    if share < begin:
        return 0.0
    if share >= end:
        return final
    return float(final * (1 - (1 - (share - begin) / (end - begin)) ** power))


class MaskedHook(Hook):
    """Weights under a mask that is zero stay zero."""

    def __init__(self, kernels: Sequence[Kernel], masks: Sequence[NDArray[Any]]) -> None:
        import numpy as np
        import tensorflow as tf

        self.kernels = tuple(kernels)
        self.masks = [tf.Variable(mask.astype(np.float32), trainable=False) for mask in masks]
        self.after_update()

    def state(self) -> Sequence[Any]:
        return self.masks

    def after_update(self) -> None:
        for kernel, mask in zip(self.kernels, self.masks, strict=True):
            kernel.variable.assign(kernel.variable * mask)


class PruningHook(MaskedHook):
    """Magnitude pruning while a model trains: more zeros with each update of the masks."""

    def __init__(
        self,
        kernels: Sequence[Kernel],
        patterns: Sequence[Pattern],
        finals: Sequence[float],
        begin: float,
        end: float,
        updates: int,
    ) -> None:
        import numpy as np

        super().__init__(kernels, [np.ones(kernel.variable.shape) for kernel in kernels])
        self._patterns, self._finals = tuple(patterns), tuple(finals)
        self._begin, self._end, self._updates = begin, end, updates
        self._last = -1

    def before_step(self, trainer: Trainer, share: float, batch: Examples) -> None:
        place = int(share * self._updates)
        if place != self._last:
            self.update(share)
            self._last = place

    def update(self, share: float) -> None:
        """Sets the masks from the magnitudes, as the schedule has them after a share."""
        import numpy as np

        for kernel, mask, pattern, final in zip(
            self.kernels, self.masks, self._patterns, self._finals, strict=True
        ):
            sparsity = polynomial(share, self._begin, self._end, final)
            magnitudes = kernel.matrix(np.abs(kernel.variable.numpy()))
            # what is zero already is the smallest, and so stays out
            kept = pattern(magnitudes, sparsity).reshape(mask.shape)
            mask.assign(kept.astype(np.float32))
        self.after_update()


def shares_of(kernels: Sequence[Kernel], sparsity: float, distribution: str) -> tuple[float, ...]:
    """How sparse each kernel is to be, so that all together have ``sparsity``.

    ``uniform``: all the same. ``erk``: Erdős–Rényi-Kernel, Evci et al., arXiv:1911.11134 (2020),
    section 3(1): density in proportion to (inputs + outputs + height + width) over their
    product, at most 1. ``global``: as many of the largest weights as are to stay, each relative
    to its kernel's root mean square, wherever they are.
    """
    if distribution == "uniform" or not kernels:
        return tuple(sparsity for _ in kernels)
    if distribution == "global":
        return _global_shares(kernels, sparsity)
    raw = [sum(k.variable.shape) / k.size for k in kernels]
    wanted = sum(k.size for k in kernels) * (1 - sparsity)
    dense: set[int] = set()
    while True:
        fixed = sum(kernels[i].size for i in dense)
        weights = sum(k.size * r for i, (k, r) in enumerate(zip(kernels, raw, strict=True))
                      if i not in dense)  # fmt: skip
        if not weights:
            break
        factor = (wanted - fixed) / weights
        over = {i for i, r in enumerate(raw) if i not in dense and r * factor > 1}
        if not over:
            break
        dense |= over
    return tuple(
        0.0 if i in dense else 1 - max(0.0, min(1.0, r * factor)) for i, r in enumerate(raw)
    )


def _global_shares(kernels: Sequence[Kernel], sparsity: float) -> tuple[float, ...]:
    import numpy as np

    values = [np.abs(kernel.variable.numpy().reshape(-1)) for kernel in kernels]
    values = [v / max(float(np.sqrt((v**2).mean())), 1e-12) for v in values]
    limit = float(np.quantile(np.concatenate(values), sparsity))
    # a layer without weights would cut the model in two
    return tuple(min(0.98, float((v < limit).mean())) for v in values)


def zero_masks(kernels: Sequence[Kernel]) -> list[NDArray[Any]]:
    """Masks that keep the zeros which are there."""
    return [kernel.variable.numpy() != 0 for kernel in kernels]


def measured(kernels: Sequence[Kernel]) -> float:
    """The share of zeros in all kernels together."""
    import numpy as np

    total = sum(kernel.size for kernel in kernels)
    zeros = sum(int(np.count_nonzero(kernel.variable.numpy() == 0)) for kernel in kernels)
    return zeros / max(total, 1)
