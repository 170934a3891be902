"""Predicts what ``edgetpu_compiler`` would map: without the compiler, and labelled estimated.

The compiler makes one Edge TPU subgraph. Unsupported operators at the input side run on the CPU
first; the Edge TPU then takes every supported operator whose producers are done (by dependency,
not by the order in the file); all others run on the CPU after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.engines.edgetpu import memory
from edgekit.engines.edgetpu.advice import Framework, advise, framework_of
from edgekit.engines.edgetpu.operators import (
    NOT_SUPPORTED,
    SUBGRAPH,
    UNVERIFIED,
    Refusal,
    newer_than_compiler,
    refusal,
)
from edgekit.errors import ModelError
from edgekit.graph.reader import shown

if TYPE_CHECKING:
    from edgekit.graph import Graph, Model, Op

#: One report of an LSTM with 1,000 and more inputs that makes compiler 16 fail; 900 passed.
_LSTM_INPUTS = 900


@dataclass(frozen=True)
class CpuOp:
    """An operator that stays on the CPU."""

    index: int
    kind: str
    name: str
    #: what the compiler's table says for such an operator
    status: str
    reason: str
    #: what the user can change, in the words of the model's framework
    advice: str


@dataclass(frozen=True)
class Partition:
    """A predicted partition; all figures are estimates."""

    ops_total: int
    ops_mapped: int
    mapped: tuple[int, ...]
    ops_cpu: tuple[CpuOp, ...]
    #: operators on the CPU before the Edge TPU's part; the others come after it
    before: tuple[int, ...]
    memory: memory.ParameterEstimate
    framework: Framework
    #: reasons for which the compiler would refuse the whole file
    refused: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fully_mapped(self) -> bool:
        return self.ops_mapped == self.ops_total


def predict(model: Model) -> Partition:
    """The partition that the compiler would make of a model.

    Raises:
        ModelError: the model has been compiled already.
    """
    if any(op.kind == "CUSTOM:edgetpu-custom-op" for op in model.ops):
        raise ModelError(
            "this model has been through edgetpu_compiler already",
            model.name,
            "edgekit inspect shows what it mapped",
        )
    graph = model.main
    own = {op.index: _refusal(graph, op) for op in graph.ops}
    before, mapped = split(graph, {i for i, found in own.items() if found is None})
    framework = framework_of(model)
    left = []
    for op in graph.ops:
        if op.index in mapped:
            continue
        found = own[op.index]
        blocker = None
        if found is None:
            blocker = _blocker(graph, op, own, mapped)
            found = Refusal(SUBGRAPH, _behind(graph, blocker))
        left.append(
            CpuOp(
                index=op.index,
                kind=shown(op.kind),
                name=shown(graph.tensors[op.outputs[0]].name) if op.outputs else "",
                status=found.status,
                reason=found.reason,
                advice=advise(graph, op, found, framework, blocker),
            )
        )
    return Partition(
        ops_total=len(graph.ops),
        ops_mapped=len(mapped),
        mapped=tuple(sorted(mapped)),
        ops_cpu=tuple(left),
        before=tuple(sorted(before)),
        memory=memory.estimate(graph, mapped),
        framework=framework,
        refused=_refused(model),
        notes=_notes(graph, mapped),
    )


def split(graph: Graph, supported: set[int]) -> tuple[set[int], set[int]]:
    """Indices of the operators before the Edge TPU's part, and of those in it."""
    producers: dict[int, int] = {}
    for op in graph.ops:
        producers.update(dict.fromkeys(op.outputs, op.index))

    def closure(candidates: Iterable[Op], done: set[int]) -> set[int]:
        """The candidates that can run when ``done`` have run, in turn."""
        waiting, taken = list(candidates), set[int]()
        while True:
            ready = {
                op.index
                for op in waiting
                if all(
                    producers[i] in done or producers[i] in taken
                    for i in op.inputs
                    if i in producers
                )
            }
            if not ready:
                return taken
            taken |= ready
            waiting = [op for op in waiting if op.index not in ready]

    before = closure((op for op in graph.ops if op.index not in supported), set())
    mapped = closure((op for op in graph.ops if op.index in supported), before)
    return before, mapped


def _refusal(graph: Graph, op: Op) -> Refusal | None:
    try:
        return refusal(graph, op)
    except (IndexError, ValueError, TypeError):
        return Refusal(NOT_SUPPORTED, "its inputs and options make no sense together")


def _blocker(graph: Graph, op: Op, own: dict[int, Refusal | None], mapped: set[int]) -> Op | None:
    """The first operator upstream that the Edge TPU refuses by itself."""
    producers = {index: other for other in graph.ops for index in other.outputs}
    seen, queue = {op.index}, [op]
    found: list[Op] = []
    while queue:
        for index in queue.pop().inputs:
            other = producers.get(index)
            if other is None or other.index in seen or other.index in mapped:
                continue
            seen.add(other.index)
            if own[other.index] is not None:
                found.append(other)
            queue.append(other)
    return min(found, key=lambda o: o.index, default=None)


def _behind(graph: Graph, blocker: Op | None) -> str:
    if blocker is None:
        return "the compiler makes one Edge TPU subgraph, and this comes after it"
    return (
        f"it comes after operator {blocker.index} {shown(blocker.kind)}, which stays on the CPU; "
        "the compiler makes one Edge TPU subgraph"
    )


def _refused(model: Model) -> tuple[str, ...]:
    """What would make the compiler refuse the file as a whole."""
    found = []
    quantized = any(
        t.dtype in ("int8", "uint8") and t.quantization is not None
        for t in model.tensors
        if not t.is_constant
    )
    if not quantized:
        found.append("no activation of the model is int8 or uint8: the model is not quantized")
    for op in model.ops:
        newest = newer_than_compiler(op)
        if newest is not None:
            found.append(
                f"operator {op.index} {op.kind} has version {op.version}; compiler 16 reads "
                f"versions up to {newest}: convert with an older TensorFlow"
            )
    return tuple(dict.fromkeys(found))


def _notes(graph: Graph, mapped: set[int]) -> tuple[str, ...]:
    notes = []
    for index in graph.inputs:
        tensor = graph.tensors[index]
        if any(dim < 0 for dim in tensor.shape_signature[1:]):
            shape = "x".join(map(str, tensor.shape))
            notes.append(
                f"the sizes of input '{shown(tensor.name)}' are not fixed in the file: it is "
                f"compiled for {shape}"
            )
    for op in graph.ops:
        if op.index not in mapped:
            continue
        if op.kind in UNVERIFIED:
            notes.append(f"{op.kind} is in Google's table; no public result shows it mapped")
        if op.kind == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            inputs = graph.tensors[op.inputs[0]].shape[-1]
            if inputs > _LSTM_INPUTS:
                notes.append(
                    f"compiler 16 is known to fail on an LSTM with {inputs} inputs (900 pass)"
                )
    return tuple(dict.fromkeys(notes))
