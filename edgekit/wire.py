"""The wire protocol: frames and messages, without any input or output.

``docs/wire.md`` is the specification; ``firmware/runtime/wire.c`` is the other side. A frame is
a header, a payload and a CRC-32, stuffed with COBS between zero bytes. Numbers are
little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum

VERSION = 1
HEADER_BYTES = 8
CRC_BYTES = 4
#: No device sends more in one frame; a decoder drops what is longer.
MAX_PAYLOAD = 4096
#: 32-bit words that describe a piece of an input.
FEED_WORDS = 5
#: Set in the type of an answer.
RESPONSE = 0x80


class Type(IntEnum):
    IDENTIFY = 1
    WRITE = 2
    READ = 3
    RUN = 4
    STACK = 5
    RESET = 6


class Status(IntEnum):
    """First byte of every answer's payload."""

    OK = 0
    BUSY = 1
    BAD_LENGTH = 2
    BAD_RANGE = 3
    BAD_TYPE = 4
    BAD_SESSION = 5
    BAD_STATE = 6
    BAD_VERSION = 7


class Area(IntEnum):
    """What READ reads."""

    OUTPUT = 1
    STEP_OUTPUT = 2
    RUN_TICKS = 3
    STEP_TICKS = 4
    STEP_CRCS = 5
    INPUT = 6
    FEEDS = 7


class Mode(IntEnum):
    """What RUN runs."""

    INVOKE = 0
    STEPS = 1
    UNTIL = 2


class WireError(ValueError):
    """A payload that does not have the form its type asks for."""


@dataclass(frozen=True)
class Frame:
    """One message. ``type`` may be unknown to this version, so it is a plain number."""

    type: int
    sequence: int
    session: int
    payload: bytes = b""
    version: int = VERSION


@dataclass(frozen=True)
class Fault:
    """What the device's last fault left: exception number, addresses, CFSR."""

    exception: int
    pc: int
    lr: int
    status: int
    address: int


@dataclass(frozen=True)
class Identity:
    """What a device says about itself."""

    input_kept: bool
    input_staged: bool
    window: int
    max_payload: int
    max_runs: int
    build_id: str
    model_sha256: str
    clock_hz: int
    tick_hz: int
    arena_bytes: int
    staging_bytes: int
    step_count: int
    fault: Fault | None
    target: str
    engine: str
    model_name: str
    input_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]
    #: pieces in which the inputs come, between the steps of an inference; 0: before it
    feed_count: int = 0


@dataclass(frozen=True)
class Feed:
    """Bytes of input ``input`` from ``start`` on that a device wants right before step ``step``."""

    step: int
    input: int
    start: int
    nbytes: int


# ---- frames ----


def cobs_encode(data: bytes) -> bytes:
    """Consistent overhead byte stuffing (Cheshire & Baker 1999): no zero byte is left."""
    out = bytearray()
    for index, piece in enumerate(pieces := data.split(b"\0")):
        while len(piece) >= 254:
            out.append(255)
            out += piece[:254]
            piece = piece[254:]
            if not piece and index == len(pieces) - 1:
                return bytes(out)
        out.append(len(piece) + 1)
        out += piece
    return bytes(out)


def cobs_decode(data: bytes) -> bytes | None:
    """The inverse of :func:`cobs_encode`; ``None`` where no encoder wrote this."""
    out = bytearray()
    position = 0
    while position < len(data):
        code = data[position]
        end = position + code
        if code == 0 or end > len(data):
            return None
        out += data[position + 1 : end]
        position = end
        if code != 255 and position < len(data):
            out.append(0)
    return bytes(out)


def encode(frame: Frame) -> bytes:
    """A frame as it goes over the line, delimiters on both sides included."""
    body = struct.pack("<BBHI", frame.version, frame.type, frame.sequence, frame.session)
    body += frame.payload
    body += struct.pack("<I", zlib.crc32(body))
    return b"\0" + cobs_encode(body) + b"\0"


def _parse(stuffed: bytes) -> Frame | None:
    body = cobs_decode(stuffed)
    if body is None or len(body) < HEADER_BYTES + CRC_BYTES:
        return None
    if zlib.crc32(body[:-CRC_BYTES]) != int.from_bytes(body[-CRC_BYTES:], "little"):
        return None
    version, kind, sequence, session = struct.unpack_from("<BBHI", body)
    return Frame(kind, sequence, session, body[HEADER_BYTES:-CRC_BYTES], version)


@dataclass
class Decoder:
    """Cuts a stream of bytes into frames; drops what is damaged and counts it."""

    damaged: int = 0
    received_bytes: int = 0
    _pending: bytearray = field(default_factory=bytearray)
    _overlong: bool = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes."""
        self.received_bytes += len(data)
        frames = []
        *complete, rest = data.split(b"\0")
        for piece in complete:
            self._add(piece)
            if self._overlong:
                self.damaged += 1
            elif self._pending:
                frame = _parse(bytes(self._pending))
                if frame is None:
                    self.damaged += 1
                else:
                    frames.append(frame)
            self._pending.clear()
            self._overlong = False
        self._add(rest)
        return frames

    def _add(self, piece: bytes) -> None:
        if len(self._pending) + len(piece) > MAX_PAYLOAD + MAX_PAYLOAD // 128 + 64:
            self._overlong = True
            self._pending.clear()
        if not self._overlong:
            self._pending += piece


# ---- messages ----

_IDENTITY = struct.Struct("<BBxHH16s32sIIIIHHHHIIIII")


def write_request(index: int, offset: int, data: bytes) -> bytes:
    return struct.pack("<HHI", index, 0, offset) + data


def read_request(area: Area, index: int, offset: int, nbytes: int) -> bytes:
    return struct.pack("<BBHIH", area, 0, index, offset, nbytes)


def run_request(run_id: int, mode: Mode, count: int) -> bytes:
    return struct.pack("<IBBH", run_id, mode, 0, count)


def parse_run(payload: bytes) -> tuple[int, int]:
    """Run id and runs done so far, from an answer's payload after the status."""
    if len(payload) != 6:
        raise WireError("an answer to RUN has 6 bytes")
    run_id, done = struct.unpack("<IH", payload)
    return run_id, done


def parse_stack(payload: bytes) -> tuple[int, int]:
    """Size of the stack and the most that was used, in bytes."""
    if len(payload) != 8:
        raise WireError("an answer to STACK has 8 bytes")
    size, used = struct.unpack("<II", payload)
    return size, used


def parse_words(payload: bytes) -> tuple[int, ...]:
    """32-bit words, as ticks and CRCs are sent."""
    if len(payload) % 4:
        raise WireError("not a whole number of words")
    return struct.unpack(f"<{len(payload) // 4}I", payload)


def parse_identity(payload: bytes) -> Identity:
    """An answer to IDENTIFY after the status; longer ones come from newer devices.

    Raises:
        WireError: it is too short.
    """
    try:
        fields = _IDENTITY.unpack_from(payload)
        position = _IDENTITY.size
        texts = []
        for _ in range(3):
            length = payload[position]
            text = payload[position + 1 : position + 1 + length]
            if len(text) != length:
                raise WireError("a text is cut off")
            texts.append(text.decode("utf-8", "replace"))
            position += 1 + length
        flags, window, max_payload, max_runs, build_id, sha256, clock_hz, tick_hz = fields[:8]
        arena_bytes, staging_bytes, steps, inputs, outputs = fields[8:13]
        sizes = struct.unpack_from(f"<{inputs + outputs}I", payload, position)
    except (struct.error, IndexError) as error:
        raise WireError(f"an answer to IDENTIFY is too short: {error}") from None
    fault = Fault(*fields[14:19])
    return Identity(
        input_kept=bool(flags & 1),
        input_staged=bool(flags & 2),
        window=window,
        max_payload=max_payload,
        max_runs=max_runs,
        build_id=build_id.hex(),
        model_sha256=sha256.hex(),
        clock_hz=clock_hz,
        tick_hz=tick_hz,
        arena_bytes=arena_bytes,
        staging_bytes=staging_bytes,
        step_count=steps,
        fault=fault if fault.exception else None,
        target=texts[0],
        engine=texts[1],
        model_name=texts[2],
        input_bytes=tuple(sizes[:inputs]),
        output_bytes=tuple(sizes[inputs:]),
        feed_count=fields[13] if flags & 8 else 0,
    )


def parse_feeds(payload: bytes, identity: Identity) -> tuple[Feed, ...]:
    """The feeds of a device, in the order of their steps.

    Raises:
        WireError: they do not bring every byte of every input once and in order.
    """
    words = parse_words(payload)
    feeds = tuple(
        Feed(words[i], words[i + 1], words[i + 2], words[i + 4])
        for i in range(0, len(words) - len(words) % FEED_WORDS, FEED_WORDS)
    )
    at = [0] * len(identity.input_bytes)
    step = -1
    for feed in feeds:
        if not step < feed.step < identity.step_count or feed.input >= len(at):
            raise WireError("the pieces of an input are not in the order of steps")
        if feed.start != at[feed.input]:
            raise WireError("the pieces of an input have gaps")
        step, at[feed.input] = feed.step, feed.start + feed.nbytes
    if len(feeds) != identity.feed_count or tuple(at) != identity.input_bytes:
        raise WireError("the pieces of an input do not make the whole of it")
    return feeds
