"""A model on a board as one more runtime: its accuracy there, and its outputs beside TFLM's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.quality.metrics import Accuracy, accuracy
from edgekit.runtimes import open_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.device import Device
    from edgekit.graph import Model
    from edgekit.quality.dataset import Dataset
    from edgekit.quality.metrics import Metric
    from edgekit.records import Plan


@dataclass(frozen=True)
class Board:
    """Which board to run on; ``port`` as in ``edgekit bench --port``."""

    target: str
    port: str = "virtual"
    compiler: str | None = None


@dataclass(frozen=True, eq=False)
class DeviceAccuracy:
    """``accuracy`` of a board's outputs; ``equal`` of ``compared`` are TFLM's to the byte.

    ``first_different`` is the index of the first input whose output is not.
    """

    board: Board
    kind: str
    build_id: str
    accuracy: Accuracy
    compared: int
    equal: int
    first_different: int | None


def measure_on_device(
    model: Model,
    dataset: Dataset,
    metric: Metric,
    board: Board,
    progress: Callable[[int], None] = lambda count: None,
) -> DeviceAccuracy:
    """Builds the model's firmware, runs all data through it and through TFLM.

    Raises:
        EdgekitError: whatever building, the board or the data raise.
    """
    from edgekit.bench import kind_of

    different: list[int] = []
    done = 0
    with _running(model, board) as (device, plan, build_id), open_runner("tflm", model.raw) as tflm:

        def invoke(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
            nonlocal done
            outputs = _infer(device, plan, inputs)
            expected = tflm.invoke(*inputs)
            if any(a.tobytes() != b.tobytes() for a, b in zip(outputs, expected, strict=True)):
                different.append(done)
            done += 1
            return outputs

        found = accuracy(invoke, dataset, model, metric, progress)
    return DeviceAccuracy(
        board=board,
        kind=kind_of(board.port),
        build_id=build_id,
        accuracy=found,
        compared=done,
        equal=done - len(different),
        first_different=different[0] if different else None,
    )


@contextmanager
def _running(model: Model, board: Board) -> Iterator[tuple[Device, Plan, str]]:
    """A device that runs the model's firmware, built for the length of the block."""
    from edgekit import engines
    from edgekit.bench import connected, kind_of
    from edgekit.build import build
    from edgekit.errors import UsageError
    from edgekit.flashing import flash
    from edgekit.targets import load_target

    target = load_target(board.target)
    command = f"edgekit validate {model.name}.tflite --target {target.name}"
    with tempfile.TemporaryDirectory(prefix="edgekit-validate-") as folder:
        engine = engines.load("aot")
        artifact = engine.compile(
            model, target, Path(folder) / "artifact", command=command, options={}
        )
        firmware = build(
            artifact, target, Path(folder) / "firmware", compiler=board.compiler, command=command
        )
        if firmware.plan is None:
            raise UsageError(f"the firmware for {target.name} has no plan of its inputs")
        if kind_of(board.port) == "measured":
            flash(firmware, target, board.port)
        with connected(board.port, target, firmware) as device:
            yield device, firmware.plan, firmware.build_id


def _infer(device: Device, plan: Plan, inputs: tuple[NDArray[Any], ...]) -> list[NDArray[Any]]:
    import numpy as np

    sent = [np.ascontiguousarray(array).tobytes() for array in inputs]
    return [
        np.frombuffer(raw, view.dtype).reshape(view.shape)
        for raw, view in zip(device.infer(sent), plan.outputs, strict=True)
    ]
