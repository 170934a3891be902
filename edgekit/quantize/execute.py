"""Runs a graph in TensorFlow on whole batches, with gradients.

:class:`Executor` computes the float graph. What is read, written and kept goes through methods
that :mod:`edgekit.quantize.simulate` overrides to round as the integer model does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.model import Graph, Op
from edgekit.quantize.operators import OPERATORS, Call, activate
from edgekit.quantize.prepare import place
from edgekit.quantize.scheme import Slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Called with an operator and its result before the fused activation.
Observer = Callable[[Op, Any], None]

_ELEMENTWISE = frozenset(
    """
    ADD SUB MUL DIV SQUARED_DIFFERENCE MAXIMUM MINIMUM PRELU SELECT SELECT_V2 EQUAL NOT_EQUAL
    GREATER GREATER_EQUAL LESS LESS_EQUAL
    """.split()
)


class Executor:
    """A prepared float graph that computes on batches.

    Args:
        graph: the graph.

    Raises:
        ModelError: an operator has no float form here.
    """

    def __init__(self, graph: Graph) -> None:
        from edgekit.convert import frameworks

        self.tf = frameworks.tensorflow()
        self.graph = graph
        for op in graph.ops:
            if op.kind not in OPERATORS:
                raise ModelError(f"{op.kind} is not computed here", place(graph, op))
        self.batched = unbatchable(graph) is None
        self.last_use = _last_uses(graph)
        self._constants: dict[int, Any] = {}

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs for a batch: arrays or tensors [N, …] in the order of the inputs."""
        return self.run(inputs)

    def run(
        self,
        inputs: Sequence[Any],
        *,
        outputs: Sequence[int] | None = None,
        before_activation: Observer | None = None,
    ) -> list[Any]:
        """Computes any tensors of the graph for a batch.

        Args:
            inputs: arrays or tensors [N, …] in the order of the graph's inputs.
            outputs: tensors to return, by default the graph's outputs.
            before_activation: sees the result of every operator before its fused activation.
        """
        # Autograph would rewrite all of this, which takes minutes and changes nothing.
        plain = self.tf.autograph.experimental.do_not_convert(self._run)
        result: list[Any] = plain(inputs, outputs, before_activation)
        return result

    def _run(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[int] | None,
        before_activation: Observer | None,
    ) -> list[Any]:
        tf = self.tf
        wanted = list(self.graph.outputs if outputs is None else outputs)
        tensors = [tf.convert_to_tensor(x) for x in inputs]
        if self.batched:
            count = tensors[0].shape[0]
            samples = tf.shape(tensors[0])[0] if count is None else count
            return self._compute(tensors, samples, wanted, before_activation)
        # Some operator mixes the first dimension with others: sample after sample.
        rows = [
            self._compute([t[i : i + 1] for t in tensors], 1, wanted, before_activation)
            for i in range(tensors[0].shape[0])
        ]
        return [tf.concat(column, 0) for column in zip(*rows, strict=True)]

    def _compute(
        self, inputs: Sequence[Any], samples: Any, wanted: list[int], observer: Observer | None
    ) -> list[Any]:
        values: dict[int, Any] = {}
        for index, value in zip(self.graph.inputs, inputs, strict=True):
            values[index] = self.enter(index, value)
        keep = set(wanted)
        last = max((self._producer_place(i) for i in wanted), default=-1)
        for op in self.graph.ops[: last + 1]:
            results = self.step(op, values, samples, observer)
            values.update(zip(op.outputs, results, strict=True))
            for index in set(op.inputs):
                if self.last_use.get(index) == op.index and index not in keep:
                    values.pop(index, None)
        return [values[i] for i in wanted]

    def _producer_place(self, index: int) -> int:
        return next((op.index for op in self.graph.ops if index in op.outputs), -1)

    def step(
        self, op: Op, values: Mapping[int, Any], samples: Any, observer: Observer | None = None
    ) -> list[Any]:
        """The results of one operator as they are kept, from the kept values of its inputs."""
        operands: list[Any] = []
        for at, index in enumerate(op.inputs):
            if index < 0:
                operands.append(None)
            elif index in values:
                operands.append(self.read((op.index, at), values[index]))
            else:
                operands.append(self.constant((op.index, at)))
        call = Call(self.tf, self.graph, op, operands, samples)
        results = self.compute(call)
        if observer is not None:
            observer(op, results[0])
        name = str(op.options.get("fused_activation_function", "NONE"))
        return [
            self.write((op.index, at), activate(self.tf, name, result))
            for at, result in enumerate(results)
        ]

    def compute(self, call: Call) -> list[Any]:
        """An operator's results before its fused activation."""
        results = OPERATORS[call.op.kind](call)
        return list(results) if isinstance(results, (list, tuple)) else [results]

    def constant(self, slot: Slot) -> Any:
        """The constant at an operator's input."""
        index = self.graph.ops[slot[0]].inputs[slot[1]]
        if index not in self._constants:
            # Made outside of any traced function, so that later ones may use it.
            with self.tf.init_scope():
                self._constants[index] = self.tf.constant(self.graph.tensors[index].data())
        return self._constants[index]

    def enter(self, index: int, value: Any) -> Any:
        """An input of the graph as it is kept."""
        return value

    def read(self, slot: Slot, value: Any) -> Any:
        """A kept activation as an operator takes it."""
        return value

    def write(self, slot: Slot, value: Any) -> Any:
        """An operator's result as it is kept."""
        return value


def stacked(inputs: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
    """Samples with a batch of 1 as one array [N, …] per input."""
    import numpy as np

    return [np.concatenate(column) for column in zip(*inputs, strict=True)]


def _last_uses(graph: Graph) -> dict[int, int]:
    found: dict[int, int] = {}
    for op in graph.ops:
        found.update(dict.fromkeys(op.inputs, op.index))
    return found


def unbatchable(graph: Graph) -> Op | None:
    """The first operator that cannot compute on stacked samples, if there is one.

    Every activation has the samples outermost in its first dimension; that must neither move
    nor be cut, reduced, or matched with a constant's.
    """
    for op in graph.ops:
        if not _keeps_first(graph, op):
            return op
    return None


def _keeps_first(graph: Graph, op: Op) -> bool:
    shapes = [graph.tensors[i].shape for i in op.inputs if i >= 0]
    stacked_places = [
        at for at, i in enumerate(op.inputs) if i >= 0 and graph.tensors[i].raw is None
    ]
    if not stacked_places:
        return False
    rank = len(graph.tensors[op.inputs[stacked_places[0]]].shape)
    if rank == 0:
        return False

    def integers(at: int) -> list[int]:
        tensor = graph.tensors[op.inputs[at]]
        return [] if tensor.raw is None else [int(v) for v in tensor.data().reshape(-1)]

    def axis_kept(axis: int, of: int = rank) -> bool:
        return axis % max(of, 1) != 0

    kind = op.kind
    if kind in _ELEMENTWISE:
        out = len(graph.tensors[op.outputs[0]].shape)
        first = {graph.tensors[op.inputs[at]].shape[:1] for at in stacked_places}
        alike = len(first) == 1 and all(
            len(graph.tensors[op.inputs[at]].shape) == out for at in stacked_places
        )
        constants = [s for at, s in enumerate(shapes) if at not in stacked_places]
        return alike and all(len(s) < out or s[0] == 1 for s in constants)
    if kind == "TRANSPOSE":
        return integers(1)[:1] == [0]
    if kind in ("CONCATENATION", "PACK"):
        places_all = len(stacked_places) == len(op.inputs)
        out = len(graph.tensors[op.outputs[0]].shape)
        return places_all and axis_kept(int(op.options.get("axis", 0)), out)
    if kind == "UNPACK":
        return axis_kept(int(op.options.get("axis", 0)))
    if kind == "GATHER":
        if stacked_places == [1]:
            return int(op.options.get("axis", 0)) == 0
        return stacked_places == [0] and axis_kept(int(op.options.get("axis", 0)))
    if kind == "SPLIT":
        return axis_kept(integers(0)[0])
    if kind == "SPLIT_V":
        return axis_kept(integers(2)[0])
    if kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "ARG_MAX", "ARG_MIN", "REVERSE_V2"):
        return all(axis_kept(a) for a in integers(1))
    if kind in ("PAD", "PADV2", "MIRROR_PAD"):
        return integers(1)[:2] == [0, 0]
    if kind == "TILE":
        return integers(1)[:1] == [1]
    if kind in ("SLICE", "STRIDED_SLICE"):
        return _whole_first(graph, op, rank)
    if kind in ("SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION"):
        return rank > 1
    if kind == "BATCH_MATMUL":
        wide = all(len(graph.tensors[op.inputs[at]].shape) > 2 for at in stacked_places)
        batches = {graph.tensors[op.inputs[at]].shape[0] for at in stacked_places}
        rest = [s for at, s in enumerate(shapes) if at not in stacked_places]
        return wide and len(batches) == 1 and all(len(s) <= 2 or s[0] == 1 for s in rest)
    # Moving whole samples apart, and matching indices with values, mixes them.
    return kind not in ("GATHER_ND", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "BROADCAST_TO")


def _whole_first(graph: Graph, op: Op, rank: int) -> bool:
    """Whether a slice takes the whole first dimension and keeps it."""
    source, result = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
    if op.kind == "SLICE":
        return len(result) == rank and result[:1] == source[:1]
    masks = int(op.options.get("new_axis_mask", 0)) | int(op.options.get("shrink_axis_mask", 0))
    strides = graph.tensors[op.inputs[3]]
    return (
        masks & 1 == 0
        and int(op.options.get("ellipsis_mask", 0)) & 1 == 0
        and result[:1] == source[:1]
        and strides.raw is not None
        and int(strides.data()[0]) == 1
    )
