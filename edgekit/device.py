"""The host's side of the wire protocol over any link: sends again, within bounds.

Every message may be repeated without harm, so the rule is simple: what is not answered is sent
again. A device that was reset is recognised by its session; whoever works with it starts that
piece of work again (:meth:`Device.persist`).
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgekit import wire
from edgekit.errors import DeviceError
from edgekit.links import Link
from edgekit.wire import Area, Frame, Identity, Mode, Status, Type

_Result = TypeVar("_Result")

#: Speed of a line that does not tell its own, to begin with.
_BAUD = 115200
#: Frames above this size tell how fast the line is, those below how quick the answer.
_LARGE_BYTES = 200


class SessionLost(DeviceError):
    """The device was reset, or another host took it: it has forgotten inputs and results."""


@dataclass(frozen=True)
class Patience:
    """When to give up. Times in seconds."""

    #: what an answer takes besides its bytes, at first; adapts to the link
    first_latency_s: float = 0.15
    least_timeout_s: float = 0.02
    #: after losses the wait grows to at most so many times what is expected
    most_backoff: int = 4
    #: nothing valid came from the device for this long: it is gone
    silence_s: float = 10.0
    #: bytes come, but nothing valid: a bad line gets more chances
    noise_s: float = 40.0
    #: an inference may run this long without a sign of life
    run_s: float = 300.0
    #: a started run is asked about at these intervals
    poll_s: float = 2.0
    #: resets of the device in one piece of work
    resets: int = 3


@dataclass
class Statistics:
    """What happened on the line."""

    sent_frames: int = 0
    sent_bytes: int = 0
    repeated: int = 0
    resets: int = 0


@dataclass(eq=False)
class _Request:
    type: Type
    payload: bytes
    #: of a transfer that may be cut into smaller pieces: its place in the whole
    offset: int = 0
    nbytes: int = 0
    #: how often it was sent
    sent: int = 0
    sent_at: float = 0.0
    #: bytes of itself and its answer, and all that are on the line before its answer is whole
    own_bytes: int = 0
    load_bytes: int = 0
    accepted: bool = False
    answer: bytes | None = None


@dataclass(frozen=True)
class _Transmission:
    """A request as it was sent once."""

    item: _Request
    at: float
    load_bytes: int


class Device:
    """A device that speaks the protocol. Use as a context manager, or close it."""

    def __init__(
        self,
        link: Link,
        *,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.link = link
        self._clock = clock
        self.patience = patience or Patience()
        self.statistics = Statistics()
        self._decoder = wire.Decoder()
        self._identity: Identity | None = None
        self._feeds: tuple[wire.Feed, ...] | None = None
        self._expected: str | None = None
        self._session = 0
        self._sequence = secrets.randbelow(1 << 16)
        self._run_id = 0
        #: what was sent in this exchange, by sequence number
        self._sent: dict[int, _Transmission] = {}
        self._latency_s = self.patience.first_latency_s
        self._byte_s = 10 / float(getattr(link, "baud", _BAUD))
        self._chunk = 0
        self._lucky = 0
        self._heard_at = clock()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.link.close()

    @property
    def identity(self) -> Identity:
        """What the device said when it was connected.

        Raises:
            DeviceError: it was not connected yet.
        """
        if self._identity is None:
            raise DeviceError("the device was not asked who it is", self.link.name)
        return self._identity

    # ---- messages ----

    def connect(self, build_id: str | None = None) -> Identity:
        """Opens a new session; the device forgets the one before.

        Args:
            build_id: the firmware that must be there (32 hexadecimal digits).

        Raises:
            DeviceError: no answer, another protocol, or a firmware of another build.
        """
        self._expected = build_id
        self._session = secrets.randbelow((1 << 32) - 1) + 1
        self._run_id = 0
        answer = self._ask([_Request(Type.IDENTIFY, b"")])[0]
        try:
            identity = wire.parse_identity(answer)
        except wire.WireError as error:
            raise DeviceError(f"the device's answer makes no sense: {error}", self.link.name) from (
                None
            )
        if build_id is not None and identity.build_id != build_id:
            raise DeviceError(
                f"the device runs build {identity.build_id} ({identity.model_name}, "
                f"{identity.engine}); this is build {build_id}",
                self.link.name,
                "edgekit flash FIRMWARE --port PORT",
            )
        if self._identity is None:
            # what was sent to a device that was still starting tells nothing about the line
            self.statistics = Statistics()
        self._identity, self._feeds = identity, None
        self._chunk = min(identity.max_payload, wire.MAX_PAYLOAD)
        return identity

    def write_input(self, index: int, data: bytes) -> None:
        """Fills input ``index`` (raw bytes, as the model takes them)."""
        self._check_length(index, data)
        self._write(index, 0, data)

    def _check_length(self, index: int, data: bytes) -> None:
        expected = self.identity.input_bytes[index]
        if len(data) != expected:
            raise DeviceError(
                f"input {index} of the device has {expected:,} bytes, not {len(data):,}",
                self.link.name,
            )

    def _write(self, index: int, start: int, data: bytes) -> None:
        """Writes ``data`` to input ``index`` from byte ``start`` on."""

        def request(offset: int, nbytes: int) -> _Request:
            payload = wire.write_request(index, start + offset, data[offset : offset + nbytes])
            return _Request(Type.WRITE, payload, offset, nbytes)

        self._transfer(request, len(data), overhead=8)

    def run_on(
        self, inputs: Sequence[bytes], mode: Mode = Mode.INVOKE, count: int = 1
    ) -> tuple[int, ...]:
        """Writes all inputs and runs; where they come in pieces, one by one as they are wanted.

        ``count`` and the ticks that are returned are those of :meth:`run`; with inputs in pieces
        it is one inference.
        """
        if not self.identity.feed_count:
            for index, data in enumerate(inputs):
                self.write_input(index, data)
            return self.run(mode, count)
        for index, data in enumerate(inputs):
            self._check_length(index, data)
        ticks: tuple[int, ...] = ()
        feeds = self._device_feeds()
        ends = [*(feed.step for feed in feeds[1:]), self.identity.step_count]
        for number, (feed, end) in enumerate(zip(feeds, ends, strict=True)):
            self._write(feed.input, feed.start, inputs[feed.input][feed.start :][: feed.nbytes])
            if mode == Mode.UNTIL and count < end:
                return self.run(mode, count)
            ticks = self.run(Mode.INVOKE if mode == Mode.UNTIL else mode, number)
        return ticks

    def _device_feeds(self) -> tuple[wire.Feed, ...]:
        if self._feeds is None:
            nbytes = 4 * wire.FEED_WORDS * self.identity.feed_count
            try:
                self._feeds = wire.parse_feeds(self.read(Area.FEEDS, 0, nbytes), self.identity)
            except wire.WireError as error:
                raise DeviceError(
                    f"the device's answer makes no sense: {error}", self.link.name
                ) from None
        return self._feeds

    def read(self, area: Area, index: int, nbytes: int) -> bytes:
        """Reads ``nbytes`` from the start of an area."""

        def request(offset: int, count: int) -> _Request:
            return _Request(Type.READ, wire.read_request(area, index, offset, count), offset, count)

        done = self._transfer(request, nbytes, overhead=1)
        content = bytearray(nbytes)
        for item in done:
            answer = item.answer or b""
            if len(answer) != item.nbytes:
                raise DeviceError(
                    f"the device sent {len(answer)} bytes where {item.nbytes} were asked for",
                    self.link.name,
                )
            content[item.offset : item.offset + item.nbytes] = answer
        return bytes(content)

    def read_output(self, index: int) -> bytes:
        return self.read(Area.OUTPUT, index, self.identity.output_bytes[index])

    def run(
        self,
        mode: Mode = Mode.INVOKE,
        count: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[int, ...]:
        """Runs inferences; returns the ticks of each (of the steps' sum in the other modes).

        ``count`` is the number of runs, or the last step for ``Mode.UNTIL``. The id makes the
        device run it once, however often the request arrives.
        """
        self._run_id += 1
        payload = wire.run_request(self._run_id, mode, count)
        answer = self._ask([_Request(Type.RUN, payload)], progress)[0]
        _, done = wire.parse_run(answer)
        return wire.parse_words(self.read(Area.RUN_TICKS, 0, 4 * done))

    def step_ticks(self) -> tuple[int, ...]:
        return wire.parse_words(self.read(Area.STEP_TICKS, 0, 4 * self.identity.step_count))

    def step_crcs(self) -> tuple[int, ...]:
        return wire.parse_words(self.read(Area.STEP_CRCS, 0, 4 * self.identity.step_count))

    def stack(self) -> tuple[int, int]:
        """Size of the stack and its high-water mark in bytes; zeros where there is none."""
        return wire.parse_stack(self._ask([_Request(Type.STACK, b"")])[0])

    def reset(self) -> None:
        """Resets the device and connects again."""
        # when the answer is lost, the repetition meets a device that has restarted
        with contextlib.suppress(SessionLost):
            self._ask([_Request(Type.RESET, b"")])
        self.connect(self._expected)

    def persist(self, work: Callable[[], _Result]) -> _Result:
        """Does ``work``, and all of it again when the device is reset meanwhile.

        Raises:
            DeviceError: it was reset again and again, with the fault that it remembers.
        """
        for attempt in range(self.patience.resets + 1):
            try:
                if attempt:
                    self.connect(self._expected)
                return work()
            except SessionLost:
                self.statistics.resets += 1
        fault = self.connect(self._expected).fault
        text = ""
        if fault is not None:
            text = (
                f"; its last fault was exception {fault.exception} at pc {fault.pc:#010x} "
                f"(lr {fault.lr:#010x}, CFSR {fault.status:#010x}, address {fault.address:#010x})"
            )
        raise DeviceError(
            f"the device was reset {self.patience.resets + 1} times in one piece of work{text}",
            self.link.name,
        )

    def infer(self, inputs: Sequence[bytes]) -> list[bytes]:
        """One inference: writes the inputs, runs, reads all outputs. Survives resets."""

        def work() -> list[bytes]:
            self.run_on(inputs)
            return [self.read_output(i) for i in range(len(self.identity.output_bytes))]

        return self.persist(work)

    # ---- exchange ----

    def _transfer(
        self, request: Callable[[int, int], _Request], nbytes: int, overhead: int
    ) -> list[_Request]:
        """Moves ``nbytes`` in pieces; a piece that is lost comes again as smaller ones.

        A bad line loses long frames nearly always (1 % of bytes lost leaves 3 of 100,000 frames
        of 1 KB whole), so the size of pieces follows the line: half after a loss, more after
        a row of successes.
        """
        waiting = deque([(0, nbytes)]) if nbytes else deque()
        largest = min(self.identity.max_payload, wire.MAX_PAYLOAD) - overhead

        def following() -> _Request | None:
            if not waiting:
                return None
            offset, left = waiting.popleft()
            take = min(left, max(1, min(self._chunk, largest)))
            if left > take:
                waiting.appendleft((offset + take, left - take))
            return request(offset, take)

        def again(lost: _Request) -> None:
            waiting.appendleft((lost.offset, lost.nbytes))

        return self._exchange(following, again, self.identity.window)

    def _ask(
        self, requests: Iterable[_Request], progress: Callable[[int], None] | None = None
    ) -> list[bytes]:
        waiting = deque(requests)
        done = self._exchange(
            lambda: waiting.popleft() if waiting else None, waiting.appendleft, 1, progress
        )
        return [item.answer or b"" for item in done]

    def _exchange(
        self,
        following: Callable[[], _Request | None],
        again: Callable[[_Request], None],
        window: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[_Request]:
        """Sends requests, up to ``window`` ahead of their answers, until all are answered.

        The device answers in order: an answer to a later request shows that earlier ones were
        lost, without waiting for their time to run out.
        """
        flying: deque[_Request] = deque()
        done: list[_Request] = []
        # An answer to any transmission of this exchange will do, since the device's state is the
        # same for all of them; an earlier exchange's may tell of another run.
        self._sent.clear()
        self._heard_at = self._clock()
        backoff = 1
        damaged = self._decoder.damaged
        while True:
            while len(flying) < max(1, window):
                item = following()
                if item is None:
                    break
                self._send(item, flying)
                flying.append(item)
            if not flying:
                return done
            now = self._clock()
            item = flying[0]
            limit = self.patience.poll_s if item.accepted else backoff * self._expected_s(item)
            data = self.link.read(65536, max(0.0, min(item.sent_at + limit - now, limit)))
            for frame in self._decoder.feed(data) if data else ():
                answered = self._match(frame, flying, progress)
                if answered is None:
                    continue
                backoff = 1
                if self._sent[frame.sequence].item is answered:
                    while flying[0] is not answered:
                        self._lost(flying.popleft(), again)
                flying.remove(answered)
                done.append(answered)
                self._won()
            now = self._clock()
            if flying and now - flying[0].sent_at >= limit and flying[0] is item:
                silence = self.patience.silence_s
                if item.accepted:
                    silence = self.patience.run_s
                elif self._decoder.damaged > damaged:
                    silence = self.patience.noise_s
                if now - self._heard_at > silence:
                    raise self._silent(silence)
                if item.accepted:
                    self._send(item, ())
                    self.statistics.repeated += 1
                else:
                    backoff = min(2 * backoff, self.patience.most_backoff)
                    while flying:
                        self._lost(flying.pop(), again)

    def _expected_s(self, item: _Request) -> float:
        """A generous time for an answer."""
        estimate = self._latency_s + self._byte_s * item.load_bytes
        return max(self.patience.least_timeout_s, 3 * estimate)

    def _send(self, item: _Request, flying: Iterable[_Request]) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        item.sent += 1
        item.sent_at = self._clock()
        data = wire.encode(Frame(item.type, self._sequence, self._session, item.payload))
        self.statistics.sent_frames += 1
        self.statistics.sent_bytes += len(data)
        item.own_bytes = len(data) + (item.nbytes if item.type == Type.READ else 0)
        item.load_bytes = item.own_bytes + sum(other.own_bytes for other in flying)
        self._sent[self._sequence] = _Transmission(item, item.sent_at, item.load_bytes)
        self.link.write(data)

    def _match(
        self, frame: Frame, flying: Iterable[_Request], progress: Callable[[int], None] | None
    ) -> _Request | None:
        """The request that ``frame`` answers for good; notes signs of life on the way."""
        sent = self._sent.get(frame.sequence)
        if sent is None or frame.type != sent.item.type | wire.RESPONSE or not frame.payload:
            return None
        found = next((item for item in flying if item is sent.item), None)
        if found is None and frame.session == self._session:
            # It was taken for lost too early: the line is slower than it seemed.
            self._heard_at = self._clock()
            if sent.item.type != Type.RUN:
                self._learn(self._heard_at - sent.at, sent.load_bytes)
            wanted = sent.item.type, sent.item.payload
            found = next((item for item in flying if (item.type, item.payload) == wanted), None)
        if found is None:
            return None
        status = frame.payload[0]
        if frame.version != wire.VERSION or status == Status.BAD_VERSION:
            raise DeviceError(
                f"the device speaks version {frame.version} of the protocol, "
                f"edgekit version {wire.VERSION}",
                self.link.name,
                "build and flash the firmware with this edgekit",
            )
        if frame.session != self._session:
            return None
        self._heard_at = self._clock()
        if status == Status.BAD_SESSION:
            raise SessionLost("the device was reset, or another host took it", self.link.name)
        if status == Status.BUSY:
            found.accepted = True
            found.sent_at = self._heard_at
            if progress is not None:
                progress(wire.parse_run(frame.payload[1:])[1])
            return None
        if status != Status.OK:
            name = Status(status).name if status in Status._value2member_map_ else str(status)
            raise DeviceError(
                f"the device refused {found.type.name}: {name.replace('_', ' ').lower()}",
                self.link.name,
            )
        if found is sent.item and found.sent == 1 and found.type != Type.RUN:
            self._learn(self._heard_at - found.sent_at, found.load_bytes)
        found.answer = frame.payload[1:]
        return found

    def _learn(self, taken_s: float, load_bytes: int) -> None:
        """Follows the line's speed and the device's quickness: up at once, down slowly."""
        if load_bytes >= _LARGE_BYTES:
            seen = taken_s / load_bytes
            self._byte_s = max(seen, 0.9 * self._byte_s + 0.1 * seen)
        else:
            self._latency_s = max(taken_s, 0.9 * self._latency_s + 0.1 * taken_s)

    def _lost(self, item: _Request, again: Callable[[_Request], None]) -> None:
        self.statistics.repeated += 1
        self._lucky = 0
        if item.nbytes:
            self._chunk = max(32, min(self._chunk, item.nbytes) // 2)
        again(item)

    def _won(self) -> None:
        self._lucky += 1
        if self._lucky >= 16 and self._identity is not None:
            self._lucky = 0
            self._chunk = min(2 * self._chunk, self._identity.max_payload)

    def _silent(self, seconds: float) -> DeviceError:
        if self._decoder.received_bytes == 0:
            what = f"the device did not send a byte in {seconds:.0f} s"
            fix = (
                "check port and power; is the firmware flashed? edgekit flash FIRMWARE --port PORT"
            )
        elif self._decoder.damaged and self._identity is None:
            what = (
                f"the device sends bytes ({self._decoder.received_bytes:,}), but none of it makes "
                f"a frame"
            )
            fix = "check the baud rate, and that the firmware is edgekit's"
        else:
            what = f"the device stopped answering {seconds:.0f} s ago"
            fix = "reset the board; check cable and power"
        return DeviceError(what, self.link.name, fix)
