"""Runs a model on this machine, in TFLM and in LiteRT, and compares what they compute.

Wall time is measured around each runtime's invoke alone, after warm-ups, every run on the same
synthetic input; it says how fast this machine is, not how fast a board would be.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, MissingDependency, ModelError
from edgekit.graph.macs import model_cost
from edgekit.quality.agreement import Agreement, compare_runtimes
from edgekit.quality.synthetic import SEED, digest, recipe, synthetic_inputs
from edgekit.records import Measurement, OutputCheck
from edgekit.runtimes import Runner, open_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model


@dataclass(frozen=True)
class HostRun:
    """One runtime's result. ``missing`` is the reason why it did not run.

    ``digest`` is FNV-1a-32 over the output bytes of the first synthetic input, ``sha256`` over
    the same bytes. ``equal`` says whether all outputs on all inputs equal the reference's
    (TFLM, or the first runtime that ran); ``largest`` is their largest difference.
    """

    runtime: str
    threads: int
    title: str
    missing: str | None = None
    arena_bytes: int | None = None
    allocations: dict[str, int] | None = None
    latencies_us: tuple[float, ...] = ()
    digest: str | None = None
    sha256: str | None = None
    equal: bool | None = None
    largest: float | None = None

    def percentile_us(self, share: float) -> float | None:
        """The latency that ``share`` (0 to 1) of the runs do not exceed (nearest rank)."""
        if not self.latencies_us:
            return None
        ordered = sorted(self.latencies_us)
        return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]

    @property
    def mean_us(self) -> float | None:
        return sum(self.latencies_us) / len(self.latencies_us) if self.latencies_us else None


@dataclass(frozen=True)
class HostBench:
    """All runtimes on one model. ``agreement`` compares TFLM with LiteRT's reference kernels."""

    host: dict[str, Any]
    input_source: str
    inputs: int
    warmups: int
    runs: int
    results: tuple[HostRun, ...]
    reference: str
    agreement: Agreement | None

    @property
    def reference_kernels_agree(self) -> bool | None:
        """Whether TFLM and LiteRT's reference kernels gave the same bytes; ``None``: not known."""
        found = {run.runtime: run for run in self.results if run.missing is None}
        if "tflm" not in found or "litert-ref" not in found:
            return None
        return found["litert-ref"].equal


def bench_host(
    model: Model,
    *,
    samples: Sequence[Sequence[NDArray[Any]]] | None = None,
    inputs: int = 4,
    seed: int = SEED,
    runs: int = 50,
    warmups: int = 5,
    threads: int | None = None,
    on_runtime: Callable[[int], None] = lambda count: None,
) -> HostBench:
    """Measures a model in every runtime that is installed.

    Args:
        model: any model; each runtime has a process of its own.
        samples: inputs of the model; by default synthetic ones.
        inputs: how many synthetic inputs to compare outputs on. The first input is the one
            that is timed and digested.
        seed: of the synthetic inputs.
        runs: timed invocations per runtime.
        warmups: invocations before them.
        threads: of the multi-threaded LiteRT run; by default as many as there are processors.
        on_runtime: called with 1 after every runtime.

    Raises:
        ModelError: no runtime takes the model.
    """
    threads = threads or os.cpu_count() or 1
    source = "given data"
    if samples is None:
        samples = synthetic_inputs(model, inputs, seed)
        source = recipe(seed)
    wanted = [("tflm", 1), ("litert-ref", 1), ("litert", 1)]
    if threads > 1:
        wanted.append(("litert", threads))
    results: list[HostRun] = []
    errors: list[EdgekitError] = []
    baseline: list[list[NDArray[Any]]] | None = None
    reference = ""
    # Loading TensorFlow takes seconds: all processes load at once, then run one by one.
    with ThreadPoolExecutor(len(wanted)) as pool:
        loaded = list(pool.map(lambda item: _open(model.raw, *item), wanted))
    with ExitStack() as stack:
        for runner in loaded:
            if not isinstance(runner, EdgekitError):
                stack.enter_context(runner)
        for (name, count), opened in zip(wanted, loaded, strict=True):
            if isinstance(opened, EdgekitError):
                errors.append(opened)
                results.append(HostRun(name, count, name, missing=opened.what))
            else:
                try:
                    run, outputs = _measure(opened, name, count, samples, runs, warmups)
                except ModelError as error:
                    errors.append(error)
                    results.append(HostRun(name, count, opened.title, missing=error.what))
                    continue
                if baseline is None:
                    baseline, reference = outputs, run.title
                results.append(_compared(run, outputs, baseline))
            on_runtime(1)
    if baseline is None:
        raise errors[0]
    return HostBench(
        host=_host(),
        input_source=source,
        inputs=len(samples),
        warmups=warmups,
        runs=runs,
        results=tuple(results),
        reference=reference,
        agreement=_agreement(model, results, samples),
    )


def measurements(model: Model, bench: HostBench) -> tuple[Measurement, ...]:
    """The runs as records, for reports."""
    macs = model_cost(model).macs
    return tuple(
        Measurement(
            kind="measured",
            target="host",
            engine=run.runtime,
            port="host",
            model_name=model.name,
            model_sha256=model.sha256,
            model_macs=macs,
            build_id=None,
            warmups=bench.warmups,
            runs=len(run.latencies_us),
            latencies_us=run.latencies_us,
            memory={"arena_bytes": run.arena_bytes, "threads": run.threads},
            outputs=OutputCheck(
                reference=bench.reference,
                compared=bench.inputs,
                match=run.equal,
                digests=(run.digest,) if run.digest else (),
            ),
            notes=(run.title,),
        )
        for run in bench.results
        if run.missing is None
    )


def _open(model_bytes: bytes, name: str, threads: int) -> Runner | EdgekitError:
    arguments: dict[str, Any] = {"threads": threads} if name == "litert" else {}
    try:
        return open_runner(name, model_bytes, **arguments)
    except (ModelError, MissingDependency) as error:
        return error


def _measure(
    runner: Runner,
    name: str,
    threads: int,
    inputs: Sequence[Sequence[NDArray[Any]]],
    runs: int,
    warmups: int,
) -> tuple[HostRun, list[list[NDArray[Any]]]]:
    outputs = [runner.invoke(*sample) for sample in inputs]
    runner.time(inputs[0], warmups)
    latencies = runner.time(inputs[0], runs)
    allocations = runner.allocations()
    content = b"".join(array.tobytes() for array in outputs[0])
    run = HostRun(
        runtime=name,
        threads=threads,
        title=runner.title,
        arena_bytes=allocations.get("total"),
        allocations=allocations or None,
        latencies_us=tuple(latencies),
        digest=digest(outputs[0]),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return run, outputs


def _compared(
    run: HostRun, outputs: list[list[NDArray[Any]]], baseline: list[list[NDArray[Any]]]
) -> HostRun:
    import dataclasses

    import numpy as np

    equal, largest = True, 0.0
    for mine, other in zip(outputs, baseline, strict=True):
        for a, b in zip(mine, other, strict=True):
            if a.tobytes() == b.tobytes():
                continue
            equal = False
            if a.size == b.size and a.size:
                with np.errstate(invalid="ignore"):
                    difference = np.abs(a.astype(np.float64).ravel() - b.astype(np.float64).ravel())
                largest = max(largest, float(np.nan_to_num(difference).max()))
    return dataclasses.replace(run, equal=equal, largest=largest)


def _agreement(
    model: Model, results: Sequence[HostRun], inputs: Sequence[Sequence[NDArray[Any]]]
) -> Agreement | None:
    """Where TFLM and LiteRT's reference kernels part, if they do."""
    ran = {run.runtime for run in results if run.missing is None}
    differs = any(run.runtime == "litert-ref" and run.equal is False for run in results)
    if not differs or "tflm" not in ran:
        return None
    return compare_runtimes(model, inputs)


def _host() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()
