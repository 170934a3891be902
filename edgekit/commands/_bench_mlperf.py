"""``edgekit bench --protocol mlperf-tiny``: MLPerf Tiny's runner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from edgekit import console

if TYPE_CHECKING:
    from edgekit.mlperf.runner import Summary
    from edgekit.records import Firmware
    from edgekit.targets import Target


def run(
    subject: Path | None,
    *,
    target: str | None,
    port: str,
    mode: str,
    data: Path | None,
    inputs: int | None,
    seed: int,
    runs: int | None,
    warmups: int | None,
    sessions: Path,
    as_json: bool,
) -> None:
    """Runs one session and prints what it found."""
    from edgekit.bench import kind_of
    from edgekit.mlperf.session import Order, run_session

    firmware, board = _firmware(subject, target)
    order = Order(
        port=port,
        mode=cast('Literal["performance", "accuracy"]', mode),
        firmware=firmware,
        target=board,
        data=data,
        count=inputs,
        iterations=runs,
        warmups=warmups,
        seed=seed,
        sessions=sessions,
    )
    with console.progress(f"{mode} mode on {port}") as advance:
        found, folder = run_session(order, progress=advance)
    kind = kind_of(port)
    if as_json:
        console.emit_json("mlperf-tiny", _payload(found, kind, port, folder))
        return
    _print(found, kind)
    print(f"wrote       {folder}")


def _firmware(subject: Path | None, target: str | None) -> tuple[Firmware | None, Target | None]:
    from edgekit.build import load_firmware
    from edgekit.flashing import require_target
    from edgekit.mlperf.session import firmware_of_elf
    from edgekit.targets import load_target

    board = load_target(target) if target is not None else None
    if subject is None:
        return None, board
    folder = subject if subject.is_dir() else subject.parent
    if board is not None and not (folder / "manifest.json").exists():
        return firmware_of_elf(subject, board), board
    made = load_firmware(subject)
    board = board or load_target(made.target)
    require_target(made, board)
    return made, board


def _payload(found: Summary, kind: str, port: str, folder: Path) -> dict[str, Any]:
    return {
        "mode": found.mode,
        "benchmark": found.benchmark.name,
        "device": {"name": found.profile.name, "profile": found.profile.profile},
        "port": port,
        "kind": kind,
        "throughput_per_s": found.throughput,
        "top1": found.top1,
        "auc": found.auc,
        "inferences": len(found.runs),
        "windows": [
            {
                "file": run.sample.file,
                "iterations": run.iterations,
                "warmups": run.warmups,
                "elapsed_us": run.inference.elapsed_us,
                "throughput_per_s": run.throughput,
            }
            for run in found.runs
        ]
        if found.mode == "performance"
        else [],
        "remarks": list(found.remarks),
        "session": str(folder),
    }


def _print(found: Summary, kind: str) -> None:
    print(f"device      {found.profile.name}, {found.profile.profile}")
    print(f"benchmark   {found.benchmark.name} ({found.benchmark.title}), {found.mode} mode")
    if found.throughput is not None:
        console.print_table(
            ["input", ("inferences", "right"), ("seconds", "right"), ("per second", "right"), ""],
            [
                (
                    run.sample.file,
                    run.iterations,
                    f"{(run.inference.elapsed_us or 0) / 1e6:.3f}",
                    f"{run.throughput:.3f}",
                    kind,
                )
                for run in found.runs
            ],
        )
        print(f"throughput  {found.throughput:.3f} inferences/s, median ({kind})")
    else:
        print(f"inferences  {len(found.runs):,}")
        if found.top1 is not None:
            print(f"top-1       {100 * found.top1:.1f} % ({kind})")
        if found.auc is not None:
            print(f"AUC         {found.auc:.3f} ({kind})")
    for remark in found.remarks:
        console.warn(remark)
