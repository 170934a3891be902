"""Which layers suffer from quantisation: each of them alone, and all but each.

A layer is an operator with its constants and its result; the model's inputs count as one. What is
lost when only one layer is rounded shows where the error arises; what is won when only one is left
float shows what sparing it would bring (Wu et al., "Integer Quantization for Deep Learning
Inference", 2020, section 5.1, "partial quantization").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.graph.macs import op_macs
from edgekit.graph.model import Graph, Model
from edgekit.quantize.plan import Plan
from edgekit.quantize.score import Score, Scorer
from edgekit.quantize.simulate import MOVES, Simulator

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The row for the model's inputs.
INPUTS = -1


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer. ``alone`` is the score with only this layer rounded, ``spared`` with all but
    this one; ``gain_db`` is how much the latter is above that of the whole integer model."""

    op: int
    kind: str
    name: str
    macs: int
    alone: Score
    spared: Score
    gain_db: float


@dataclass(frozen=True)
class Sensitivity:
    """All layers, the one that loses most alone first; ``whole`` has every layer rounded."""

    samples: int
    whole: Score
    float_accuracy: float | None
    layers: tuple[LayerSensitivity, ...]


def layers_of(graph: Graph, plan: Plan) -> list[int]:
    """The operators that round something, in order; see :data:`INPUTS`."""
    return [INPUTS] + [
        op.index for op in graph.ops if op.index in plan.scheme.forms and op.kind not in MOVES
    ]


def sensitivity(
    model: Model,
    plan: Plan,
    inputs: Sequence[Sequence[NDArray[Any]]],
    labels: NDArray[Any] | None = None,
    on_layer: Callable[[int], None] = lambda op: None,
) -> Sensitivity:
    """Scores every layer of a plan on samples.

    Args:
        model: the prepared model.
        plan: its plan.
        inputs: samples with a batch of 1.
        labels: classes [N], if known.
        on_layer: called with every layer's operator when it is done.
    """
    graph = model.main
    scorer = Scorer(graph, inputs, labels)
    everything = set(layers_of(graph, plan)) - {INPUTS}
    whole = scorer.score(_partly(graph, plan, everything, inputs_round=True))
    found = []
    for layer in layers_of(graph, plan):
        is_input = layer == INPUTS
        alone = _partly(graph, plan, {layer} - {INPUTS}, inputs_round=is_input)
        spared = _partly(graph, plan, everything - {layer}, inputs_round=not is_input)
        scores = scorer.score(alone), scorer.score(spared)
        name = ", ".join(graph.tensors[i].name for i in (
            graph.inputs if is_input else graph.ops[layer].outputs))  # fmt: skip
        found.append(
            LayerSensitivity(
                op=layer,
                kind="INPUT" if is_input else graph.ops[layer].kind,
                name=name,
                macs=0 if is_input else op_macs(graph, graph.ops[layer])[0],
                alone=scores[0],
                spared=scores[1],
                gain_db=scores[1].sqnr_db - whole.sqnr_db,
            )
        )
        on_layer(layer)
    found.sort(key=lambda row: (row.alone.sqnr_db, row.op))
    return Sensitivity(len(inputs), whole, scorer.float_accuracy, tuple(found))


def _partly(graph: Graph, plan: Plan, only: set[int], *, inputs_round: bool) -> Simulator:
    return Simulator(graph, plan, only=only, inputs_round=inputs_round)
