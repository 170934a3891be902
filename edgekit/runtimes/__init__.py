"""Runs models on the host: the kernels that device outputs are compared with.

A runner takes a ``.tflite`` file's bytes and computes its outputs. ``tflm`` are the kernels of
TensorFlow Lite Micro, the reference of all integer code here; ``litert-ref`` are TensorFlow
Lite's reference kernels; ``litert`` is what applications on phones and Linux boards get
(XNNPACK and optimised kernels).

Runtimes are C++ and trust their models: a damaged or hostile file can end the process. Models
that edgekit did not make itself are therefore run with :func:`open_runner`, which puts the
runtime into a process of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Name of a runtime: the module of this package and the arguments of its runner.
RUNTIMES: dict[str, tuple[str, dict[str, Any]]] = {
    "tflm": ("edgekit.runtimes.tflm", {}),
    "litert-ref": ("edgekit.runtimes.litert", {"kernels": "reference"}),
    "litert": ("edgekit.runtimes.litert", {"kernels": "default"}),
    "edgetpu": ("edgekit.runtimes.edgetpu", {}),
}


class Runner(Protocol):
    """A model that is ready to run."""

    #: what computes: "TFLM 0.dev20261023182759 reference kernels"
    title: str

    def invoke(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Runs the model once; inputs and outputs in the model's order, shapes and types."""

    def tensor(self, index: int) -> NDArray[Any]:
        """A tensor of the main graph after the last invoke (only with ``keep_tensors``)."""

    def tensors(self, indices: Sequence[int]) -> list[NDArray[Any]]:
        """Several tensors at once."""

    def time(self, inputs: Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Microseconds of the runtime's invoke alone, once per run; inputs are set untimed."""

    def allocations(self) -> dict[str, int]:
        """Memory that the runtime took, in bytes by purpose; empty where it does not tell."""

    def close(self) -> None: ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_runner(
    runtime: str,
    model_bytes: bytes,
    *,
    isolated: bool = True,
    timeout_s: float = 120.0,
    **arguments: Any,
) -> Runner:
    """Loads a model into a runtime, by default in a process of its own.

    Args:
        runtime: a name in :data:`RUNTIMES`.
        model_bytes: the ``.tflite`` file.
        isolated: run in a child process, which the runtime may crash or hang without harm.
        timeout_s: how long loading the model or one call may take (isolated only).
        arguments: ``keep_tensors``; ``threads`` (LiteRT); ``arena_bytes`` (TFLM).

    Raises:
        ModelError: the runtime does not take the model, crashed on it or hung.
        MissingDependency: the runtime is not installed.
    """
    module, preset = RUNTIMES[runtime]
    if isolated:
        from edgekit.runtimes.process import RunnerProcess

        return RunnerProcess(runtime, model_bytes, timeout_s=timeout_s, **arguments)
    loaded: Any = importlib.import_module(module)
    runner: Runner = loaded.open_model(model_bytes, **{**preset, **arguments})
    return runner
