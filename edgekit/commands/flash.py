"""Put a firmware onto a board and see that it answers."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit import console


@click.command()
@click.argument("firmware", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", help="The board; by default what build was told.")
@click.option(
    "--port",
    default="auto",
    show_default=True,
    help="Where the board is; auto: the only attached one that fits.",
)
@click.option("--flasher", metavar="NAME", help="By default the target's first that can be used.")
@click.option("--serial", "serial_number", metavar="NUMBER", help="Which probe or DFU device.")
@click.option("--dry-run", is_flag=True, help="Say exactly what would be done, and do nothing.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Edge TPU: a setting.")
@console.json_option
def command(
    firmware: Path,
    target: str | None,
    port: str,
    flasher: str | None,
    serial_number: str | None,
    dry_run: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Flashes FIRMWARE, a folder that build wrote, and asks the board who it is.

    FIRMWARE may also be the build folder of an ESP-IDF project. A virtual board is erased and
    flashed through its boot ROM; with virtual:state=FOLDER it keeps what it got. For an Edge TPU
    FIRMWARE is a compiled model: it is installed, and one inference is run.

    \b
    edgekit flash firmware --port virtual
    edgekit flash firmware --port serial:/dev/ttyACM0 --flasher stm32loader --dry-run
    edgekit flash vww_edgetpu --target coral --dry-run
    """
    import shlex

    from edgekit.commands import _flash_edgetpu

    if _flash_edgetpu.takes(firmware, target):
        where = port if port != "auto" else None
        _flash_edgetpu.run(
            firmware, target, port=where, settings=settings, dry_run=dry_run, as_json=as_json
        )
        return
    if settings:
        raise click.UsageError("--set is for Edge TPUs: --target coral")

    from edgekit import flashing
    from edgekit.build import load_firmware
    from edgekit.errors import UsageError
    from edgekit.records import to_json
    from edgekit.targets import load_target

    how = {"port": port, "flasher": flasher, "serial_number": serial_number}
    if (firmware / "flasher_args.json").is_file():
        if target is None:
            raise UsageError("which board is it?", str(firmware), "--target esp32-s3")
        order = flashing.order_of_idf(firmware, load_target(target), **how)
    else:
        made = load_firmware(firmware)
        order = flashing.order_of(made, load_target(target or made.target), **how)
    board = order.target
    if dry_run:
        used, steps = flashing.plan(order)
        if as_json:
            payload = {"target": board.name, "flasher": used.NAME, "dry_run": True}
            console.emit_json("flash", {**payload, "steps": [to_json(step) for step in steps]})
            return
        print(f"{board.name}, with {used.TITLE}; nothing was done:")
        for step in steps:
            print(f"  {step.what}")
            if step.command is not None:
                print(f"    {shlex.join(step.command)}")
        return
    with console.progress(f"flashing {board.name}", 100) as advance:
        shown = 0

        def show(share: float) -> None:
            nonlocal shown
            done = int(100 * share)
            if done > shown:
                advance(done - shown)
                shown = done

        outcome = flashing.carry_out(order, show)
    for note in outcome.notes:
        console.note(f"note: {note}")
    identity, report = outcome.identity, outcome.report
    if as_json:
        document = {
            "target": board.name,
            "port": outcome.port,
            "build_id": identity.build_id if identity else None,
            "model": {"name": identity.model_name, "sha256": identity.model_sha256}
            if identity
            else None,
            "report": to_json(report) if report else None,
            "verified": identity is not None or report is not None,
            "notes": list(outcome.notes),
        }
        console.emit_json("flash", document)
        return
    if report is not None:
        version = f" {report.version}" if report.version else ""
        for item in report.written:
            print(
                f"{item.nbytes:,} B at {item.address:#010x} of {report.where} "
                f"(SHA-256 {item.sha256[:16]}…)"
            )
        print(f"with {report.flasher}{version}; {report.verified}")
    if identity is not None:
        print(f"{board.name} on {outcome.port} runs build {identity.build_id} "
              f"of {identity.model_name}")  # fmt: skip
