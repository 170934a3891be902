"""The half of ``edgekit bench`` that runs a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import console

if TYPE_CHECKING:
    from edgekit.bench_host import HostBench
    from edgekit.graph import Model


def run(
    path: Path,
    *,
    data: Path | None,
    inputs: int | None,
    seed: int,
    runs: int | None,
    warmups: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measures a model in every runtime that is installed, and prints it."""
    from edgekit.bench_host import bench_host
    from edgekit.graph import read_model
    from edgekit.quality.dataset import read_dataset
    from edgekit.quality.synthetic import SEED

    model = read_model(path)
    samples = None
    if data is not None:
        samples = read_dataset(data, model).spread(inputs or 16)
    with console.progress(f"running {path.name} on this machine") as step:
        found = bench_host(
            model,
            samples=samples,
            inputs=inputs or 4,
            seed=seed or SEED,
            runs=runs or 50,
            warmups=5 if warmups is None else warmups,
            threads=threads,
            on_runtime=step,
        )
    if as_json:
        console.emit_json("bench", _payload(model, found))
    else:
        _print(model, found)


def _payload(model: Model, found: HostBench) -> dict[str, Any]:
    from edgekit.bench_host import measurements
    from edgekit.inspection import finite
    from edgekit.records import to_json

    payload: dict[str, Any] = {
        "model": {"name": model.name, "sha256": model.sha256},
        "target": "host",
        "kind": "measured",
        "host": found.host,
        "input": found.input_source,
        "inputs": found.inputs,
        "reference": found.reference,
        "reference_kernels_agree": found.reference_kernels_agree,
        "agreement": to_json(found.agreement) if found.agreement else None,
        "runtimes": [
            {
                **{key: value for key, value in to_json(run).items() if key != "latencies_us"},
                "warmups": found.warmups,
                "runs": len(run.latencies_us),
                "mean_us": run.mean_us,
                "min_us": run.percentile_us(0.0),
                "p50_us": run.percentile_us(0.5),
                "p90_us": run.percentile_us(0.9),
                "p99_us": run.percentile_us(0.99),
                "max_us": run.percentile_us(1.0),
            }
            for run in found.results
        ],
        "measurements": [to_json(record) for record in measurements(model, found)],
    }
    cleaned: dict[str, Any] = finite(payload)
    return cleaned


def _print(model: Model, found: HostBench) -> None:
    rows: list[tuple[object, ...]] = []
    for run in found.results:
        if run.missing is not None:
            rows.append((run.title, "–", "–", "–", "–", None, "–", f"not run: {run.missing}"))
            continue
        verdict = "equal" if run.equal else f"differ by up to {run.largest:g}"
        if run.title == found.reference:
            verdict = "(reference)"
        times = [run.percentile_us(share) or 0.0 for share in (0.0, 0.5, 0.9, 0.99)]
        rows.append(
            (
                run.title,
                *(f"{t:,.0f}" if t >= 100 else f"{t:.1f}" for t in times),
                run.arena_bytes,
                run.digest,
                verdict,
            )
        )
    console.print_table(
        ["runtime", ("min µs", "right"), ("p50 µs", "right"), ("p90 µs", "right"),
         ("p99 µs", "right"), ("arena B", "right"), "output digest", "outputs"],
        rows,
        title=f"{model.name} on this machine: measured, {found.warmups} warm-ups, "
        f"{found.runs} runs",
    )  # fmt: skip
    console.note(f"{found.host['processor']}; input: {found.input_source}")
    agreement = found.agreement
    if agreement is not None and agreement.first is not None:
        first = agreement.first
        console.note(
            f"TFLM and LiteRT's reference kernels part at operator {first.op} {first.kind} "
            f"'{first.name}': {first.differing} of {first.elements} elements differ by up to "
            f"{first.largest:g}"
        )
