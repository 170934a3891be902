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
