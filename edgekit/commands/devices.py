"""What is attached: ports, probes, drives, Edge TPUs, phones."""

from __future__ import annotations

import click

from edgekit import console

_KINDS = {
    "serial": "serial port",
    "probe": "debug probe",
    "uf2": "UF2 drive",
    "dfu": "DFU or boot ROM",
    "edgetpu": "Edge TPU",
    "adb": "Android",
}


@click.command()
@click.option("--target", metavar="NAME", help="Only what may be this board.")
@console.json_option
def command(target: str | None, as_json: bool) -> None:
    """Lists what is attached to this computer, and which target it may be.

    Nothing is opened, reset or started for it.

    \b
    Example:
      edgekit devices
      edgekit devices --target pico --json
    """
    from edgekit.devices import find_devices
    from edgekit.records import to_json
    from edgekit.targets import list_targets, load_target

    name = load_target(target).name if target else None
    found = find_devices(list_targets())
    devices = [item for item in found.devices if name is None or name in item.targets]
    for note in found.notes:
        console.note(f"note: {note}")
    if as_json:
        payload = {"devices": [to_json(item) for item in devices], "notes": list(found.notes)}
        console.emit_json("devices", payload)
        return
    if not devices:
        console.note(f"nothing that fits {name} is attached" if name else "nothing is attached")
        return
    console.print_table(
        ["kind", "where", "what", "USB id", "serial number", "may be", "usable"],
        [
            (
                _KINDS[item.kind],
                item.where,
                item.title,
                item.usb_id,
                item.serial_number,
                ", ".join(item.targets) or None,
                item.allowed,
            )
            for item in devices
        ],
    )
