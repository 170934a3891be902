"""Kernels that trade time for memory, where the trade is worth it.

The fastest kernels may want scratch or a place of their own for their output. Only the steps
where most is alive decide how large the arena is: there, a slower kernel that needs less is
taken if it saves a larger share of the arena than it costs of the whole inference.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.engines.aot import memory
from edgekit.engines.aot import plan as planner
from edgekit.engines.aot.ir import Program
from edgekit.engines.aot.lowering import Kernel

#: By goal: the share of the arena that must be saved per share of the instructions that it
#: costs. ``speed`` gives a percent of time only for four percent of memory.
_WORTH = {"speed": 4.0, "ram": 0.0, "flash": 4.0}


def balance(
    program: Program,
    kernels: Sequence[Kernel],
    alternatives: Sequence[Sequence[Kernel]],
    *,
    goal: str,
    keep_input: bool,
    enough: int = 0,
) -> tuple[Kernel, ...]:
    """The kernels with those exchanged that make the arena larger than it is worth.

    Args:
        program: after all passes.
        kernels: the choice so far, one per step.
        alternatives: per step, the kernels that could take its place.
        goal: ``speed``, ``ram`` or ``flash``.
        keep_input: see :func:`edgekit.engines.aot.memory.arrange`.
        enough: bytes of the arena at which nothing more is given.
    """
    chosen = list(kernels)
    total = sum(kernel.cost for kernel in chosen) or 1.0
    slots: dict[int, list[int]] = {}
    for position in range(len(chosen)):
        slots.setdefault(program.slot(position), []).append(position)
    while True:
        sizes = _sizes(program, chosen, keep_input)
        peak = max(sizes, default=0)
        if peak <= enough:
            return tuple(chosen)
        trial = list(chosen)
        for slot, size in enumerate(sizes):
            if size == peak:
                smaller = _smaller(program, chosen, slots[slot], alternatives, peak, keep_input)
                if smaller is None:
                    return tuple(chosen)
                for position, kernel in zip(slots[slot], smaller, strict=True):
                    trial[position] = kernel
        reached = max(_sizes(program, trial, keep_input))
        saved = (peak - reached) / peak
        paid = (sum(k.cost for k in trial) - sum(k.cost for k in chosen)) / total
        if saved <= 0 or saved < _WORTH[goal] * paid:
            return tuple(chosen)
        chosen = trial


def _sizes(program: Program, kernels: Sequence[Kernel], keep_input: bool) -> list[int]:
    _, problem = memory.problem_of(program, kernels, keep_input=keep_input, overlap=True)
    return planner.step_bytes(problem)


def _smaller(
    program: Program,
    chosen: Sequence[Kernel],
    positions: Sequence[int],
    alternatives: Sequence[Sequence[Kernel]],
    peak: int,
    keep_input: bool,
) -> list[Kernel] | None:
    """The cheapest kernels with which the steps of a slot stay below the peak.

    Steps of one slot are strips of an operator (and moves of their rows): they change to another
    kernel function together.
    """
    found: list[list[Kernel]] = []
    for function in sorted({k.function for i in positions for k in alternatives[i]}):
        for number in range(max(len(alternatives[i]) for i in positions)):
            trial = list(chosen)
            for i in positions:
                alike = [k for k in alternatives[i] if k.function == function]
                if alike:
                    trial[i] = alike[min(number, len(alike) - 1)]
            new = [trial[i] for i in positions]
            if _sizes(program, trial, keep_input)[program.slot(positions[0])] < peak:
                found.append(new)
    return min(found, key=lambda new: sum(k.cost for k in new), default=None)
