"""The static memory planner: an offset in the arena for every buffer, made once, on the host.

Two buffers that live at the same time must lie apart, except where a kernel permits its output
to overlap an input that dies with it (:class:`~edgekit.engines.aot.lowering.Overlap`). The
planner places buffers one after the other, each at its lowest feasible offset. Some order of
placement gives an optimal plan; several good orders are tried, then a branch and bound looks
through the others. A plan that meets the lower bound is proven optimal, and so is one that
remains when the search has seen every order. The search is bounded by a count of placements
and not by time: the same problem gives the same plan on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

#: Placements that the branch and bound tries; about two seconds.
SEARCH_PLACEMENTS = 400_000

#: Items of the largest stretch that is solved by itself.
_LARGEST_WINDOW = 24

#: In-place pairs that a proof tries together and apart, in every combination.
_MOST_PAIRS = 8

#: Items of the largest problem that the branch and bound looks at.
_LARGEST_SEARCH = 400


@dataclass(frozen=True)
class Range:
    """Differences of offsets that are allowed: ``low <= shift <= high``, a multiple of ``step``."""

    low: int | None = None
    high: int | None = None
    step: int = 1

    def holds(self, shift: int) -> bool:
        return (
            (self.low is None or shift >= self.low)
            and (self.high is None or shift <= self.high)
            and shift % self.step == 0
        )


@dataclass(frozen=True)
class Item:
    """A buffer to place: its size, and the steps (inclusive) between which it lives."""

    nbytes: int
    first: int
    last: int
    align: int = 1


@dataclass(frozen=True)
class Permission:
    """``output`` may overlap ``input`` if their shift is in one range of *every* group.

    The shift is the output's offset minus the input's. There is one group of ranges for each
    way in which the step reads the input.
    """

    output: int
    input: int
    groups: tuple[tuple[Range, ...], ...]

    def holds(self, shift: int) -> bool:
        return all(any(r.holds(shift) for r in group) for group in self.groups)


@dataclass(frozen=True)
class Problem:
    items: tuple[Item, ...]
    permissions: tuple[Permission, ...] = ()


@dataclass(frozen=True)
class Solution:
    """Offsets in the order of the problem's items."""

    offsets: tuple[int, ...]
    nbytes: int
    lower_bound: int
    optimal: bool
    placements: int = field(default=0, compare=False)


def solve(
    problem: Problem, *, hints: Sequence[Sequence[int]] = (), placements: int = SEARCH_PLACEMENTS
) -> Solution:
    """The smallest arena that the bounded search finds.

    Args:
        problem: what to place.
        hints: orders of placement to try besides the built-in ones.
        placements: the bound of the search.
    """
    return _Search(problem, placements).run(hints)


def lower_bound(problem: Problem) -> int:
    """No plan is smaller: the most bytes that any step keeps alive, overlaps at their best."""
    return max(step_bytes(problem), default=0)


def step_bytes(problem: Problem) -> list[int]:
    """Per step, the fewest bytes that its live buffers can take."""
    steps = 1 + max((item.last for item in problem.items), default=-1)
    totals = [0] * steps
    for item in problem.items:
        for step in range(item.first, item.last + 1):
            totals[step] += item.nbytes
    saved: dict[tuple[int, int], int] = {}
    for permission in problem.permissions:
        out, into = problem.items[permission.output], problem.items[permission.input]
        most = out.nbytes + into.nbytes - _least_union(out.nbytes, into.nbytes, permission)
        for step in range(max(out.first, into.first), min(out.last, into.last) + 1):
            at = permission.output, step
            saved[at] = saved.get(at, 0) + most
    for (output, step), nbytes in saved.items():
        # The output cannot share more bytes than it has.
        totals[step] -= min(nbytes, problem.items[output].nbytes)
    return totals


def _least_union(out: int, into: int, permission: Permission) -> int:
    """Fewest bytes from the lower start to the higher end of two buffers that may overlap."""
    shifts = {-out, into, 0, into - out}
    for group in permission.groups:
        for item in group:
            for bound in (item.low, item.high):
                if bound is not None:
                    shifts.update((bound, bound - bound % item.step))
            # The union is constant between these two shifts, and larger outside.
            if item.step > 1:
                shifts.update(
                    edge + delta
                    for edge in (min(0, into - out), max(0, into - out))
                    for delta in (-(edge % item.step), item.step - edge % item.step)
                )
    return min(
        max(into, shift + out) - min(0, shift)
        for shift in shifts
        if permission.holds(shift) or shift <= -out or shift >= into
    )


def conflicts(problem: Problem, offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of items that overlap without a permission. Empty for a valid plan."""
    allowed = {(p.output, p.input): p for p in problem.permissions}
    found = []
    for a, item in enumerate(problem.items):
        for b in range(a):
            other = problem.items[b]
            if item.first > other.last or other.first > item.last:
                continue
            low, high = offsets[a], offsets[b]
            if low >= high + other.nbytes or high >= low + item.nbytes:
                continue
            one, two = allowed.get((a, b)), allowed.get((b, a))
            if (one and one.holds(low - high)) or (two and two.holds(high - low)):
                continue
            found.append((b, a))
    return found


class _Search:
    def __init__(self, problem: Problem, placements: int) -> None:
        self.problem = problem
        self.items = problem.items
        self.left = placements
        self.used = 0
        self.bound = lower_bound(problem)
        self.best: list[int] = []
        self.best_bytes = 1 << 62
        count = len(self.items)
        # A buffer of no bytes conflicts with nothing and stays at 0.
        self.neighbours: list[list[int]] = [[] for _ in range(count)]
        for a in range(count):
            for b in range(a):
                x, y = self.items[a], self.items[b]
                if x.nbytes and y.nbytes and x.first <= y.last and y.first <= x.last:
                    self.neighbours[a].append(b)
                    self.neighbours[b].append(a)
        self.permission: dict[tuple[int, int], tuple[Permission, int]] = {}
        for permission in problem.permissions:
            # The sign turns "mine minus theirs" into "output minus input".
            self.permission[permission.output, permission.input] = (permission, 1)
            self.permission[permission.input, permission.output] = (permission, -1)
        # What the branch and bound's argument covers: moving the lower of two buffers further down
        # must not forbid the place of the other one.
        self.provable = all(
            _in_place(permission) or all(_one_way(w) for group in permission.groups for w in group)
            for permission in problem.permissions
        )

    def run(self, hints: Sequence[Sequence[int]]) -> Solution:
        for order in [*self._orders(), *hints]:
            self._try(order)
            if self.best_bytes == self.bound:
                break
        if self.best_bytes > self.bound:
            self._windows()
        if self.best_bytes > self.bound:
            self._local()
        if self.best_bytes > self.bound and self._branch():
            self.bound = self.best_bytes
        return Solution(
            offsets=tuple(self.best),
            nbytes=self.best_bytes,
            lower_bound=self.bound,
            optimal=self.best_bytes == self.bound,
            placements=self.used,
        )

    def _windows(self) -> None:
        """Solves growing stretches of steps around the fullest one by themselves.

        No plan for everything is smaller than the best plan for some of the items, so that an
        exhausted search there raises the lower bound; and its order is a good start.
        """
        totals = step_bytes(self.problem)
        peak = totals.index(max(totals))
        rest = self._orders()[0]
        for reach in range(1, len(totals)):
            # Before, after, and around: the narrower two often hold the whole difficulty.
            for start, end in ((reach, 0), (0, reach), (reach, reach)):
                chosen = [
                    i
                    for i, item in enumerate(self.items)
                    if item.first <= peak + end and item.last >= peak - start
                ]
                if len(chosen) > _LARGEST_WINDOW or len(chosen) == len(self.items):
                    return
                part, exhausted = self._part(chosen)
                if exhausted:
                    self.bound = max(self.bound, part.nbytes)
                inside = sorted(chosen, key=lambda i: part.offsets[chosen.index(i)])
                self._try([*inside, *(i for i in rest if i not in set(chosen))])
                if self.best_bytes <= self.bound:
                    return
            if not exhausted:
                return

    def _part(self, chosen: list[int]) -> tuple[Solution, bool]:
        """Some of the items as a problem of their own, and whether its search was complete."""
        place = {index: position for position, index in enumerate(chosen)}
        problem = Problem(
            items=tuple(self.items[i] for i in chosen),
            permissions=tuple(
                replace(p, output=place[p.output], input=place[p.input])
                for p in self.problem.permissions
                if p.output in place and p.input in place
            ),
        )
        search = _Search(problem, max(self.left // 8, 1))
        for order in search._orders():
            search._try(order)
        exhausted = search.best_bytes == search.bound or search._branch()
        self.left -= search.used
        self.used += search.used
        found = Solution(tuple(search.best), search.best_bytes, search.bound, exhausted)
        return found, exhausted

    def _orders(self) -> list[list[int]]:
        items = self.items
        every = range(len(items))
        weight = [sum(items[j].nbytes for j in self.neighbours[i]) + items[i].nbytes for i in every]
        keys = [
            lambda i: (-items[i].nbytes, items[i].first, i),
            lambda i: (-weight[i], -items[i].nbytes, i),
            lambda i: (items[i].first, -items[i].nbytes, i),
            lambda i: (-items[i].last, -items[i].nbytes, i),
            lambda i: (-items[i].nbytes * (items[i].last - items[i].first + 1), i),
            lambda i: (items[i].first - items[i].last, -items[i].nbytes, i),
            lambda i: (-items[i].nbytes, -items[i].first, i),
        ]
        orders = [sorted(every, key=key) for key in keys]
        # Grow outwards from the fullest step: the plan there decides, the rest fits around it.
        totals = step_bytes(self.problem)
        peak = totals.index(max(totals)) if totals else 0
        orders.append(
            sorted(
                every,
                key=lambda i: (
                    max(items[i].first - peak, peak - items[i].last, 0),
                    -items[i].nbytes,
                    i,
                ),
            )
        )
        orders.append(
            sorted(
                every,
                key=lambda i: (
                    max(items[i].first - peak, peak - items[i].last, 0),
                    -items[i].first,
                    i,
                ),
            )
        )
        return orders

    def _try(self, order: Sequence[int]) -> int:
        """Places everything in an order; the bytes that it took (or a number above the best)."""
        offsets: list[int | None] = [None] * len(self.items)
        top = 0
        for index in order:
            offsets[index] = at = self._lowest((index,), offsets)
            top = max(top, at + self.items[index].nbytes)
            if top >= self.best_bytes:
                return top
        self.best = [offset or 0 for offset in offsets]
        self.best_bytes = top
        return top

    def _local(self) -> None:
        """Moves single items to the front of the best order until nothing gets better."""
        order = sorted(range(len(self.items)), key=lambda i: (-self.items[i].nbytes, i))
        better = True
        floor = self.left // 2
        while better and self.left > floor:
            better = False
            for index in range(1, len(order)):
                for to in {0, index // 2, index - 1}:
                    trial = order[:]
                    trial.insert(to, trial.pop(index))
                    before = self.best_bytes
                    self._try(trial)
                    if self.best_bytes < before:
                        order, better = trial, True
                    if self.best_bytes == self.bound or self.left < floor:
                        return

    def _branch(self) -> bool:
        """Tries every plan that could be smaller; whether it saw them all.

        Buffers that may share a place, but not with the output on its other side, are tried
        together, as one unit, and apart.
        """
        pairs = sorted((p.output, p.input) for p in self.problem.permissions if _tied(p))
        whole = self.provable and len(pairs) <= _MOST_PAIRS
        # Without a proof in sight, one search with everything apart has to do.
        choices = 1 << len(pairs) if whole else 1
        for choice in range(choices - 1, -1, -1):
            joined = [pair for bit, pair in enumerate(pairs) if choice >> bit & 1]
            units = self._units(joined)
            if not all(self._agrees(unit) for unit in units):
                continue  # two of a unit may not share a place with each other
            if not self._branch_units(units):
                return False
            if self.best_bytes == self.bound:
                break
        return whole

    def _agrees(self, unit: tuple[int, ...]) -> bool:
        return all(
            b not in self.neighbours[a] or self._fits(a, 0, b, 0)
            for a in unit
            for b in unit
            if a != b
        )

    def _units(self, joined: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Groups of items that share an offset, by the pairs that do."""
        unit = {index: [index] for index in range(len(self.items))}
        for a, b in joined:
            if unit[a] is not unit[b]:
                unit[a].extend(unit[b])
                for index in unit[b]:
                    unit[index] = unit[a]
        return sorted({tuple(sorted(members)) for members in unit.values()})

    def _branch_units(self, units: Sequence[tuple[int, ...]]) -> bool:
        """Every order in which the units' offsets do not descend; whether it saw them all."""
        offsets: list[int | None] = [None] * len(self.items)
        base = 0
        waiting = []
        for unit in units:
            if any(self.neighbours[index] for index in unit):
                waiting.append(unit)
            else:
                offsets[unit[0]] = 0
                base = max(base, self.items[unit[0]].nbytes)
        height = {unit: max(self.items[i].nbytes for i in unit) for unit in waiting}

        def descend(floor: int, top: int) -> bool:
            remaining = [unit for unit in waiting if offsets[unit[0]] is None]
            if not remaining:
                if top < self.best_bytes:
                    self.best = [offset or 0 for offset in offsets]
                    self.best_bytes = top
                return True
            choices = []
            for unit in remaining:
                at = self._lowest(unit, offsets, floor)
                if at + height[unit] >= self.best_bytes:
                    return True  # it only gets higher: no plan below the best from here
                choices.append((at, -height[unit], unit))
            choices.sort()
            # Whatever goes next leaves the others above it: a unit that fits wholly below
            # every other choice's start would only waste room if it came later.
            ceiling = min(at - size for at, size, _ in choices)
            for at, _, unit in choices:
                if at >= ceiling:
                    break
                if self.left <= 0:
                    return False
                for index in unit:
                    offsets[index] = at
                complete = descend(at, max(top, at + height[unit]))
                for index in unit:
                    offsets[index] = None
                if not complete:
                    return False
                if self.best_bytes == self.bound:
                    return True
            return True

        # One level of recursion per unit; problems of this size are beyond the bound anyway.
        return len(waiting) <= _LARGEST_SEARCH and descend(0, base)

    def _lowest(self, unit: tuple[int, ...], offsets: Sequence[int | None], floor: int = 0) -> int:
        """The lowest offset, not below ``floor``, that suits everything placed so far."""
        self.left -= 1
        self.used += 1
        align = max(self.items[index].align for index in unit)
        candidates = {floor}
        residues: set[tuple[int, int]] = set()
        placed: list[tuple[int, int, int]] = []
        top = floor
        for index in unit:
            for other in self.neighbours[index]:
                at = offsets[other]
                if at is None:
                    continue
                placed.append((index, other, at))
                end = at + self.items[other].nbytes
                candidates.add(end)
                top = max(top, end)
                permitted = self.permission.get((index, other))
                if permitted is None:
                    continue
                permission, sign = permitted
                for group in permission.groups:
                    for window in group:
                        # The lower end of the window in terms of this item's offset.
                        edge = window.low if sign == 1 else window.high
                        if edge is not None:
                            candidates.add(at + sign * edge)
                        if window.step > 1:
                            residues.add((window.step, at % window.step))
        candidates = {c + (-c) % align for c in candidates if c >= floor}
        for step, residue in sorted(residues):
            candidates |= {_congruent(c, step, residue, align) for c in candidates}
        for candidate in sorted(candidates):
            if all(self._fits(index, candidate, j, at) for index, j, at in placed):
                return candidate
        # Beyond everything placed there is always room.
        return top + (-top) % align

    def _fits(self, index: int, offset: int, other: int, at: int) -> bool:
        if offset >= at + self.items[other].nbytes or at >= offset + self.items[index].nbytes:
            return True
        permitted = self.permission.get((index, other))
        return permitted is not None and permitted[0].holds(permitted[1] * (offset - at))


def _in_place(permission: Permission) -> bool:
    """Whether the only place that the two can share is the same one."""
    windows = [window for group in permission.groups for window in group]
    return all(window.low == window.high == 0 for window in windows)


def _tied(permission: Permission) -> bool:
    """Whether sharing one place is a limit of what the two may do."""
    windows = [window for group in permission.groups for window in group]
    return permission.holds(0) and any(0 in (window.low, window.high) for window in windows)


def _one_way(window: Range) -> bool:
    """Whether it keeps the output on one side of the input, at any distance."""
    below = window.low is None and window.high is not None and window.high <= 0
    above = window.high is None and window.low is not None and window.low >= 0
    return window.step == 1 and (below or above)


def _congruent(at_least: int, step: int, residue: int, align: int) -> int:
    """The first aligned offset from ``at_least`` on that leaves ``residue`` modulo ``step``.

    Where there is none (the two contradict each other), ``at_least``.
    """
    for offset in range(at_least, at_least + step * align, align):
        if offset % step == residue:
            return offset
    return at_least
