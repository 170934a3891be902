"""The benchmarks of MLPerf Tiny as their runner uses them (mlcommons/tiny, v1.3 and v1.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edgekit.records import Plan

InputKind = Literal["int8", "uint8", "float32"]
#: Windows shorter than this are not accepted in a submission, seconds.
LEAST_WINDOW_S = 10.0
#: Inputs of performance mode.
PERFORMANCE_INPUTS = 5


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: what the runner sends, how often it runs, what counts.

    ``iterations`` and ``warmups`` are those of performance mode. ``elements`` is the number of
    values of an input, of which the runner sends ``input_bytes``. ``stride_bytes`` is the step of
    the window that slides over a recording, 0 where a file is one input.
    """

    name: str
    title: str
    input: InputKind
    elements: int
    outputs: int
    iterations: int
    warmups: int
    metric: Literal["top1", "auc"]
    stride_bytes: int = 0

    @property
    def input_bytes(self) -> int:
        return self.elements * (4 if self.input == "float32" else 1)

    @property
    def reconstructs(self) -> bool:
        """The result is one number, the error of the output as a copy of the input."""
        return self.outputs == 1


BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark("kws01", "keyword spotting", "int8", 490, 12, 70, 10, "top1"),
        Benchmark("ic01", "image classification", "uint8", 3072, 10, 20, 5, "top1"),
        Benchmark("vww01", "visual wake words", "uint8", 27648, 2, 20, 5, "top1"),
        Benchmark("ad01", "anomaly detection", "float32", 640, 1, 1500, 10, "auc", 512),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in BENCHMARKS:
        raise UsageError(
            f"edgekit does not know the benchmark '{name}'", fix=f"one of: {', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[name]


def benchmark_of(plan: Plan, name: str | None = None) -> Benchmark:
    """The benchmark whose input and output a model has.

    Args:
        plan: of the model.
        name: the benchmark that is wanted; by default the only one that fits.

    Raises:
        ModelError: the model does not have the wanted one's input and output, or none's.
    """
    wanted = [find_benchmark(name)] if name is not None else list(BENCHMARKS.values())
    if len(plan.inputs) == len(plan.outputs) == 1:
        given, made = plan.inputs[0], plan.outputs[0]
        for benchmark in wanted:
            outputs = benchmark.elements if benchmark.reconstructs else benchmark.outputs
            if (given.nbytes, made.nbytes) == (benchmark.elements, outputs) and (
                given.dtype == made.dtype == "int8"
                and given.scale is not None
                and made.scale is not None
            ):
                return benchmark
    sizes = " and ".join(
        f"{view.nbytes:,} B of {view.dtype} {way}"
        for views, way in ((plan.inputs, "in"), (plan.outputs, "out"))
        for view in views
    )
    names = name or "any benchmark of MLPerf Tiny"
    raise ModelError(
        f"this is no model for {names}: {sizes}",
        fix="int8 models of 490 in and 12 out (kws01), 3,072 and 10 (ic01), 27,648 and 2 (vww01), "
        "640 and 640 (ad01)",
    )
