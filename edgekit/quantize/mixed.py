"""Some activations in 16 bits where 8 lose too much: which, what it brings and what it costs.

An activation in int16 has the operators that write and read it compute in their 16x8 form, with
int8 weights as before; QUANTIZE operators convert at the borders. Candidates are tried one by
one, and the one that wins most decibels for its cost is taken, until a target is met or nothing
helps any more. Gains are measured anew after every choice, those first that promised most
(lazy greedy, Minoux, 1978). What the rounding of weights costs no 16-bit activation repairs: the
report says so where nothing helps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.graph.liveness import activation_peak
from edgekit.graph.macs import op_macs
from edgekit.graph.model import Graph, Model
from edgekit.graph.reader import shown
from edgekit.quantize.plan import Magnitudes, Plan, largest_magnitude, make_plan
from edgekit.quantize.scheme import Scheme, Slot, decide
from edgekit.quantize.score import Score, Scorer
from edgekit.quantize.simulate import Simulator
from edgekit.quantize.write import quantized_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A choice must win this much, in decibels, to be worth a line.
_LEAST_GAIN_DB = 0.1
#: Work of an element-wise operator or a conversion, in multiply-accumulates per element.
_ELEMENT_WORK = 4
#: An int16 multiply-accumulate costs about as much more than an int8 one on Cortex-M4 and M7
#: (CMSIS-NN's s16 convolutions do two products an instruction, as its s8 ones after widening,
#: and add in 64 bits): a weight for choosing, no figure that is reported.
_WIDE_WORK = 2.0


@dataclass(frozen=True)
class MixedTarget:
    """When to stop: the first that is met. ``most_macs`` is a share of all MACs in int16."""

    sqnr_db: float | None = None
    accuracy: float | None = None
    most_macs: float = 1.0
    most_layers: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a mixture costs: exact counts of the written graph.

    ``int16_macs`` are multiply-accumulates with int16 activations, of ``macs``; ``converted``
    are elements that QUANTIZE operators convert; ``peak_bytes`` is the peak of live activations.
    """

    macs: int
    int16_macs: int
    quantize_ops: int
    converted: int
    peak_bytes: int


@dataclass(frozen=True)
class Choice:
    """One activation that is kept in int16, with the score and the cost up to it."""

    tensor: int
    name: str
    score: Score
    cost: Cost


@dataclass(frozen=True)
class Mixture:
    """The greedy search: ``before`` is all int8, ``verdict`` a sentence on what it brought."""

    before: Score
    cost_before: Cost
    choices: tuple[Choice, ...]
    float_accuracy: float | None
    verdict: str

    @property
    def tensors(self) -> tuple[int, ...]:
        return tuple(choice.tensor for choice in self.choices)


def mix(
    model: Model,
    ranges: Mapping[int, tuple[float, float]],
    inputs: Sequence[Sequence[NDArray[Any]]],
    target: MixedTarget,
    *,
    labels: NDArray[Any] | None = None,
    magnitudes: Magnitudes = largest_magnitude,
    integers: Mapping[Slot, NDArray[Any]] | None = None,
    per_tensor_dense: bool = False,
    on_try: Callable[[str], None] = lambda name: None,
) -> Mixture:
    """Chooses activations for int16.

    Args:
        model: the prepared model.
        ranges: its activations' ranges.
        inputs: samples with a batch of 1, to measure on.
        target: when to stop.
        labels: classes [N]; needed for a target accuracy.
        magnitudes: what the scales of weights are chosen by.
        integers: weights that were rounded already.
        per_tensor_dense: as in :func:`edgekit.quantize.scheme.decide`.
        on_try: called with the name of every candidate that is measured.
    """
    graph = model.main
    scorer = Scorer(graph, inputs, labels)
    searched = _Search(graph, ranges, scorer, magnitudes, integers, per_tensor_dense)
    before, cost_before = searched.measure(())
    candidates = _candidates(graph, searched.scheme(()))
    gains: dict[int, float] = dict.fromkeys(candidates, float("inf"))
    chosen: list[int] = []
    choices: list[Choice] = []
    current, cost = before, cost_before
    while not _met(current, cost, target, len(chosen)):
        best: tuple[float, int, Score, Cost] | None = None
        for index in sorted(gains, key=lambda i: (-gains[i], i)):
            if best is not None and gains[index] <= best[0]:
                # What promised less before promises no more now.
                break
            on_try(shown(graph.tensors[index].name))
            score, new_cost = searched.measure((*chosen, index))
            work = max(_work(new_cost) - _work(cost), 1.0)
            won = score.sqnr_db - current.sqnr_db
            gains[index] = won / work
            too_much = new_cost.int16_macs > target.most_macs * max(new_cost.macs, 1)
            if won >= _LEAST_GAIN_DB and not too_much and (best is None or gains[index] > best[0]):
                best = (gains[index], index, score, new_cost)
        if best is None:
            break
        _, index, current, cost = best
        chosen.append(index)
        del gains[index]
        choices.append(Choice(index, graph.tensors[index].name, current, cost))
    met = _met(current, cost, target, None)
    return Mixture(
        before, cost_before, tuple(choices), scorer.float_accuracy,
        _verdict(before, current, choices, target, met),
    )  # fmt: skip


def mixture_cost(graph: Graph, plan: Plan) -> Cost:
    """The cost of a plan, from the graph that is written for it."""
    written = quantized_graph(graph, plan)
    macs = wide = quantizes = converted = 0
    for op in written.ops:
        count, _ = op_macs(written, op)
        macs += count
        if any(i >= 0 and written.tensors[i].dtype == "int16" for i in op.inputs):
            wide += count
        if op.kind == "QUANTIZE":
            quantizes += 1
            converted += written.tensors[op.outputs[0]].elements
    return Cost(macs, wide, quantizes, converted, activation_peak(written).nbytes)


class _Search:
    """Measures sets of activations in int16."""

    def __init__(
        self,
        graph: Graph,
        ranges: Mapping[int, tuple[float, float]],
        scorer: Scorer,
        magnitudes: Magnitudes,
        integers: Mapping[Slot, NDArray[Any]] | None,
        per_tensor_dense: bool,
    ) -> None:
        self.graph, self.ranges, self.scorer = graph, ranges, scorer
        self.magnitudes, self.integers = magnitudes, integers
        self.per_tensor_dense = per_tensor_dense

    def scheme(self, int16: Collection[int]) -> Scheme:
        return decide(self.graph, int16=int16, per_tensor_dense=self.per_tensor_dense)

    def measure(self, int16: Collection[int]) -> tuple[Score, Cost]:
        plan = make_plan(
            self.graph, self.scheme(int16), self.ranges, self.magnitudes, self.integers
        )
        return self.scorer.score(Simulator(self.graph, plan)), mixture_cost(self.graph, plan)


def _candidates(graph: Graph, scheme: Scheme) -> list[int]:
    """One tensor of each group; inputs and outputs of the model keep their type."""
    ports = {*graph.inputs, *graph.outputs}
    return [
        group.tensors[0] for group in scheme.groups
        if not ports.intersection(group.tensors)
    ]  # fmt: skip


def _work(cost: Cost) -> float:
    return cost.int16_macs * (_WIDE_WORK - 1) + cost.converted * _ELEMENT_WORK


def _met(score: Score, cost: Cost, target: MixedTarget, layers: int | None) -> bool:
    if layers is not None and target.most_layers is not None and layers >= target.most_layers:
        return True
    wanted = target.sqnr_db is not None or target.accuracy is not None
    reached = (target.sqnr_db is None or score.sqnr_db >= target.sqnr_db) and (
        target.accuracy is None
        or (score.accuracy is not None and score.accuracy >= target.accuracy)
    )
    return wanted and reached


def _verdict(
    before: Score, after: Score, choices: Sequence[Choice], target: MixedTarget, met: bool
) -> str:
    if not choices:
        if met:
            return f"int8 alone meets the target: {before.sqnr_db:.1f} dB"
        return (
            "no activation in int16 wins "
            f"{_LEAST_GAIN_DB} dB: what int8 loses here is lost in the weights, or elsewhere"
        )
    text = (
        f"{len(choices)} activations in int16: SQNR {before.sqnr_db:.1f} to {after.sqnr_db:.1f} dB"
    )
    if before.accuracy is not None and after.accuracy is not None:
        text += f", accuracy {before.accuracy:.2%} to {after.accuracy:.2%}"
        if after.accuracy <= before.accuracy:
            text += "; the classes gain nothing from it"
    wanted = target.sqnr_db is not None or target.accuracy is not None
    if wanted and not met:
        text += "; the target was not reached"
    return text
