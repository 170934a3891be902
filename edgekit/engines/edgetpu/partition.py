"""Predicts what ``edgetpu_compiler`` would map: without the compiler, and labelled estimated.

The compiler makes one Edge TPU subgraph. Unsupported operators at the input side run on the CPU
first; the Edge TPU then takes every supported operator whose producers are done (by dependency,
not by the order in the file); all others run on the CPU after it.
"""

from __future__ import annotations

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
    blockers = _blockers(graph, own, mapped)
    left = []
    for op in graph.ops:
        if op.index in mapped:
            continue
        found = own[op.index]
        blocker = None
        if found is None:
            blocker = blockers.get(op.index)
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
    producers = _producers(graph)
    before = _closure(graph, producers, {o.index for o in graph.ops} - supported, set())
    return before, _closure(graph, producers, supported, before)


def _producers(graph: Graph) -> dict[int, int]:
    """The operator that writes each tensor."""
    return {index: op.index for op in graph.ops for index in op.outputs}


def _needs(op: Op, producers: dict[int, int]) -> set[int]:
    return {producers[index] for index in op.inputs if index in producers}


def _closure(
    graph: Graph, producers: dict[int, int], candidates: set[int], done: set[int]
) -> set[int]:
    """The candidates that can run, one after the other, when ``done`` have run."""
    waiting: dict[int, int] = {}
    consumers: dict[int, list[int]] = {}
    ready: list[int] = []
    for op in graph.ops:
        if op.index not in candidates:
            continue
        needs = _needs(op, producers) - done
        for index in needs:
            consumers.setdefault(index, []).append(op.index)
        waiting[op.index] = len(needs)
        if not needs:
            ready.append(op.index)
    taken: set[int] = set()
    while ready:
        index = ready.pop()
        taken.add(index)
        for consumer in consumers.get(index, ()):
            waiting[consumer] -= 1
            if not waiting[consumer]:
                ready.append(consumer)
    return taken


def _refusal(graph: Graph, op: Op) -> Refusal | None:
    try:
        return refusal(graph, op)
    except (IndexError, ValueError, TypeError):
        return Refusal(NOT_SUPPORTED, "its inputs and options make no sense together")


def _blockers(graph: Graph, own: dict[int, Refusal | None], mapped: set[int]) -> dict[int, Op]:
    """For operators behind ones that the Edge TPU refuses by themselves: the first of these."""
    producers = _producers(graph)
    found: dict[int, int] = {}
    # files list operators in an order in which they can run
    for op in graph.ops:
        upstream = [
            blocker
            for index in _needs(op, producers) - mapped - {op.index}
            if (blocker := index if own[index] is not None else found.get(index, -1)) >= 0
        ]
        if upstream:
            found[op.index] = min(upstream)
    by_index = {op.index: op for op in graph.ops}
    return {index: by_index[blocker] for index, blocker in found.items()}


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
