"""What a remote run says beside its times: outputs against the host's, accuracy, records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import MissingDependency, ModelError
from edgekit.graph.macs import model_cost
from edgekit.records import Measurement, OutputCheck
from edgekit.remote.linux import largest_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model
    from edgekit.quality.dataset import Dataset
    from edgekit.quality.metrics import Accuracy, Metric
    from edgekit.remote.linux import LinuxBench

#: The host's reference kernels are slow: outputs of so many inputs are compared at most.
COMPARED = 32
#: In this order: TFLM lacks kernels of some operators, and hybrid ones.
_REFERENCES = ("tflm", "litert-ref", "litert")


@dataclass(frozen=True)
class Comparison:
    """Outputs of a device against a runtime's on this computer.

    ``largest`` is the largest difference of an element (in steps of the quantisation for
    integers), ``differing`` the number of inputs with any difference, ``argmax_differing`` of
    those where the largest output changed its place. ``missing``: why there is no comparison.
    """

    reference: str
    compared: int
    differing: int
    argmax_differing: int
    largest: float
    integer: bool
    missing: str | None = None

    @property
    def equal(self) -> bool | None:
        return None if self.missing else self.differing == 0


def compare_with_host(
    model: Model, samples: Sequence[Sequence[NDArray[Any]]], outputs: Sequence[NDArray[Any]]
) -> Comparison:
    """Compares ``outputs`` (``[N, …]`` per output of the model) with a reference on this computer.

    LiteRT's kernels round differently from TFLM's here and there, by a step or a few: a
    difference is a figure, not a failure.
    """
    from edgekit.runtimes import open_runner

    chosen = samples[:COMPARED]
    missing = "no runtime on this computer takes the model"
    for name in _REFERENCES:
        try:
            with open_runner(name, model.raw) as runner:
                wanted = [runner.invoke(*sample) for sample in chosen]
                title = runner.title
            break
        except (ModelError, MissingDependency) as error:
            missing = error.what
    else:
        return Comparison("none", 0, 0, 0, 0.0, False, missing)
    differing = moved = 0
    largest = 0.0
    for i, reference in enumerate(wanted):
        pairs = [(mine[i], other) for mine, other in zip(outputs, reference, strict=True)]
        if any(mine.shape != other.shape for mine, other in pairs):
            shapes = ", ".join(str(list(mine.shape)) for mine, _ in pairs)
            return Comparison("none", 0, 0, 0, 0.0, False, f"the outputs have the shapes {shapes}")
        if all(mine.tobytes() == other.tobytes() for mine, other in pairs):
            continue
        differing += 1
        moved += any(
            mine.size > 1 and int(mine.argmax()) != int(other.argmax()) for mine, other in pairs
        )
        largest = max(largest, *(largest_difference(mine, other) for mine, other in pairs))
    integer = all(output.dtype.kind in "iu" for output in outputs)
    return Comparison(title, len(chosen), differing, moved, largest, integer)


def metric_for(model: Model, dataset: Dataset) -> Metric | None:
    """The metric that the labels fit; ``None`` where there are none, or none that fits.

    A reconstruction of the input with labels 0 and 1 is ``auc``, classes are ``top1``, real
    numbers of the output's shape are ``mse``.
    """
    import numpy as np

    labels = dataset.labels
    if labels is None or not model.outputs:
        return None
    elements = model.output_tensors[0].elements
    one_each = labels.size == len(dataset)
    whole = labels.dtype.kind in "iub"
    binary = whole and one_each and set(np.unique(labels).tolist()) == {0, 1}
    if binary and (elements == 1 or elements == model.input_tensors[0].elements):
        return "auc"
    if whole and one_each and elements > 1 and dataset.windows == 1:
        return "top1"
    if not whole and labels.size == len(dataset) * elements * dataset.windows:
        return "mse"
    return None


def accuracy_of(model: Model, dataset: Dataset, outputs: Sequence[NDArray[Any]]) -> Accuracy | None:
    """The accuracy of outputs that a device computed for all of the data.

    Raises:
        ModelError: the labels make no sense for the model.
    """
    from edgekit.quality.metrics import accuracy

    metric = metric_for(model, dataset)
    if metric is None:
        return None
    results: Iterator[list[NDArray[Any]]] = (
        [output[i] for output in outputs] for i in range(len(outputs[0]))
    )
    return accuracy(lambda *_: next(results), dataset, model, metric)


def measurements(
    model: Model, bench: LinuxBench, target: str, port: str, warmups: int, check: Comparison
) -> tuple[Measurement, ...]:
    """The runs as records, one per number of threads."""
    macs = model_cost(model).macs
    return tuple(
        Measurement(
            kind="measured",
            target=target,
            engine="litert",
            port=port,
            model_name=model.name,
            model_sha256=model.sha256,
            model_macs=macs,
            build_id=None,
            warmups=warmups,
            runs=len(run.latencies_us),
            latencies_us=run.latencies_us,
            memory={
                "threads": run.threads,
                "peak_bytes": run.peak_bytes,
                "before_bytes": run.before_bytes,
            },
            outputs=OutputCheck(check.reference, check.compared, check.equal),
            notes=(bench.package, *bench.notes),
        )
        for run in bench.runs
    )
