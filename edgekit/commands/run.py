"""Compile, build, flash and measure a model in one go."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit import console


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", metavar="NAME", required=True, help="The board: edgekit targets.")
@click.option("--port", default="virtual", show_default=True, help="Where the board is.")
@click.option("--engine", metavar="NAME", help="Default: the target's first engine.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Engine options.")
@click.option("--keep-input", is_flag=True, help="Inference leaves its inputs as they are.")
@click.option("--debug-steps", is_flag=True, help="One step per operator: nothing is fused.")
@click.option(
    "--optimize",
    type=click.Choice(["speed", "ram", "flash"]),
    help="What to prefer where kernels differ (engine aot).",
)
@click.option("--max-ram", metavar="SIZE", help="Most RAM of the whole firmware, such as 32K.")
@click.option("--max-flash", metavar="SIZE", help="Most flash of the whole firmware.")
@click.option("--max-latency", metavar="TIME", help="Longest inference, such as 50ms.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Keep what is made in this folder."
)
@click.option("--compiler", help="gcc (arm-none-eabi-gcc) or zig; default: the first there is.")
@click.option("--data", type=click.Path(path_type=Path), help="Inputs: .npz with x.")
@click.option("--inputs", type=click.IntRange(1), help="How many inputs to compare; default 1.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random inputs.")
@click.option("--runs", type=click.IntRange(1), help="Timed runs; default 20, simulated 2.")
@click.option("--warmups", type=click.IntRange(0), default=1, show_default=True)
@console.json_option
def command(
    model: Path,
    target: str,
    port: str,
    engine: str | None,
    settings: tuple[str, ...],
    keep_input: bool,
    debug_steps: bool,
    optimize: str | None,
    max_ram: str | None,
    max_flash: str | None,
    max_latency: str | None,
    output: Path | None,
    compiler: str | None,
    data: Path | None,
    inputs: int | None,
    seed: int,
    runs: int | None,
    warmups: int,
    as_json: bool,
) -> None:
    """Takes MODEL (.tflite) to a report from a board: compile, build, flash and bench.

    With --port virtual the board is simulated from its target file; it executes the very ELF
    file that would be flashed. Without -o nothing is left behind.

    \b
    edgekit run model.tflite --target nucleo-l4r5zi --port virtual
    edgekit run model.tflite --target nucleo-l4r5zi --max-ram 32K --max-latency 250ms
    """
    from edgekit.pipeline import Order, run
    from edgekit.report.command import finish

    options: dict[str, str | bool] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise click.UsageError(f"--set wants KEY=VALUE, not '{setting}'.")
        options[key.replace("-", "_")] = value
    if keep_input:
        options["keep_input"] = True
    if debug_steps:
        options["debug_steps"] = True
    if optimize:
        options["optimize"] = optimize
    limits = {"max_ram": max_ram, "max_flash": max_flash, "max_latency": max_latency}
    options.update({key: value for key, value in limits.items() if value})
    order = Order(
        model=model,
        target=target,
        port=port,
        engine=engine,
        options=options,
        compiler=compiler,
        data=data,
        inputs=inputs,
        seed=seed,
        runs=runs,
        warmups=warmups,
    )
    finish(run(order, output), as_json=as_json)
