"""The half of ``edgekit bench`` that runs a model on a Linux board or on Android."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import console

if TYPE_CHECKING:
    from edgekit.graph import Model
    from edgekit.quality.metrics import Accuracy
    from edgekit.remote.android import AndroidBench
    from edgekit.remote.linux import LinuxBench
    from edgekit.remote.profile import OperatorTime
    from edgekit.remote.results import Comparison
    from edgekit.targets import Target

_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What the options said; ``None`` where they said nothing."""

    port: str
    data: Path | None
    inputs: int | None
    seed: int
    runs: int | None
    warmups: int | None
    threads: int | None
    cores: str | None
    governor: str
    device_python: str | None
    benchmark_model: Path | None
    delegates: tuple[str, ...]
    nnapi_accelerator: str | None


def run(subject: Path, board: Target, settings: Settings, *, as_json: bool) -> None:
    """Measures a model there, and prints it."""
    from edgekit.engines.litert import model_in, supports
    from edgekit.errors import ModelError
    from edgekit.graph import read_model

    model = read_model(model_in(subject))
    support = supports(model, board)
    if not support.ok:
        raise ModelError(support.missing[0], model.name)
    if board.kind == "android":
        _android(model, board, settings, as_json)
    else:
        _linux(model, board, settings, as_json)


# -- Linux ----------------------------------------------------------------------------------


def _linux(model: Model, board: Target, settings: Settings, as_json: bool) -> None:
    from edgekit.quality.dataset import read_dataset
    from edgekit.quality.synthetic import SEED, recipe, synthetic_inputs
    from edgekit.remote.linux import FOLDER, Wish, bench_linux
    from edgekit.remote.results import accuracy_of, compare_with_host

    host = _host(board, settings.port)
    dataset = None
    if settings.data is not None:
        dataset = read_dataset(settings.data, model, limit=settings.inputs)
        samples = list(dataset.samples())
        source = "; ".join(dataset.rules)
    else:
        seed = settings.seed or SEED
        samples = synthetic_inputs(model, settings.inputs or 4, seed)
        source = recipe(seed)
    wish = Wish(
        runs=settings.runs or 50,
        warmups=5 if settings.warmups is None else settings.warmups,
        threads=_counts(settings.threads),
        cores=_cores(settings.cores),
        governor=None if settings.governor == "keep" else settings.governor,
        python=settings.device_python,
        benchmark_model=settings.benchmark_model,
    )
    found = bench_linux(
        model,
        host,
        samples,
        wish,
        folder=str(board.link.get("folder", FOLDER)),
        on_progress=console.note,
    )
    check = compare_with_host(model, samples, found.outputs)
    measured = accuracy_of(model, dataset, found.outputs) if dataset else None
    if as_json:
        port = f"ssh:{host.name}"
        payload = _linux_payload(model, board, port, found, wish.warmups, check, measured)
        console.emit_json("bench", {**payload, "input": source, "inputs": len(samples)})
        return
    _print_linux(model, board, found, wish.warmups, check, measured)


def _host(board: Target, port: str) -> Any:
    from edgekit.errors import UsageError
    from edgekit.remote.ssh import SshHost

    kind, _, rest = port.partition(":")
    if kind == "ssh" and rest:
        return SshHost.parse(rest)
    if port == "virtual" and board.link.get("host"):
        return SshHost(str(board.link["host"]), str(board.link.get("user", "")))
    raise UsageError(
        f"{board.name} is reached over ssh",
        f"--port {port}",
        "--port ssh:USER@HOST or ssh:USER@HOST:PORT",
    )


def _counts(threads: int | None) -> tuple[int, ...] | None:
    from edgekit.remote.device import steps_to

    return None if threads is None else tuple(steps_to(threads))


def _cores(text: str | None) -> tuple[int, ...] | None:
    """``0-3,6`` as numbers."""
    import re

    from edgekit.errors import UsageError

    if text is None:
        return None
    cores: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"'{text}' names no cores", f"--cores {text}", "--cores 0-3,6")
        cores += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(cores))


def _linux_payload(
    model: Model,
    board: Target,
    port: str,
    found: LinuxBench,
    warmups: int,
    check: Comparison,
    measured: Accuracy | None,
) -> dict[str, Any]:
    from edgekit.inspection import finite
    from edgekit.records import to_json
    from edgekit.remote.linux import throttled
    from edgekit.remote.results import measurements

    payload: dict[str, Any] = {
        "model": {"name": model.name, "sha256": model.sha256},
        "target": board.name,
        "engine": "litert",
        "port": port,
        "kind": "measured",
        "device": found.device,
        "package": found.package,
        "environment_made": found.environment_made,
        "cores": found.cores,
        "governors": found.governors,
        "temperatures_c": found.temperatures_c,
        "frequencies_khz": found.frequencies_khz,
        "throttling": found.throttling,
        "throttled": throttled(found),
        "runs": [
            {
                "threads": run.threads,
                "pinned": run.pinned,
                "warmups": warmups,
                "runs": len(run.latencies_us),
                "latency_us": _percentiles(run.latencies_us),
                "load_us": run.load_us,
                "first_us": run.first_us,
                "peak_bytes": run.peak_bytes,
                "before_bytes": run.before_bytes,
                "same_outputs": run.same_outputs,
            }
            for run in found.runs
        ],
        "ops": [to_json(op) for op in found.profile],
        "outputs": {**to_json(check), "equal": check.equal},
        "accuracy": _accuracy(measured),
        "notes": found.notes,
        "measurements": [
            to_json(record)
            for record in measurements(model, found, board.name, port, warmups, check)
        ],
    }
    cleaned: dict[str, Any] = finite(to_json(payload))
    return cleaned


def _percentiles(values: tuple[float, ...]) -> dict[str, float]:
    from edgekit.report.figures import percentile

    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    figures = {name: percentile(values, share) for name, share in shares.items()}
    return {
        "min": min(values),
        **figures,
        "max": max(values),
        "mean": sum(values) / len(values),
    }


def _accuracy(measured: Accuracy | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "metric": measured.metric,
        "value": measured.value,
        "samples": measured.samples,
        "right": measured.right,
        "kind": "measured",
    }


def _print_linux(
    model: Model,
    board: Target,
    found: LinuxBench,
    warmups: int,
    check: Comparison,
    measured: Accuracy | None,
) -> None:
    from edgekit.remote.linux import throttled

    rows: list[tuple[object, ...]] = []
    for run in found.runs:
        times = _percentiles(run.latencies_us)
        rows.append(
            (
                run.threads,
                ",".join(map(str, run.pinned)) or None,
                *(_us(times[key]) for key in ("min", "p50", "p90", "p99", "max")),
                _us(run.first_us),
                _us(run.load_us),
                f"{run.peak_bytes / _MEGABYTE:.1f}" if run.peak_bytes else None,
                f"{(run.peak_bytes - run.before_bytes) / _MEGABYTE:.1f}"
                if run.peak_bytes and run.before_bytes
                else None,
            )
        )
    right = [
        (f"{name} µs", "right") for name in ("min", "p50", "p90", "p99", "max", "first", "load")
    ]
    console.print_table(
        [("threads", "right"), "cores", *right, ("peak MB", "right"), ("of it model MB", "right")],
        rows,
        title=f"{model.name} on {board.name}: measured, {found.package}, {warmups} warm-ups, "
        f"{len(found.runs[0].latencies_us)} runs",
    )
    device = found.device
    print(f"device        {device['name']}, {device['machine']}, {device['system']}")
    changed = sorted({f"{b} → {d}" if b != d else d for b, d in found.governors.values()})
    if changed:
        print(f"governor      {', '.join(changed)}, restored")
    for name, (first, most, last) in found.temperatures_c.items():
        print(f"temperature   {name}: {first:.1f} °C, at most {most:.1f}, at the end {last:.1f}")
    text = throttled(found)
    print(f"throttled     {text if text is not None else 'the system does not tell'}")
    for line in _outputs(check, measured):
        print(line)
    if found.profile:
        _print_profile(found.profile, "operators: measured by LiteRT's profiler, 1 thread")
    else:
        print(
            "operators     LiteRT's Python package has no profiler: --benchmark-model PATH with a "
            "benchmark_model for the device"
        )
    for note in found.notes:
        print(f"note          {note}")


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _outputs(check: Comparison, measured: Accuracy | None) -> list[str]:
    lines = []
    if check.missing is not None:
        lines.append(f"outputs       not compared: {check.missing}")
    elif check.differing == 0:
        lines.append(
            f"outputs       equal to those of {check.reference} for {check.compared} inputs"
        )
    else:
        unit = " steps" if check.integer else ""
        lines.append(
            f"outputs       differ from those of {check.reference} for {check.differing} of "
            f"{check.compared} inputs by up to {check.largest:g}{unit}; the largest output "
            f"changes its place for {check.argmax_differing}"
        )
    if measured is not None:
        share = (
            f"{100 * measured.value:.2f} % ({measured.right} of {measured.samples})"
            if measured.right is not None
            else f"{measured.value:.4f} ({measured.samples} samples)"
        )
        lines.append(f"accuracy      {measured.metric} {share}, measured on the device")
    return lines


def _print_profile(operators: tuple[OperatorTime, ...], title: str) -> None:
    from edgekit.report.text import short_name

    console.print_table(
        [
            ("#", "right"),
            "operator",
            ("µs", "right"),
            ("share", "right"),
            ("calls", "right"),
            "name",
        ],
        [
            (i, op.kind, _us(op.average_us), f"{100 * op.share:.1f} %", op.calls,
             short_name(op.name))
            for i, op in enumerate(operators)
        ],
        title=title,
    )  # fmt: skip


# -- Android --------------------------------------------------------------------------------


def _android(model: Model, board: Target, settings: Settings, as_json: bool) -> None:
    from typing import cast

    from edgekit.errors import UsageError
    from edgekit.remote.android import Delegate, bench_android

    kind, _, serial = settings.port.partition(":")
    if settings.port != "virtual" and kind != "adb":
        raise UsageError(
            f"{board.name} is reached over adb", f"--port {settings.port}", "--port adb:SERIAL"
        )
    if settings.data is not None:
        raise UsageError(
            "benchmark_model feeds random inputs and returns no outputs",
            f"--data {settings.data}",
            "edgekit validate runs the data on this computer",
        )
    warmups = 5 if settings.warmups is None else settings.warmups
    found = bench_android(
        model,
        serial or None,
        settings.benchmark_model,
        delegates=cast("tuple[Delegate, ...]", settings.delegates or ("cpu",)),
        threads=settings.threads or 1,
        runs=settings.runs or 50,
        warmups=warmups,
        nnapi_accelerator=settings.nnapi_accelerator,
        on_progress=console.note,
    )
    if as_json:
        console.emit_json("bench", _android_payload(model, board, found))
    else:
        _print_android(model, board, found)


def _android_payload(model: Model, board: Target, found: AndroidBench) -> dict[str, Any]:
    from edgekit.inspection import finite
    from edgekit.records import to_json

    payload = {
        "model": {"name": model.name, "sha256": model.sha256},
        "target": board.name,
        "engine": "litert",
        "kind": "measured",
        "device": {
            "name": found.name,
            "android": found.android,
            "abi": found.abi,
            "chip": found.chip,
        },
        "runs": [{**to_json(run), "ran_on": run.on} for run in found.runs],
        "notes": list(found.notes),
    }
    cleaned: dict[str, Any] = finite(payload)
    return cleaned


def _print_android(model: Model, board: Target, found: AndroidBench) -> None:
    rows: list[tuple[object, ...]] = []
    for run in found.runs:
        result = run.result
        if result is None:
            rows.append((run.delegate, run.threads, *[None] * 8, f"not run: {run.missing}"))
            continue
        spread = [result.spread.get(key) for key in ("min", "median", "p95", "max")]
        rows.append(
            (
                run.delegate,
                run.threads,
                _us(result.average_us),
                *(None if value is None else _us(value) for value in spread),
                _us(result.first_us),
                _us(result.init_us),
                result.runs or None,
                f"{result.peak_memory_bytes / _MEGABYTE:.1f}"
                if result.peak_memory_bytes is not None
                else None,
                run.on,
            )
        )
    right = [
        (f"{name} µs", "right") for name in ("mean", "min", "p50", "p95", "max", "first", "init")
    ]
    console.print_table(
        ["delegate", ("threads", "right"), *right, ("runs", "right"), ("memory MB", "right"),
         "ran on"],
        [[*row[:7], *row[7:]] for row in rows],
        title=f"{model.name} on {found.name}: measured by benchmark_model, random inputs",
    )  # fmt: skip
    for run in found.runs:
        if run.result is not None and run.result.operators:
            _print_profile(
                run.result.operators, f"operators on {run.delegate}: measured by LiteRT's profiler"
            )
    chip = f", {found.chip}" if found.chip else ""
    print(f"device        {found.name}, Android {found.android}, {found.abi}{chip}")
    for note in found.notes:
        print(f"note          {note}")
