"""A measurement as text on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekit import console
from edgekit.records import Firmware, Measurement, StepMeasurement
from edgekit.report.figures import latency_us


def print_report(measurement: Measurement) -> None:
    """Prints head, operators, memory and the comparison; every figure with its kind."""
    for line in head(measurement):
        print(line)
    if measurement.steps:
        _print_steps(measurement)
    _print_memory(measurement)
    for line in tail(measurement):
        print(line)


def head(measurement: Measurement) -> Iterator[str]:
    """The lines above the tables."""
    clock = f" at {measurement.clock_hz / 1e6:g} MHz" if measurement.clock_hz else ""
    yield (
        f"{measurement.model_name} on {measurement.target}{clock}, engine {measurement.engine}, "
        f"port {measurement.port}"
    )
    times = latency_us(measurement)
    if times is not None:
        runs = f"{measurement.runs} run{'s' if measurement.runs != 1 else ''}"
        yield (
            f"latency       p50 {_us(times['p50'])}, p95 {_us(times['p95'])}, "
            f"max {_us(times['max'])}  ({measurement.kind}{_error(measurement)}, {runs})"
        )
    if measurement.cycles is not None:
        per_mac = (
            f", {measurement.model_macs / measurement.cycles:.3f} MAC/cycle"
            if measurement.model_macs
            else ""
        )
        label = f"{measurement.kind}{_error(measurement)}{per_mac}"
        yield f"cycles        {measurement.cycles:,}  ({label})"
        if measurement.cycles_basis is not None and measurement.kind != "measured":
            yield f"              {measurement.cycles_basis}"
    if measurement.instructions is not None:
        yield f"instructions  {measurement.instructions:,}  ({measurement.kind}, exact)"
        if measurement.cycles is None:
            yield "              cycles and times: this core has no timing model"
    if measurement.latency_floor_us is not None:
        yield (
            f"latency       at least {_us(measurement.latency_floor_us)}  (estimated, from the "
            "most that the core executes in a cycle)"
        )


def _error(measurement: Measurement) -> str:
    if measurement.kind == "measured" or measurement.cycles_error is None:
        return ""
    return f" ±{100 * measurement.cycles_error:.1f} %"


def _us(value: float) -> str:
    return f"{value / 1000:,.3f} ms" if value >= 1000 else f"{value:,.1f} us"


def _print_steps(measurement: Measurement) -> None:
    steps = measurement.steps
    weight = _weight(steps)
    total = sum(value or 0 for value in weight) or None
    columns: list[str | tuple[str, str]] = [
        ("#", "right"),
        "operator",
        "name",
        ("MACs", "right"),
        ("instructions", "right"),
        ("cycles", "right"),
        ("us", "right"),
        ("share", "right"),
        ("MAC/cycle", "right"),
    ]
    rows: list[list[object]] = []
    for step, value in zip(steps, weight, strict=True):
        share = f"{100 * value / total:.1f} %" if total and value is not None else None
        speed = f"{step.macs / step.cycles:.3f}" if step.cycles and step.macs else None
        rows.append(
            [
                step.index,
                step.kind,
                short_name(step.name),
                step.macs,
                step.instructions,
                step.cycles,
                f"{step.latency_us:,.1f}" if step.latency_us is not None else None,
                share,
                speed,
            ]
        )
    shown = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    console.print_table(
        [columns[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
        title=f"steps ({measurement.kind})",
    )


def short_name(name: str, most: int = 40) -> str:
    """The first of the names that converters join with ';', its end where it is long."""
    first = name.split(";")[0]
    return first if len(first) <= most else "…" + first[-(most - 1) :]


def _weight(steps: tuple[StepMeasurement, ...]) -> list[float | None]:
    """What the share is of: cycles, else time, else instructions."""
    for name in ("cycles", "latency_us", "instructions"):
        values: list[float | None] = [getattr(step, name) for step in steps]
        if all(value is not None for value in values):
            return values
    return [None] * len(steps)


def _print_memory(measurement: Measurement) -> None:
    memory = measurement.memory
    if not memory:
        return
    rows: list[list[object]] = []

    def row(title: str, key: str, remark: str = "") -> None:
        if memory.get(key) is not None:
            rows.append([title, memory[key], remark])

    bound = memory.get("arena_lower_bound_bytes")
    optimal = "proven optimal" if memory.get("arena_optimal") else "not proven optimal"
    remark = f"lower bound {bound:,} B, {optimal}" if bound is not None else ""
    if memory.get("inputs_in_rows"):
        remark += "; the input comes in rows"
    row("arena", "arena_bytes", remark)
    static = memory.get("stack_bound_bytes")
    bound_text = f"; static bound {static:,} B" if static is not None else ""
    row("stack", "stack_bytes", f"high-water mark, {measurement.kind}{bound_text}")
    if memory.get("staging_bytes"):
        row(
            "staging",
            "staging_bytes",
            "the inputs, which are apart from the arena"
            if memory.get("inputs_apart")
            else "inputs kept for repeated runs; not needed in a product",
        )
    row("RAM", "ram_bytes", "all of the firmware")
    row("weights", "weights_bytes", "with biases and tables")
    row("code", "code_bytes", "of the model")
    row("flash", "flash_bytes", "all of the firmware")
    console.print_table(["memory", ("bytes", "right"), ""], rows)


def tail(measurement: Measurement) -> Iterator[str]:
    """The lines below the tables."""
    check = measurement.outputs
    if check is not None and check.match:
        count = f"{check.compared} input{'s' if check.compared != 1 else ''}"
        steps = f", and so is every one of {len(measurement.steps)} steps" * bool(measurement.steps)
        yield f"outputs       equal to {check.reference}'s for {count}{steps}"
    elif check is not None and check.match is False:
        from edgekit.bench import mismatch_text

        yield f"outputs       DIFFER: {mismatch_text(measurement)}"
    elif check is not None and check.match is None:
        yield "outputs       not compared: no model beside the firmware (--model FILE.tflite)"
    for note in measurement.notes:
        yield f"note          {note}"


def print_firmware(firmware: Firmware, flash_bytes: int, ram_bytes: int) -> None:
    """Prints what ``build`` made: sections by memory, the largest symbols, the sums.

    Args:
        flash_bytes, ram_bytes: what the target has.
    """
    rows: list[list[object]] = [
        [section.region, section.name, section.nbytes, f"{section.address:#010x}"]
        for section in firmware.sections
    ]
    console.print_table(["memory", "section", ("bytes", "right"), "address"], rows)
    largest: list[list[object]] = [
        [symbol.name, symbol.section, symbol.nbytes] for symbol in firmware.symbols[:10]
    ]
    console.print_table(["largest symbols", "section", ("bytes", "right")], largest)
    for line in _sums(firmware, flash_bytes, ram_bytes):
        print(line)


def _sums(firmware: Firmware, flash_bytes: int, ram_bytes: int) -> Iterator[str]:
    yield f"flash     {_of(firmware.flash_bytes, flash_bytes)}"
    yield f"RAM       {_of(firmware.ram_bytes, ram_bytes)}"
    if firmware.stack_bound_bytes is not None:
        yield f"stack     at most {firmware.stack_bound_bytes:,} B (static bound over all calls)"
    else:
        reserved = sum(s.nbytes for s in firmware.sections if s.name == ".stack")
        yield f"stack     {reserved:,} B reserved; no static bound (see --compiler, capstone)"
    yield f"build id  {firmware.build_id}"
    yield f"compiler  {firmware.compiler}"


def _of(used: int, available: int) -> str:
    share = f" ({100 * used / available:.1f} % of {available:,} B)" if available else ""
    return f"{used:,} B{share}"


def firmware_json(firmware: Firmware) -> dict[str, Any]:
    """What ``build --json`` prints of a firmware."""
    from edgekit.records import to_json

    document: dict[str, Any] = to_json(firmware)
    document.pop("plan")
    return document
