"""Show the cache folder, its size, or clear it."""

from __future__ import annotations

import click

from edgekit import console


@click.command()
@click.argument("action", type=click.Choice(["path", "size", "clear"]), default="size")
@console.json_option
def command(action: str, as_json: bool) -> None:
    """Shows or clears the folder where edgekit keeps what it can make again.

    The environment variable EDGEKIT_CACHE or 'cache' in edgekit.yaml sets another folder.

    \b
    edgekit cache path
    edgekit cache clear
    """
    from edgekit.cache import cache_dir, cache_sizes, clear_cache

    path = str(cache_dir())
    if action == "clear":
        freed = clear_cache()
        if as_json:
            console.emit_json("cache", {"path": path, "freed_bytes": freed})
        else:
            print(f"{path}: {freed:,} B freed")
        return
    if action == "path" and not as_json:
        print(path)
        return
    sizes = cache_sizes()
    if as_json:
        total = sum(sizes.values())
        console.emit_json("cache", {"path": path, "nbytes": total, "entries": sizes})
        return
    print(f"{path}: {sum(sizes.values()):,} B")
    if sizes:
        console.print_table(["entry", ("bytes", "right")], sizes.items())
