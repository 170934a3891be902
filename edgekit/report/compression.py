"""A compression's report as a user reads it: before, after, and what the steps did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import console

if TYPE_CHECKING:
    from edgekit.compress.pipeline import Report


def print_report(report: Report, output: Path) -> None:
    """Prints the table before/after, the steps and the remarks."""
    target = report.after.footprint.target or report.before.footprint.target
    where = f" on {target}" if target else ""
    title = (
        f"{report.model}{where}: {len(report.steps)} "
        f"step{'s' if len(report.steps) != 1 else ''}, trained on {report.trained_on:,} samples, "
        f"judged by {report.held_out:,} others"
    )
    console.print_table(
        ["", ("before", "right"), ("after", "right"), ("change", "right"), "is"],
        rows(report),
        title=title,
    )
    for step in report.steps:
        console.note(step_text(step, report.metric))
    for remark in report.remarks:
        print(f"note: {remark}")
    for state, when in ((report.before, "before"), (report.after, "after")):
        if state.footprint.missing:
            print(f"note: no figures of a device {when}: {state.footprint.missing}")
    print(f"wrote {output}: {', '.join(report.files.values())}")


def rows(report: Report) -> list[tuple[object, ...]]:
    """The table's rows: figure, before, after, change, and what kind of figure it is."""
    before, after = report.before, report.after
    shares = report.metric == "top1"
    measured = "measured on the host, held-out samples"
    found: list[tuple[object, ...]] = []
    for name, old, new in (
        (f"{report.metric}, float", before.score_float, after.score_float),
        (f"{report.metric}, int8", before.score_integer, after.score_integer),
    ):
        found.append(_score_row(name, old, new, shares, measured))
    error = after.footprint.latency_error or before.footprint.latency_error
    spread = f" ±{error * 100:.1f} %" if error else ""
    figures: list[tuple[str, Callable[[Any], Any], str]] = [
        (".tflite file, B", lambda f: f.file_bytes, "exact"),
        ("the same, gzip, B", lambda f: f.gzip_bytes, "measured, level 9"),
        ("MACs", lambda f: f.macs, "exact"),
        ("flashed: code and weights, B", lambda f: f.flash_bytes, "engine aot, as built"),
        ("arena, B", lambda f: f.arena_bytes, "engine aot, planned"),
        ("RAM of the firmware, B", lambda f: f.ram_bytes, "as built"),
        ("instructions", lambda f: f.instructions, "simulated, exact"),
        ("latency, ms", lambda f: _milliseconds(f.latency_us), f"simulated{spread}"),
    ]
    for name, figure, kind in figures:
        old, new = figure(before.footprint), figure(after.footprint)
        if old is None and new is None:
            continue
        found.append((name, old, new, _change(old, new), kind))
    return found


def _score_row(
    name: str, old: float | None, new: float | None, shares: bool, kind: str
) -> tuple[object, ...]:
    if not shares:
        return (name, _plain(old), _plain(new), _change(old, new), kind)
    change = "–" if old is None or new is None else f"{(new - old) * 100:+.1f} points"
    return (name, _percent(old), _percent(new), change, kind)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _milliseconds(us: float | None) -> str | None:
    return None if us is None else f"{us / 1000:.3f}"


def _change(old: Any, new: Any) -> str:
    if old is None or new is None or not float(old):
        return "–"
    return f"{float(new) / float(old) - 1:+.0%}"


def step_text(step: Any, metric: str) -> str:
    """One line about a step: its technique, the float model's metric, and how long it took."""
    text = f"{step.technique}: {step.seconds:.0f} s"
    if step.score is not None:
        score = f"{step.score:.1%}" if metric == "top1" else f"{step.score:.5g}"
        text += f", float {metric} then {score}"
    if "sparsity" in step.facts:
        text += f", {step.facts['sparsity']:.0%} zeros"
    if "share" in step.facts:
        text += f", {step.facts['share']:.0%} of the channels removed"
    return text
