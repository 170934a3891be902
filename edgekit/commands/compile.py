"""Turn a model into source code for a target, with one of the engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.records import Artifact, Plan
    from edgekit.targets import Target


@click.command()
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--target", required=True, help="Board or machine: edgekit targets lists them.")
@click.option("--engine", help="aot, tflm, …; by default the first that the target names.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write; Edge TPU: default MODEL_edgetpu.",
)
@click.option(
    "--project",
    type=click.Choice(["cmake", "platformio", "arduino", "esp-idf", "zephyr"]),
    help="A ready project around the sources (engine tflm; aot: esp-idf).",
)
@click.option("--name", help="Name of the model in the code; by default the file's.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the engine."
)
@click.option("--keep-input", is_flag=True, help="An inference leaves its inputs as they were.")
@click.option(
    "--debug-steps", is_flag=True, help="One step per operator, to find one that differs."
)
@click.option(
    "--optimize",
    type=click.Choice(["speed", "ram", "flash"]),
    help="What to prefer where kernels differ.",
)
@click.option("--max-ram", metavar="SIZE", help="Largest arena, such as 24K (engine aot).")
@click.option(
    "--max-flash", metavar="SIZE", help="Most flash for the model (its code is estimated)."
)
@click.option("--max-latency", metavar="TIME", help="Longest inference, such as 50ms (estimated).")
@click.option("--predict", is_flag=True, help="Edge TPU: estimate the result, compile nothing.")
@click.option("--segments", type=click.IntRange(1), help="Edge TPU: a pipeline of so many devices.")
@console.json_option
def command(
    models: tuple[Path, ...],
    target: str,
    engine: str | None,
    output: Path | None,
    project: str | None,
    name: str | None,
    settings: tuple[str, ...],
    keep_input: bool,
    debug_steps: bool,
    optimize: str | None,
    max_ram: str | None,
    max_flash: str | None,
    max_latency: str | None,
    predict: bool,
    segments: int | None,
    as_json: bool,
) -> None:
    """Turns a .tflite model into source code for a target.

    The folder holds what a firmware project needs of the model, and a manifest.json. With the
    engine tflm these are the model as a C array, a resolver with its operators, a C++ wrapper
    with the arena's size, and with --project a project that takes TensorFlow Lite Micro from
    the ecosystem's own package manager. An existing folder is replaced only if edgekit made it.
    Several models are compiled together for one Edge TPU.

    \b
    edgekit compile kws.tflite --target nucleo-l4r5zi -o kws_aot
    edgekit compile ic.tflite --target nucleo-f446re --max-ram 21000 --max-latency 200ms -o ic_aot
    edgekit compile vww.tflite --target nucleo-l4r5zi --set input=rows --max-ram 22K -o vww_aot
    edgekit compile kws.tflite --target esp32-s3 --project esp-idf -o kws_idf
    edgekit compile kws.tflite --target esp32-s3 --engine tflm --project esp-idf -o kws_tflm_idf
    edgekit compile kws.tflite --target nano33ble --engine tflm --set kernels=reference -o kws_tflm
    edgekit compile kws.tflite --target corstone-300 --engine ethosu -o kws_u55
    edgekit compile vww.tflite --target coral --predict
    """
    from edgekit import engines
    from edgekit.errors import UsageError
    from edgekit.graph import read_model
    from edgekit.targets import load_target

    board = load_target(target)
    chosen = engines.load(engine or _first_engine(board))
    options = dict(_pair(setting) for setting in settings)
    if chosen.NAME == "edgetpu" or predict or segments is not None or len(models) != 1:
        from edgekit.commands import _compile_edgetpu

        if segments is not None:
            options["segments"] = str(segments)
        _compile_edgetpu.run(
            models,
            board,
            chosen.NAME,
            output,
            name=name,
            options=options,
            predict=predict,
            command=_command_line(),
            as_json=as_json,
        )
        return
    (model,) = models
    if output is None:
        raise UsageError("compile needs a folder to write to", fix="-o FOLDER")
    if project is not None:
        if "project" not in chosen.OPTIONS:
            raise UsageError(
                f"--project goes with the engines tflm and aot, not {chosen.NAME}",
                fix="--engine tflm",
            )
        options["project"] = project
    flags = {
        "keep_input": keep_input,
        "debug_steps": debug_steps,
        "optimize": optimize,
        "max_ram": max_ram,
        "max_flash": max_flash,
        "max_latency": max_latency,
    }
    for key, value in flags.items():
        if value and key not in chosen.OPTIONS:
            raise UsageError(f"the engine {chosen.NAME} has no --{key.replace('_', '-')}")
        if value:
            options[key] = str(value)
    artifact = chosen.compile(
        read_model(model, name), board, output, command=_command_line(), options=options
    )
    for warning in artifact.warnings:
        console.warn(warning)
    if as_json:
        console.emit_json("compile", _document(artifact))
        return
    tables = getattr(chosen, "tables", None)
    if tables is None:
        _print(artifact, board, chosen.TITLE)
        return
    for columns, rows, title in tables(artifact):
        console.print_table(columns, rows, title=title)


def _first_engine(target: Target) -> str:
    from edgekit.engines import names
    from edgekit.errors import UsageError

    usable = [name for name in target.engines if name in names()]
    if not usable:
        raise UsageError(f"no engine makes anything for {target.name}", fix="edgekit targets")
    return usable[0]


def _pair(text: str) -> tuple[str, str]:
    from edgekit.errors import UsageError

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes KEY=VALUE, not '{text}'")
    return key.strip(), value.strip()


def _command_line() -> str:
    """The command as it was typed, without the folders of absolute paths."""
    import shlex
    import sys

    words = []
    for word in sys.argv[1:]:
        option, equals, value = word.partition("=")
        if equals and option.startswith("-") and value.startswith("/"):
            words.append(f"{option}={Path(value).name}")
        else:
            words.append(Path(word).name if word.startswith("/") else word)
    return shlex.join(["edgekit", *words])


def _document(artifact: Artifact) -> dict[str, Any]:
    from edgekit.records import to_json

    sizes = {file: (artifact.folder / file).stat().st_size for file in artifact.files}
    document: dict[str, Any] = {
        "artifact": to_json(artifact),
        "files": [{"path": file, "bytes": size} for file, size in sizes.items()],
        "warnings": list(artifact.warnings),
    }
    # What the engine tells beyond the record: the arena's parts, the operators.
    for key in ("arena", "operators", "estimates", "plans"):
        if key in artifact.options:
            document[key] = artifact.options[key]
    if artifact.plan is not None:
        document["arena"] = {
            "used_bytes": artifact.plan.arena_bytes,
            "recommended_bytes": artifact.plan.arena_bytes,
            "lower_bound_bytes": artifact.plan.arena_lower_bound_bytes,
            "optimal": artifact.plan.arena_optimal,
            "basis": "planned to the byte; the firmware reserves exactly this",
        }
    return document


def _print(artifact: Artifact, target: Target, title: str) -> None:
    rows = [(file, (artifact.folder / file).stat().st_size) for file in artifact.files]
    console.print_table(
        ["file", ("bytes", "right")],
        rows,
        title=f"{artifact.model_name} for {target.name}: {title}, in {artifact.folder}",
    )
    arena = artifact.options.get("arena")
    if arena is not None:
        console.print_table(
            ["arena", ("bytes", "right"), "is"],
            [
                ("used", arena["used_bytes"], f"estimated, with {arena['kernels']}"),
                ("recommended", arena["recommended_bytes"], "what the sources set aside"),
                ("smallest", arena["minimum_bytes"], "estimated; planning needs it"),
            ],
        )
        console.print_table(
            ["operator", "registration"],
            [(o["kind"], o["registration"]) for o in artifact.options["operators"]],
        )
    if artifact.plan is not None:
        plan = artifact.plan
        kernels = "for these kernels and this order"
        proof = (
            f"proven the smallest {kernels}" if plan.arena_optimal else "not proven the smallest"
        )
        console.print_table(
            ["what", ("bytes", "right"), "is"],
            [
                ("arena", plan.arena_bytes, f"planned, {proof}"),
                *_in_rows(plan),
                ("weights and tables", artifact.weights_bytes, "in flash"),
                *_tables_in_ram(artifact),
                *_estimated(artifact),
                ("steps", len(plan.steps), ""),
            ],
        )
        _print_strips(artifact)
        tables = artifact.options.get("tables_in_ram", [])
        if tables and artifact.options["weights"] != "ram":
            console.print_table(
                ["table in RAM", ("bytes", "right"), ("read", "right")],
                [(t["name"], t["nbytes"], f"{t['estimated_reads']:.0f} times") for t in tables],
                title="what start-up copies (times per inference are estimated)",
            )


def _tables_in_ram(artifact: Artifact) -> list[tuple[str, int, str]]:
    """The row of the tables that start-up copies into RAM."""
    nbytes = sum(table["nbytes"] for table in artifact.options.get("tables_in_ram", []))
    return [("of them in RAM", nbytes, "copied at start-up")] if nbytes else []


def _in_rows(plan: Plan) -> list[tuple[str, int, str]]:
    """The row of an input that is never whole in the arena."""
    if not plan.feeds:
        return []
    most = max(feed.rows for feed in plan.feeds)
    return [
        (
            "input",
            plan.inputs[0].nbytes,
            f"not in the arena: it comes {len(plan.feeds)} times, at most {most} rows",
        )
    ]


def _estimated(artifact: Artifact) -> list[tuple[str, int, str]]:
    """Rows of what a plan is expected to take, where the engine says so."""
    figures = artifact.options.get("estimates")
    if figures is None:
        return []
    return [("code", figures["code_bytes"], f"estimated, within {figures['code_error']:.0%}")]


def _print_strips(artifact: Artifact) -> None:
    """Stages that run in strips, and what the plans that were weighed take."""
    if artifact.plan is None:
        return
    if artifact.plan.stages:
        console.print_table(
            ["stage in strips", ("rows", "right"), ("MACs", "right"), "repeated", "moved"],
            [
                (
                    f"steps {stage.first} to {stage.end - 1}",
                    stage.rows,
                    stage.macs,
                    f"{stage.macs - stage.model_macs:,} MACs",
                    f"{stage.moved_bytes:,} B",
                )
                for stage in artifact.plan.stages
            ],
        )
    plans = artifact.options.get("plans", [])
    figures = artifact.options.get("estimates")
    if figures is None:
        return
    if not plans:
        plans = [{**figures, "arena_bytes": artifact.plan.arena_bytes, "stages": []}]
    console.print_table(
        [("arena", "right"), ("instructions", "right"), ("latency", "right"), "is"],
        [
            (
                plan["arena_bytes"],
                round(plan["instructions"]),
                "–" if plan["latency_us"] is None else f"{plan['latency_us'] / 1e3:.1f} ms",
                _what_plan(plan, artifact),
            )
            for plan in plans
        ],
        title="plans that were weighed (instructions and latency are estimated"
        + (f", within {figures['latency_error']:.0%})" if figures["latency_error"] else ")"),
    )


def _what_plan(plan: dict[str, Any], artifact: Artifact) -> str:
    strips = ", ".join(f"steps {a} to {b - 1}" for a, b, _ in plan["stages"])
    text = f"{strips} in strips" if strips else "whole images"
    figures = artifact.options["estimates"]
    same = round(plan["instructions"]) == figures["instructions"]
    if artifact.plan is not None and plan["arena_bytes"] == artifact.plan.arena_bytes and same:
        text += " (taken)"
    return text
