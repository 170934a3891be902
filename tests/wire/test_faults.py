"""A day's worth of faults: a thousand inferences over a line that drops, delays, doubles, corrupts
and disconnects. And how much of a good line is left for inputs and outputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import toy
from loopback import BUILD_ID, Harness, Line, mistreatment

from edgekit.device import Device
from edgekit.errors import DeviceError
from edgekit.evaluation.results import Result
from edgekit.evaluation.stations import Lost, Station, work_off

REQUESTS = 1000


class FaultyLine(Line):
    """A line that also delays what is on it and breaks, for a while of simulated time."""

    def __init__(self, harness: Harness, seed: int, share: float, **options: float) -> None:
        self.random = random.Random(seed)
        self.delayed = self.cuts = 0
        self._cut_after = 0
        self._back_at = 0.0
        self.connected = True
        super().__init__(harness, mistreat=mistreatment(seed, share), **options)  # type: ignore[arg-type]
        self._plan_cut()

    def _plan_cut(self) -> None:
        self._cut_after = self.random.randrange(5_000, 60_000)

    def _put(self, queue, data, start):  # type: ignore[no-untyped-def]
        if self.random.random() < 0.01:
            self.delayed += 1
            start += self.random.random() * 1.5
        super()._put(queue, data, start)

    def _carry(self, count: int) -> None:
        if not self.connected:
            raise DeviceError("the line is down", self.name)
        self._cut_after -= count
        if self._cut_after < 0:
            self.cuts += 1
            self.connected = False
            self._to_device.clear()
            self._to_host.clear()
            self._back_at = self.now + self.random.random() * 5
            self._plan_cut()
            raise DeviceError("the line broke", self.name)

    def write(self, data: bytes) -> None:
        self._carry(len(data))
        super().write(data)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        data = super().read(max_bytes, timeout_s)
        self._carry(len(data))
        return data

    def open(self) -> Device:
        if self.now < self._back_at:
            raise DeviceError("there is no such port", self.name)
        self.connected = True
        device = Device(self, clock=self.clock)
        device.connect(BUILD_ID)
        return device

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_thousand_requests_over_a_terrible_line(harness: Harness, seed: int) -> None:
    line = FaultyLine(harness, seed, share=0.001)
    inputs = np.random.default_rng(seed).integers(-128, 128, (REQUESTS, 300)).astype(np.int8)
    station = Station("line", line.open, 30.0, line.sleep, line.clock)
    answers: dict[int, bytes] = {}
    broken = 0
    for event in work_off([station], range(REQUESTS), lambda i: [inputs[i].tobytes()]):
        if isinstance(event, Lost):
            assert not event.final
            broken += 1
            continue
        assert event.index not in answers, "answered twice"
        answers[event.index] = event.outputs[0]
    assert sorted(answers) == list(range(REQUESTS))
    for index, output in answers.items():
        assert output == toy.steps(inputs[index])[2].tobytes()
    # the faults were there
    assert broken >= 5 and line.cuts == broken and line.delayed > 50
    # simulated seconds: 70 ms each without faults
    assert line.now < 900
    print(f"{line.now:.0f} s, {broken} cuts, {line.delayed} delays, {harness.invocations} runs")


def test_several_boards_share_the_work_and_the_faults(harness: Harness, seed: int) -> None:
    """A board that never comes back: the other answers everything."""

    def never() -> Device:
        raise DeviceError("there is no such port", "gone")

    line = FaultyLine(harness, seed + 1, share=0.001)
    stations = [Station("gone", never), Station("line", line.open, 30.0, line.sleep, line.clock)]
    inputs = np.random.default_rng(seed).integers(-128, 128, (50, 300)).astype(np.int8)
    events = list(work_off(stations, range(50), lambda i: [inputs[i].tobytes()]))
    results = [event for event in events if isinstance(event, Result)]
    assert sorted(result.index for result in results) == list(range(50))
    assert {result.port for result in results} == {"line"}
    assert [e.station for e in events if isinstance(e, Lost) and e.final] == ["gone"]


def test_no_board_left(seed: int) -> None:
    def never() -> Device:
        raise DeviceError("there is no such port", "gone")

    stations = [Station("one", never), Station("two", never)]
    with pytest.raises(DeviceError, match="all 2 boards are gone with 3 inputs left"):
        list(work_off(stations, range(3), lambda i: [b""]))


class Fragile:
    """A device that falls over when its input is all ones."""

    identity = SimpleNamespace(output_bytes=(1,), tick_hz=1)

    def __enter__(self) -> Fragile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def persist(self, work: Callable[[], Any]) -> Any:
        return work()

    def run_on(self, inputs: Sequence[bytes]) -> tuple[int, ...]:
        (self.data,) = inputs
        if self.data == b"\1":
            raise DeviceError("the board fell over", "fragile")
        return (7,)

    def read_output(self, index: int) -> bytes:
        return self.data


def test_an_input_that_no_board_survives() -> None:
    """It is named, instead of ending one board after the other."""
    stations = [
        Station(f"board {i}", lambda: cast("Device", Fragile()), 1e9, lambda seconds: None)
        for i in range(3)
    ]
    events: list[object] = []
    with pytest.raises(DeviceError, match="input 2 failed 6 times.*fell over"):
        events.extend(work_off(stations, [0, 1, 2], lambda i: [bytes([i == 2])]))
    found = list(work_off(stations, [0, 1, 3], lambda i: [bytes([i == 2])]))
    assert sorted(r.index for r in found if isinstance(r, Result)) == [0, 1, 3]


@pytest.mark.parametrize("baud", [115200, 921600])
def test_inputs_and_outputs_take_ninety_percent_of_the_line(harness: Harness, baud: int) -> None:
    """Counted in bytes: what the line carried for one input and one output after the other, and
    what it could have carried in the simulated time that it took."""
    harness.boot_big()
    line = CountingLine(harness, baud=baud, latency_s=0.0005)
    nbytes, count = 27648, 6

    def open_device() -> Device:
        device = Device(line, clock=line.clock)
        device.connect(BUILD_ID)
        line.carried = [0, 0]
        line.begun = line.now
        return device

    inputs = np.random.default_rng(1).integers(0, 256, (count, nbytes)).astype(np.uint8)
    station = Station("line", open_device, 0.0, lambda s: None, line.clock)
    results = list(work_off([station], range(count), lambda i: [inputs[i].tobytes()]))
    assert all(r.outputs[0] == inputs[r.index].tobytes() for r in results if isinstance(r, Result))
    to_device, to_host = line.carried
    useful = nbytes * count
    assert useful / to_device >= 0.9 and useful / to_host >= 0.9
    could_carry = (line.now - line.begun) * baud / 10
    assert 2 * useful / could_carry >= 0.9


class CountingLine(Line):
    begun = 0.0

    def __init__(self, harness: Harness, **options: float) -> None:
        self.carried = [0, 0]
        super().__init__(harness, **options)  # type: ignore[arg-type]

    def _put(self, queue, data, start):  # type: ignore[no-untyped-def]
        self.carried[queue is self._to_host] += len(data)
        super()._put(queue, data, start)
