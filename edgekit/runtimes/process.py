"""A runtime in a process of its own, which a hostile model may crash or hang without harm.

The child is ``python -m edgekit.runtimes.process``. Messages in both directions are a length
(uint32, little-endian), a JSON header of that length, and the bytes of the arrays that the
header lists; nothing is unpickled, so a child that a model took over cannot run code here.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from edgekit import errors
from edgekit.errors import EdgekitError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LENGTH = struct.Struct("<I")
#: More than any model needs; a hostile one must not take the machine's memory.
_ADDRESS_SPACE_BYTES = 24 << 30
#: Loading TensorFlow takes seconds, on a busy machine many.
_START_TIMEOUT_S = 180.0


class RunnerProcess:
    """A :class:`~edgekit.runtimes.Runner` in a child process; see ``open_runner``."""

    def __init__(
        self, runtime: str, model_bytes: bytes, *, timeout_s: float = 120.0, **arguments: Any
    ) -> None:
        self._runtime = runtime
        self._timeout_s = timeout_s
        # closed by close()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(
            [sys.executable, "-m", "edgekit.runtimes.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Ctrl-C reaches the parent, which ends the child.
            start_new_session=True,
        )
        try:
            header, _ = self._call(
                {"runtime": runtime, "arguments": arguments, "model_bytes": len(model_bytes)},
                model_bytes,
                timeout_s=timeout_s + _START_TIMEOUT_S,
            )
        except BaseException:
            self.close()
            raise
        self.title: str = header["title"]

    def invoke(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        return self._arrays("invoke", inputs)

    def tensor(self, index: int) -> NDArray[Any]:
        return self._arrays("tensor", (), index=index)[0]

    def tensors(self, indices: Sequence[int]) -> list[NDArray[Any]]:
        """Several tensors in one exchange."""
        return self._arrays("tensors", (), indices=list(indices))

    def time(self, inputs: Sequence[NDArray[Any]], runs: int) -> list[float]:
        header, body = _pack({"call": "time", "runs": runs}, inputs)
        answer, _ = self._call(header, body)
        return [float(value) for value in answer["microseconds"]]

    def allocations(self) -> dict[str, int]:
        answer, _ = self._call({"call": "allocations"}, b"")
        return {str(key): int(value) for key, value in answer["allocations"].items()}

    @property
    def arena_bytes(self) -> int | None:
        return self.allocations().get("total")

    def close(self) -> None:
        """Ends the child."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._errors.close()

    def __enter__(self) -> RunnerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _arrays(self, call: str, inputs: Sequence[NDArray[Any]], **more: Any) -> list[NDArray[Any]]:
        header, body = _pack({"call": call, **more}, inputs)
        return _unpack(*self._call(header, body))

    def _call(
        self, header: dict[str, Any], body: bytes, timeout_s: float | None = None
    ) -> tuple[dict[str, Any], bytes]:
        if self._child.stdin is None or self._child.stdout is None:
            raise RuntimeError("the child has no pipes")
        deadline = time.monotonic() + (timeout_s or self._timeout_s)
        try:
            _write(self._child.stdin, header, body)
            length = _LENGTH.unpack(self._read(_LENGTH.size, deadline))[0]
            answer = json.loads(self._read(length, deadline))
            content = self._read(int(answer["body_bytes"]), deadline)
        except (EOFError, BrokenPipeError):
            raise self._crash() from None
        except TimeoutError:
            raise ModelError(
                f"{self._runtime} did not finish within {timeout_s or self._timeout_s:.0f} s "
                "on this model"
            ) from None
        if "error" in answer:
            fields = answer["error"]
            kind = getattr(errors, fields["kind"], EdgekitError)
            raise kind(fields["what"], fields["where"], fields["fix"])
        return answer, content

    def _read(self, count: int, deadline: float) -> bytes:
        stream = self._child.stdout
        if stream is None:
            raise EOFError
        descriptor = stream.fileno()
        content = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(content) < count:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(descriptor, min(count - len(content), 1 << 20))
                if not chunk:
                    raise EOFError
                content += chunk
        return bytes(content)

    def _crash(self) -> EdgekitError:
        code = self._child.wait()
        self._errors.seek(0)
        lines = [
            line for line in self._errors.read().decode("utf-8", "replace").splitlines() if line
        ]
        last = lines[-1].strip() if lines else "it printed nothing"
        if code < 0:
            how = signal.Signals(-code).name
            return ModelError(f"{self._runtime} crashed on this model ({how}): {last}")
        return ModelError(f"{self._runtime} ended on this model with code {code}: {last}")


def _pack(header: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> tuple[dict[str, Any], bytes]:
    import numpy as np

    described = [{"dtype": a.dtype.name, "shape": list(a.shape)} for a in arrays]
    body = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    return {**header, "arrays": described}, body


def _unpack(header: dict[str, Any], body: bytes) -> list[NDArray[Any]]:
    import numpy as np

    arrays: list[NDArray[Any]] = []
    at = 0
    for described in header["arrays"]:
        dtype = np.dtype(described["dtype"])
        count = math.prod(described["shape"])
        values = np.frombuffer(body, dtype, count, at).reshape(described["shape"])
        arrays.append(values.copy())
        at += count * dtype.itemsize
    return arrays


def _write(stream: IO[bytes], header: dict[str, Any], body: bytes) -> None:
    text = json.dumps({**header, "body_bytes": len(body)}).encode()
    stream.write(_LENGTH.pack(len(text)) + text + body)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    prefix = stream.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return None
    header = json.loads(stream.read(_LENGTH.unpack(prefix)[0]))
    return header, stream.read(header["body_bytes"])


def _serve() -> None:
    """The child: answers until its standard input ends."""
    stdin = sys.stdin.buffer
    # Whatever a library prints on standard output must not get between the messages.
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit_memory()
    runner: Any = None
    while (message := _receive(stdin)) is not None:
        header, body = message
        try:
            if runner is None:
                from edgekit.runtimes import open_runner

                runner = open_runner(header["runtime"], body, isolated=False, **header["arguments"])
                answer, content = {"title": runner.title}, b""
            else:
                answer, content = _answer(runner, header, body)
        except EdgekitError as error:
            kind = type(error).__name__
            fields = {"kind": kind, "what": error.what, "where": error.where, "fix": error.fix}
            answer, content = {"error": fields}, b""
        except MemoryError:
            fields = {"kind": "ModelError", "what": "the model needs too much memory to run here"}
            answer, content = {"error": {**fields, "where": None, "fix": None}}, b""
        _write(stdout, answer, content)


def _answer(runner: Any, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    call = header["call"]
    inputs = _unpack(header, body) if "arrays" in header else []
    if call == "time":
        return {"microseconds": runner.time(inputs, header["runs"])}, b""
    if call == "allocations":
        return {"allocations": runner.allocations()}, b""
    if call == "tensor":
        return _pack({}, [runner.tensor(header["index"])])
    if call == "tensors":
        return _pack({}, runner.tensors(header["indices"]))
    return _pack({}, runner.invoke(*inputs))


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = (
        _ADDRESS_SPACE_BYTES if hard == resource.RLIM_INFINITY else min(hard, _ADDRESS_SPACE_BYTES)
    )
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    # A crash is expected here; a core file of it is not.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve()
