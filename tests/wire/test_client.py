"""The host's side over a simulated line to the real device side: time, losses, resets."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
import toy
from loopback import BUILD_ID, Harness, Line, mistreatment

from edgekit import wire
from edgekit.device import Device, Patience
from edgekit.errors import DeviceError
from edgekit.wire import Area, Mode, Status, Type


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, 300).astype(np.int8)


def connect(line: Line, **patience: float) -> Device:
    device = Device(line, clock=line.clock, patience=Patience(**patience))  # type: ignore[arg-type]
    device.connect(BUILD_ID)
    return device


def test_an_inference(lossless: Line) -> None:
    device = connect(lossless)
    x = values(3)
    assert device.infer([x.tobytes()]) == [toy.steps(x)[2].tobytes()]
    assert device.statistics.repeated == 0
    device.write_input(0, x.tobytes())
    device.run(Mode.STEPS, 0)
    assert device.step_crcs() == tuple(zlib.crc32(s.tobytes()) for s in toy.steps(x))
    assert len(device.step_ticks()) == 3
    assert device.stack() == (1024, 321)
    device.close()
    assert lossless.closed


@pytest.mark.parametrize("share", [0.001, 0.01])
@pytest.mark.parametrize("staged", [False, True])
def test_a_mistreated_line_ends_right(
    harness: Harness, seed: int, share: float, staged: bool
) -> None:
    """1 % of bytes dropped, corrupted or doubled in both directions (and less)."""
    harness.boot(staged)
    line = Line(harness, mistreat=mistreatment(seed, share), staged=staged)
    device = connect(line)
    for number in range(20):
        x = values(seed + number)
        expected = toy.steps(x)
        assert device.infer([x.tobytes()]) == [expected[2].tobytes()]
        device.write_input(0, x.tobytes())
        device.run(Mode.UNTIL, 1)
        assert device.read(Area.STEP_OUTPUT, 1, 300) == expected[1].tobytes()
    if share >= 0.01:
        assert device.statistics.repeated > 0


class BusyLine(Line):
    """A line to a device that takes ``busy_s`` for each answer, one after the other."""

    busy_s = 0.0

    def _put(self, queue, data, start):  # type: ignore[no-untyped-def]
        if queue is self._to_host and data[-1:] == b"\0":  # the end of an answer
            start = max(start, queue[-1][0] if queue else 0.0) + self.busy_s
        super()._put(queue, data, start)


def test_a_device_that_becomes_slow(harness: Harness) -> None:
    """Answers that come later than expected are answers: the host waits longer, and does not bury
    the device under repetitions for good."""
    harness.boot()
    line = BusyLine(harness)
    device = connect(line)
    x = values(5)
    for _ in range(30):  # the line teaches that answers come quickly
        device.infer([x.tobytes()])
    line.busy_s = 0.4
    device._chunk = 32
    sent = device.statistics.sent_frames
    for _ in range(3):
        assert device.infer([x.tobytes()]) == [toy.steps(x)[2].tobytes()]
    assert device.statistics.sent_frames - sent < 200


def fed_steps(x: np.ndarray) -> list[bytes]:
    pieces = [x[:150], x[:150], x[150:], x[150:]]
    return [piece.tobytes() for piece in (*pieces, *toy.steps(x))]


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_an_input_in_pieces(harness: Harness, seed: int, share: float) -> None:
    """Written as it is wanted, over lines good and bad: outputs, CRCs, and any step's bytes."""
    harness.boot_fed()
    line = Line(harness, mistreat=mistreatment(seed, share)) if share else Line(harness)
    device = connect(line)
    assert device.identity.feed_count == 2
    for number in range(10):
        x = values(seed + number)
        expected = fed_steps(x)
        before = harness.invocations
        assert device.infer([x.tobytes()]) == [expected[6]]
        assert harness.invocations == before + 1  # however often a request came
        (ticks,) = device.run_on([x.tobytes()], Mode.STEPS, 0)
        assert device.step_crcs() == tuple(zlib.crc32(step) for step in expected)
        assert sum(device.step_ticks()) == ticks
        step = number % 7
        device.run_on([x.tobytes()], Mode.UNTIL, step)
        assert device.read(Area.STEP_OUTPUT, step, len(expected[step])) == expected[step]
    assert harness.intact
    with pytest.raises(DeviceError, match="300 bytes, not 3"):
        device.infer([b"abc"])


def test_resets_in_the_middle(harness: Harness, seed: int) -> None:
    """The device restarts after any byte: inputs are written again, outputs are right."""
    generator = random.Random(seed)
    for number in range(60):
        harness.boot()
        resets = tuple(sorted(generator.randrange(30, 900) for _ in range(2)))
        line = Line(harness, reset_after=resets)
        device = connect(line)
        x = values(number)
        assert device.infer([x.tobytes()]) == [toy.steps(x)[2].tobytes()]


def test_a_device_that_always_resets_is_given_up(harness: Harness) -> None:
    line = Line(harness, reset_after=tuple(range(200, 100_000, 150)))
    device = connect(line)
    with pytest.raises(DeviceError, match="was reset 4 times|stopped answering"):
        device.infer([values(1).tobytes()])


def test_another_build_is_refused_with_both_ids(lossless: Line) -> None:
    device = Device(lossless, clock=lossless.clock)
    other = "f" * 32
    with pytest.raises(DeviceError, match=BUILD_ID) as caught:
        device.connect(other)
    assert other in caught.value.what
    assert caught.value.exit_code == 6


class Silence:
    """A line on which nothing, or only ``noise``, comes back."""

    name = "silence"

    def __init__(self, noise: bytes = b"") -> None:
        self.now = 0.0
        self.written = 0
        self._noise = noise

    def clock(self) -> float:
        return self.now

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        self.now += max(timeout_s, 0.001)
        return self._noise

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def close(self) -> None:
        self.written = -1


@pytest.mark.parametrize(
    ("noise", "said"), [(b"", "did not send a byte"), (b"\x00garbage\x00", "none of it makes")]
)
def test_giving_up_is_bounded_and_explained(noise: bytes, said: str) -> None:
    line = Silence(noise)
    with pytest.raises(DeviceError, match=said) as caught:
        Device(line, clock=line.clock).connect()
    assert caught.value.fix
    assert line.now < 60
    assert line.written < 2000


def test_a_dead_device_is_noticed_during_a_run(harness: Harness) -> None:
    line = Line(harness)
    device = connect(line, run_s=30)
    device.write_input(0, values(1).tobytes())
    line.read = Silence().read  # type: ignore[method-assign]
    silence = Silence()
    device.link, device._clock = silence, silence.clock  # type: ignore[assignment]
    with pytest.raises(DeviceError, match="stopped answering"):
        device.run()
    assert silence.now < 60


def test_the_device_of_another_protocol_version(lossless: Line) -> None:
    class Future(Silence):
        def write(self, data: bytes) -> None:
            frame = wire.Decoder().feed(data)[0]
            answer = wire.Frame(
                Type.IDENTIFY | wire.RESPONSE,
                frame.sequence,
                frame.session,
                bytes([Status.BAD_VERSION]),
                version=9,
            )
            self._noise = wire.encode(answer)

    line = Future()
    with pytest.raises(DeviceError, match="version 9"):
        Device(line, clock=line.clock).connect()


def test_a_wrong_input_size_is_refused(lossless: Line) -> None:
    with pytest.raises(DeviceError, match="300 bytes"):
        connect(lossless).write_input(0, b"short")


@pytest.mark.parametrize("baud", [9600, 115200, 921600, 2_000_000])
def test_bulk_data_takes_ninety_percent_of_the_line(harness: Harness, baud: float) -> None:
    """In both directions, over an adapter that adds a millisecond each way."""
    harness.boot_big()
    line = Line(harness, baud=baud, latency_s=0.001)
    device = connect(line)
    data = np.random.default_rng(1).integers(0, 256, 27648).astype(np.uint8).tobytes()
    least_s = len(data) * 10 / baud
    start = line.now
    device.write_input(0, data)
    written = line.now
    device.run()
    ran = line.now
    assert device.read_output(0) == data
    assert least_s / (written - start) >= 0.9
    assert least_s / (line.now - ran) >= 0.9
    assert device.statistics.repeated == 0
