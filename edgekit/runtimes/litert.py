"""TensorFlow Lite (LiteRT) on the host, from whichever package is installed.

TensorFlow 2.19's ``tf.lite`` with its reference kernels computes what TFLM computes.
``ai-edge-litert`` 1.3 and later round FULLY_CONNECTED differently (a step or a few), and XNNPACK
and the optimised kernels round differently by one here and there.
"""

from __future__ import annotations

import importlib
import os
import re
import time
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import MissingDependency, ModelError, UsageError
from edgekit.graph.reader import read_model, shown
from edgekit.runtimes.native import captured_stderr

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Packages with an interpreter, the preferred first: module, distributions, name.
_PACKAGES = (
    ("tensorflow.lite.python.interpreter", ("tensorflow", "tensorflow-cpu"), "TensorFlow Lite"),
    ("ai_edge_litert.interpreter", ("ai-edge-litert",), "LiteRT"),
    ("tflite_runtime.interpreter", ("tflite-runtime",), "tflite-runtime"),
)
_UNRESOLVED = re.compile(r"unresolved custom op: ([\w:\-]+)")
_FAILED_NODE = re.compile(r"Node number (\d+) \((\w+)\) failed to (\w+)")


class LitertRunner:
    """A model in TensorFlow Lite's interpreter.

    Args:
        model_bytes: the ``.tflite`` file.
        kernels: ``reference`` (BUILTIN_REF, the slow and exact ones) or ``default`` (what
            applications get: XNNPACK where it takes an operator, optimised kernels elsewhere).
        threads: threads of the default kernels.
        keep_tensors: keep every tensor for :meth:`tensor`; without XNNPACK, which keeps none.

    Raises:
        MissingDependency: no package with an interpreter is installed.
        ModelError: the interpreter does not take the model.
    """

    def __init__(
        self,
        model_bytes: bytes,
        *,
        kernels: Literal["reference", "default"] = "reference",
        threads: int = 1,
        keep_tensors: bool = False,
    ) -> None:
        module, self.package, version = _import_interpreter()
        self._model = read_model(bytes(model_bytes))
        self._keep_tensors = keep_tensors
        resolver = module.OpResolverType
        if kernels == "reference":
            chosen, label = resolver.BUILTIN_REF, "reference kernels"
        else:
            # XNNPACK keeps no tensors between its operators.
            chosen = resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES if keep_tensors else resolver.AUTO
            label = f"default kernels, {threads} thread{'s' if threads > 1 else ''}"
        self.title = f"{self.package} {version} {label}"
        with captured_stderr() as printed, warnings.catch_warnings():
            # tf.lite.Interpreter announces its removal in TensorFlow 2.20.
            warnings.simplefilter("ignore")
            try:
                self._interpreter = module.Interpreter(
                    model_content=bytes(model_bytes),
                    num_threads=threads,
                    experimental_op_resolver_type=chosen,
                    experimental_preserve_all_tensors=keep_tensors,
                )
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                raise _refusal(self.package, f"{error}\n{printed()}") from None
        self._inputs = [d["index"] for d in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def invoke(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Runs the model once; inputs and outputs in the model's order, shapes and types.

        Raises:
            UsageError: the inputs are not what the model takes.
            ModelError: the invocation failed.
        """
        self._set(inputs)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise _refusal(self.package, str(error)) from None
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def _set(self, inputs: Sequence[NDArray[Any]]) -> None:
        if len(inputs) != len(self._inputs):
            raise UsageError(f"the model has {len(self._inputs)} inputs, {len(inputs)} were given")
        for index, value in zip(self._inputs, inputs, strict=True):
            try:
                self._interpreter.set_tensor(index, value)
            except ValueError as error:
                raise UsageError(f"an input does not fit: {error}") from None

    def tensor(self, index: int) -> NDArray[Any]:
        """A tensor of the main graph as the last :meth:`invoke` left it.

        Raises:
            UsageError: the runner was made without ``keep_tensors``, or there is no such tensor.
        """
        if not self._keep_tensors:
            raise UsageError("tensors are only kept with keep_tensors=True")
        if not 0 <= index < len(self._model.tensors):
            raise UsageError(f"there is no tensor {index}; there are {len(self._model.tensors)}")
        data: NDArray[Any] = self._interpreter.get_tensor(index)
        return data

    def tensors(self, indices: Sequence[int]) -> list[NDArray[Any]]:
        """Several tensors at once; see :meth:`tensor`."""
        return [self.tensor(index) for index in indices]

    def time(self, inputs: Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Microseconds of the interpreter's invoke alone, once per run; inputs are set untimed."""
        elapsed = []
        for _ in range(runs):
            self._set(inputs)
            started = time.perf_counter_ns()
            self._interpreter.invoke()
            elapsed.append((time.perf_counter_ns() - started) / 1000)
        return elapsed

    def allocations(self) -> dict[str, int]:
        """Empty: LiteRT does not tell what it allocates."""
        return {}

    def close(self) -> None:
        self._interpreter = None

    def __enter__(self) -> LitertRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_model(model_bytes: bytes, **arguments: Any) -> LitertRunner:
    """What :func:`edgekit.runtimes.open_runner` calls."""
    return LitertRunner(model_bytes, **arguments)


def installed() -> str | None:
    """Which package there is ("TensorFlow Lite 2.19.0"), found without importing it."""
    from importlib.util import find_spec

    for module, distributions, name in _PACKAGES:
        if find_spec(module.split(".")[0]) is not None:
            return f"{name} {_version(distributions)}"
    return None


def _import_interpreter() -> tuple[Any, str, str]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for module, distributions, name in _PACKAGES:
        with captured_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return importlib.import_module(module), name, _version(distributions)
            except ImportError:
                continue
    raise MissingDependency(
        "running models in LiteRT needs TensorFlow 2.19 or the Python package 'ai-edge-litert'",
        fix="pip install 'edgekit[convert]'",
    )


def _version(distributions: Sequence[str]) -> str:
    from importlib.metadata import PackageNotFoundError, version

    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "(unknown version)"


def _refusal(package: str, message: str) -> ModelError:
    custom = _UNRESOLVED.search(message)
    if custom:
        return ModelError(f"{package} has no kernel for the operator CUSTOM:{custom.group(1)}")
    reason = shown(" ".join(message.split()))
    node = _FAILED_NODE.search(message)
    place = f"operator {node.group(1)} {node.group(2)}" if node else None
    return ModelError(f"{package} refuses the model: {reason}", place)
