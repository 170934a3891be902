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
@click.option("--data", type=click.Path(path_type=Path), help="Inputs: .npz with x.")
@click.option(
    "--inputs", type=click.IntRange(1), help="How many inputs to compare; default 1, host 4."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random inputs.")
@click.option(
    "--runs", type=click.IntRange(1), help="Timed runs; default 20, simulated 2, host 50."
)
@click.option("--warmups", type=click.IntRange(0), help="Runs before them; default 1, host 5.")
@click.option("--threads", type=click.IntRange(1), help="Host: threads of LiteRT's second run.")
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
    warmups: int | None,
    threads: int | None,
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
    from edgekit.commands import _bench_edgetpu

    if _bench_edgetpu.takes(subject, target):
        _bench_edgetpu.run(
            subject,
            target,
            port=port if port != "virtual" else None,
            model=model,
            data=data,
            inputs=inputs,
            seed=seed,
            runs=runs,
            warmups=warmups,
            as_json=as_json,
        )
        return
    if target == "host" or subject.suffix == ".tflite":
        if target not in (None, "host"):
            raise click.UsageError(
                f"a model runs on the host; for {target}: edgekit run {subject} --target {target}"
            )
        from edgekit.commands import _bench_host

        _bench_host.run(
            subject,
            data=data,
            inputs=inputs,
            seed=seed,
            runs=runs,
            warmups=warmups,
            threads=threads,
            as_json=as_json,
        )
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
    graph = read_model(path) if path is not None else None
    if data is None:
        examples = random_examples(firmware.plan, inputs or 1, seed)
    elif graph is not None:
        examples = load_examples(data, graph, inputs)
    else:
        raise UsageError(
            "data are adapted to the model, and there is none beside the firmware",
            str(subject),
            "--model FILE.tflite",
        )
    with console.progress(f"measuring on {port}", len(examples) + 1) as advance:
        measurement = bench_firmware(
            firmware,
            board,
            port,
            model=graph,
            examples=examples,
            warmups=1 if warmups is None else warmups,
            runs=runs,
            progress=advance,
        )
    finish(measurement, as_json=as_json)
