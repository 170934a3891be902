"""Checks on the host: what every step must leave behind, and running the C itself.

:func:`expected_steps` asks TFLM for every tensor and arranges it as the plan says, so that a
device's (or the simulator's, or the host's) bytes can be compared step by step.
:class:`HostRunner` compiles an artifact with the system's C compiler and calls it in process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.engines.aot.emit import prefix_of
from edgekit.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model
    from edgekit.records import Artifact, Plan, Step


#: What writes rows of an input: (context, where to, first row, rows).
_ROWS = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)


class StepReference:
    """TFLM's tensors, step by step, for a plan.

    Args:
        model: the model that the plan was made from.
        plan: says what each step materialises.
    """

    def __init__(self, model: Model, plan: Plan) -> None:
        from edgekit.runtimes.tflm import TflmRunner

        self.model = model
        self.plan = plan
        self._runner = TflmRunner(model.raw, keep_tensors=True)

    def invoke(self, *inputs: NDArray[Any]) -> tuple[bytes, ...]:
        """The bytes that each step must leave at its offset, right after it ran."""
        self._runner.invoke(*inputs)
        return tuple(step_bytes(step, self._runner.tensor(step.tensor)) for step in self.plan.steps)

    def outputs(self) -> tuple[bytes, ...]:
        """The model's outputs of the last :meth:`invoke`."""
        return tuple(
            np.ascontiguousarray(self._runner.tensor(index)).tobytes()
            for index in self.model.outputs
        )

    def close(self) -> None:
        self._runner.close()


def step_bytes(step: Step, tensor: NDArray[Any]) -> bytes:
    """A tensor of the model as a step materialises it: rows, live channels, then the layout.

    Raises:
        UsageError: the step has a layout that this version does not know.
    """
    if step.rows is not None:
        tensor = tensor[:, step.rows[0] : step.rows[1]]
    if step.channels is not None:
        tensor = tensor[..., list(step.channels)]
    if step.layout == "nchw":
        tensor = np.moveaxis(tensor, -1, 1)
    elif step.layout != "nhwc":
        raise UsageError(f"step {step.index} has the unknown layout '{step.layout}'")
    return np.ascontiguousarray(tensor).tobytes()


def expected_steps(model: Model, plan: Plan, *inputs: NDArray[Any]) -> tuple[bytes, ...]:
    """Every step's bytes for one input; see :class:`StepReference` for many."""
    reference = StepReference(model, plan)
    try:
        return reference.invoke(*inputs)
    finally:
        reference.close()


class HostRunner:
    """An artifact compiled for the host; one instance per artifact.

    Args:
        artifact: from ``compile``; its plan must be there.
        flags: extra compiler flags, after ``-O2 -Wall -Wextra -Werror``.
        compiler: a C compiler's name or path; by default ``$CC``, ``cc``, ``gcc`` or ``clang``.

    Raises:
        MissingDependency: there is no C compiler, or it fails.
        UsageError: the artifact has no plan (another engine's).
    """

    def __init__(
        self, artifact: Artifact, *, flags: Sequence[str] = (), compiler: str | None = None
    ) -> None:
        if artifact.plan is None:
            raise UsageError("the artifact has no plan", str(artifact.folder))
        self.plan = artifact.plan
        self.prefix = prefix_of(artifact.model_name)
        self._folder = tempfile.TemporaryDirectory(prefix="edgekit-host-")
        library = Path(self._folder.name) / f"{self.prefix}.so"
        try:
            compile_host(artifact, library, flags=("-shared", "-fPIC", *flags), compiler=compiler)
            self._library = ctypes.CDLL(str(library))
        except BaseException:
            self._folder.cleanup()
            raise
        self._invoke = getattr(self._library, f"{self.prefix}_invoke")
        self._step = getattr(self._library, f"{self.prefix}_step")
        more = (_ROWS, ctypes.c_void_p) if self.plan.feeds else ()
        for function, types in ((self._invoke, more), (self._step, (ctypes.c_uint32,))):
            function.restype = None
            function.argtypes = [ctypes.c_void_p, *types]
        size = max(self.plan.arena_bytes, 1)
        # The arena has the alignment that the header asks for, and a guard on both sides.
        self._guard = 64
        self._memory = np.zeros(size + 2 * self._guard + 64, np.uint8)
        start = self._guard + (-(self._memory.ctypes.data + self._guard)) % 64
        self._start = start
        self.arena = self._memory[start : start + self.plan.arena_bytes]
        self._apart: dict[int, NDArray[Any]] = {}
        #: inputs that come in rows, by their number
        self._fed: dict[int, NDArray[Any]] = {}
        self._pointer = self._memory.ctypes.data + start

    def fill(self, value: int) -> None:
        """Fills the arena and its guards, to see that nothing depends on its content."""
        self._memory[:] = value

    def guards_intact(self, value: int) -> bool:
        """Whether nothing was written outside the arena since :meth:`fill`."""
        before = self._memory[: self._start]
        after = self._memory[self._start + self.plan.arena_bytes :]
        return bool((before == value).all() and (after == value).all())

    def set_inputs(self, *inputs: NDArray[Any]) -> None:
        for number, (view, value) in enumerate(zip(self.plan.inputs, inputs, strict=True)):
            data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
            if view.fed:
                self._fed[number] = data
                continue
            if view.apart:
                self._apart[view.tensor] = data = data.copy()
                data = np.frombuffer(np.uint64(data.ctypes.data).tobytes(), np.uint8)
                self.arena[view.offset : view.offset + data.size] = data
                continue
            self.arena[view.offset : view.offset + view.nbytes] = data

    def outputs(self) -> tuple[bytes, ...]:
        return tuple(
            self.arena[view.offset : view.offset + view.nbytes].tobytes()
            for view in self.plan.outputs
        )

    def invoke(self, *inputs: NDArray[Any]) -> tuple[bytes, ...]:
        """One inference; the outputs' bytes."""
        self.set_inputs(*inputs)
        if not self.plan.feeds:
            self._invoke(self._pointer)
            return self.outputs()
        (data,) = self._fed.values()
        row_bytes = data.size // self.plan.inputs[0].shape[1]
        following = 0

        def rows(_: int, to: int, first: int, count: int) -> None:
            nonlocal following
            if first == following:  # else rows are missing, which the outputs show
                ctypes.memmove(to, data[first * row_bytes :].ctypes.data, count * row_bytes)
            following = first + count

        self._invoke(self._pointer, _ROWS(rows), None)
        return self.outputs()

    def steps(self, *inputs: NDArray[Any]) -> tuple[bytes, ...]:
        """One inference step by step; what each left behind."""
        self.set_inputs(*inputs)
        found = []
        feeds = {feed.step: feed for feed in self.plan.feeds}
        for step in self.plan.steps:
            feed = feeds.get(step.index)
            if feed is not None:
                data = self._fed[feed.input][feed.start : feed.start + feed.nbytes]
                self.arena[feed.offset : feed.offset + feed.nbytes] = data
            self._step(self._pointer, step.index)
            found.append(self.arena[step.offset : step.offset + step.nbytes].tobytes())
        return tuple(found)

    def close(self) -> None:
        self._folder.cleanup()

    def __enter__(self) -> HostRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def compile_host(
    artifact: Artifact,
    output: Path,
    *,
    flags: Sequence[str] = (),
    extra: Sequence[Path] = (),
    compiler: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Compiles an artifact's sources (and ``extra`` ones) with the system's compiler.

    Raises:
        MissingDependency: there is no C compiler, or it fails; holds its first message.
    """
    cc = compiler or find_compiler()
    command = [
        cc,
        "-std=c11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        *flags,
        *(f"-I{artifact.folder / folder}" for folder in artifact.include_dirs),
        *(str(artifact.folder / source) for source in artifact.sources),
        *(str(path) for path in extra),
        "-o",
        str(output),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(environment or os.environ)
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        first = lines[0] if lines else done.stderr.strip()[:500]
        raise MissingDependency(f"the C compiler {cc} failed: {first}", str(artifact.folder))


def find_compiler() -> str:
    """The system's C compiler.

    Raises:
        MissingDependency: there is none.
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise MissingDependency("running generated C on the host needs a C compiler (gcc or clang)")
