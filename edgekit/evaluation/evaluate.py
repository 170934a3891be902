"""What ``edgekit eval`` does: data and boards → results → accuracy, latency, differences."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bench import check_model, kind_of
from edgekit.device import Device
from edgekit.errors import ModelError, UsageError
from edgekit.evaluation.results import Result, ResultsFile
from edgekit.evaluation.stations import Lost, Station, work_off
from edgekit.links import open_link
from edgekit.quality.metrics import Accuracy, Metric, accuracy
from edgekit.records import Firmware, Kind
from edgekit.report.figures import percentile
from edgekit.runtimes import open_runner
from edgekit.targets import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model
    from edgekit.quality.dataset import Dataset

#: A port of these kinds starts its board: when the board is gone, opening it again is another.
_OWN_BOARDS = ("virtual", "qemu", "command")


@dataclass(frozen=True)
class Difference:
    """An input whose output on the board is not the host's."""

    index: int
    port: str
    output: int
    #: elements that differ, and by how much at most
    elements: int
    largest: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the boards gave.

    ``latency_us`` has p50, p95, p99 and max over all inferences; ``None`` where the board's time is
    no chip's. ``answered`` counts results by port, ``resumed`` those that were there before.
    """

    kind: Kind
    inputs: int
    resumed: int
    answered: dict[str, int]
    lost: tuple[Lost, ...]
    accuracy: Accuracy | None
    latency_us: dict[str, float] | None
    different: tuple[Difference, ...]
    results: Path
    adaptation: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What to evaluate. ``metric``: by default what the data's labels allow."""

    firmware: Firmware
    target: Target
    ports: tuple[str, ...]
    model: Model
    dataset: Dataset
    results: Path
    metric: Metric | None = None


def station_names(ports: Sequence[str]) -> list[str]:
    """A name for each port: the port, numbered where there are several of the same.

    Raises:
        UsageError: two of them are one board.
    """
    counts = Counter(ports)
    for port, count in counts.items():
        if count > 1 and _innermost(port).partition(":")[0] not in _OWN_BOARDS:
            raise UsageError(f"'{port}' is given {count} times, and is one board")
    seen: Counter[str] = Counter()
    names = []
    for port in ports:
        seen[port] += 1
        names.append(f"{port} #{seen[port]}" if counts[port] > 1 else port)
    return names


def stations_of(plan: Plan) -> list[Station]:
    """The boards of a plan's ports."""

    def opener(port: str) -> Callable[[], Device]:
        def open_device() -> Device:
            device = Device(open_link(port, plan.target, plan.firmware))
            try:
                device.connect(plan.firmware.build_id)
            except BaseException:
                device.close()
                raise
            return device

        return open_device

    return [
        Station(name, opener(port), 0.0 if port.partition(":")[0] in _OWN_BOARDS else 30.0)
        for name, port in zip(station_names(plan.ports), plan.ports, strict=True)
    ]


def evaluate(
    plan: Plan,
    *,
    stations: Sequence[Station] | None = None,
    progress: Callable[[int], None] = lambda amount: None,
    lose: Callable[[Lost], None] = lambda lost: None,
) -> Evaluation:
    """Runs what has no result yet, and sums everything up.

    Args:
        stations: the boards; by default those of the plan's ports.
        progress: called with the number of inputs that are done, as they are.
        lose: called when a board is lost.

    Raises:
        ModelError: data, model and firmware do not fit together.
        UsageError: the results file is of something else.
        DeviceError: no board is left; the results that came are in the file.
    """
    check_model(plan.model.sha256, plan.firmware)
    dataset, total = plan.dataset, len(plan.dataset.inputs[0])
    begun = time.monotonic()
    lost: list[Lost] = []
    subject = {
        "build_id": plan.firmware.build_id,
        "model_sha256": plan.firmware.model_sha256,
        "data": dataset.source,
        "data_sha256": _digest(dataset),
        "inputs": total,
    }
    different: list[Difference] = []
    with (
        ResultsFile(plan.results, subject) as file,
        open_runner("tflm", plan.model.raw) as host,
    ):

        def compare(result: Result) -> None:
            expected = host.invoke(*_sample(dataset, result.index))
            different.extend(_differences(result, expected))

        resumed = len(file.results)
        for result in file.results.values():
            compare(result)
            progress(1)
        missing = [index for index in range(total) if index not in file.results]
        boards = stations if stations is not None else (stations_of(plan) if missing else [])
        for event in work_off(boards, missing, lambda index: _raw(dataset, index)):
            if isinstance(event, Lost):
                lost.append(event)
                lose(event)
                continue
            file.add(event)
            compare(event)
            progress(1)
        results = [file.results[index] for index in range(total)]
    kinds = {kind_of(result.port.partition(" #")[0]) for result in results}
    metric = plan.metric or _usual_metric(dataset, plan.model)
    return Evaluation(
        kind="measured" if kinds == {"measured"} else "simulated",
        inputs=total,
        resumed=resumed,
        answered=dict(sorted(Counter(result.port for result in results).items())),
        lost=tuple(lost),
        accuracy=_accuracy(plan, results, metric) if metric is not None else None,
        latency_us=latency_us(results),
        different=tuple(sorted(different, key=lambda d: (d.index, d.output))),
        results=plan.results,
        adaptation=dataset.rules,
        seconds=time.monotonic() - begun,
    )


def latency_us(results: Sequence[Result]) -> dict[str, float] | None:
    """p50, p95, p99 and max. A virtual board's timers tell a chip's time only when it profiles."""
    for port in {result.port.partition(" #")[0] for result in results}:
        if kind_of(port) == "simulated" and not _innermost(port).startswith("virtual:profile"):
            return None
    values = [1e6 * result.ticks / result.tick_hz for result in results]
    return {
        "p50": percentile(values, 0.5),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "max": max(values),
    }


def default_results(plan_firmware: Firmware, data: Path) -> Path:
    """Where results are kept when nobody says: the same name for the same firmware and data."""
    return Path(f"{plan_firmware.model_name}-{plan_firmware.build_id[:8]}-{data.stem}.eval.jsonl")


def _innermost(port: str) -> str:
    while port.startswith("mistreated:"):
        port = port.split(":", 2)[-1]
    return port


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for array in dataset.inputs:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _sample(dataset: Dataset, index: int) -> list[NDArray[Any]]:
    return [array[index] for array in dataset.inputs]


def _raw(dataset: Dataset, index: int) -> list[bytes]:
    return [np.ascontiguousarray(array).tobytes() for array in _sample(dataset, index)]


def _differences(result: Result, expected: Sequence[NDArray[Any]]) -> list[Difference]:
    found = []
    for position, (data, wanted) in enumerate(zip(result.outputs, expected, strict=True)):
        if data == wanted.tobytes():
            continue
        got = np.frombuffer(data, wanted.dtype)
        apart = np.abs(got.astype(np.float64) - wanted.reshape(-1).astype(np.float64))
        # bytes may differ where numbers do not: two kinds of zero or of not-a-number
        elements = int((apart != 0).sum())
        found.append(
            Difference(result.index, result.port, position, elements, float(np.nanmax(apart)))
        )
    return found


def _usual_metric(dataset: Dataset, model: Model) -> Metric | None:
    if dataset.labels is None or dataset.labels.size != len(dataset):
        return None
    if dataset.labels.dtype.kind not in "iub":
        return None
    elements = model.output_tensors[0].elements
    reconstructs = elements == model.input_tensors[0].elements
    if dataset.windows == 1 and not reconstructs and elements > 1:
        return "top1"
    return "auc" if set(np.unique(dataset.labels).tolist()) == {0, 1} else None


def _accuracy(plan: Plan, results: Sequence[Result], metric: Metric) -> Accuracy:
    tensors = plan.model.output_tensors
    replay = iter(results)

    def invoke(*_: object) -> list[NDArray[Any]]:
        outputs = next(replay).outputs
        if [len(data) for data in outputs] != [
            tensor.elements * np.dtype(tensor.dtype).itemsize for tensor in tensors
        ]:
            raise ModelError("the device's outputs do not have the model's sizes", plan.model.name)
        return [
            np.frombuffer(data, tensor.dtype).reshape(tensor.shape)
            for data, tensor in zip(outputs, tensors, strict=True)
        ]

    return accuracy(invoke, plan.dataset, plan.model, metric)
