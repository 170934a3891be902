"""Orders the steps so that the fewest bytes are alive at once.

Exact (a shortest path over the sets of finished steps, by their peak) while there are few
orders, as in a graph with some branches; with too many the model's own order stays. Among
orders of the same peak the model's own wins.
"""

from __future__ import annotations

import heapq

from edgekit.engines.aot.ir import Program

#: Sets of finished steps that are looked at before giving up.
_MOST_STATES = 4_000


def run(program: Program) -> Program:
    order = _best_order(program)
    if order is None:
        return program
    return program.with_steps(tuple(program.steps[i] for i in order))


def _best_order(program: Program) -> tuple[int, ...] | None:
    steps = program.steps
    made = {program.home(t): i for i, step in enumerate(steps) for t in step.outputs}
    reads = [
        {program.home(t) for t in step.inputs if t >= 0 and not program.tensors[t].is_constant}
        for step in steps
    ]
    needs = [{made[t] for t in inputs if t in made} for inputs in reads]
    if all(i == 0 or i - 1 in needs[i] for i in range(len(steps))):
        return None  # a chain has one order
    users: dict[int, set[int]] = {}
    for i, inputs in enumerate(reads):
        for t in inputs:
            users.setdefault(t, set()).add(i)
    kept = {program.home(t) for t in program.outputs}
    size = {t: program.tensors[t].nbytes for t in {*made, *users}}
    size.update({program.home(t): program.tensors[t].nbytes for t in program.inputs})

    def after(done: frozenset[int], live: frozenset[int], i: int) -> tuple[int, frozenset[int]]:
        """Bytes during step ``i``, and what is alive after it."""
        now = live | {t for t in made if made[t] == i}
        finished = done | {i}
        left = frozenset(t for t in now if t in kept or users.get(t, set()) - finished)
        dying = max((size[t] for t in reads[i] if t not in left), default=0)
        grown = sum(size[t] for t in now)
        # The output may lie over an input that dies here, at best entirely.
        made_bytes = sum(size[t] for t in now - live)
        return grown - min(dying, made_bytes), left

    start_live = frozenset(program.home(t) for t in program.inputs)
    # Ties are broken by the order itself, so that the model's own is preferred.
    queue: list[tuple[int, tuple[int, ...], frozenset[int]]] = [(0, (), start_live)]
    seen: set[frozenset[int]] = set()
    while queue:
        peak, order, live = heapq.heappop(queue)
        done = frozenset(order)
        if len(order) == len(steps):
            return order
        if done in seen:
            continue
        seen.add(done)
        if len(seen) > _MOST_STATES:
            return None
        for i in range(len(steps)):
            if i not in done and needs[i] <= done:
                nbytes, left = after(done, live, i)
                heapq.heappush(queue, (max(peak, nbytes), (*order, i), left))
    return None
