"""Frames and messages, without a device."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import wire
from edgekit.wire import Decoder, Frame

FRAMES = st.builds(
    Frame,
    type=st.integers(0, 255),
    sequence=st.integers(0, 0xFFFF),
    session=st.integers(0, 0xFFFFFFFF),
    payload=st.one_of(
        st.binary(max_size=40), st.binary(min_size=240, max_size=270), st.just(bytes(1200))
    ),
)


@given(st.one_of(st.binary(max_size=600), st.lists(st.sampled_from([0, 1, 255])).map(bytes)))
def test_cobs_round_trip(data: bytes) -> None:
    stuffed = wire.cobs_encode(data)
    assert 0 not in stuffed
    assert len(stuffed) <= len(data) + 1 + len(data) // 254
    assert wire.cobs_decode(stuffed) == data


@pytest.mark.parametrize("count", [253, 254, 255, 508, 509])
def test_cobs_at_full_blocks(count: int) -> None:
    for data in (b"x" * count, b"x" * count + b"\0", b"\0" + b"x" * count):
        assert wire.cobs_decode(wire.cobs_encode(data)) == data


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_frames_survive_any_cutting(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(wire.encode(frame) for frame in frames)
    decoder, found, position = Decoder(), [], 0
    for cut in cuts * (len(stream) // sum(cuts) + 1):
        found += decoder.feed(stream[position : position + cut])
        position += cut
    assert found == frames
    assert decoder.damaged == 0


@given(FRAMES, st.data())
def test_a_damaged_frame_is_never_taken_for_another(frame: Frame, data: st.DataObject) -> None:
    stream = bytearray(wire.encode(frame))
    position = data.draw(st.integers(0, len(stream) - 1))
    how = data.draw(st.sampled_from(["drop", "flip", "double"]))
    if how == "drop":
        del stream[position]
    elif how == "flip":
        stream[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        stream.insert(position, stream[position])
    assert all(found == frame for found in Decoder().feed(bytes(stream)))


@given(st.binary(max_size=400))
def test_noise_before_a_frame_does_no_harm(noise: bytes) -> None:
    frame = Frame(1, 2, 3, b"payload")
    assert frame in Decoder().feed(noise + wire.encode(frame))


@settings(max_examples=30)
@given(st.integers(1, 40))
def test_a_decoder_does_not_grow(kilobytes: int) -> None:
    decoder = Decoder()
    for _ in range(kilobytes):
        decoder.feed(b"\x01" * 1024)
    assert len(decoder._pending) < 3 * wire.MAX_PAYLOAD
    assert decoder.feed(wire.encode(Frame(1, 2, 3))) in ([], [Frame(1, 2, 3)])
    assert decoder.feed(wire.encode(Frame(1, 2, 3))) == [Frame(1, 2, 3)]


@given(st.binary(max_size=300))
def test_a_hostile_identity_is_refused_or_read(payload: bytes) -> None:
    try:
        wire.parse_identity(payload)
    except wire.WireError:
        return


def test_the_frame_that_the_document_shows() -> None:
    """docs/wire.md prints these bytes; another implementation starts from them."""
    frame = Frame(wire.Type.IDENTIFY, 0x0001, 0x12345678)
    body = bytes.fromhex("01 01 01 00 78 56 34 12")
    crc = zlib.crc32(body).to_bytes(4, "little")
    assert wire.encode(frame) == b"\0" + wire.cobs_encode(body + crc) + b"\0"
    assert wire.encode(frame).hex(" ") == "00 04 01 01 01 09 78 56 34 12 28 5f 8a 4a 00"
