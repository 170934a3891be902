"""Measure a firmware on a board, or a model on this computer: latency, memory, exactness."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit import console


@click.command()
@click.argument(
    "subject", metavar="MODEL_OR_FIRMWARE", required=False, type=click.Path(path_type=Path)
)
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
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Host: threads of LiteRT's second run; linux: 1 to so many; android: of the CPU.",
)
@click.option("--cores", metavar="LIST", help="linux: cores to pin to, such as 0-3.")
@click.option(
    "--governor",
    default="performance",
    show_default=True,
    help="linux: of these cores, where allowed and until the end; 'keep' leaves it.",
)
@click.option(
    "--device-python",
    metavar="PATH",
    help="linux: a Python there that has ai-edge-litert, tflite-runtime or tensorflow.",
)
@click.option(
    "--benchmark-model",
    type=click.Path(path_type=Path),
    help="android: LiteRT's benchmark_model; linux: for the time of single operators.",
)
@click.option(
    "--delegate",
    "delegates",
    multiple=True,
    type=click.Choice(["cpu", "gpu", "nnapi"]),
    help="android: what computes; may be given several times. Default: cpu.",
)
@click.option("--nnapi-accelerator", metavar="NAME", help="android: the driver that NNAPI uses.")
@click.option(
    "--protocol",
    type=click.Choice(["edgekit", "mlperf-tiny"]),
    help="What the firmware speaks; default: what it was built for.",
)
@click.option(
    "--mode",
    type=click.Choice(["performance", "accuracy"]),
    default="performance",
    help="MLPerf Tiny: time five inputs (default), or run all data once.",
)
@click.option(
    "--sessions",
    type=click.Path(path_type=Path),
    default=Path("sessions"),
    help="MLPerf Tiny: where sessions are kept; default: ./sessions.",
)
@console.json_option
def command(
    subject: Path | None,
    target: str | None,
    port: str,
    model: Path | None,
    data: Path | None,
    inputs: int | None,
    seed: int,
    runs: int | None,
    warmups: int | None,
    threads: int | None,
    cores: str | None,
    governor: str,
    device_python: str | None,
    benchmark_model: Path | None,
    delegates: tuple[str, ...],
    nnapi_accelerator: str | None,
    protocol: str | None,
    mode: str,
    sessions: Path,
    as_json: bool,
) -> None:
    """Measures MODEL_OR_FIRMWARE: a folder that build wrote, or a model on a host, Linux, Android.

    A firmware's outputs are compared with TFLM's for the same inputs, step by step. Figures
    are labelled measured (hardware) or simulated (with the error of the estimate). The exit
    code is 7 when outputs differ. With --protocol mlperf-tiny it is MLPerf Tiny's runner, for
    anybody's firmware; the firmware itself is then needed for virtual boards only.

    \b
    edgekit bench firmware --port virtual --inputs 20
    edgekit bench firmware --port serial:/dev/ttyACM0:115200 --runs 100 --json
    edgekit bench model.tflite --target host
    edgekit bench model.tflite --target linux --port ssh:pi@raspberrypi.local
    edgekit bench model.tflite --target android --port adb:SERIAL --benchmark-model benchmark_model
    edgekit bench --protocol mlperf-tiny --port serial:/dev/ttyACM0 --mode accuracy --data ic01
    """
    if protocol == "mlperf-tiny" or (subject is not None and _speaks_mlperf(subject, protocol)):
        from edgekit.commands import _bench_mlperf

        _bench_mlperf.run(
            subject,
            target=target,
            port=port,
            mode=mode,
            data=data,
            inputs=inputs,
            seed=seed,
            runs=runs,
            warmups=warmups,
            sessions=sessions,
            as_json=as_json,
        )
        return
    context = click.get_current_context()
    for name in ("mode", "sessions"):
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} goes with --protocol mlperf-tiny")
    if subject is None:
        raise click.UsageError("Missing argument 'MODEL_OR_FIRMWARE'.")
    if target not in (None, "host"):
        from edgekit.targets import load_target

        machine = load_target(target)
        if machine.kind in ("linux", "android"):
            from edgekit.commands import _bench_remote

            _bench_remote.run(
                subject,
                machine,
                _bench_remote.Settings(
                    port=port,
                    data=data,
                    inputs=inputs,
                    seed=seed,
                    runs=runs,
                    warmups=warmups,
                    threads=threads,
                    cores=cores,
                    governor=governor,
                    device_python=device_python,
                    benchmark_model=benchmark_model,
                    delegates=delegates,
                    nnapi_accelerator=nnapi_accelerator,
                ),
                as_json=as_json,
            )
            return
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


def _speaks_mlperf(subject: Path, protocol: str | None) -> bool:
    """Whether a firmware was built for MLPerf Tiny's runner, and nothing else is asked for."""
    folder = subject if subject.is_dir() else subject.parent
    if (
        protocol is not None
        or subject.suffix == ".tflite"
        or not (folder / "firmware.elf").exists()
    ):
        return False
    from edgekit.build import load_firmware

    return load_firmware(folder).protocol == "mlperf-tiny"
