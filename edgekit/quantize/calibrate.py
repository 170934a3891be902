"""What values every tensor of the float graph takes over samples.

The graph runs in TensorFlow Lite with its default kernels, one sample after the other, which is
what TensorFlow's own calibration does: the same samples give the same ranges, bit for bit. A
second run fills histograms where a technique wants them. Memory is bounded by one sample's
tensors and a histogram per tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.model import Model
from edgekit.graph.reader import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals = NDArray[np.float64]

#: Inputs of the model, batch of 1 each, one sample after the other.
Inputs = Sequence[Sequence["NDArray[Any]"]]

#: TensorFlow's calibration runs with so many, and the order of sums depends on it.
_THREADS = 4
#: Bins on either side of zero: 32 for each step of int8 over a range that one side spans.
_BINS = 8192


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values occur: bin ``i`` is centred at ``(i - bins) * width``, zero exactly."""

    counts: Reals
    width: float

    @property
    def centres(self) -> Reals:
        import numpy as np

        half = (self.counts.size - 1) // 2
        result: Reals = np.arange(-half, half + 1) * self.width
        return result


@dataclass(frozen=True, eq=False)
class Values:
    """A tensor's values over all samples.

    ``channel_low`` and ``channel_high`` [channels] are along the last axis.
    """

    low: float
    high: float
    count: int
    channel_low: Reals
    channel_high: Reals
    histogram: Histogram | None = None


def calibrate(
    model: Model,
    inputs: Inputs,
    tensors: Collection[int],
    *,
    histograms: bool = False,
    isolated: bool = True,
    on_sample: Callable[[int], None] = lambda count: None,
) -> dict[int, Values]:
    """Runs the float model over samples.

    Args:
        model: a prepared model.
        inputs: samples in the order of the model's inputs.
        tensors: whose values are wanted.
        histograms: fill histograms as well, which takes a second run.
        isolated: run the model in a process of its own.
        on_sample: called with 1 after every run of a sample (twice each with histograms).

    Raises:
        ModelError: there are no samples, the runtime does not take the model, or a tensor's
            shape differs from the one in the file.
    """
    from edgekit.runtimes import open_runner

    if not inputs:
        raise ModelError("there are no samples to calibrate with", model.name)
    wanted = sorted(tensors)
    found = {index: _Extremes() for index in wanted}
    with open_runner(
        "litert", model.raw, keep_tensors=True, threads=_THREADS, isolated=isolated
    ) as runner:
        for sample in inputs:
            runner.invoke(*sample)
            for index, values in zip(wanted, runner.tensors(wanted), strict=True):
                _check_shape(model, index, values)
                found[index].add(values)
            on_sample(1)
        counts = {index: _Counts(found[index].magnitude) for index in wanted if histograms}
        for sample in inputs if histograms else ():
            runner.invoke(*sample)
            for index, values in zip(wanted, runner.tensors(wanted), strict=True):
                counts[index].add(values)
            on_sample(1)
    return {
        index: extremes.values(counts[index].histogram() if histograms else None)
        for index, extremes in found.items()
    }


def _check_shape(model: Model, index: int, values: NDArray[Any]) -> None:
    tensor = model.tensors[index]
    if values.shape != tensor.shape:
        raise ModelError(
            f"'{shown(tensor.name)}' has the shape {list(values.shape)} when the model runs, and "
            f"{list(tensor.shape)} in the file: shapes must be fixed",
            model.name,
            "convert the trained model with fixed shapes (--input-shape)",
        )


class _Extremes:
    def __init__(self) -> None:
        self.low: Any = None
        self.high: Any = None
        self.count = 0

    def add(self, values: NDArray[Any]) -> None:
        import numpy as np

        rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
        low, high = rows.min(axis=0), rows.max(axis=0)
        # NaN goes through minimum and maximum, and is met when the range is used.
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)
        self.count += values.size

    @property
    def magnitude(self) -> float:
        return max(abs(float(self.low.min())), abs(float(self.high.max())))

    def values(self, histogram: Histogram | None) -> Values:
        import numpy as np

        return Values(
            low=float(self.low.min()),
            high=float(self.high.max()),
            count=self.count,
            channel_low=self.low.astype(np.float64),
            channel_high=self.high.astype(np.float64),
            histogram=histogram,
        )


class _Counts:
    def __init__(self, magnitude: float) -> None:
        import numpy as np

        finite = bool(np.isfinite(magnitude)) and magnitude > 0
        self.width = magnitude / _BINS if finite else 1.0
        self.counts = np.zeros(2 * _BINS + 1, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        import numpy as np

        flat = values.reshape(-1)
        flat = flat[np.isfinite(flat)]
        bins = np.rint(flat * np.float32(1 / self.width)).astype(np.int32) + _BINS
        np.clip(bins, 0, 2 * _BINS, out=bins)
        self.counts += np.bincount(bins, minlength=2 * _BINS + 1)

    def histogram(self) -> Histogram:
        import numpy as np

        return Histogram(self.counts.astype(np.float64), self.width)


def ranges(values: Mapping[int, Values]) -> dict[int, tuple[float, float]]:
    """The smallest and largest value of each tensor."""
    return {index: (v.low, v.high) for index, v in values.items()}
