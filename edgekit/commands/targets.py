"""List the boards, filter them, or show one with the sources of its facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.targets import Target


@click.command()
@click.argument("name", required=False)
@click.option("--core", help="Only boards with this core, e.g. cortex-m4.")
@click.option("--min-ram", metavar="SIZE", help="Only boards with at least this much RAM.")
@click.option("--min-flash", metavar="SIZE", help="Only boards with at least this much flash.")
# Not called 'engine': the key of that name in edgekit.yaml must not filter the list.
@click.option("--engine", "for_engine", help="Only boards that this engine makes something for.")
@click.option("--kind", help="Only this kind: host, mcu, edgetpu, linux or android.")
@console.json_option
def command(
    name: str | None,
    core: str | None,
    min_ram: str | None,
    min_flash: str | None,
    for_engine: str | None,
    kind: str | None,
    as_json: bool,
) -> None:
    """Lists the boards that edgekit knows, or shows one.

    NAME is a board's name, an alias, or the path of a target file of your own. Folders of
    such files are named by EDGEKIT_TARGETS_PATH or by 'targets-path' in edgekit.yaml.

    \b
    edgekit targets --min-ram 256K --engine aot
    edgekit targets nucleo-l4r5zi
    """
    from edgekit.records import to_json
    from edgekit.targets import filter_targets, list_targets, load_target

    if name is not None:
        filters = {"core": core, "min-ram": min_ram, "min-flash": min_flash}
        for option, value in {**filters, "engine": for_engine, "kind": kind}.items():
            if value is not None:
                raise click.UsageError(f"--{option} filters the list; leave out '{name}' or it.")
        target = load_target(name)
        if as_json:
            console.emit_json("target", {"target": _summary(target) | to_json(target)})
        else:
            _show(target)
        return
    targets = filter_targets(
        list_targets(),
        core=core,
        min_ram_bytes=_size(min_ram, "--min-ram"),
        min_flash_bytes=_size(min_flash, "--min-flash"),
        engine=for_engine,
        kind=kind,
    )
    if as_json:
        rows = [_summary(target) | to_json(target) for target in targets]
        console.emit_json("targets", {"targets": rows})
        return
    if not targets:
        console.note("no board fits these filters")
        return
    console.print_table(
        ["target", "kind", "core", ("MHz", "right"), ("flash", "right"), ("RAM", "right"),
         "engines", "board"],
        [_row(target) for target in targets],
    )  # fmt: skip


def _size(text: str | None, option: str) -> int | None:
    from edgekit.yamlfile import parse_size

    if text is None:
        return None
    size = parse_size(text)
    if size is None:
        raise click.BadParameter(f"'{text}' is no size such as 128K or 2M", param_hint=option)
    return size


def _row(target: Target) -> list[object]:
    return [
        target.name,
        target.kind,
        target.core,
        target.clock_hz / 1e6 if target.clock_hz else None,
        human_bytes(target.flash_bytes) if target.flash_bytes else None,
        human_bytes(target.ram_bytes) if target.ram_bytes else None,
        ", ".join(target.engines),
        target.title,
    ]


def human_bytes(nbytes: int) -> str:
    """A size the way data sheets write it: 640K, 2M, 345,856 B."""
    for factor, unit in ((1024**3, "G"), (1024**2, "M"), (1024, "K")):
        if nbytes >= factor and nbytes % factor == 0:
            return f"{nbytes // factor:,}{unit}"
    return f"{nbytes:,} B"


def _summary(target: Target) -> dict[str, Any]:
    return {
        "flash_bytes": target.flash_bytes,
        "ram_bytes": target.ram_bytes,
        "largest_ram_bytes": target.largest_ram_bytes,
        "unverified_facts": list(target.unverified_facts),
    }


def _show(target: Target) -> None:
    print(f"{target.name}: {target.title}")
    clock = f"{target.clock_hz / 1e6:g} MHz" if target.clock_hz else None
    facts = {
        "kind": target.kind,
        "aliases": ", ".join(target.aliases),
        "core": ", ".join(item for item in (target.core, clock) if item),
        "extensions": ", ".join(target.isa),
        "engines": ", ".join(target.engines),
        "port": target.port,
        "console": _settings(target.uart),
        "link": _settings(target.link),
        "timing": _timing(target),
        "simulation": _settings(target.sim),
        **{f"flasher {n}": _settings(item) for n, item in enumerate(target.flashers, 1)},
        **{f"{name} settings": _settings(item) for name, item in target.engine_options.items()},
    }
    for key, value in facts.items():
        if value:
            print(f"  {key:<16} {value}")
    if target.memory:
        console.print_table(
            ["memory", "kind", "from", "to", ("size", "right")],
            [
                (
                    region.name,
                    region.kind,
                    f"0x{region.origin:08x}",
                    f"0x{region.origin + region.nbytes - 1:08x}",
                    human_bytes(region.nbytes),
                )
                for region in target.memory
            ],
        )
    if target.sources:
        console.print_table(
            ["verified", "facts", "source"],
            [
                (source["verified"], ", ".join(source["facts"]), source["source"])
                for source in target.sources
            ],
        )
    if target.unverified_facts:
        print("  'no': the source is named, but could not be read when this file was written.")


def _timing(target: Target) -> str | None:
    if not target.timing:
        return "no model: instructions only" if target.kind == "mcu" else None
    if target.timing.get("basis") == "board":
        constants = _settings(target.timing.get("constants", {}))
        return f"{target.timing['model']} model, constants of this board: {constants}"
    return f"{target.timing['model']} model, constants of the core: this board was not measured"


def _settings(settings: dict[str, Any]) -> str:
    def text(key: str, value: object) -> str:
        if isinstance(value, int) and key in ("base", "family", "address") and value > 9:
            return f"0x{value:08x}"
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    return ", ".join(f"{key} {text(key, value)}" for key, value in settings.items())
