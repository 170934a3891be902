"""What to give for memory: kernels and stages in strips, until a plan is small enough.

The kernels that are fastest come first. Where the arena is to be smaller, kernels with less
scratch are taken (:mod:`.trade`), then stages around the fullest steps run in strips of rows
(:mod:`.patches`). All plans that were looked at and that no other one beats in both bytes and
instructions are kept: the engine takes one of them, and the others say what a change would bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.engines.aot import memory, patches, select, trade
from edgekit.engines.aot import plan as planner
from edgekit.engines.aot.ir import Program
from edgekit.engines.aot.lowering import Kernel
from edgekit.engines.aot.memory import Layout
from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edgekit.targets import Target

#: Output rows of a stage's turn that are tried.
_ROWS = (1, 2, 4, 8)

#: Rows of a turn that are tried for an input that comes in rows.
_FEED_ROWS = (4, 2, 1)

#: Stages per round that are looked at with kernels and scratch, the most promising ones first.
_LOOKED_AT = 6

#: Stages that a plan may have.
_MOST_STAGES = 3


@dataclass(frozen=True)
class Choice:
    """A way to run the model: its stages in strips, kernels, and what they come to."""

    program: Program = field(repr=False)
    kernels: tuple[Kernel, ...] = field(repr=False)
    stages: tuple[patches.Stage, ...]
    #: no plan of this choice is smaller
    bound_bytes: int
    #: estimated instructions of an inference
    instructions: float


class Search:
    """Choices for one program and target; what was lowered once is kept."""

    def __init__(
        self,
        program: Program,
        target: Target | None,
        *,
        goal: str = "speed",
        forced: Sequence[str] = (),
        keep_input: bool = False,
        patches: bool = True,
    ) -> None:
        self.program = program
        self.target = target
        # The fastest kernels come first; what they take is given back where it counts.
        self.goal = "speed" if goal == "ram" else goal
        self.forced = tuple(forced)
        self.keep_input = keep_input
        self.stages = _MOST_STAGES if patches else 0
        self.feed = _feeding(program)
        self.stages += 1 if self.feed else 0
        self._lowered: dict[Any, tuple[Kernel, ...]] = {}
        self._layouts: list[tuple[Choice, Layout]] = []

    def choice(
        self, stages: Sequence[patches.Stage] = (), *, least: bool, enough: int = 0
    ) -> Choice | None:
        """The kernels for some stages; ``None`` where they cannot run in strips.

        Args:
            stages: must not overlap. An input that comes in rows gets one where none has it.
            least: give speed for memory, whatever it costs; otherwise what is worth it.
            enough: bytes at which to stop giving.
        """
        program = self.program
        if self.feed and all(stage.start >= self.feed.stop for stage in stages):
            stages = (self.feed, *stages)
        if self.feed and min(stage.start for stage in stages) > 0:
            return None  # its rows would have to come all at once
        for stage in stages:
            changed = patches.apply(program, stage)
            if changed is None:
                return None
            program = changed
        try:
            return self._chosen(program, stages, least=least, enough=enough)
        except ModelError:
            if tuple(stages) in ((), (self.feed,)):
                raise
            return None  # a strip has no kernel where a whole image has one

    def _chosen(
        self, program: Program, stages: Sequence[patches.Stage], *, least: bool, enough: int = 0
    ) -> Choice:
        """The kernels for a program with these stages.

        Raises:
            ModelError: a step has none.
        """
        kernels, alternatives = select.choose(
            program, self.target, goal=self.goal, forced=self.forced, lowered=self._lowered
        )
        kernels = trade.balance(
            program,
            kernels,
            alternatives,
            goal="ram" if least else self.goal,
            keep_input=self.keep_input,
            enough=enough,
        )
        return Choice(
            program=program,
            kernels=kernels,
            stages=tuple(stages),
            bound_bytes=max(self._sizes(program, kernels), default=0),
            instructions=sum(kernel.cost for kernel in kernels),
        )

    def layout(self, choice: Choice) -> Layout:
        """The plan of a choice."""
        for other, layout in self._layouts:
            if other is choice:
                return layout
        layout = memory.arrange(
            choice.program, choice.kernels, keep_input=self.keep_input, overlap=True
        )
        self._layouts.append((choice, layout))
        return layout

    def smaller(self, enough: int = 0) -> list[Choice]:
        """Choices of ever fewer bytes, from the fastest one on; none beats another in both.

        Args:
            enough: stop when a plan needs no more bytes than this.
        """
        first = self.choice(least=False)
        assert first is not None
        found = [first]
        current = self.choice(least=True, enough=enough)
        assert current is not None
        found.append(current)
        while current.bound_bytes > enough and len(current.stages) < self.stages:
            tried = []
            for stages in self._promising(current)[:_LOOKED_AT]:
                for goal_bytes in sorted({enough, 0}, reverse=True):
                    choice = self.choice(stages, least=True, enough=goal_bytes)
                    if choice is not None:
                        tried.append(choice)
                quick = self.choice(stages, least=False)
                if quick is not None:
                    tried.append(quick)
            found += tried
            best = min(tried, key=lambda c: (c.bound_bytes, c.instructions), default=None)
            if best is None or best.bound_bytes >= current.bound_bytes:
                break
            current = best
        return self._frontier(found)

    def _frontier(self, found: Sequence[Choice]) -> list[Choice]:
        kept: list[Choice] = []
        for choice in sorted(found, key=lambda c: (c.instructions, c.bound_bytes)):
            if not kept or choice.bound_bytes < kept[-1].bound_bytes:
                kept.append(choice)
        return kept

    def _sizes(self, program: Program, kernels: Sequence[Kernel]) -> list[int]:
        _, problem = memory.problem_of(program, kernels, keep_input=self.keep_input, overlap=True)
        return planner.step_bytes(problem)

    def _promising(self, current: Choice) -> list[tuple[patches.Stage, ...]]:
        """Stages to add around the fullest step, those first that leave the fewest bytes.

        They are compared without the scratch and the overlaps of their strips' kernels.
        """
        sizes = self._sizes(current.program, current.kernels)
        peak = sizes.index(max(sizes))
        base = self.program
        whole = self._chosen(base, (), least=True)  # a kernel per slot
        taken = {i for s in current.stages for i in range(s.start, s.stop)}
        ranked: list[tuple[int, int, tuple[patches.Stage, ...]]] = []
        for first, last in patches.runs(base):
            for start in range(first, last):
                for stop in range(start + 2, last + 1):
                    inside = set(range(start, stop))
                    if not (peak in inside or peak + 1 in inside or peak - 1 in inside):
                        continue
                    others = tuple(
                        s for s in current.stages if not inside & set(range(s.start, s.stop))
                    )
                    if taken & inside and len(others) == len(current.stages):
                        continue
                    for rows in _ROWS:
                        stage = patches.Stage(start, stop, rows)
                        stages = tuple(sorted((*others, stage), key=lambda s: s.start))
                        nbytes = self._rough(stages, whole)
                        if nbytes is not None and nbytes < current.bound_bytes:
                            ranked.append((nbytes, -rows, stages))
        ranked.sort(key=lambda entry: entry[:2])
        return [stages for _, _, stages in ranked]

    def _rough(self, stages: Sequence[patches.Stage], whole: Choice) -> int | None:
        program = self.program
        for stage in stages:
            changed = patches.apply(program, stage)
            if changed is None:
                return None
            program = changed
        bare = Kernel(function="", header="", args=())
        inside = {i for s in stages for i in range(s.start, s.stop)}
        kernels = [
            bare if program.slot(i) in inside else whole.kernels[program.slot(i)]
            for i in range(len(program.steps))
        ]
        return max(self._sizes(program, kernels), default=0)


def _feeding(program: Program) -> patches.Stage | None:
    """The stage in which an input comes in rows, with as little else as can be.

    Raises:
        UsageError: the model's first steps take the whole image.
    """
    if not program.fed:
        return None
    for rows in _FEED_ROWS:
        stage = patches.Stage(0, 2, rows)
        if patches.apply(program, stage) is not None:
            return stage
    (image,) = (program.tensors[index] for index in program.fed)
    row_bytes = image.nbytes // image.shape[1]
    reason = f"{program.place(program.steps[1])} does not run in strips"
    if row_bytes % 4:
        reason = f"a row has {row_bytes} bytes, which is no multiple of 4"
    raise UsageError(
        f"the input cannot come in rows: {reason}",
        program.model.name,
        "--set input=apart, where the image has a place of its own",
    )
