"""Run a firmware on a virtual board that any serial program can talk to."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit import console


@click.command(name="sim")
@click.argument("target_name", metavar="TARGET")
@click.argument("firmware", type=click.Path(path_type=Path), required=False)
@click.option(
    "--tcp",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve a TCP port on this machine (0: any free one) instead of a pseudo-terminal.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep the board's flash here: it starts what was flashed, or its boot ROM.",
)
@click.option(
    "--boot-rom", is_flag=True, help="Hold the boot pin or button at power-on (with --state)."
)
@click.option(
    "--debug-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Open the chip's debug port on a TCP port of this machine (0: any free one).",
)
@click.option("--profile", is_flag=True, help="Count what the timing models need, too.")
@console.json_option
def command(
    target_name: str,
    firmware: Path | None,
    tcp: int | None,
    state: Path | None,
    boot_rom: bool,
    debug_port: int | None,
    profile: bool,
    as_json: bool,
) -> None:
    """Runs FIRMWARE (an ELF file or a folder that `build` made) on a virtual TARGET.

    The board's memory, clock tree and UART are those of the target's file; the console appears
    as a pseudo-terminal or a TCP port. It runs until Ctrl-C; the executed instructions of the
    last inference are printed at the end. A fault names its function and line.

    With --state the board is like one out of the box: erased, in its boot ROM, and programmed
    as the real one is. FIRMWARE then only explains what runs, and may be left out.

    \b
    Example:
      edgekit sim nucleo-l4r5zi firmware/firmware.elf
      # virtual nucleo-l4r5zi at /dev/pts/7, 115200 baud; then, in another terminal:
      edgekit bench firmware --port pty:/dev/pts/7
    \b
      edgekit sim nucleo-l4r5zi --state board
      # then: edgekit flash firmware --port pty:/dev/pts/7
    \b
      edgekit sim nucleo-l4r5zi firmware/firmware.elf --debug-port 7184
      # openocd -f interface/stlink.cfg -c "hla_stlink_backend tcp 7184" -f target/stm32l4x.cfg
      # gdb-multiarch firmware/firmware.elf -ex "target extended-remote localhost:3333"
    \b
      edgekit sim nrf52840dk firmware/firmware.elf --debug-port 7184
      # pyocd gdbserver --uid remote:127.0.0.1:7184 --target nrf52840
    """
    from edgekit.errors import UsageError
    from edgekit.links.virtual import VirtualLink, find_elf
    from edgekit.targets import load_target

    target = load_target(target_name)
    if firmware is None and state is None:
        raise UsageError(
            "which firmware?",
            None,
            f"edgekit sim {target.name} FIRMWARE, or --state FOLDER for a board that is flashed",
        )
    if boot_rom and state is None:
        raise UsageError("--boot-rom is for boards with --state FOLDER")
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
    link = VirtualLink(
        target,
        find_elf(firmware) if firmware is not None else None,
        profile=profile,
        tcp=tcp,
        connect=False,
        state=state,
        boot_rom=boot_rom,
        debug_port=debug_port,
    )
    try:
        baud = target.link.get("baud", 115200)
        console.note(f"virtual {target.name} at {link.port}, {baud} baud; Ctrl-C ends it")
        if link.volume is not None:
            console.note(f"its boot ROM's drive is {link.volume}")
        if link.debug_port is not None:
            console.note(
                f"its debug port is tcp:127.0.0.1:{link.debug_port}, for openocd "
                f"(st-link backend tcp {link.debug_port}) and pyocd "
                f"(--uid remote:127.0.0.1:{link.debug_port})"
            )
        if "compiled" not in link.counter_title:
            console.warn(f"the board counts in {link.counter_title}")
        interrupted = False
        try:
            link.wait()
            while link.debug_port is not None:  # a debugger may look at what has stopped
                console.warn(link.take_fault())
                link.wait()
        except KeyboardInterrupt:
            interrupted = True
        found = link.state()
        for report in found["reports"]:
            console.warn(report)
        document: dict[str, object] = {
            "kind": "simulated",
            "target": target.name,
            "port": link.port,
            "debug_port": link.debug_port,
            **found,
        }
        counters = link.counters_or_none()
        if counters is not None and counters.inferences:
            cycles = counters.total.cycles
            document["inference"] = {
                "model": counters.model,
                "instructions": counters.total.instructions,
                "cycles": cycles.value if cycles else None,
                "cycles_error": cycles.error if cycles else None,
                "cycles_basis": cycles.basis if cycles else None,
                "steps": [step.instructions for step in counters.steps],
                "functions": counters.functions,
            }
        if as_json:
            console.emit_json("sim", document)
        elif counters is not None and counters.inferences:
            console.note(
                f"last inference of {counters.model}: {counters.total.instructions:,} "
                "instructions (simulated)"
            )
            console.print_table(
                [("function", "left"), ("instructions", "right")],
                list(counters.functions.items())[:20],
            )
            if cycles is not None:
                console.note(
                    f"estimated {cycles.value:,} cycles ± {cycles.error:.1%} ({cycles.basis})"
                )
        if not interrupted:
            link.check_fault()
    finally:
        link.close()
