"""Put a firmware onto a board and see that it answers."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit import console


@click.command()
@click.argument("firmware", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", help="The board; by default what build was told.")
@click.option("--port", default="virtual", show_default=True, help="Where the board is.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Edge TPU: a setting.")
@click.option("--dry-run", is_flag=True, help="Edge TPU: print every step, do none.")
@console.json_option
def command(
    firmware: Path,
    target: str | None,
    port: str,
    settings: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Flashes FIRMWARE, a folder that build wrote, and asks the board who it is.

    A virtual board starts with the ELF file for the length of this command. For an Edge TPU
    FIRMWARE is a compiled model: it is installed, and one inference is run.

    \b
    edgekit flash firmware --port virtual
    edgekit flash vww_edgetpu --target coral --dry-run
    """
    from edgekit.commands import _flash_edgetpu

    if _flash_edgetpu.takes(firmware, target):
        where = port if port != "virtual" else None
        _flash_edgetpu.run(
            firmware, target, port=where, settings=settings, dry_run=dry_run, as_json=as_json
        )
        return
    if settings or dry_run:
        raise click.UsageError("--set and --dry-run are for Edge TPUs: --target coral")
    from edgekit.build import load_firmware
    from edgekit.flashing import flash
    from edgekit.targets import load_target

    made = load_firmware(firmware)
    board = load_target(target or made.target)
    identity = flash(made, board, port)
    if as_json:
        payload = {
            "target": board.name,
            "port": port,
            "build_id": identity.build_id,
            "model": {"name": identity.model_name, "sha256": identity.model_sha256},
            "verified": True,
        }
        console.emit_json("flash", payload)
    else:
        print(f"{board.name} on {port} runs build {identity.build_id} of {identity.model_name}")
