"""Makes a trained model smaller, and says whether that pays on the device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.compress.pipeline import Report


def _list(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Prints the techniques and ends."""
    if not value or ctx.resilient_parsing:
        return
    from edgekit.compress import recipe as recipes
    from edgekit.compress import techniques

    rows = [(name, techniques.summary(name)) for name in techniques.names()]
    console.print_table(["technique", "what it does"], rows)
    rows = [(name, _comment(recipes.SHIPPED / f"{name}.yaml")) for name in recipes.shipped()]
    console.print_table(["recipe", "what it does"], rows)
    click.echo("edgekit compress --explain TECHNIQUE shows its settings")
    ctx.exit()


def _comment(path: Path) -> str:
    """What a recipe says of itself in its first line."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip(".")


def _explain(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Prints a technique's settings and ends."""
    if value is None or ctx.resilient_parsing:
        return
    from edgekit.compress import augmentations, techniques
    from edgekit.compress.distillation import Distillation
    from edgekit.compress.settings import describe
    from edgekit.errors import UsageError

    if value not in techniques.names():
        raise UsageError(
            f"there is no technique '{value}'", fix=f"one of: {', '.join(techniques.names())}"
        )
    module = techniques.load(value)
    click.echo((module.__doc__ or "").strip() + "\n")
    columns = ["setting", "values", "default", "what it is"]
    blank = module.Settings()
    tables: list[tuple[str, Any]] = [(value, blank)]
    if hasattr(blank, "training"):
        tables.append((f"{value}.training", blank.training))
        tables.append((f"{value}.training.distillation", Distillation()))
    for title, settings in tables:
        rows = [(d.key, d.values, d.default, d.help) for d in describe(settings)]
        console.print_table(columns, rows, title=title)
    if hasattr(blank, "training"):
        known = []
        for name in augmentations.names():
            augmentation = augmentations.load(name)
            said = describe(augmentation.Augmentation())
            text = "; ".join(f"{d.key} ({d.default}): {d.help}" for d in said)
            known.append((name, (augmentation.__doc__ or "").partition("\n")[0], text))
        console.print_table(["augmentation", "what it does", "settings"], known)
    ctx.exit()


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Training data: .npz with x and y, a folder of images, or a Python file with "
    "get_training_data(), which is executed.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option(
    "--recipe", metavar="RECIPE", help="Techniques to apply: a YAML file, or a name of --list."
)
@click.option("--technique", metavar="NAME", help="One technique instead of a recipe.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Settings of --technique, or training.KEY=VALUE for all steps of a recipe.",
)
@click.option("--target", metavar="NAME", help="The board to count the cost on.")
@click.option(
    "--max-latency",
    metavar="TIME",
    help="Budget of prune-channels: longest inference, such as 50ms.",
)
@click.option("--max-ram", metavar="SIZE", help="Likewise: most RAM of the firmware, such as 64K.")
@click.option("--max-flash", metavar="SIZE", help="Likewise: most flash of code and weights.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, min_open=True),
    default=0.2,
    show_default=True,
    help="Samples never trained on, to judge by: a share below 1, or a number.",
)
@click.option(
    "--held-out-data", type=click.Path(path_type=Path), help="Samples to judge by instead."
)
@click.option("--normalize", metavar="FORM", help="As for convert: 0..1, scale=S,zero_point=Z, …")
@click.option(
    "--task",
    type=click.Choice(["classification", "binary", "regression", "autoencoder"]),
    help="What the model is for; found from model and data by default.",
)
@click.option("--restart", is_flag=True, help="Throw away what an unfinished run left.")
@click.option("--signature", help="Signature of a SavedModel; by default serving_default.")
@click.option(
    "--custom-objects",
    type=click.Path(path_type=Path),
    help="Python file with custom layers and functions; it is executed.",
)
@click.option(
    "--allow-custom-code", is_flag=True, help="Run the Python code in Lambda layers: trusted files."
)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list,
    help="Show all techniques.",
)  # fmt: skip
@click.option(
    "--explain", metavar="TECHNIQUE", is_eager=True, expose_value=False, callback=_explain,
    help="Show a technique's settings.",
)  # fmt: skip
@console.json_option
def command(
    model: Path,
    data: Path,
    output: Path,
    recipe: str | None,
    technique: str | None,
    settings: tuple[str, ...],
    target: str | None,
    max_latency: str | None,
    max_ram: str | None,
    max_flash: str | None,
    held_out: float,
    held_out_data: Path | None,
    normalize: str | None,
    task: str | None,
    restart: bool,
    signature: str | None,
    custom_objects: Path | None,
    allow_custom_code: bool,
    as_json: bool,
) -> None:
    """Compresses MODEL by a recipe of techniques, each with training that recovers accuracy.

    MODEL is a .keras or .h5 file, a SavedModel or a float .tflite file. OUT holds the
    compressed model, its full-integer form, and a report of what that changed: accuracy on
    samples that were held out, bytes in the file and as flashed, RAM, instructions and time on
    the virtual board. A run that was stopped goes on where it was.

    \b
    edgekit compress digits.keras --data train.npz -o small --technique prune-channels \\
        --set share=0.5 --target nucleo-l4r5zi
    edgekit compress vww_mobilenet.h5 --data vww01.npz --normalize 0..1 -o small \\
        --technique prune-channels --max-latency 50ms --max-ram 64K --target nucleo-l4r5zi
    edgekit compress model.keras --data train.py --recipe recipe.yaml -o small
    """
    from edgekit.compress import pipeline
    from edgekit.compress import recipe as recipes
    from edgekit.convert import normalization
    from edgekit.convert.calibration import Reading
    from edgekit.errors import LimitError, UsageError

    if (recipe is None) == (technique is None):
        raise UsageError(
            "give either --recipe or --technique",
            fix="edgekit compress --list shows all techniques",
        )
    chosen = (
        recipes.read_recipe(recipes.find_recipe(recipe), settings)
        if recipe is not None
        else recipes.make_recipe(technique or "", settings)
    )
    budget = {"max_latency": max_latency, "max_ram": max_ram, "max_flash": max_flash}
    chosen = recipes.with_budget(chosen, {k: v for k, v in budget.items() if v})
    request = pipeline.Request(
        source=model,
        output=output,
        recipe=chosen,
        data=data,
        held_out=held_out,
        held_out_data=held_out_data,
        reading=Reading(normalization.parse(normalize) if normalize else None),
        task=task,
        target=target,
        restart=restart,
        allow_custom_code=allow_custom_code,
        custom_objects=custom_objects,
        signature=signature,
    )
    try:
        with console.stages() as stages:
            report = pipeline.compress(request, stages.progress, stages.note)
    except KeyboardInterrupt:
        unfinished = pipeline.work_folder(output)
        if unfinished.exists():
            console.note(f"{unfinished.name} keeps what is done: the same command goes on from it")
        raise
    if as_json:
        from edgekit.records import to_json

        console.emit_json("compress", to_json(report))
    else:
        _print(report, output)
    for warning in report.warnings:
        console.warn(warning)
    if report.exceeded:
        raise LimitError(
            f"the result takes {', '.join(report.exceeded)} after training",
            target,
            "a budget a few percent tighter",
        )


def _print(report: Report, output: Path) -> None:
    from edgekit.report.compression import print_report

    print_report(report, output)
