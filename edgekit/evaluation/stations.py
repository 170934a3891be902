"""Boards that share one queue of inputs: each takes the next one when it is free.

A board that fails gives its input back before anything else happens, so that another one can take
it; then its port is opened again, within bounds. Results come to one place, in any order, each
exactly once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from edgekit.device import Device
from edgekit.errors import DeviceError, EdgekitError
from edgekit.evaluation.results import Result


@dataclass(frozen=True)
class Station:
    """A board at a port. ``open`` connects to it, and may be called again after a failure.

    Args:
        reconnect_s: how long to try to open it again; 0: a board that fails is gone.
    """

    name: str
    open: Callable[[], Device]
    reconnect_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Lost:
    """A board was lost; ``final``: it does not come back."""

    station: str
    error: EdgekitError
    final: bool


#: Failures of a board in a row, without a result in between, after which it is gone.
_MOST_FAILURES = 5
#: Boards that failed on the same input: then the input is to blame.
_MOST_RETURNS = 6
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 3.0


@dataclass
class _Queue:
    """Inputs that wait. Whoever takes one either finishes it or gives it back."""

    waiting: deque[int]
    taken: set[int] = field(default_factory=set)
    stopped: bool = False
    returned: Counter[int] = field(default_factory=Counter)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self) -> int | None:
        """The next input; waits while others may still give theirs back. ``None``: no more."""
        with self.changed:
            while not self.waiting and self.taken and not self.stopped:
                self.changed.wait()
            if self.stopped or not self.waiting:
                return None
            index = self.waiting.popleft()
            self.taken.add(index)
            return index

    def finish(self, index: int) -> None:
        with self.changed:
            self.taken.discard(index)
            self.changed.notify_all()

    def give_back(self, index: int) -> int:
        """Puts an input in front; returns how often that happened to it."""
        with self.changed:
            self.taken.discard(index)
            self.waiting.appendleft(index)
            self.returned[index] += 1
            self.changed.notify_all()
            return self.returned[index]

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    @property
    def done(self) -> bool:
        with self.changed:
            return not self.waiting and not self.taken


def work_off(
    stations: Sequence[Station],
    indices: Sequence[int],
    inputs_of: Callable[[int], list[bytes]],
) -> Iterator[Result | Lost]:
    """Runs all inputs; yields every result, once, and every loss of a board, as they come.

    Args:
        stations: the boards.
        indices: which inputs.
        inputs_of: the raw bytes of an input's tensors; called from several threads.

    Raises:
        EdgekitError: all boards are gone, or an input makes boards fail again and again.
    """
    if not indices:
        return
    tasks = _Queue(deque(indices))
    events: queue.SimpleQueue[Result | Lost | BaseException] = queue.SimpleQueue()
    threads = [
        threading.Thread(
            target=_serve, args=(station, tasks, inputs_of, events), name=station.name, daemon=True
        )
        for station in stations
    ]
    for thread in threads:
        thread.start()
    alive, left = len(stations), len(indices)
    try:
        while left:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Result):
                left -= 1
            elif event.final:
                alive -= 1
                if not alive:
                    raise _all_gone(event, len(stations), left)
    finally:
        tasks.stop()
        # a board in the middle of a long inference is not waited for
        for thread in threads:
            thread.join(timeout=2)


def _all_gone(last: Lost, stations: int, left: int) -> EdgekitError:
    error = last.error
    boards = "the board is" if stations == 1 else f"all {stations} boards are"
    return DeviceError(
        f"{boards} gone with {left:,} inputs left; results are kept: {error.what}",
        error.where,
        error.fix or "the same command again goes on where this one ended",
    )


def _serve(
    station: Station,
    tasks: _Queue,
    inputs_of: Callable[[int], list[bytes]],
    events: queue.SimpleQueue[Result | Lost | BaseException],
) -> None:
    try:
        _serve_until_gone(station, tasks, inputs_of, events)
    except BaseException as error:  # raised where the events are read
        events.put(error)


def _serve_until_gone(
    station: Station,
    tasks: _Queue,
    inputs_of: Callable[[int], list[bytes]],
    events: queue.SimpleQueue[Result | Lost | BaseException],
) -> None:
    failures, ever, wait_s = 0, False, _FIRST_WAIT_S
    deadline: float | None = None
    while not tasks.stopped and not tasks.done:
        error: EdgekitError
        try:
            with station.open() as device:
                ever, wait_s = True, _FIRST_WAIT_S
                deadline = None
                while (index := tasks.take()) is not None:
                    result = _infer(station, device, index, tasks, inputs_of)
                    failures = 0
                    events.put(result)
                    tasks.finish(index)
            return
        except _Hopeless as hopeless:
            raise hopeless.error from None
        except _Failed as failed:
            error = failed.error
            failures += 1
        except DeviceError as caught:
            error = caught
        now = station.clock()
        first = deadline is None
        if deadline is None:
            deadline = now + station.reconnect_s
        final = not ever or failures >= _MOST_FAILURES or now + wait_s > deadline
        if first or final:
            events.put(Lost(station.name, error, final))
        if final:
            return
        station.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


class _Failed(Exception):
    """An input was given back because of ``error``."""

    def __init__(self, error: EdgekitError) -> None:
        super().__init__(error.what)
        self.error = error


class _Hopeless(_Failed):
    """The input is to blame, not the board."""


def _infer(
    station: Station,
    device: Device,
    index: int,
    tasks: _Queue,
    inputs_of: Callable[[int], list[bytes]],
) -> Result:
    inputs = inputs_of(index)

    def work() -> tuple[tuple[int, ...], tuple[bytes, ...]]:
        ticks = device.run_on(inputs)
        count = len(device.identity.output_bytes)
        return ticks, tuple(device.read_output(i) for i in range(count))

    try:
        ticks, outputs = device.persist(work)
    except DeviceError as error:
        if tasks.give_back(index) >= _MOST_RETURNS:
            raise _Hopeless(
                DeviceError(
                    f"input {index} failed {_MOST_RETURNS} times, at last on {station.name}: "
                    f"{error.what}",
                    error.where,
                    error.fix,
                )
            ) from None
        raise _Failed(error) from None
    return Result(index, station.name, outputs, ticks[0], device.identity.tick_hz)
