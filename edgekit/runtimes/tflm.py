"""TensorFlow Lite Micro on the host, through the ``tflite-micro`` wheel: its real C++ kernels.

The wheel is a 64-bit build with the reference kernels. It trusts the model: use
:func:`edgekit.runtimes.open_runner` for files that edgekit did not make itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit.errors import MissingDependency, ModelError, UsageError
from edgekit.graph.model import DTYPE_BITS
from edgekit.graph.reader import read_model
from edgekit.runtimes.native import captured_stderr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph.model import Model

#: The first arena that is tried is the larger of this and an estimate; it doubles from there.
_FIRST_ARENA_BYTES = 1 << 20
#: A model whose arena is larger than this is none for TFLM (and 32-bit offsets end here).
_LARGEST_ARENA_BYTES = 1 << 30

_NO_KERNEL = re.compile(r"(?:Didn't find op for builtin opcode|registration from op code)\W+(\w+)")
_FAILED_NODE = re.compile(r"Node (\w+) \(number (\d+)\) failed to (\w+)")
_ALLOCATION = re.compile(r"Arena allocation (\w+) (\d+) bytes|'([^']+)' used (\d+) bytes")


class TflmRunner:
    """A model in TFLM's interpreter.

    Args:
        model_bytes: the ``.tflite`` file.
        keep_tensors: give every tensor memory of its own, so that :meth:`tensor` can return it
            (TFLM's ``kPreserveAllTensors``); :attr:`arena_bytes` is then not recorded.
        arena_bytes: size of the arena; by default it is found.

    Raises:
        ModelError: the file is damaged, or TFLM lacks an operator or refuses one.
        MissingDependency: the ``tflite-micro`` package is not installed.
    """

    def __init__(
        self, model_bytes: bytes, *, keep_tensors: bool = False, arena_bytes: int | None = None
    ) -> None:
        self._runtime = _import_runtime()
        self._keep_tensors = keep_tensors
        self._model = read_model(bytes(model_bytes))
        #: the interpreter reads weights from these bytes, so that they must stay
        self._bytes = bytes(model_bytes)
        self.title = f"TFLM {_version()} reference kernels"
        message: str | None = None
        sizes = [arena_bytes] if arena_bytes else _arena_sizes(self._model)
        for size in sizes:
            self._arena_size = size
            message = self._load(size)
            if message is None:
                return
            if "Failed to allocate" not in message and "allocate memory" not in message:
                break
        raise _refusal(self._model, message or "")

    def _load(self, arena_bytes: int) -> str | None:
        """Makes the interpreter; what TFLM printed if it fails."""
        config = self._runtime.InterpreterConfig
        with captured_stderr() as printed:
            try:
                self._interpreter = self._runtime.Interpreter.from_bytes(
                    self._bytes,
                    arena_size=arena_bytes,
                    intrepreter_config=(
                        config.kPreserveAllTensors
                        if self._keep_tensors
                        else config.kAllocationRecording
                    ),
                )
            except (RuntimeError, ValueError, TypeError, MemoryError) as error:
                return f"{printed()}\n{error}"
        return None

    def invoke(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Runs the model once; inputs and outputs in the model's order, shapes and types.

        Raises:
            UsageError: the inputs are not what the model takes.
            ModelError: the invocation failed in TFLM.
        """
        self._set(inputs)
        self._run()
        return [self._interpreter.get_output(i) for i in range(len(self._model.outputs))]

    def _set(self, inputs: Sequence[NDArray[Any]]) -> None:
        if len(inputs) != len(self._model.inputs):
            raise UsageError(
                f"the model has {len(self._model.inputs)} inputs, {len(inputs)} were given"
            )
        for i, (value, tensor) in enumerate(zip(inputs, self._model.input_tensors, strict=True)):
            if value.shape != tensor.shape or value.dtype.name != tensor.dtype:
                raise UsageError(
                    f"input {i} '{tensor.name}' takes {tensor.dtype} of shape "
                    f"{list(tensor.shape)}, not {value.dtype} of shape {list(value.shape)}"
                )
            self._interpreter.set_input(value, i)

    def _run(self) -> None:
        with captured_stderr() as printed:
            try:
                self._interpreter.invoke()
            except RuntimeError as error:
                raise _refusal(self._model, f"{printed()}\n{error}") from None

    def tensor(self, index: int) -> NDArray[Any]:
        """A tensor of the main graph as the last :meth:`invoke` left it.

        Raises:
            UsageError: the runner was made without ``keep_tensors``, or there is no such tensor.
        """
        if not self._keep_tensors:
            raise UsageError("tensors are only kept with keep_tensors=True")
        # The wheel reads out of bounds for an index that does not exist.
        if not 0 <= index < len(self._model.tensors):
            raise UsageError(f"there is no tensor {index}; there are {len(self._model.tensors)}")
        data: NDArray[Any] = self._interpreter.GetTensor(index, 0)["tensor_data"]
        return data

    def tensors(self, indices: Sequence[int]) -> list[NDArray[Any]]:
        """Several tensors at once; see :meth:`tensor`."""
        return [self.tensor(index) for index in indices]

    def time(self, inputs: Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Microseconds of TFLM's invoke alone, once per run; inputs are set untimed."""
        elapsed = []
        for _ in range(runs):
            self._set(inputs)
            started = time.perf_counter_ns()
            self._interpreter.invoke()
            elapsed.append((time.perf_counter_ns() - started) / 1000)
        return elapsed

    def allocations(self) -> dict[str, int]:
        """TFLM's own record of its arena in bytes: ``total``, ``head``, ``tail`` and by purpose.

        Empty with ``keep_tensors``, where TFLM does not record. ``head`` holds the planned
        activations and scratch, ``tail`` what persists.
        """
        if self._keep_tensors:
            return {}
        with captured_stderr() as printed:
            self._interpreter.print_allocations()
        found = {}
        for area, size, purpose, used in _ALLOCATION.findall(printed()):
            found[area or purpose] = int(size or used)
        return found

    @property
    def arena_bytes(self) -> int | None:
        """Bytes of arena that TFLM recorded as used (64-bit); ``None`` with ``keep_tensors``."""
        return self.allocations().get("total")

    def close(self) -> None:
        self._interpreter = None

    def __enter__(self) -> TflmRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_model(model_bytes: bytes, **arguments: Any) -> TflmRunner:
    """What :func:`edgekit.runtimes.open_runner` calls."""
    return TflmRunner(model_bytes, **arguments)


def _arena_sizes(model: Model) -> list[int]:
    # All activations at once, and a generous share of structures per tensor and operator, is
    # what the preserving interpreter needs; untouched pages of a larger arena cost nothing.
    activations = sum(
        (t.elements * DTYPE_BITS.get(t.dtype, 8) // 8) + 256
        for graph in model.graphs
        for t in graph.tensors
        if not t.is_constant
    )
    structures = sum(512 * len(graph.ops) + 64 * len(graph.tensors) for graph in model.graphs)
    size = max(_FIRST_ARENA_BYTES, 2 * (activations + structures))
    sizes = []
    while size < _LARGEST_ARENA_BYTES:
        sizes.append(size)
        size *= 4
    return [*sizes, _LARGEST_ARENA_BYTES]


def _refusal(model: Model, message: str) -> ModelError:
    """The error for what TFLM printed."""
    missing = _NO_KERNEL.search(message)
    if missing:
        code = missing.group(1)
        op = next(
            (
                op
                for graph in model.graphs
                for op in graph.ops
                if op.kind == code or (code == "CUSTOM" and op.kind.startswith("CUSTOM"))
            ),
            None,
        )
        return ModelError(
            f"TFLM has no kernel for the operator {op.kind if op else code}",
            f"operator {op.index}" if op else None,
            "edgekit inspect shows which engines take the model",
        )
    node = _FAILED_NODE.search(message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reason = lines[0] if lines else "no reason given"
    if node:
        kind, number, stage = node.groups()
        return ModelError(
            f"TFLM refuses the model in '{stage}': {reason}", f"operator {number} {kind}"
        )
    return ModelError(f"TFLM refuses the model: {reason}", model.name)


def _import_runtime() -> Any:
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        raise MissingDependency(
            "running models in TFLM needs the Python package 'tflite-micro'",
            fix="pip install edgekit",
        ) from None
    return runtime


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tflite-micro")
    except PackageNotFoundError:
        return "(unknown version)"
