"""Measure a firmware on a board, or a model on this computer: latency, memory, exactness."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit import console


@click.command()
@click.argument("subject", metavar="MODEL_OR_FIRMWARE", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", help="'host' for a model; for a firmware its board.")
@click.option("--port", default="virtual", show_default=True, help="Where the board is.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The .tflite file to compare with; default: the one beside the firmware.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Inputs (.npz or .npy).")
@click.option("--inputs", type=click.IntRange(1), help="How many inputs to compare; default 1.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random inputs.")
@click.option("--runs", type=click.IntRange(1), help="Timed runs; default 20, simulated 2.")
@click.option("--warmups", type=click.IntRange(0), default=1, show_default=True)
@console.json_option
def command(
    subject: Path,
    target: str | None,
    port: str,
    model: Path | None,
    data: Path | None,
    inputs: int | None,
    seed: int,
    runs: int | None,
    warmups: int,
    as_json: bool,
) -> None:
    """Measures MODEL_OR_FIRMWARE: a folder that build wrote, or with --target host a model.

    A firmware's outputs are compared with TFLM's for the same inputs, step by step. Figures
    are labelled measured (hardware) or simulated (with the error of the estimate). The exit
    code is 7 when outputs differ.

    \b
    edgekit bench firmware --port virtual --inputs 20
    edgekit bench firmware --port serial:/dev/ttyACM0:115200 --runs 100 --json
    edgekit bench model.tflite --target host
    """
    if target == "host" or subject.suffix == ".tflite":
        if target not in (None, "host"):
            raise click.UsageError(
                f"a model runs on the host; for {target}: edgekit run {subject} --target {target}"
            )
        _bench_host(subject, runs, warmups, as_json)
        return
    from edgekit.bench import bench_firmware, find_model, load_examples, random_examples
    from edgekit.build import load_firmware
    from edgekit.errors import UsageError
    from edgekit.flashing import require_target
    from edgekit.graph.reader import read_model
    from edgekit.report.command import finish
    from edgekit.targets import load_target

    firmware = load_firmware(subject)
    board = load_target(target or firmware.target)
    require_target(firmware, board)
    if firmware.plan is None:
        raise UsageError(f"engine {firmware.engine} gave this firmware no plan", str(subject))
    path = model or find_model(firmware)
    examples = (
        load_examples(data, firmware.plan, inputs)
        if data is not None
        else random_examples(firmware.plan, inputs or 1, seed)
    )
    with console.progress(f"measuring on {port}", len(examples) + 1) as advance:
        measurement = bench_firmware(
            firmware,
            board,
            port,
            model=read_model(path) if path is not None else None,
            examples=examples,
            warmups=warmups,
            runs=runs,
            progress=advance,
        )
    finish(measurement, as_json=as_json)


def _bench_host(path: Path, runs: int | None, warmups: int, as_json: bool) -> None:
    """The host's half: the model in every runtime that is installed here."""
    from edgekit.bench_host import bench_host
    from edgekit.graph.reader import read_model
    from edgekit.records import to_json

    model = read_model(path)
    with console.progress(f"measuring {model.name} on this computer") as advance:
        result = bench_host(model, runs=runs or 50, warmups=warmups, on_runtime=advance)
    if as_json:
        summary = {"name": model.name, "sha256": model.sha256}
        console.emit_json("bench-host", {"model": summary, "kind": "measured", **to_json(result)})
        return
    rows: list[list[object]] = []
    for run in result.results:
        p50, p95 = run.percentile_us(0.5), run.percentile_us(0.95)
        remark = run.missing or f"outputs {run.digest}"
        rows.append([run.title, run.threads, p50, p95, run.arena_bytes, run.equal, remark])
    console.print_table(
        [
            "runtime",
            ("threads", "right"),
            ("p50 us", "right"),
            ("p95 us", "right"),
            ("arena", "right"),
            f"equals {result.reference}",
            "",
        ],
        rows,
        title=f"{model.name} on this computer (measured, {result.runs} runs)",
    )
