"""MLPerf Tiny's runner: performance and accuracy mode, and the files of a session.

The files have the form that submissions use (``log.txt``, ``results.txt``, ``results.json`` as the
runner of mlcommons/tiny v1.3 and v1.4 writes them), so that the tools that read those read these.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.errors import DeviceError, UsageError
from edgekit.mlperf.benchmarks import LEAST_WINDOW_S, PERFORMANCE_INPUTS, Benchmark
from edgekit.mlperf.dut import Dut, Inference, Profile
from edgekit.mlperf.samples import Sample
from edgekit.quality.metrics import area_under_curve

Mode = Literal["performance", "accuracy"]
_LETTERS: dict[Mode, str] = {"performance": "p", "accuracy": "a"}
_RULE = "-" * 57


@dataclass(frozen=True)
class Run:
    """One input through the device."""

    sample: Sample
    window: int
    iterations: int
    warmups: int
    inference: Inference

    @property
    def throughput(self) -> float:
        """Inferences per second of the device's time; 0 without times."""
        elapsed = self.inference.elapsed_us
        return 1e6 * self.iterations / elapsed if elapsed else 0.0


@dataclass(frozen=True)
class Summary:
    """What a session found. ``top1`` and ``auc`` are shares; ``None`` where they do not exist."""

    mode: Mode
    profile: Profile
    benchmark: Benchmark
    runs: tuple[Run, ...]
    throughput: float | None = None
    top1: float | None = None
    auc: float | None = None
    #: why a submission would not take it
    remarks: tuple[str, ...] = ()


@dataclass
class Log:
    """``log.txt``, as far as it has come; whoever watches gets each line as it is written."""

    watch: Callable[[str], None] = lambda line: None
    lines: list[str] = field(default_factory=list)

    def bare(self, line: str) -> None:
        self.lines.append(line)
        self.watch(line)

    def stamped(self, line: str) -> None:
        self.bare(f"{stamp()} ulp-mlperf: {line}")


def stamp() -> str:
    return datetime.now().strftime("%m%d.%H%M%S")


def performance(
    dut: Dut,
    profile: Profile,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    *,
    iterations: int | None = None,
    warmups: int | None = None,
    log: Log,
    progress: Callable[[int], None] = lambda amount: None,
) -> Summary:
    """Times five inputs; the median of their throughputs counts.

    Raises:
        UsageError: there are no five inputs.
        DeviceError: the device failed, or sends no timestamps.
    """
    if len(samples) < PERFORMANCE_INPUTS:
        raise UsageError(
            f"performance mode takes {PERFORMANCE_INPUTS} inputs, these are {len(samples)}"
        )
    count = benchmark.iterations if iterations is None else iterations
    before = benchmark.warmups if warmups is None else warmups
    runs = []
    for sample in samples[:PERFORMANCE_INPUTS]:
        run = _run(dut, sample, 0, count, before, log)
        if not run.inference.elapsed_us:
            raise DeviceError(
                "the device sends no timestamps as text",
                dut.link.name,
                "a firmware in energy mode needs a power monitor: build it without --energy",
            )
        runs.append(run)
        _tell_window(log, len(runs), run)
        progress(1)
    shortest = min(run.inference.elapsed_us or 0 for run in runs) / 1e6
    remarks = []
    if shortest < LEAST_WINDOW_S:
        remarks.append(
            f"the shortest window took {shortest:.3f} s, a submission wants {LEAST_WINDOW_S:g}"
        )
    return Summary(
        "performance",
        profile,
        benchmark,
        tuple(runs),
        throughput=statistics.median(run.throughput for run in runs),
        remarks=tuple(remarks),
    )


def accuracy(
    dut: Dut,
    profile: Profile,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    *,
    log: Log,
    progress: Callable[[int], None] = lambda amount: None,
) -> Summary:
    """Runs every window of every sample once. Windows of a sample are averaged.

    Raises:
        UsageError: the samples have no classes.
        DeviceError: the device failed.
    """
    if any(sample.label is None for sample in samples):
        raise UsageError("accuracy mode needs the classes of the data, 'y'")
    runs: list[Run] = []
    for sample in samples:
        for window in range(len(sample.windows)):
            runs.append(_run(dut, sample, window, 1, 0, log))
            _tell_window(log, len(runs), runs[-1])
        progress(1)
    labels = np.array([sample.label for sample in samples])
    scores = scores_of(runs, samples)
    top1 = None
    if not benchmark.reconstructs:
        top1 = float((scores.argmax(axis=1) == labels).mean())
    return Summary(
        "accuracy",
        profile,
        benchmark,
        tuple(runs),
        top1=top1,
        auc=auc_of(scores, labels),
    )


def scores_of(runs: Sequence[Run], samples: Sequence[Sample]) -> np.ndarray[Any, Any]:
    """Results per sample, ``[N, outputs]``: the mean over its windows."""
    by_file: dict[str, list[tuple[float, ...]]] = {}
    for run in runs:
        by_file.setdefault(run.sample.file, []).append(run.inference.results)
    widths = {len(run.inference.results) for run in runs}
    if len(widths) != 1:
        raise DeviceError(f"the device sent results of different lengths: {sorted(widths)}")
    return np.array([np.mean(by_file[sample.file], axis=0) for sample in samples])


def auc_of(scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float | None:
    """Area under the ROC curve. One output: the score of class 1; two: the second's; more: every
    class against the rest, the mean over classes that are there. ``None`` without two classes.
    """
    if scores.shape[1] <= 2:
        if set(np.unique(labels).tolist()) != {0, 1}:
            return None
        return area_under_curve(scores[:, -1], labels)
    found = [c for c in range(scores.shape[1]) if 0 < (labels == c).sum() < len(labels)]
    if not found:
        return None
    totals = scores.sum(axis=1, keepdims=True)
    shares = scores / np.where(totals == 0, 1, totals)
    return float(np.mean([area_under_curve(shares[:, c], labels == c) for c in found]))


def _run(dut: Dut, sample: Sample, window: int, count: int, warmups: int, log: Log) -> Run:
    log.stamped(f"Loading file {sample.file} segment {window}")
    dut.load(sample.windows[window])
    log.stamped("Load complete.")
    log.bare(f"Running inference with {warmups}/{count} (warmup/measured) iterations ...")
    return Run(sample, window, count, warmups, dut.infer(count, warmups))


def _tell_window(log: Log, number: int, run: Run) -> None:
    seconds = (run.inference.elapsed_us or 0) / 1e6
    log.stamped(f"Performance results for window {number}:")
    log.stamped(f"  # Inferences : {run.iterations:>13}")
    log.stamped(f"  Runtime      : {seconds:>10.3f} sec.")
    log.stamped(f"  Throughput   : {run.throughput:>10.3f} inf./sec.")
    log.stamped(f"  m-results    : {list(run.inference.results)}")


# ---- the session's files ----


def result_lines(summary: Summary) -> list[str]:
    """``results.txt``."""
    if summary.mode == "performance":
        lines = [_RULE, f"Median throughput is {summary.throughput:>10.3f} inf./sec.", _RULE]
        if summary.remarks:
            lines.append("ERROR 2 - loop exited before 10 seconds elapsed.")
    else:
        lines = []
        if summary.top1 is not None:
            lines.append(f"Top 1% = {100 * summary.top1:2.1f}")
        if summary.auc is not None:
            lines.append(f"AUC = {summary.auc:.3f}")
    return [f"{stamp()} ulp-mlperf: {line}" for line in lines]


def result_json(summary: Summary) -> list[dict[str, Any]]:
    """``results.json``: one entry for each inference, as submissions have it."""
    return [_entry(summary, run) for run in summary.runs]


def _entry(summary: Summary, run: Run) -> dict[str, Any]:
    inference = run.inference
    infer: dict[str, Any] = {}
    if inference.start_us is not None:
        infer |= {"start_time": inference.start_us, "end_time": inference.end_us}
    infer["results"] = list(inference.results)
    if inference.elapsed_us is not None:
        infer["elapsed_time"] = inference.elapsed_us
    infer |= {"total_inferences": 1, "iterations": run.iterations, "warmups": run.warmups}
    if summary.mode == "performance":
        infer["throughput"] = run.throughput

    def text(value: int | None) -> str | None:
        return None if value is None else str(value)

    sample = run.sample
    windowed = sample.stride is not None
    return {
        "file": sample.file,
        "classes": str(sample.classes),
        "class": text(sample.label),
        "bytes_to_send": text(sample.bytes_to_send),
        "stride": text(sample.stride),
        "total_length": len(sample.windows) if windowed else None,
        "infer": infer,
        "mode": _LETTERS[summary.mode],
    }


def new_session(root: Path) -> Path:
    """Makes ``root/YYYYMMDD_HHMMSS``; waits for the next second when that is taken.

    Raises:
        UsageError: it cannot be made.
    """
    while True:
        folder = root / datetime.now().strftime("%Y%m%d_%H%M%S")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.2)
        except OSError as error:
            raise UsageError(f"cannot write here: {error.strerror}", str(folder)) from None
        else:
            return folder
