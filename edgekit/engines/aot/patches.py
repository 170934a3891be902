"""Patch-based execution: a stage of steps runs in strips of rows, so that less is alive at once.

A stage is a run of windowed and element-wise steps between one or more full tensors. Instead of
one step after the other over whole images, every turn makes a few rows of the stage's outputs
and, of each tensor inside, just the rows that these need and that are not there yet. What later
turns need again stays in a rolling buffer: its last rows are moved to its start before new ones
are made behind them. No row is computed twice, so that the stage has exactly the operator's
multiply-accumulates; its price are the moves and the smaller steps.

Rows of NHWC tensors are contiguous. A strip is a view into a rolling buffer or a full tensor;
padding that falls into it is explicit. Strips are tensors of the program like any other, so
that kernels, the memory plan and the checks against the reference see nothing special, but
for the time line: the turns of a stage share the slots that its steps had.

An input that comes in rows is the output of a step FEED, which takes part in a stage as any
other: its strips are what the caller writes, when it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgekit.engines.aot.ir import Instruction, Program
from edgekit.graph import Tensor

_WINDOWED = ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
_BINARY = ("ADD", "SUB", "MUL")
_UNARY = ("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH")

#: The step at which the caller has put rows of an input into the arena.
FEED = "FEED"

#: Kernels address by words; a strip starts at one.
_WORD = 4


@dataclass(frozen=True)
class Stage:
    """Steps ``start`` to ``stop`` (exclusive) of a program, ``rows`` of the output per turn."""

    start: int
    stop: int
    rows: int


@dataclass(frozen=True)
class _Window:
    """How a step's output rows depend on its input rows."""

    size: int = 1
    stride: int = 1
    dilation: int = 1
    #: before the first row
    pad: int = 0
    #: explicit padding (left, right)
    sides: tuple[int, int] = (0, 0)

    def first(self, row: int) -> int:
        """First input row (in the image) that output rows from ``row`` on read."""
        return max(0, row * self.stride - self.pad)

    def end(self, rows: int, limit: int) -> int:
        """One past the last input row that the first ``rows`` output rows read."""
        if rows <= 0:
            return 0
        reach = (rows - 1) * self.stride - self.pad + (self.size - 1) * self.dilation + 1
        return max(0, min(limit, reach))

    def ready(self, rows: int, limit: int, outputs: int) -> int:
        """Output rows that the first ``rows`` of ``limit`` input rows suffice for."""
        if rows >= limit:
            return outputs
        count = (rows - 1 - (self.size - 1) * self.dilation + self.pad) // self.stride + 1
        return max(0, min(outputs, count))


def runs(program: Program) -> list[tuple[int, int]]:
    """The longest stretches of steps that can be in a stage."""
    found = []
    start = None
    for position, step in enumerate((*program.steps, None)):
        if step is not None and _window(program, step) is not None:
            start = position if start is None else start
        elif start is not None:
            found.append((start, position))
            start = None
    return found


def _window(program: Program, step: Instruction) -> _Window | None:
    """The step's window, ``None`` where it cannot run in strips."""
    if len(step.outputs) != 1 or not (step.inputs or step.kind == FEED) or step.parts:
        return None
    output = program.tensors[step.outputs[0]]
    data = [i for i in step.inputs if i >= 0 and not program.tensors[i].is_constant]
    tensors = [*(program.tensors[i] for i in data), output]
    if not data and step.kind != FEED:
        return None
    if any(len(t.shape) != 4 or t.shape[0] != 1 or t.dtype != "int8" for t in tensors):
        return None
    if any(_row_bytes(t) % _WORD for t in tensors):
        return None
    if output.index in program.rows or any(i in program.rows for i in data):
        return None  # it is in a stage already
    if output.index in program.views or any(program.offset(i) for i in data):
        return None
    if step.kind == FEED:
        return _Window()
    if step.kind in _BINARY:
        alike = len(data) == 2 and all(t.shape == output.shape for t in tensors)
        return _Window() if alike else None
    if len(data) != 1 or data[0] != step.inputs[0]:
        return None
    image = program.tensors[data[0]]
    if step.kind in _UNARY:
        return _Window() if image.shape == output.shape and len(step.inputs) == 1 else None
    if step.kind not in _WINDOWED:
        return None
    options = step.options
    if "filter_height" in options:
        size = (int(options["filter_height"]), int(options["filter_width"]))
    elif len(step.inputs) > 1 and program.tensors[step.inputs[1]].is_constant:
        size = program.tensors[step.inputs[1]].shape[1:3]  # type: ignore[assignment]
    else:
        return None
    stride = int(options.get("stride_h", 1)), int(options.get("stride_w", 1))
    dilation = (
        int(options.get("dilation_h_factor", 1)) or 1,
        int(options.get("dilation_w_factor", 1)) or 1,
    )
    before, needed = [], []
    for axis in (0, 1):
        have, out = image.shape[axis + 1], output.shape[axis + 1]
        reach = (out - 1) * stride[axis] + (size[axis] - 1) * dilation[axis] + 1
        kind = options.get("padding", "VALID")
        total = max(0, reach - have) // 2 if kind == "SAME" else 0
        before.append(int(options["pads"][2 * axis]) if kind == "EXPLICIT" else total)
        needed.append(reach)
    right = max(0, needed[1] - before[1] - image.shape[2])
    if "filter_height" in options and (any(before) or right or needed[0] > image.shape[1]):
        return None  # padding of a pool is no value
    return _Window(size[0], stride[0], dilation[0], before[0], (before[1], right))


def _row_bytes(tensor: Tensor) -> int:
    return tensor.nbytes // tensor.shape[1]


def apply(program: Program, stage: Stage) -> Program | None:
    """The program with a stage in strips; ``None`` where it cannot be."""
    if program.slots:
        inside = [i for i, slot in enumerate(program.slots) if stage.start <= slot < stage.stop]
        # Steps that nobody touched yet are one per slot.
        if len(inside) != stage.stop - stage.start:
            return None
        start, stop = inside[0], inside[-1] + 1
    else:
        start, stop = stage.start, stage.stop
    steps = program.steps[start:stop]
    windows = [_window(program, step) for step in steps]
    if len(steps) < 2 or any(window is None for window in windows):
        return None
    plan = _Strips(program, start, stop, [w for w in windows if w is not None])
    return plan.program(stage)


class _Strips:
    """What a stage needs of each tensor, and the steps that make it."""

    def __init__(self, program: Program, start: int, stop: int, windows: Sequence[_Window]) -> None:
        self.base = program
        self.start, self.stop = start, stop
        self.steps = program.steps[start:stop]
        self.windows = windows
        self.data = [
            [i for i in step.inputs if i >= 0 and not program.tensors[i].is_constant]
            for step in self.steps
        ]
        self.made = {step.outputs[0]: i for i, step in enumerate(self.steps)}
        self.entries = sorted({i for d in self.data for i in d if i not in self.made})
        outside = {
            program.home(i)
            for position, step in enumerate(program.steps)
            if not start <= position < stop
            for i in step.inputs
            if i >= 0
        }
        outside |= {program.home(i) for i in program.outputs}
        self.exits = [tensor for tensor in self.made if tensor in outside]
        self.outside = outside
        self.users: dict[int, list[int]] = {tensor: [] for tensor in self.made}
        for i, data in enumerate(self.data):
            for tensor in data:
                if tensor in self.users:
                    self.users[tensor].append(i)
        self.leader = {tensor: tensor for tensor in self.made}
        for i in range(len(self.steps)):
            self._join(i)
        self.tensors = dict(program.tensors)
        self.views = dict(program.views)
        self.view_offsets = dict(program.view_offsets)
        self.rows = dict(program.rows)
        self.windows_of = dict(program.windows)
        self.next = max(self.tensors) + 1

    def _join(self, index: int) -> None:
        """An element-wise step works in place, over an input that nobody else reads."""
        step, output = self.steps[index], self.steps[index].outputs[0]
        if step.kind not in (*_BINARY, *_UNARY):
            return
        own = [
            t
            for t in self.data[index]
            if t in self.made and t not in self.exits and len(self.users[t]) == 1
        ]
        # One that needs no rows around its own can be made early, at no price.
        own.sort(key=lambda t: (self.windows[self.made[t]].size, self.made[t]))
        if own and self.data[index].count(own[0]) == 1:
            self.leader[own[0]] = output

    def _home(self, tensor: int) -> int:
        while self.leader.get(tensor, tensor) != tensor:
            tensor = self.leader[tensor]
        return tensor

    def _height(self, tensor: int) -> int:
        return self.base.tensors[tensor].shape[1]

    def turns(self, rows: int) -> Iterator[dict[int, int]]:
        """After each turn, how many rows of each tensor there are."""
        driver = self.steps[-1].outputs[0]
        have = dict.fromkeys(self.made, 0)
        turn = 0
        while any(have[tensor] < self._height(tensor) for tensor in self.exits):
            turn += 1
            want = dict(have)
            want[driver] = max(want[driver], min(self._height(driver), turn * rows))
            if want[driver] == self._height(driver):
                want.update({tensor: self._height(tensor) for tensor in self.exits})
            for i in reversed(range(len(self.steps))):
                self._demand(i, want)
            for i, step in enumerate(self.steps):
                output = step.outputs[0]
                if self._home(output) in self.exits and step.kind != FEED:
                    # Full tensors have room: what can be made is made, and frees its input.
                    ready = min(
                        self.windows[i].ready(
                            want.get(t, self._height(t)), self._height(t), self._height(output)
                        )
                        for t in self.data[i]
                    )
                    want[output] = max(want[output], ready)
            yield want
            have = want

    def _demand(self, index: int, want: dict[int, int]) -> None:
        rows = want[self.steps[index].outputs[0]]
        for tensor in self.data[index]:
            if tensor in want:
                end = self.windows[index].end(rows, self._height(tensor))
                want[tensor] = max(want[tensor], end)

    def program(self, stage: Stage) -> Program | None:
        before = dict.fromkeys(self.made, 0)
        base = dict.fromkeys({self._home(t) for t in self.made}, 0)
        capacity = dict.fromkeys(base, 0)
        carried: set[int] = set()
        turns: list[tuple[Instruction, int]] = []
        order = list(self.turns(stage.rows))
        if len(order) < 2:
            return None
        homes: dict[int, int] = {}
        for home in base:
            homes[home] = home if home in self.exits else self._new()
        for after in order:
            ready: set[int] = set()
            for i, step in enumerate(self.steps):
                output = step.outputs[0]
                home = self._home(output)
                if home not in ready and home not in self.exits:
                    ready.add(home)
                    members = [t for t in self.made if self._home(t) == home]
                    if any(after[t] > before[t] for t in members):
                        turns += self._roll(home, members, before, base, carried, homes)
                if after[output] > before[output]:
                    turns.append((self._strip(i, before[output], after[output], base, homes), i))
                    if home not in self.exits:
                        capacity[home] = max(capacity[home], after[output] - base[home])
            before = after
        for home, place in homes.items():
            if place == home:
                continue
            tensor = self.base.tensors[home]
            shape = (1, capacity[home], *tensor.shape[2:])
            name = f"rows of {tensor.name}"
            self.tensors[place] = replace(tensor, index=place, shape=shape, name=name)
            self.windows_of[place] = home
        program = self._finished(turns, homes, carried)
        slots = self.base.slot(self.start), self.base.slot(self.stop - 1) + 1
        return replace(program, stages=(*program.stages, (*slots, stage.rows)))

    def _new(self) -> int:
        self.next += 1
        return self.next - 1

    def _needed_from(self, tensor: int, before: dict[int, int]) -> int:
        """The first row of a tensor that a later step reads."""
        found = before[tensor]
        for i in self.users[tensor]:
            output = self.steps[i].outputs[0]
            if before[output] < self._height(output):
                found = min(found, self.windows[i].first(before[output]))
        return found

    def _roll(
        self,
        home: int,
        members: Sequence[int],
        before: dict[int, int],
        base: dict[int, int],
        carried: set[int],
        homes: dict[int, int],
    ) -> list[tuple[Instruction, int]]:
        """Moves the rows that are still needed to the start of a rolling buffer."""
        low = min(self._needed_from(tensor, before) for tensor in members)
        # In place: an input's rows lie behind those that its step has finished.
        spans = []
        at = low
        for tensor in sorted(members, key=lambda t: -self.made[t]):
            if before[tensor] > at:
                spans.append((tensor, at, before[tensor]))
                at = before[tensor]
        moves: list[tuple[Instruction, int]] = []
        if spans:
            carried.add(home)
        old, base[home] = base[home], low
        if low == old:
            return moves
        for tensor, first, end in spans:
            source = self._view(tensor, first, end, homes[home], old)
            target = self._view(tensor, first, end, homes[home], low)
            index = self.made[tensor]
            move = Instruction("MOVE", self.steps[index].ops, (source,), (target,))
            moves.append((move, min(self.made[t] for t in members)))
        return moves

    def _view(self, tensor: int, first: int, end: int, place: int, base: int) -> int:
        """Rows ``first`` to ``end`` of a tensor, in a place that starts with row ``base``."""
        whole = self.base.tensors[tensor]
        index = self._new()
        shape = (1, end - first, *whole.shape[2:])
        self.tensors[index] = replace(whole, index=index, shape=shape)
        self.views[index] = place
        self.view_offsets[index] = (first - base) * _row_bytes(whole)
        self.rows[index] = (tensor, first, end)
        return index

    def _strip(
        self, index: int, first: int, end: int, base: dict[int, int], homes: dict[int, int]
    ) -> Instruction:
        step, window = self.steps[index], self.windows[index]
        output = step.outputs[0]
        inputs = list(step.inputs)
        options = dict(step.options)
        for slot, tensor in enumerate(step.inputs):
            if tensor not in self.data[index]:
                continue
            top = window.first(first)
            bottom = window.end(end, self._height(tensor))
            home = self._home(tensor) if tensor in self.made else tensor
            start = 0 if home in self.exits or tensor not in self.made else base[home]
            inputs[slot] = self._view(tensor, top, bottom, homes.get(home, home), start)
            if step.kind in _WINDOWED and "filter_height" not in options:
                above = max(0, window.pad - first * window.stride)
                reach = (end - 1) * window.stride - window.pad
                reach += (window.size - 1) * window.dilation + 1
                below = max(0, reach - self._height(tensor))
                options |= {"padding": "EXPLICIT", "pads": (above, below, *window.sides)}
        home = self._home(output)
        start = 0 if home in self.exits else base[home]
        made = self._view(output, first, end, homes[home], start)
        return replace(step, inputs=tuple(inputs), outputs=(made,), options=options)

    def _finished(
        self, turns: Sequence[tuple[Instruction, int]], homes: dict[int, int], carried: set[int]
    ) -> Program:
        base = self.base
        slots = [base.slot(i) for i in range(len(base.steps))]
        first, last = slots[self.start], slots[self.stop - 1]
        spans = dict(base.spans)
        touched: dict[int, list[int]] = {}
        for step, index in turns:
            for tensor in (*step.inputs, *step.outputs):
                if tensor in self.views:
                    touched.setdefault(self.views[tensor], []).append(slots[self.start + index])
        for home, place in homes.items():
            if home in self.exits or home in carried:
                spans[place] = (first, last)
        for entry in self.entries:
            home = base.home(entry)
            low, high = spans.get(home, (first, last))
            spans[home] = (min(low, first), max(high, last))
        program = replace(
            base,
            tensors=self.tensors,
            views=self.views,
            view_offsets=self.view_offsets,
            rows=self.rows,
            windows=self.windows_of,
            steps=(
                *base.steps[: self.start],
                *(step for step, _ in turns),
                *base.steps[self.stop :],
            ),
            slots=(
                *slots[: self.start],
                *(slots[self.start + index] for _, index in turns),
                *slots[self.stop :],
            ),
            spans=spans,
        )
        return replace(program, shares=self._shares(program, len(turns)))

    def _shares(self, program: Program, count: int) -> dict[tuple[int, int], int]:
        """Where an output of the stage may lie over an input that the stage uses up.

        Both are walked from their start: what is written must stay below what is still read.
        """
        shares = dict(program.shares)
        steps = program.steps[self.start : self.start + count]
        for entry in self.entries:
            home = program.home(entry)
            if home in self.outside:
                continue  # someone else reads it
            for output in self.exits:
                written = 0
                unread = 1 << 62
                ends = []
                for step in steps:
                    for tensor in step.outputs:
                        if program.home(tensor) == output:
                            end = program.offset(tensor) + program.tensors[tensor].nbytes
                            written = max(written, end)
                    ends.append(written)
                shift = 1 << 62
                for step, end in zip(reversed(steps), reversed(ends), strict=True):
                    for tensor in step.inputs:
                        if tensor >= 0 and program.home(tensor) == home:
                            unread = min(unread, program.offset(tensor))
                    if unread < 1 << 62 and end:
                        shift = min(shift, unread - end)
                if shift < 1 << 62:
                    shares[output, home] = shift
        return shares
