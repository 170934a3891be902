"""firmware/runtime/wire.c, compiled for the host: every message, and hostile ones."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import BUILD_ID, Harness

from edgekit import wire
from edgekit.wire import Area, Decoder, Frame, Mode, Status, Type

SESSION = 0x11223344
SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


def ask(harness: Harness, kind: int, payload: bytes = b"", session: int = SESSION) -> list[Frame]:
    return Decoder().feed(harness.feed(wire.encode(Frame(kind, 7, session, payload))))


def ask_one(harness: Harness, kind: int, payload: bytes = b"") -> tuple[int, bytes]:
    """Status and rest of the final answer."""
    last = ask(harness, kind, payload)[-1]
    assert last.type == kind | wire.RESPONSE and last.sequence == 7 and last.session == SESSION
    return last.payload[0], last.payload[1:]


@pytest.fixture
def ready(harness: Harness) -> Harness:
    """A device with a session."""
    assert ask_one(harness, Type.IDENTIFY)[0] == Status.OK
    return harness


def values(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, 300).astype(np.int8)


def test_identity(harness: Harness) -> None:
    status, rest = ask_one(harness, Type.IDENTIFY)
    assert status == Status.OK
    identity = wire.parse_identity(rest)
    assert identity.build_id == BUILD_ID
    assert identity.model_sha256 == toy.SHA256
    assert identity.input_bytes == (300,) and identity.output_bytes == (8,)
    assert identity.step_count == 3 and identity.fault is None
    assert (identity.target, identity.engine, identity.model_name) == ("harness", "test", "toy")


def test_nothing_without_a_session(harness: Harness) -> None:
    for kind in (Type.WRITE, Type.READ, Type.RUN, Type.STACK, Type.RESET):
        assert ask_one(harness, kind)[0] == Status.BAD_SESSION
    assert ask(harness, Type.IDENTIFY, session=0)[0].payload == bytes([Status.BAD_SESSION])


@pytest.mark.parametrize("staged", [False, True])
def test_every_message_twice_is_as_once(harness: Harness, staged: bool) -> None:
    harness.boot(staged)
    x = values()
    expected = toy.steps(x)
    before = harness.invocations

    def twice(kind: int, payload: bytes = b"") -> tuple[int, bytes]:
        first = ask_one(harness, kind, payload)
        assert ask_one(harness, kind, payload) == first
        return first

    twice(Type.IDENTIFY)
    twice(Type.WRITE, wire.write_request(0, 0, x.tobytes()[:100]))
    twice(Type.WRITE, wire.write_request(0, 100, x.tobytes()[100:]))
    assert twice(Type.RUN, wire.run_request(1, Mode.INVOKE, 1)) == (0, struct.pack("<IH", 1, 1))
    assert harness.invocations == before + 1
    out = twice(Type.READ, wire.read_request(Area.OUTPUT, 0, 0, 8))
    assert out == (Status.OK, expected[2].tobytes())
    assert len(twice(Type.READ, wire.read_request(Area.RUN_TICKS, 0, 0, 4))[1]) == 4
    twice(Type.WRITE, wire.write_request(0, 0, x.tobytes()))
    twice(Type.RUN, wire.run_request(2, Mode.STEPS, 0))
    crcs = wire.parse_words(twice(Type.READ, wire.read_request(Area.STEP_CRCS, 0, 0, 12))[1])
    assert crcs == tuple(zlib.crc32(step.tobytes()) for step in expected)
    twice(Type.WRITE, wire.write_request(0, 0, x.tobytes()))
    twice(Type.RUN, wire.run_request(3, Mode.UNTIL, 1))
    step = twice(Type.READ, wire.read_request(Area.STEP_OUTPUT, 1, 0, 300))
    assert step == (Status.OK, expected[1].tobytes())
    assert ask_one(harness, Type.READ, wire.read_request(Area.OUTPUT, 0, 0, 8))[0] == (
        Status.BAD_STATE
    )
    assert wire.parse_stack(twice(Type.STACK)[1]) == (1024, 321)
    assert harness.intact


def test_an_input_that_was_consumed_is_not_run_again(ready: Harness) -> None:
    ask_one(ready, Type.WRITE, wire.write_request(0, 0, values().tobytes()))
    assert ask_one(ready, Type.RUN, wire.run_request(1, Mode.INVOKE, 2))[0] == Status.BAD_RANGE
    assert ask_one(ready, Type.RUN, wire.run_request(1, Mode.INVOKE, 1))[0] == Status.OK
    assert ask_one(ready, Type.RUN, wire.run_request(2, Mode.INVOKE, 1))[0] == Status.BAD_STATE


def test_staged_inputs_last(harness: Harness) -> None:
    harness.boot(staged=True)
    x = values()
    ask_one(harness, Type.IDENTIFY)
    ask_one(harness, Type.WRITE, wire.write_request(0, 0, x.tobytes()))
    frames = ask(harness, Type.RUN, wire.run_request(1, Mode.INVOKE, 8))
    assert frames[0].payload[0] == Status.BUSY
    assert frames[-1].payload == struct.pack("<BIH", Status.OK, 1, 8)
    out = ask_one(harness, Type.READ, wire.read_request(Area.OUTPUT, 0, 0, 8))
    assert out == (Status.OK, toy.steps(x)[2].tobytes())


def test_an_input_in_pieces(harness: Harness) -> None:
    """Only the piece that is wanted, in order; the first one begins anew at any time."""
    harness.boot_fed()
    status, rest = ask_one(harness, Type.IDENTIFY)
    identity = wire.parse_identity(rest)
    assert identity.feed_count == 2 and identity.step_count == 7
    status, rest = ask_one(harness, Type.READ, wire.read_request(Area.FEEDS, 0, 0, 40))
    assert wire.parse_feeds(rest, identity) == (wire.Feed(0, 0, 0, 150), wire.Feed(2, 0, 150, 150))
    x = values()
    data = x.tobytes()
    expected = toy.steps(x)[2].tobytes()

    def write(start: int, nbytes: int) -> int:
        payload = wire.write_request(0, start, data[start : start + nbytes])
        return ask_one(harness, Type.WRITE, payload)[0]

    ids = iter(range(1, 100))

    def run(mode: Mode, count: int) -> int:
        return ask_one(harness, Type.RUN, wire.run_request(next(ids), mode, count))[0]

    def output() -> tuple[int, bytes]:
        return ask_one(harness, Type.READ, wire.read_request(Area.OUTPUT, 0, 0, 8))

    assert run(Mode.INVOKE, 0) == Status.BAD_STATE  # nothing is written
    for start, nbytes in ((150, 1), (149, 2), (100, 100), (299, 1)):
        assert write(start, nbytes) == Status.BAD_STATE
    assert write(299, 1) == Status.BAD_STATE
    assert ask_one(harness, Type.WRITE, wire.write_request(0, 299, b"ab"))[0] == Status.BAD_RANGE
    for _ in range(2):
        assert write(0, 100) == write(100, 50) == Status.OK
    assert run(Mode.INVOKE, 1) == Status.BAD_STATE  # the other piece's turn
    assert run(Mode.INVOKE, 2) == Status.BAD_RANGE
    assert run(Mode.UNTIL, 2) == Status.BAD_STATE
    assert run(Mode.INVOKE, 0) == Status.OK
    assert run(Mode.INVOKE, 1) == Status.BAD_STATE  # not written yet
    assert output()[0] == Status.BAD_STATE
    assert write(150, 150) == Status.OK
    back = wire.read_request(Area.INPUT, 0, 0, 1)
    assert ask_one(harness, Type.READ, back)[0] == Status.BAD_RANGE
    before = harness.invocations
    last = wire.run_request(77, Mode.INVOKE, 1)
    assert ask_one(harness, Type.RUN, last) == ask_one(harness, Type.RUN, last)
    assert harness.invocations == before + 1
    assert output() == (Status.OK, expected)
    # given up half-way, and begun again; CRCs only of an inference that was stepwise throughout
    assert write(0, 150) == Status.OK and output()[0] == Status.BAD_STATE
    assert run(Mode.INVOKE, 0) == Status.OK
    assert write(0, 150) == Status.OK and run(Mode.STEPS, 0) == Status.OK
    assert write(150, 150) == Status.OK and run(Mode.INVOKE, 1) == Status.OK
    crcs = wire.read_request(Area.STEP_CRCS, 0, 0, 28)
    assert output() == (Status.OK, expected)
    assert ask_one(harness, Type.READ, crcs)[0] == Status.BAD_STATE
    for piece in (0, 1):
        assert write(150 * piece, 150) == Status.OK and run(Mode.STEPS, piece) == Status.OK
    assert ask_one(harness, Type.READ, crcs)[0] == Status.OK
    assert harness.intact


def test_feeds_that_make_no_sense(harness: Harness) -> None:
    harness.boot_fed()
    identity = wire.parse_identity(ask_one(harness, Type.IDENTIFY)[1])
    good = [0, 0, 0, 304, 150, 2, 0, 150, 304, 150]
    for position, value in ((0, 7), (5, 0), (1, 1), (2, 5), (7, 149), (9, 149), (4, 2**32 - 1)):
        words = list(good)
        words[position] = value
        with pytest.raises(wire.WireError, match="the pieces of an input"):
            wire.parse_feeds(struct.pack("<10I", *words), identity)
    with pytest.raises(wire.WireError):
        wire.parse_feeds(struct.pack("<5I", *good[:5]), identity)


def test_a_new_session_forgets(ready: Harness) -> None:
    ask_one(ready, Type.WRITE, wire.write_request(0, 0, values().tobytes()))
    assert ask(ready, Type.IDENTIFY, session=99)[0].payload[0] == Status.OK
    assert ask_one(ready, Type.STACK)[0] == Status.BAD_SESSION
    run = ask(ready, Type.RUN, wire.run_request(1, Mode.INVOKE, 1), session=99)
    assert run[0].payload == bytes([Status.BAD_STATE])


def test_reset(ready: Harness) -> None:
    before = ready.resets
    assert ask_one(ready, Type.RESET)[0] == Status.OK
    assert ready.resets == before + 1
    assert ask_one(ready, Type.STACK)[0] == Status.BAD_SESSION


def test_other_versions_and_unknown_types_are_named(ready: Harness) -> None:
    data = wire.encode(Frame(Type.STACK, 1, SESSION, b"", version=2))
    answer = Decoder().feed(ready.feed(data))[0]
    assert answer.payload == bytes([Status.BAD_VERSION]) and answer.version == wire.VERSION
    assert ask_one(ready, 0x33)[0] == Status.BAD_TYPE
    assert ask(ready, 0x81) == []  # an answer is not answered


@SHARED
@given(data=st.binary(max_size=600))
def test_noise_does_no_harm(harness: Harness, data: bytes) -> None:
    harness.feed(data)
    assert ask_one(harness, Type.IDENTIFY)[0] == Status.OK
    assert harness.intact


PAYLOADS = st.one_of(
    st.binary(max_size=24),
    st.builds(
        wire.write_request,
        st.sampled_from([0, 1, 0xFFFF]),
        st.sampled_from([0, 1, 299, 300, 301, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF]),
        st.binary(max_size=320),
    ),
    st.builds(
        lambda area, index, offset, count: struct.pack("<BBHIH", area, 0, index, offset, count),
        st.integers(0, 8),
        st.sampled_from([0, 1, 2, 3, 0xFFFF]),
        st.sampled_from([0, 1, 8, 300, 0xFFFFFFFF, 0xFFFFFFF8]),
        st.sampled_from([0, 1, 8, 300, 1023, 1024, 0xFFFF]),
    ),
    st.builds(
        lambda i, mode, count: struct.pack("<IBBH", i, mode, 0, count),
        st.sampled_from([0, 1, 2, 0xFFFFFFFF]),
        st.integers(0, 4),
        st.sampled_from([0, 1, 2, 3, 8, 9, 0xFFFF]),
    ),
    st.binary(min_size=1020, max_size=1100),
)


@SHARED
@given(
    staged=st.booleans(),
    messages=st.lists(st.tuples(st.integers(0, 8), PAYLOADS), max_size=12),
)
def test_hostile_messages(
    harness: Harness, staged: bool, messages: list[tuple[int, bytes]]
) -> None:
    harness.boot(staged)
    ask_one(harness, Type.IDENTIFY)
    for kind, payload in messages:
        decoder = Decoder()
        for frame in decoder.feed(harness.feed(wire.encode(Frame(kind, 1, SESSION, payload)))):
            assert frame.payload[0] in Status._value2member_map_
            assert len(frame.payload) <= 1024
        assert decoder.damaged == 0
    assert harness.intact
    assert ask_one(harness, Type.IDENTIFY)[0] == Status.OK
