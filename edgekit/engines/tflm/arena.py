"""Predicts the arena that a model needs in TFLM on a 32-bit target.

TFLM's arena has a head, where the planner puts activations and scratch, and a tail, where
structures, options and tables stay. Both are computed here from the model, the sizes of TFLM's
structures (:mod:`~edgekit.engines.tflm.layout`) and what the kernels ask for
(:mod:`~edgekit.engines.tflm.kernels`), in TFLM's order of allocation, as alignment depends on it.

The same code with the host's sizes predicts what the real TFLM records on the host. Where that
record is larger than its prediction (an operator that is not modelled), the difference, which
64-bit pointers only make larger than it is on the target, is added: the result stays an upper
bound.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.engines.tflm import layout
from edgekit.engines.tflm.kernels import (
    UNMODELLED_CMSIS,
    Kernels,
    persistent_bytes,
    scratch_bytes,
)
from edgekit.engines.tflm.layout import Abi
from edgekit.engines.tflm.planner import ALIGNMENT, Request, align_up, head_bytes

if TYPE_CHECKING:
    from edgekit.graph import Graph, Model, Op

#: Scratch requests for which TFLM keeps room while an operator prepares (``micro_allocator.cc``).
_REQUESTS_PER_OPERATOR = 12
#: Least that is recommended on top of the smallest arena.
_LEAST_MARGIN_BYTES = 256
#: What later versions of TFLM than the snapshot add per operator: options and ``OpData`` of the
#: wheel of October 2026 against the snapshot's.
_GROWTH_BYTES: Mapping[str, int] = {"FULLY_CONNECTED": 32}

#: Members of ``TfLiteNode`` and ``TfLiteTensor`` that only exist without TF_LITE_STATIC_MEMORY.
_DYNAMIC_NODE_BYTES = 16
_DYNAMIC_TENSOR_BYTES = 64


@dataclass(frozen=True)
class Prediction:
    """Bytes of an arena, computed from the model alone."""

    #: planned activations and scratch
    head_bytes: int
    #: everything persistent
    tail_bytes: int
    #: smallest arena with which preparing, planning and running succeed
    minimum_bytes: int

    @property
    def used_bytes(self) -> int:
        """What TFLM's ``arena_used_bytes()`` returns."""
        return self.head_bytes + self.tail_bytes


@dataclass(frozen=True)
class ArenaEstimate:
    """The arena for a target; every figure is estimated, in bytes."""

    #: what ``arena_used_bytes()`` will return
    used_bytes: int
    #: what the firmware should set aside: what TFLM needs while it plans, and a margin
    recommended_bytes: int
    #: smallest arena that is expected to work; an arena of ``used_bytes`` may be too small
    minimum_bytes: int
    head_bytes: int
    tail_bytes: int
    kernels: str
    basis: str
    kind: Literal["estimated"] = "estimated"
    #: what TFLM recorded on the host (64-bit, reference kernels), and its prediction
    host_recorded_bytes: int | None = None
    host_predicted_bytes: int | None = None
    notes: tuple[str, ...] = ()


def estimate(
    model: Model,
    kernels: Kernels,
    abi: Abi = layout.ARM32,
    recorded: Mapping[str, int] | None = None,
    *,
    static_memory: bool = True,
) -> ArenaEstimate:
    """The arena of a model for a 32-bit target.

    Args:
        model: the model; TFLM must have all its operators.
        kernels: the kernel library of the firmware.
        abi: the target's structure layout.
        recorded: TFLM's own record on the host, with the keys ``head`` and ``tail``
            (``TflmRunner.allocations()``); without it operators that are not modelled are
            only counted with their tensors.
        static_memory: TFLM is built with ``TF_LITE_STATIC_MEMORY``, as its own makefile does;
            packages that leave it out have larger structures, for which more is recommended.
    """
    target = predict(model, kernels, abi)
    basis = "TFLM's allocations computed for the target"
    notes = []
    more_head = more_tail = 0
    host_predicted = None
    if recorded is not None:
        host = predict(model, Kernels("reference"), layout.HOST64)
        host_predicted = host.used_bytes
        more_head = max(0, recorded["head"] - host.head_bytes)
        more_tail = max(0, recorded["tail"] - host.tail_bytes)
        difference = recorded["head"] + recorded["tail"] - host_predicted
        if difference == 0:
            basis += "; the same computation for the host equals what TFLM records there"
        else:
            basis += f"; on the host TFLM records {difference:+,} B against that computation"
        if more_head or more_tail:
            basis += ", which are added"
    unknown = sorted({op.kind for op in _operators(model) if op.kind not in layout.OP_DATA})
    if unknown:
        notes.append(
            f"not modelled, taken from TFLM's record on the host: {', '.join(unknown)}"
            if recorded is not None
            else f"not modelled, counted with their tensors only: {', '.join(unknown)}"
        )
    if kernels.library == "cmsis-nn":
        scratchless = sorted({op.kind for op in _operators(model) if op.kind in UNMODELLED_CMSIS})
        if scratchless:
            notes.append(
                f"CMSIS-NN's own scratch is not counted for: {', '.join(scratchless)}; measure "
                "arena_used_bytes() on the target"
            )
    if kernels.library == "esp-nn":
        notes.append("ESP-NN's scratch is computed from its sources and not compared with a board")
    used = target.used_bytes + more_head + more_tail
    minimum = target.minimum_bytes + align_up(more_head) + align_up(more_tail)
    growth = sum(_GROWTH_BYTES.get(op.kind, 0) for op in _operators(model))
    if not static_memory:
        growth += sum(_DYNAMIC_NODE_BYTES for _ in _operators(model))
        growth += _DYNAMIC_TENSOR_BYTES * (len(model.inputs) + len(model.outputs))
    margin = max(_LEAST_MARGIN_BYTES, (target.tail_bytes + more_tail) // 16) + growth
    return ArenaEstimate(
        used_bytes=used,
        recommended_bytes=align_up(minimum + margin),
        minimum_bytes=minimum,
        head_bytes=target.head_bytes + more_head,
        tail_bytes=target.tail_bytes + more_tail,
        kernels=kernels.title,
        basis=basis,
        host_recorded_bytes=None if recorded is None else recorded["head"] + recorded["tail"],
        host_predicted_bytes=host_predicted,
        notes=tuple(notes),
    )


def _operators(model: Model) -> Iterator[Op]:
    return (op for graph in model.graphs for op in graph.ops)


class _Tail:
    """The tail of the arena; it grows downwards from an end that is aligned to 16 bytes."""

    def __init__(self) -> None:
        self.used = 0

    def add(self, nbytes: int, alignment: int) -> None:
        # An address that is aligned down is a distance from the end that is aligned up.
        self.used = align_up(self.used + nbytes, alignment)

    def add_structures(self, abi: Abi, members: str, count: int = 1) -> None:
        size, alignment = abi.layout(members)
        if size and count:
            self.add(size * count, alignment)


def predict(model: Model, kernels: Kernels, abi: Abi) -> Prediction:
    """Head, tail and smallest arena of a model, in TFLM's order of allocation.

    The order is that of ``MicroAllocator::Create`` and ``MicroInterpreter::AllocateTensors``.
    """
    tail = _Tail()
    tail.add_structures(abi, layout.ARENA_ALLOCATOR)
    tail.add_structures(abi, layout.GREEDY_PLANNER)
    tail.add_structures(abi, layout.MICRO_ALLOCATOR)
    tail.add_structures(abi, layout.BUILTIN_DATA_ALLOCATOR)
    tail.add_structures(abi, layout.SUBGRAPH_ALLOCATIONS, len(model.graphs))
    for graph in model.graphs:
        tail.add_structures(abi, layout.EVAL_TENSOR, len(graph.tensors))
    for graph in model.graphs:
        tail.add_structures(abi, layout.NODE_AND_REGISTRATION, len(graph.ops))
    for op in _operators(model):
        tail.add_structures(abi, layout.OPTIONS.get(op.kind, ""))
    for op in _operators(model):
        own = layout.OP_DATA.get(op.kind, "")
        extra = layout.LIBRARY_OP_DATA[kernels.library].get(op.kind, "")
        size = abi.size(_append(own, extra)) if own else 0
        if size:
            tail.add(size, ALIGNMENT)
    scratch: list[tuple[int, int, int]] = []  # graph, operator, bytes
    largest = 0  # while an operator prepares
    for index, graph in enumerate(model.graphs):
        for op in graph.ops:
            for nbytes in persistent_bytes(graph, op, kernels):
                tail.add(nbytes, ALIGNMENT)
            scratch += [(index, op.index, nbytes) for nbytes in scratch_bytes(graph, op, kernels)]
            largest = max(largest, tail.used + _held(abi, len(scratch)) + _views(abi, graph, op))
    for graph in model.graphs:
        tail.add_structures(abi, layout.SCRATCH_HANDLE, len(scratch))
        for tensor in graph.tensors:
            if tensor.is_variable and tensor.nbytes:
                tail.add(tensor.nbytes, ALIGNMENT)
    planned = _requests(model, scratch)
    records = sum(len(graph.tensors) for graph in model.graphs) + len(scratch)
    planning = align_up(
        _held(abi, len(scratch))
        + align_up(abi.pointer_bytes * len(model.graphs), 8)
        + abi.size(layout.ALLOCATION_INFO) * records
    ) + abi.size(layout.PLANNER_ENTRY) * len(planned)
    largest = max(largest, tail.used + planning)
    head = head_bytes(planned)
    largest = max(largest, align_up(tail.used) + head)
    for indices in (model.inputs, model.outputs):
        tail.add(abi.pointer_bytes * len(indices), ALIGNMENT)
        for tensor_index in indices:
            quantization = model.tensors[tensor_index].quantization
            tail.add_structures(abi, layout.TENSOR)
            if quantization is not None:
                tail.add_structures(abi, layout.AFFINE_QUANTIZATION)
                tail.add(4 + 4 * len(quantization.scales), 4)
    largest = max(largest, tail.used + head)
    return Prediction(head, tail.used, align_up(largest))


def _held(abi: Abi, requests: int) -> int:
    """Bytes at the start of the arena that list the scratch requests until the plan is made."""
    return abi.size(layout.SCRATCH_REQUEST) * (requests + _REQUESTS_PER_OPERATOR)


def _append(own: str, extra: str) -> str:
    """A structure with members behind those of the target's build."""
    front, plus, host = own.partition("+")
    return front + extra + plus + host


def _views(abi: Abi, graph: Graph, op: Op) -> int:
    """Bytes of the temporary ``TfLiteTensor`` views of an operator's inputs and outputs."""
    total = 0
    for index in (*op.inputs, *op.outputs):
        if index < 0:
            continue
        total += abi.size(layout.TENSOR)
        quantization = graph.tensors[index].quantization
        if quantization is not None:
            total += abi.size(layout.AFFINE_QUANTIZATION) + 4 + 4 * len(quantization.scales)
    return align_up(total, 8)


def _requests(model: Model, scratch: list[tuple[int, int, int]]) -> list[Request]:
    """Buffers for the planner: activations of all graphs, then scratch, as TFLM orders them.

    A graph that an IF, WHILE or CALL_ONCE runs lives inside that operator's time.
    """
    first: dict[tuple[int, int], int] = {}
    last: dict[tuple[int, int], int] = {}
    scratch_life: dict[int, tuple[int, int]] = {}
    clock = 0

    def walk(number: int, depth: int) -> None:
        nonlocal clock
        graph = model.graphs[number]
        for tensor in graph.inputs:
            first.setdefault((number, tensor), clock)
            last[number, tensor] = clock
        for op in graph.ops:
            clock += 1
            for tensor in op.outputs:
                first.setdefault((number, tensor), clock)
            start = clock
            for inner in _subgraphs(op):
                if 0 <= inner < len(model.graphs) and depth < len(model.graphs):
                    clock += 1
                    walk(inner, depth + 1)
            for tensor in (*op.inputs, *op.outputs):
                if tensor >= 0:
                    last[number, tensor] = clock
            for i, (graph_number, op_index, _) in enumerate(scratch):
                if (graph_number, op_index) == (number, op.index):
                    scratch_life.setdefault(i, (start, clock))
        for tensor in graph.outputs:
            first.setdefault((number, tensor), clock)
            last[number, tensor] = clock

    walk(0, 0)
    offsets = _offline_offsets(model)
    found = []
    position = 0
    for number, graph in enumerate(model.graphs):
        for tensor in graph.tensors:
            offset = offsets[position] if position < len(offsets) else -1
            position += 1
            variable = tensor.is_variable and offset < 0
            if tensor.is_constant or variable or not tensor.nbytes:
                continue
            key = (number, tensor.index)
            found.append(
                Request(
                    tensor.nbytes,
                    first.get(key, -1),
                    last.get(key, -1),
                    offset if offset >= 0 else None,
                )
            )
    for i, (_, _, nbytes) in enumerate(scratch):
        start, end = scratch_life.get(i, (-1, -1))
        found.append(Request(nbytes, start, end))
    return found


def _subgraphs(op: Op) -> list[int]:
    keys = {
        "IF": ("then_subgraph_index", "else_subgraph_index"),
        "WHILE": ("cond_subgraph_index", "body_subgraph_index"),
        "CALL_ONCE": ("init_subgraph_index",),
    }
    return [int(op.options.get(key, -1)) for key in keys.get(op.kind, ())]


def _offline_offsets(model: Model) -> tuple[int, ...]:
    """Offsets that the model's metadata fixes, per tensor, -1 for none (OfflineMemoryAllocation).

    The entry holds version, graph, number of tensors and one offset for each, all 32 bits.
    """
    entry = model.metadata.get("OfflineMemoryAllocation", b"")
    if len(entry) < 12:
        return ()
    count = struct.unpack_from("<I", entry, 8)[0]
    if len(entry) < 12 + 4 * count:
        return ()
    return struct.unpack_from(f"<{count}i", entry, 12)
