"""Goes through a graph operator by operator with all samples at once: for techniques that work
on one layer after the other and want every layer to see what became of those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.liveness import activation_peak
from edgekit.graph.model import Graph, Op
from edgekit.quantize.execute import Executor, stacked

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Samples are walked in groups of this size within one operator.
_CHUNK = 32
#: Activations that are alive together, over all samples, may take this much memory.
_BUDGET_BYTES = 1 << 30


class Walk:
    """The kept values of one executor over samples, as far as the walk has come.

    Args:
        executor: what computes; its constants may change between steps.
        inputs: samples with a batch of 1.
    """

    def __init__(self, executor: Executor, inputs: Sequence[Sequence[NDArray[Any]]]) -> None:
        self.executor = executor
        graph = executor.graph
        self.chunks: list[dict[int, Any]] = []
        for start in range(0, len(inputs), _CHUNK if executor.batched else 1):
            part = stacked(inputs[start : start + (_CHUNK if executor.batched else 1)])
            self.chunks.append(
                {
                    index: executor.enter(index, executor.tf.convert_to_tensor(value))
                    for index, value in zip(graph.inputs, part, strict=True)
                }
            )

    def operands(self, op: Op, at: int) -> Iterator[Any]:
        """An operator's input as it takes it, chunk by chunk."""
        for values in self.chunks:
            yield self.executor.read((op.index, at), values[op.inputs[at]])

    def before_activation(self, op: Op) -> Iterator[Any]:
        """An operator's result before its fused activation, chunk by chunk; nothing is kept."""
        for values in self.chunks:
            seen: list[Any] = []
            self.executor.step(op, values, self._samples(values), partial(_collect, seen))
            yield seen[0]

    def advance(self, op: Op) -> None:
        """Computes an operator for all samples, and forgets what nothing needs any more."""
        graph = self.executor.graph
        for values in self.chunks:
            results = self.executor.step(op, values, self._samples(values))
            values.update(zip(op.outputs, results, strict=True))
            for index in set(op.inputs):
                if self.executor.last_use.get(index) == op.index and index not in graph.outputs:
                    values.pop(index, None)

    def _samples(self, values: dict[int, Any]) -> int:
        index = next(iter(values))
        first: int = self.executor.graph.tensors[index].shape[0]
        count: int = int(values[index].shape[0])
        return count // first


def _collect(seen: list[Any], op: Op, value: Any) -> None:
    seen.append(value)


def affordable(graph: Graph, wanted: int, walks: int = 1) -> int:
    """How many samples a walk can hold in memory: at most ``wanted``.

    Raises:
        ModelError: not even a few.
    """
    per_sample = max(activation_peak(graph).nbytes, 1) * walks
    count = min(wanted, _BUDGET_BYTES // per_sample)
    if count < min(wanted, 4):
        raise ModelError(
            f"one sample's activations take {per_sample:,} B: too much to go through the model "
            "layer by layer"
        )
    return int(count)
