"""A plain terminal on a board's serial port."""

from __future__ import annotations

import click

from edgekit import console


@click.command()
@click.option(
    "--port",
    default="auto",
    show_default=True,
    help="serial:/dev/ttyACM0[:BAUD], pty:/dev/pts/7, tcp:host:port; auto: the only serial port.",
)
@click.option("--target", metavar="NAME", help="Its speed, and which port may be its own.")
@click.option("--hex", "as_hex", is_flag=True, help="Show bytes as hexadecimal numbers.")
@click.option("--timestamps", is_flag=True, help="Begin each line with the seconds since start.")
def command(port: str, target: str | None, as_hex: bool, timestamps: bool) -> None:
    """Shows what the board sends, and sends what is typed. Ctrl-] or the end of input ends it.

    \b
    Example:
      edgekit monitor --port serial:/dev/ttyACM0:115200
    """
    from edgekit.links import open_link
    from edgekit.monitor import Format, find_port, run
    from edgekit.targets import load_target

    board = load_target(target) if target else None
    where = find_port(port, board)
    link = open_link(where, board)
    try:
        console.note(f"{link.name}; Ctrl-] ends it")
        run(link, Format(as_hex=as_hex, timestamps=timestamps))
    finally:
        link.close()
