"""How close a rounded graph's outputs are to the float model's, on samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.model import Graph
from edgekit.quantize.execute import Executor, stacked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH = 64
#: Where the error is nothing: a figure above that of 16-bit rounding.
NO_ERROR_DB = 200.0
_FINAL = ("SOFTMAX", "LOGISTIC")


@dataclass(frozen=True)
class Score:
    """``sqnr_db`` is 10 log10 of signal power over error power of all outputs, taken before a
    final SOFTMAX or LOGISTIC, which would hide errors. ``top1_agreement`` is the share of
    samples with the float model's class, ``accuracy`` the share with the label's; ``None``
    where there are no classes or no labels."""

    sqnr_db: float
    top1_agreement: float | None
    accuracy: float | None


class Scorer:
    """Compares executors with the float graph on fixed samples.

    Args:
        graph: the prepared float graph.
        inputs: samples with a batch of 1.
        labels: classes [N], if known.

    Raises:
        ModelError: the outputs are no real numbers.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Sequence[NDArray[Any]]],
        labels: NDArray[Any] | None = None,
    ) -> None:
        import numpy as np

        self.tensors = measured_outputs(graph)
        self.batches = [
            stacked(inputs[start : start + _BATCH]) for start in range(0, len(inputs), _BATCH)
        ]
        first = graph.tensors[graph.outputs[0]]
        ports = [graph.tensors[i].shape for i in graph.inputs]
        reconstructs = ports == [graph.tensors[i].shape for i in graph.outputs]
        self.classes = first.elements if len(first.shape) == 2 and not reconstructs else 0
        self.labels = None
        if labels is not None and self.classes > 1 and int(np.max(labels)) < self.classes:
            self.labels = np.asarray(labels).reshape(-1)
        self.wanted = self._outputs(Executor(graph))

    def _outputs(self, executor: Executor) -> list[NDArray[np.float64]]:
        """The measured outputs [N, elements] over all samples."""
        import numpy as np

        found: list[list[Any]] = [[] for _ in self.tensors]
        for batch in self.batches:
            count = len(batch[0])
            for rows, value in zip(found, executor.run(batch, outputs=self.tensors), strict=True):
                rows.append(np.asarray(value, np.float64).reshape(count, -1))
        return [np.concatenate(rows) for rows in found]

    def score(self, executor: Executor) -> Score:
        """How close an executor of the same graph (or one with the same outputs) comes."""
        got = self._outputs(executor)
        signal = sum(float((w * w).sum()) for w in self.wanted)
        error = sum(float(((g - w) ** 2).sum()) for g, w in zip(got, self.wanted, strict=True))
        agreement, accuracy = None, None
        if self.classes > 1:
            classes = got[0].argmax(axis=1)
            agreement = float((classes == self.wanted[0].argmax(axis=1)).mean())
            if self.labels is not None:
                accuracy = float((classes == self.labels).mean())
        return Score(decibels(signal, error), agreement, accuracy)

    @property
    def float_accuracy(self) -> float | None:
        """The float model's share of right classes."""
        if self.labels is None:
            return None
        return float((self.wanted[0].argmax(axis=1) == self.labels).mean())


def decibels(signal: float, error: float) -> float:
    """Ten times the logarithm of a ratio of powers, within ±:data:`NO_ERROR_DB`."""
    if error <= 0:
        return NO_ERROR_DB
    if signal <= 0:
        return -NO_ERROR_DB
    ratio = 10 * math.log10(signal / error)
    return max(min(ratio, NO_ERROR_DB), -NO_ERROR_DB)


def measured_outputs(graph: Graph) -> list[int]:
    """The outputs that are real numbers; of a final SOFTMAX or LOGISTIC what it takes."""
    found = []
    for index in graph.outputs:
        producer = graph.producer(index)
        if producer is not None and producer.kind in _FINAL:
            index = producer.inputs[0]
        if graph.tensors[index].dtype == "float32":
            found.append(index)
    if not found:
        raise ModelError("no output of the model is a real number: nothing can be compared")
    return found
