"""Build firmware from what compile made: ELF, sizes by section and symbol, a stack bound."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit import console


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", help="The board; by default what compile was told.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder; default ARTIFACT-firmware."
)
@click.option("--compiler", help="gcc (arm-none-eabi-gcc) or zig; default: the first there is.")
@click.option(
    "--staging",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="RAM that keeps the inputs for repeated runs, when inference overwrites them.",
)
@click.option(
    "--protocol",
    type=click.Choice(["edgekit", "mlperf-tiny"]),
    default="edgekit",
    show_default=True,
    help="What the firmware speaks: edgekit's wire protocol, or MLPerf Tiny's.",
)
@click.option("--benchmark", help="MLPerf Tiny: kws01, ic01, vww01 or ad01; default: what fits.")
@click.option("--vendor", default="edgekit", help="MLPerf Tiny: the name that the board answers.")
@click.option("--energy", is_flag=True, help="MLPerf Tiny: timestamps as pulses, 9600 baud.")
@console.json_option
def command(
    artifact: Path,
    target: str | None,
    output: Path | None,
    compiler: str | None,
    staging: str,
    protocol: str,
    benchmark: str | None,
    vendor: str,
    energy: bool,
    as_json: bool,
) -> None:
    """Builds the firmware of ARTIFACT, a folder that compile wrote.

    The output folder holds firmware.elf, .bin (and .uf2 where the board takes it), the linker
    script and manifest.json. A firmware that does not fit is refused with the numbers.

    \b
    edgekit compile model.tflite --target nucleo-l4r5zi -o model
    edgekit build model -o firmware
    edgekit build model --protocol mlperf-tiny -o mlperf
    """
    from typing import Literal, cast

    from edgekit.build import build, load_artifact
    from edgekit.report.text import firmware_json, print_firmware
    from edgekit.targets import load_target

    made = load_artifact(artifact)
    board = load_target(target or made.target)
    personality = None
    if protocol == "mlperf-tiny":
        from edgekit.mlperf.personality import choose

        personality = choose(made, benchmark, vendor, energy)
    elif benchmark is not None or energy:
        raise click.UsageError("--benchmark and --energy go with --protocol mlperf-tiny")
    out = output or artifact.with_name(f"{artifact.name}-firmware")
    words = "" if personality is None else f" --protocol {protocol}"
    firmware = build(
        made,
        board,
        out,
        compiler=compiler,
        staging=cast('Literal["auto", "on", "off"]', staging),
        personality=personality,
        command=f"edgekit build {artifact.name} --target {board.name}{words}",
    )
    if as_json:
        console.emit_json("firmware", {"firmware": firmware_json(firmware)})
    else:
        print_firmware(firmware, board.flash_bytes, board.ram_bytes)
        print(f"wrote     {firmware.elf}")
