"""Small architectures to start from: list, explain, build an untrained Keras model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.zoo import Architecture


@click.group(invoke_without_command=True)
@console.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Lists small architectures, explains one, or builds it as an untrained Keras model.

    What comes out is a .keras file of plain Keras 3 layers, to be trained on your data with a few
    lines of Keras (docs/zoo.md) and then converted. Every architecture converts to full integer.

    \b
    edgekit zoo
    edgekit zoo show ds_cnn
    edgekit zoo build mobilenet_v1 --width 0.25 --resolution 96 --classes 2 -o m.keras
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


@command.command(name="show")
@click.argument("name")
@console.json_option
def show(name: str, as_json: bool) -> None:
    """Shows what the architecture NAME is, its parameters with their ranges, and its papers.

    \b
    edgekit zoo show transformer
    """
    from edgekit import zoo

    found = zoo.find(name)
    if as_json:
        console.emit_json("zoo-architecture", _document(found))
        return
    print(f"{found.name}: {found.title}\n\n{found.description}\n")
    console.print_table(["parameter", "default", "values", "meaning"], _parameters(found))
    for paper in found.papers:
        print(f"  {paper}")
    print(f"\nedgekit zoo build {found.name} -o {found.name}.keras")


@command.command(name="build")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The .keras file to write.",
)
@click.option("--width", help="Multiplies the channels, where the architecture has it.")
@click.option("--resolution", metavar="HxW", help="Size of the image or spectrogram.")
@click.option("--classes", help="Classes of the output.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any parameter that 'edgekit zoo show NAME' lists.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the initial weights.",
)
@console.json_option
def build(
    name: str,
    output: Path,
    width: str | None,
    resolution: str | None,
    classes: str | None,
    settings: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Builds the architecture NAME with random weights.

    Parameters and MACs are counted; the size of the int8 file is estimated. The same settings and
    seed give the same file.

    \b
    edgekit zoo build mobilenet_v2 --width 0.35 --resolution 64 --classes 3 -o m.keras
    edgekit zoo build lstm --set steps=24 --set features=3 --set units=16 -o m.keras
    """
    from edgekit import zoo
    from edgekit.records import to_json

    shortcuts = {"width": width, "resolution": resolution, "classes": classes}
    given = {key: value for key, value in shortcuts.items() if value is not None}
    for setting in settings:
        key, value = _pair(setting)
        if key in given:
            from edgekit.errors import UsageError

            raise UsageError(f"{key} is given twice")
        given[key] = value
    built = zoo.build_file(name, output, seed=seed, settings=given, progress=console.note)
    if as_json:
        console.emit_json("zoo-model", to_json(built))
        return
    written = ", ".join(f"{key} {value}" for key, value in built.settings.items())
    print(f"{built.output}: {built.architecture}, untrained, seed {built.seed}")
    print(f"  settings    {written}")
    print(f"  input       {_shape(built.input_shape)}, output {_shape(built.output_shape)}")
    print(f"  parameters  {built.parameters:,}")
    print(f"  MACs        {built.macs:,}")
    print(
        f"  int8 file   {built.int8_file_bytes:,} B "
        f"({built.int8_file_kind} ±{built.int8_file_error:.0%})"
    )
    print(f"  file        {built.nbytes:,} B, SHA-256 {built.sha256}")


def _pair(setting: str) -> tuple[str, str]:
    from edgekit.errors import UsageError

    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {setting} is no KEY=VALUE", fix="--set blocks=3")
    return key.strip().replace("-", "_"), value.strip()


def _list(as_json: bool) -> None:
    from edgekit import zoo

    found = [zoo.find(name) for name in zoo.names()]
    if as_json:
        console.emit_json("zoo", {"architectures": [_document(item) for item in found]})
        return
    console.print_table(
        ["architecture", "what for", "parameters", ("weights", "right"), ("MACs", "right")],
        [
            (
                item.name,
                item.title,
                ", ".join(parameter.name for parameter in item.parameters),
                item.parameters_count,
                item.macs,
            )
            for item in found
        ],
        title="architectures; weights and multiply-accumulates at the default settings",
    )


def _parameters(found: Architecture) -> list[tuple[str, ...]]:
    from edgekit.zoo import text

    return [
        (item.name, text(item.default), item.parameter.values, item.parameter.help)
        for item in found.parameters
    ]


def _document(found: Architecture) -> dict[str, Any]:
    keys = ("name", "default", "values", "help")
    return {
        "name": found.name,
        "title": found.title,
        "description": found.description,
        "papers": list(found.papers),
        "parameters": [dict(zip(keys, row, strict=True)) for row in _parameters(found)],
        "default": {"parameters": found.parameters_count, "macs": found.macs},
    }


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
