"""When activations live, the memory they take at once, and the order that takes least.

The peak is a property of the graph and an order of its operators: at each operator the bytes of
all tensors that exist, its inputs and outputs included. A graph input lives until its last
reader, a graph output from its producer to the end, a variable always. An operator that only
changes the shape (RESHAPE and its like) takes nothing: its output is its input. Scratch memory
of kernels and what a memory planner loses to fragmentation are not part of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.graph.model import Graph

_RENAMES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
#: Work that the search for the best order does at most, in tensors of operators looked at.
#: Graphs that need more for a single pass keep the file's order.
_SEARCH_STEPS = 1_000_000


@dataclass(frozen=True)
class Peak:
    """The largest sum of live activations in an order of the operators.

    ``op`` is the first operator where it occurs (-1 in a graph without any), ``live`` the
    tensors that live there with their bytes, largest first.
    """

    nbytes: int
    op: int
    live: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BestOrder:
    """The order with the smallest peak that was found.

    ``proven``: no order has a smaller peak. Otherwise the smallest possible one is at least
    ``lower_bound_bytes``.
    """

    peak: Peak
    order: tuple[int, ...]
    proven: bool
    lower_bound_bytes: int


def activation_peak(graph: Graph, order: Sequence[int] | None = None) -> Peak:
    """The peak in ``order`` (indices of operators), by default the file's."""
    root = _storages(graph)
    sizes = _sizes(graph, root)
    sequence = range(len(graph.ops)) if order is None else order
    best, where = -1, -1
    for index, held, _ in _walk(graph, root, sizes, sequence):
        if held > best or where < 0:
            best, where = held, index
    for index, _, alive in _walk(graph, root, sizes, sequence):
        if index == where:
            live = sorted(((s, sizes[s]) for s in alive), key=lambda item: (-item[1], item[0]))
            return Peak(best, where, tuple(live))
    return Peak(0, -1, ())


def _walk(
    graph: Graph, root: dict[int, int], sizes: dict[int, int], sequence: Sequence[int]
) -> Iterator[tuple[int, int, set[int]]]:
    """At the start (-1) and at every operator: the bytes and storages that live."""
    always = {root[t.index] for t in graph.tensors if t.is_variable} & sizes.keys()
    kept = ({root[index] for index in graph.outputs} & sizes.keys()) | always
    last = {}
    for step, index in enumerate(sequence):
        for storage in _touched(graph, root, sizes, index):
            last[storage] = step
    alive = always | {
        root[i] for i in graph.inputs if root[i] in sizes and (root[i] in last or root[i] in kept)
    }
    held = sum(sizes[storage] for storage in alive)
    yield -1, held, alive
    for step, index in enumerate(sequence):
        touched = _touched(graph, root, sizes, index)
        held += sum(sizes[storage] for storage in touched - alive)
        alive |= touched
        yield index, held, alive
        for storage in touched:
            if last[storage] == step and storage not in kept:
                alive.discard(storage)
                held -= sizes[storage]


def best_order(graph: Graph) -> BestOrder:
    """Searches for the order of the operators with the smallest peak.

    The search goes through the sets of executed operators in the order of their peaks (a
    bottleneck shortest path), so that the first complete one is optimal. Operators that
    neither raise the peak nor the memory held are executed at once, which loses nothing. It
    gives up after a fixed amount of work; what it knows then is a lower bound.
    """
    count = len(graph.ops)
    file_order = tuple(range(count))
    file_peak = activation_peak(graph)
    root = _storages(graph)
    sizes = _sizes(graph, root)
    bound = max(
        (sum(sizes[s] for s in _touched(graph, root, sizes, op)) for op in file_order), default=0
    )
    if file_peak.nbytes <= bound or file_peak.op < 0:
        return BestOrder(file_peak, file_order, True, file_peak.nbytes)
    unknown = BestOrder(file_peak, file_order, False, bound)
    touches = sum(len(op.inputs) + len(op.outputs) for op in graph.ops)
    if count * touches > _SEARCH_STEPS:
        return unknown
    lives = _Lives(graph)
    if lives.before is None:
        # The file's order is no valid one (a cycle): there is nothing to reorder.
        return unknown
    candidate = _greedy(lives, count)
    candidate_peak = activation_peak(graph, candidate)
    if candidate_peak.nbytes >= file_peak.nbytes:
        candidate, candidate_peak = list(file_order), file_peak
    found, reached = _search(lives, count, candidate_peak.nbytes, bound)
    order = candidate if found is None else found
    peak = activation_peak(graph, order)
    return BestOrder(peak, tuple(order), reached >= peak.nbytes, min(reached, peak.nbytes))


class _Lives:
    """Sets as bit masks: of storages (by bit) and of operators (by index)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        root = _storages(graph)
        self.sizes = _sizes(graph, root)
        self.always = self.given = self.outputs = 0
        for tensor in graph.tensors:
            if tensor.is_variable and root[tensor.index] in self.sizes:
                self.always |= 1 << root[tensor.index]
        for index in graph.inputs:
            if root[index] in self.sizes:
                self.given |= 1 << root[index]
        for index in graph.outputs:
            if root[index] in self.sizes:
                self.outputs |= 1 << root[index]
        self.reads: list[int] = []
        self.writes: list[int] = []
        for op in graph.ops:
            self.reads.append(self._mask(root, op.inputs))
            self.writes.append(self._mask(root, op.outputs))
        self.around = [r | w | self.always for r, w in zip(self.reads, self.writes, strict=True)]
        self.readers: dict[int, int] = {}
        self.writers: dict[int, int] = {}
        for index in range(len(graph.ops)):
            for storage in _bits(self.reads[index]):
                self.readers[storage] = self.readers.get(storage, 0) | 1 << index
            for storage in _bits(self.writes[index]):
                self.writers[storage] = self.writers.get(storage, 0) | 1 << index
        self.before = self._dependencies()

    def _mask(self, root: dict[int, int], tensors: Sequence[int]) -> int:
        mask = 0
        for index in tensors:
            if index >= 0 and root[index] in self.sizes:
                mask |= 1 << root[index]
        return mask

    def _dependencies(self) -> list[int] | None:
        """Per operator the operators that come before it; ``None`` if the file's order is none.

        Operators keep the file's order where they write or change the same storage, and those
        without outputs (or with variables) keep their order among each other.
        """
        graph = self.graph
        producers: dict[int, int] = {}
        for op in graph.ops:
            for index in op.outputs:
                producers.setdefault(index, op.index)
        before = [0] * len(graph.ops)
        effects: int | None = None
        for op in graph.ops:
            for index in op.inputs:
                producer = producers.get(index)
                if producer is None:
                    continue
                if producer >= op.index:
                    return None
                before[op.index] |= 1 << producer
            if not op.outputs or self.reads[op.index] & self.always:
                if effects is not None:
                    before[op.index] |= 1 << effects
                effects = op.index
        for writers in self.writers.values():
            chain = _bits(writers)
            for first, second in zip(chain, chain[1:], strict=False):
                if self.graph.ops[second].kind not in _RENAMES:
                    before[second] |= 1 << first
        return before

    def alive(self, executed: int) -> int:
        """Storages that live between operators, after ``executed`` ones."""
        alive = self.always
        for storage in self.sizes:
            bit = 1 << storage
            if alive & bit:
                continue
            writers = self.writers.get(storage, 0)
            exists = bool(self.given & bit) or bool(writers & executed)
            wanted = bool(self.outputs & bit) or bool(self.readers.get(storage, 0) & ~executed)
            if exists and wanted:
                alive |= bit
        return alive

    def after(self, alive: int, executed: int, index: int) -> int:
        """Storages that live after ``index`` has run as well; cheaper than :meth:`alive`."""
        done = executed | 1 << index
        for storage in _bits(self.around[index] & ~self.always):
            bit = 1 << storage
            wanted = self.outputs & bit or self.readers.get(storage, 0) & ~done
            alive = alive | bit if wanted else alive & ~bit
        return alive

    def bytes_of(self, storages: int) -> int:
        return sum(self.sizes[storage] for storage in _bits(storages))


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def _storages(graph: Graph) -> dict[int, int]:
    """For every tensor the one whose memory it shares: itself, unless it was renamed."""
    root = {tensor.index: tensor.index for tensor in graph.tensors}
    for op in graph.ops:
        if op.kind in _RENAMES and op.inputs and len(op.outputs) == 1 and op.inputs[0] >= 0:
            source, result = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
            if source.nbytes == result.nbytes and result.index not in graph.inputs:
                root[result.index] = root[source.index]
    return root


def _sizes(graph: Graph, root: dict[int, int]) -> dict[int, int]:
    """Bytes of every storage that is no constant."""
    return {
        index: graph.tensors[index].nbytes
        for index in set(root.values())
        if not graph.tensors[index].is_constant
    }


def _touched(graph: Graph, root: dict[int, int], sizes: dict[int, int], op_index: int) -> set[int]:
    op = graph.ops[op_index]
    return {root[i] for i in (*op.inputs, *op.outputs) if i >= 0} & sizes.keys()


def _search(lives: _Lives, count: int, limit: int, bound: int) -> tuple[list[int] | None, int]:
    """An optimal order with a peak below ``limit``, if there is one and it was found.

    Also returns a lower bound of the peaks of all orders (``limit`` when none is below it).
    """
    before = lives.before or []
    complete = (1 << count) - 1
    came: dict[int, tuple[int, tuple[int, ...]]] = {}
    #: peak, then the newest first, which goes deep; state, what lives, parent, how it came
    queue: list[tuple[int, int, int, int, int, tuple[int, ...]]] = [
        (bound, 0, 0, lives.alive(0), -1, ())
    ]
    touches = sum(bin(around).count("1") for around in lives.around)
    work = serial = 0
    while queue:
        peak, _, executed, alive, parent, steps = heapq.heappop(queue)
        if executed in came:
            continue
        came[executed] = (parent, steps)
        if executed == complete:
            return _path(came, executed), peak
        if work > _SEARCH_STEPS:
            return None, peak
        for index in range(count):
            bit = 1 << index
            if executed & bit or before[index] & ~executed:
                continue
            highest = max(peak, lives.bytes_of(alive | lives.around[index]))
            if highest >= limit:
                continue
            after = lives.after(alive, executed, index)
            reached, now, free = _run_free(lives, before, count, executed | bit, after, highest)
            work += (count + touches) * (1 + len(free)) // 4
            if reached not in came:
                serial -= 1
                entry = (highest, serial, reached, now, executed, (index, *free))
                heapq.heappush(queue, entry)
    return None, limit


def _greedy(lives: _Lives, count: int) -> list[int]:
    """Always the operator with the smallest peak, then the one that leaves the least."""
    before = lives.before or []
    executed, alive = 0, lives.alive(0)
    order: list[int] = []
    while len(order) < count:
        ready = [i for i in range(count) if not executed >> i & 1 and not before[i] & ~executed]
        chosen = min(
            ready,
            key=lambda i: (
                lives.bytes_of(alive | lives.around[i]),
                lives.bytes_of(lives.after(alive, executed, i)),
            ),
        )
        alive = lives.after(alive, executed, chosen)
        executed |= 1 << chosen
        order.append(chosen)
    return order


def _run_free(
    lives: _Lives, before: list[int], count: int, executed: int, alive: int, peak: int
) -> tuple[int, int, tuple[int, ...]]:
    """Executes all operators that raise neither the peak nor the memory held."""
    extra = []
    progressed = True
    while progressed:
        progressed = False
        held = lives.bytes_of(alive)
        for index in range(count):
            bit = 1 << index
            if executed & bit or before[index] & ~executed:
                continue
            if lives.bytes_of(alive | lives.around[index]) > peak:
                continue
            now = lives.after(alive, executed, index)
            if lives.bytes_of(now) <= held:
                executed, alive = executed | bit, now
                extra.append(index)
                progressed = True
                break
    return executed, alive, tuple(extra)


def _path(came: dict[int, tuple[int, tuple[int, ...]]], state: int) -> list[int]:
    pieces = []
    while state > 0:
        state, operators = came[state]
        pieces.append(operators)
    return [index for piece in reversed(pieces) for index in piece]
