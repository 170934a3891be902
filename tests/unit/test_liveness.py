"""Peaks of live activations: the published ones, and the best order against brute force."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgekit.graph import read_model
from edgekit.graph.liveness import activation_peak, best_order
from edgekit.graph.model import Graph, Op, Tensor


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [("kws_dscnn", 16000), ("ic_resnet", 49152), ("vww_mobilenet", 55296), ("ad_autoencoder", 768)],
)
def test_published_peaks(mlperf: Path, name: str, nbytes: int) -> None:
    graph = read_model(mlperf / f"{name}_int8.tflite").main
    assert activation_peak(graph).nbytes == nbytes
    best = best_order(graph)
    assert (best.peak.nbytes, best.proven, best.lower_bound_bytes) == (nbytes, True, nbytes)


def random_graph(chance: random.Random, count: int) -> Graph:
    tensors = [Tensor(i, f"t{i}", (chance.randint(1, 20),), "int8") for i in range(count + 1)]
    ops = []
    for i in range(count):
        inputs = tuple({chance.randint(max(0, i - 4), i) for _ in range(chance.randint(1, 2))})
        kind = chance.choice(["ADD", "CONV_2D", "RESHAPE"]) if len(inputs) == 1 else "ADD"
        ops.append(Op(i, kind, inputs, (i + 1,)))
    return Graph("random", tuple(tensors), tuple(ops), (0,), (count,))


def smallest_peak(graph: Graph) -> int:
    producer = {op.outputs[0]: op.index for op in graph.ops}
    peaks = []

    def extend(order: list[int]) -> None:
        if len(order) == len(graph.ops):
            peaks.append(activation_peak(graph, order).nbytes)
            return
        for op in graph.ops:
            ready = all(producer.get(t, -1) in (-1, *order) for t in op.inputs)
            if op.index not in order and ready:
                extend([*order, op.index])

    extend([])
    return min(peaks)


def test_best_order_is_the_best(seed: int) -> None:
    chance = random.Random(seed)
    improved = 0
    for _ in range(150):
        graph = random_graph(chance, chance.randint(2, 8))
        best = best_order(graph)
        assert best.proven
        assert best.peak.nbytes == smallest_peak(graph)
        assert activation_peak(graph, best.order).nbytes == best.peak.nbytes
        improved += best.peak.nbytes < activation_peak(graph).nbytes
    assert improved > 10


def test_bound_of_a_large_graph_holds(seed: int) -> None:
    graph = random_graph(random.Random(seed), 200)
    best = best_order(graph)
    assert best.lower_bound_bytes <= best.peak.nbytes <= activation_peak(graph).nbytes
    assert sorted(best.order) == list(range(200))


def test_what_counts() -> None:
    tensors = tuple(Tensor(i, str(i), (n,), "int8") for i, n in enumerate([10, 20, 20, 5, 7]))
    variable = Tensor(5, "state", (100,), "int8", is_variable=True)
    ops = (
        Op(0, "CONV_2D", (0,), (1,)),
        Op(1, "RESHAPE", (1,), (2,)),
        Op(2, "CONV_2D", (2,), (3,)),
        Op(3, "CONV_2D", (0, 3), (4,)),
    )
    graph = Graph("g", (*tensors, variable), ops, (0,), (4,))
    # At operator 2 the input (10), the reshaped tensor (20, once), its output (5), the variable.
    peak = activation_peak(graph)
    assert (peak.nbytes, peak.op) == (135, 2)
    assert dict(peak.live) == {0: 10, 1: 20, 3: 5, 5: 100}


def test_graph_without_operators() -> None:
    graph = Graph("g", (Tensor(0, "x", (4,), "int8"),), (), (0,), (0,))
    assert activation_peak(graph).nbytes == 4
    assert best_order(graph).order == ()
