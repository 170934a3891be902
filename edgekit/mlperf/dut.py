"""A device that speaks MLPerf Tiny's serial protocol, ours or anybody's, over any link."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.errors import DeviceError
from edgekit.links import Link

#: Bytes of an input in one command, without and with a power monitor.
CHUNK_BYTES, CHUNK_BYTES_WITH_MONITOR = 31, 26
_READY = "m-ready"
#: A line longer than this is no answer: the longest is the result of 640 outputs.
_LONGEST_LINE = 1 << 16
_ATTEMPTS = 3
_QUIET_S = 0.2


@dataclass(frozen=True)
class Profile:
    """Who the device says it is."""

    name: str
    profile: str
    model: str


@dataclass(frozen=True)
class Inference:
    """The answer to ``infer``. Times are the device's, microseconds; ``None`` in energy mode."""

    results: tuple[float, ...]
    start_us: int | None
    end_us: int | None

    @property
    def elapsed_us(self) -> int | None:
        if self.start_us is None or self.end_us is None:
            return None
        return self.end_us - self.start_us


class Dut:
    """The device under test. Times in seconds of ``clock``.

    Args:
        link: where it is.
        timeout_s: an answer that takes longer is an error.
        infer_timeout_s: the same for ``infer``.
    """

    def __init__(
        self,
        link: Link,
        *,
        timeout_s: float = 5.0,
        infer_timeout_s: float = 30.0,
        chunk_bytes: int = CHUNK_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.link = link
        self._timeout_s = timeout_s
        self._infer_timeout_s = infer_timeout_s
        self._chunk_bytes = chunk_bytes
        self._clock = clock
        self._pending = b""

    def __enter__(self) -> Dut:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def identify(self) -> Profile:
        """Who is there. Also finds the beginning of the conversation: the device may just have
        started, or may have half a command from somebody else.

        Raises:
            DeviceError: nobody answers, or not in this protocol.
        """
        name = self._first_name()
        lines = self.command("profile")
        return Profile(
            name,
            _only(lines, r"m-profile-\[([^]]*)]", "profile", self.link.name),
            _only(lines, r"m-model-\[([^]]*)]", "profile", self.link.name),
        )

    def _first_name(self) -> str:
        heard = 0
        for _ in range(_ATTEMPTS):
            self._drain()
            self.link.write(b"name%")
            deadline = self._clock() + self._timeout_s
            name = None
            while True:
                line = self._line(deadline)
                if line is None:
                    break
                heard += 1
                match = re.fullmatch(r"m-name-dut-\[([^]]*)]", line)
                if match:
                    name = match.group(1)
                # a device that starts is ready, too, before it knows the question
                elif line == _READY and name is not None:
                    self._drain()
                    return name
        raise DeviceError(
            "the device does not answer 'name' in MLPerf Tiny's protocol"
            + ("" if heard else ": not a line came from it"),
            self.link.name,
            "check port and baud rate (115,200; 9,600 in energy mode), and that the firmware was "
            "built with --protocol mlperf-tiny",
        )

    def command(self, text: str, timeout_s: float | None = None) -> list[str]:
        """Sends a command; the lines of its answer without the last.

        Raises:
            DeviceError: the device reports an error, or does not answer in time.
        """
        limit = self._timeout_s if timeout_s is None else timeout_s
        self.link.write(text.encode("ascii") + b"%")
        deadline = self._clock() + limit
        lines: list[str] = []
        while (line := self._line(deadline)) != _READY:
            if line is None:
                raise DeviceError(
                    f"the device did not answer '{_shown(text)}' in {limit:g} s", self.link.name
                )
            lines.append(line)
        for line in lines:
            if line.startswith("e-["):
                raise DeviceError(
                    f"the device refused '{_shown(text)}': {line[3:].removesuffix(']')}",
                    self.link.name,
                )
        return lines

    def load(self, data: bytes) -> None:
        """Sends one input.

        Raises:
            DeviceError: the device does not take it all.
        """
        self.command(f"db load {len(data)}")
        last: list[str] = []
        for start in range(0, len(data), self._chunk_bytes):
            last = self.command(f"db {data[start : start + self._chunk_bytes].hex()}")
        if "m-load-done" not in last:
            raise DeviceError(
                f"the device did not say that it has all {len(data):,} bytes", self.link.name
            )

    def infer(self, iterations: int, warmups: int) -> Inference:
        """Runs the loaded input.

        Raises:
            DeviceError: the answer has no results.
        """
        lines = self.command(f"infer {iterations} {warmups}", self._infer_timeout_s)
        text = _only(lines, r"m-results-\[([^]]*)]", "infer", self.link.name)
        try:
            results = tuple(float(item) for item in text.split(",") if item.strip())
        except ValueError:
            results = ()
        if not results:
            raise DeviceError(f"'{text}' are no results", self.link.name)
        times = [int(m.group(1)) for line in lines if (m := re.fullmatch(r"m-lap-us-(\d+)", line))]
        if len(times) not in (0, 2):
            raise DeviceError(
                f"the device sent {len(times)} timestamps where two were expected", self.link.name
            )
        return Inference(results, *(times or (None, None)))

    def _line(self, deadline: float) -> str | None:
        """The next line that is not empty; ``None`` when it does not come in time."""
        while True:
            head, end, rest = self._pending.partition(b"\n")
            if end:
                self._pending = rest
                text = head.decode("ascii", "replace").strip("\r\0 ")
                if text:
                    return text
                continue
            left = deadline - self._clock()
            if left <= 0:
                return None
            self._pending = (self._pending + self.link.read(4096, left))[-_LONGEST_LINE:]

    def _drain(self) -> None:
        """Throws away what comes until the line is quiet."""
        self._pending = b""
        until = self._clock() + self._timeout_s
        while self._clock() < until and self.link.read(4096, _QUIET_S):
            pass


def _only(lines: list[str], pattern: str, command: str, where: str) -> str:
    for line in lines:
        match = re.fullmatch(pattern, line)
        if match:
            return match.group(1)
    shown = " | ".join(lines)[:200]
    raise DeviceError(f"the answer to '{command}' makes no sense: '{shown}'", where)


def _shown(command: str) -> str:
    return command if len(command) <= 24 else command[:24] + "…"
