"""All of ``edgekit validate``: what is measured, in which order, and which limits hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgekit.errors import ModelError, UsageError
from edgekit.quality.agreement import Agreement, compare_runtimes
from edgekit.quality.dataset import Dataset, InputMode, read_dataset
from edgekit.quality.layers import LayerErrors, layer_errors, read_reference
from edgekit.quality.metrics import METRICS, Accuracy, Metric, accuracy
from edgekit.quality.on_device import Board, DeviceAccuracy, measure_on_device
from edgekit.quality.synthetic import recipe, synthetic_inputs
from edgekit.runtimes import open_runner
from edgekit.runtimes.litert import installed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model

#: ``progress("what is done", how many steps)`` gives a context with a function to count them.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Limit:
    """A limit that the user set, and whether the value keeps it."""

    name: str
    limit: float
    value: float
    kept: bool


@dataclass(frozen=True)
class Request:
    """What to validate. ``reference`` is the float original; ``data`` an ``.npz`` file.

    ``limits`` are by option: ``min_top1``, ``min_auc``, ``max_mse``. ``samples`` bounds the
    inputs for the error per operator and the comparison of runtimes; accuracy takes ``count``
    of the data, by default all. ``runtime`` computes the accuracy; with ``board`` a board does,
    and its outputs are compared with TFLM's.
    """

    reference: Path | None = None
    data: Path | None = None
    metric: Metric | None = None
    input_mode: InputMode = "auto"
    samples: int = 16
    count: int | None = None
    runtime: str = "tflm"
    board: Board | None = None
    limits: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Validation:
    """What was found; ``None`` where it was not asked for or could not be had.

    ``inputs`` says where the inputs came from, ``adaptation`` by which rules the data became
    inputs. ``agreement_missing`` is the reason why the runtimes were not compared.
    """

    inputs: str
    adaptation: tuple[str, ...]
    accuracy: Accuracy | None
    accuracy_runtime: str | None
    reference_accuracy: Accuracy | None
    layers: LayerErrors | None
    agreement: Agreement | None
    agreement_missing: str | None
    limits: tuple[Limit, ...]
    device: DeviceAccuracy | None = None

    @property
    def passed(self) -> bool:
        equal = self.device is None or self.device.equal == self.device.compared
        return equal and all(limit.kept for limit in self.limits)


def validate(model: Model, request: Request, progress: Progress) -> Validation:
    """Measures what the request asks for.

    Raises:
        UsageError: a limit without its metric, or a metric without data.
        ModelError: the data, the model or the reference is invalid, or no runtime takes it.
    """
    metric = _metric(request)
    dataset = None
    if request.data is not None:
        dataset = read_dataset(request.data, model, mode=request.input_mode, limit=request.count)
    if dataset is not None:
        inputs: Sequence[Sequence[NDArray[Any]]] = dataset.spread(request.samples)
        source = f"{len(inputs)} of {dataset.source}"
    else:
        inputs = synthetic_inputs(model, min(request.samples, 4))
        source = f"{len(inputs)} synthetic ({recipe()})"
    measured, title, device = None, None, None
    if request.board is not None and (metric is None or dataset is None):
        raise UsageError("a board is validated on data", fix="--data FILE.npz --metric top1")
    if metric is not None and dataset is not None:
        if request.board is None:
            measured, title = _measure(model, dataset, metric, request.runtime, progress)
        else:
            device = _measure_on_board(model, dataset, metric, request.board, progress)
            measured = device.accuracy
            title = f"{request.board.target} on {request.board.port}"
    layers, reference_accuracy = None, None
    if request.reference is not None:
        reference = read_reference(request.reference)
        with progress("comparing every operator with the float model", len(inputs)) as step:
            layers = layer_errors(model, reference, inputs, step)
        if metric is not None and dataset is not None:
            reference_accuracy = _measure_reference(
                model, reference, dataset, metric, request, progress
            )
    agreement, missing = _agreement(model, inputs, progress)
    return Validation(
        inputs=source,
        adaptation=dataset.rules if dataset else (),
        accuracy=measured,
        accuracy_runtime=title,
        reference_accuracy=reference_accuracy,
        layers=layers,
        agreement=agreement,
        agreement_missing=missing,
        limits=_limits(request, measured),
        device=device,
    )


def _measure_on_board(
    model: Model, dataset: Dataset, metric: Metric, board: Board, progress: Progress
) -> DeviceAccuracy:
    total = len(dataset.inputs[0])
    with progress(f"running {total} inputs on {board.target}", total) as step:
        return measure_on_device(model, dataset, metric, board, step)


def _metric(request: Request) -> Metric | None:
    """The metric that was asked for, by name or by a limit on it."""
    wanted = {name.split("_", 1)[1] for name in request.limits}
    if request.metric is not None:
        wanted.add(request.metric)
    if len(wanted) > 1:
        raise UsageError(f"one metric at a time, not {' and '.join(sorted(wanted))}")
    if not wanted:
        return None
    if request.data is None:
        raise UsageError(
            f"the metric {min(wanted)} needs data", fix="--data FILE.npz with arrays x and y"
        )
    found = min(wanted)
    if found not in METRICS:
        raise UsageError(f"there is no metric '{found}'", fix=f"one of: {', '.join(METRICS)}")
    return cast("Metric", found)


def _measure(
    model: Model, dataset: Dataset, metric: Metric, runtime: str, progress: Progress
) -> tuple[Accuracy, str]:
    total = len(dataset.inputs[0])
    with (
        open_runner(runtime, model.raw) as runner,
        progress(f"running {total} inputs in {runtime}", total) as step,
    ):
        return accuracy(runner.invoke, dataset, model, metric, step), runner.title


def _measure_reference(
    model: Model,
    reference: Model,
    dataset: Dataset,
    metric: Metric,
    request: Request,
    progress: Progress,
) -> Accuracy:
    """The float model on the same inputs, as the real numbers that they stand for."""
    from edgekit.convert.verify import dequantize_array

    reals = Dataset(
        inputs=tuple(
            dequantize_array(values, tensor).astype(other.dtype)
            for values, tensor, other in zip(
                dataset.inputs, model.input_tensors, reference.input_tensors, strict=True
            )
        ),
        labels=dataset.labels,
        rules=dataset.rules,
        source=dataset.source,
        windows=dataset.windows,
    )
    try:
        return _measure(reference, reals, metric, "tflm", progress)[0]
    except ModelError:
        # TFLM lacks float kernels of some operators, and hybrid ones.
        return _measure(reference, reals, metric, "litert", progress)[0]


def _agreement(
    model: Model, inputs: Sequence[Sequence[NDArray[Any]]], progress: Progress
) -> tuple[Agreement | None, str | None]:
    if installed() is None:
        return None, "LiteRT is not installed: pip install 'edgekit[convert]'"
    with progress("comparing TFLM with LiteRT's reference kernels", 1) as step:
        try:
            found = compare_runtimes(model, inputs)
        except ModelError as error:
            return None, error.what
        step(1)
    return found, None


def _limits(request: Request, measured: Accuracy | None) -> tuple[Limit, ...]:
    if measured is None:
        return ()
    limits = []
    for name, limit in request.limits.items():
        kept = measured.value <= limit if name.startswith("max") else measured.value >= limit
        limits.append(Limit(name.replace("_", "-"), limit, measured.value, kept))
    return tuple(limits)
