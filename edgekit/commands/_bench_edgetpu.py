"""The part of ``edgekit bench`` that concerns Edge TPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.engines.edgetpu.bundle import Bundle
    from edgekit.engines.edgetpu.latency import LatencyEstimate
    from edgekit.engines.edgetpu.measure import EdgeTpuRun
    from edgekit.errors import EdgekitError
    from edgekit.graph import Model
    from edgekit.records import OutputCheck
    from edgekit.targets import Target


def takes(path: Path, target: str | None) -> bool:
    """Whether ``bench PATH --target NAME`` is about an Edge TPU."""
    from edgekit.commands import _flash_edgetpu

    return target != "host" and _flash_edgetpu.takes(path, target)


def run(
    path: Path,
    target: str | None,
    *,
    port: str | None,
    model: Path | None,
    data: Path | None,
    inputs: int | None,
    seed: int,
    runs: int | None,
    warmups: int | None,
    as_json: bool,
) -> None:
    """Measures on the device that is there, or estimates where an estimate is known to hold."""
    from edgekit.errors import DeviceError, LimitError, MissingDependency, UsageError
    from edgekit.targets import load_target

    board = load_target(target or "coral")
    bundle, source = _open(path, model)
    if board.link.get("kind") == "serial":
        raise UsageError(
            f"edgekit does not measure on {board.name}: its application times itself",
            fix="edgekit bench MODEL --target coral for the same chip on USB",
        )
    if bundle is None:
        _estimate(board, source, None, _why_not(path, board), as_json)
        return
    try:
        _find_device(bundle, board, port)
    except (MissingDependency, DeviceError) as error:
        _estimate(board, source, bundle, error, as_json)
        return
    # a device that is there and fails is an error: an estimate would hide it
    measured = _measure(bundle, board, port, data, inputs, seed, runs, warmups)
    if as_json:
        console.emit_json("bench", _document(board, bundle, source, measured))
    else:
        _print(board, bundle, measured)
    found = measured.comparison
    if found is not None and not found.close:
        differs = LimitError(
            f"outputs differ by up to {found.largest_difference:g} "
            f"({found.largest_share:.0%} of their range) from the CPU's",
            bundle.name,
            "edgekit validate shows the model's own error; compile the model again",
        )
        if not as_json:
            raise differs
        console.note(f"error: {differs}")
        click.get_current_context().exit(LimitError.exit_code)


def _why_not(path: Path, board: Target) -> EdgekitError:
    """Why a model that was not compiled cannot be measured: what is missing first."""
    from edgekit.errors import DeviceError, MissingDependency, ModelError
    from edgekit.runtimes.edgetpu import probe, require_device

    if board.link.get("kind") == "usb":
        try:
            require_device(probe())
        except (MissingDependency, DeviceError) as error:
            return error
    return ModelError(
        "the model was not compiled, and only compiled models run on an Edge TPU",
        path.name,
        f"edgekit compile {path.name} --target {board.name}",
    )


def _open(path: Path, model: Path | None) -> tuple[Bundle | None, Model | None]:
    """The compiled model, if it is one, and the model before the compiler, if it is known."""
    from edgekit.engines.edgetpu.bundle import open_bundle
    from edgekit.engines.edgetpu.darwinn import is_compiled
    from edgekit.graph import read_model

    if path.is_file():
        content = read_model(path)
        if not is_compiled(content):
            return None, content
    bundle = open_bundle(path, model=model)
    return bundle, read_model(bundle.source) if bundle.source is not None else None


def _on_this_computer(board: Target) -> bool:
    return board.link.get("kind") != "ssh"


def _board_options(port: str | None) -> dict[str, str]:
    host = (port or "").removeprefix("ssh:")
    return {"host": host} if host else {}


def _find_device(bundle: Bundle, board: Target, port: str | None) -> None:
    from edgekit.engines.edgetpu import measure
    from edgekit.installers import mdt

    if _on_this_computer(board):
        measure.find_local(bundle, board, port or "")
    else:
        mdt.find_board(_board_options(port))


def _measure(
    bundle: Bundle,
    board: Target,
    port: str | None,
    data: Path | None,
    inputs: int | None,
    seed: int,
    runs: int | None,
    warmups: int | None,
) -> EdgeTpuRun:
    from edgekit.engines.edgetpu import measure
    from edgekit.installers import Step
    from edgekit.quality.dataset import read_dataset
    from edgekit.quality.synthetic import SEED, synthetic_inputs

    count = inputs or 4
    samples: Sequence[Any]
    if data is not None:
        samples = read_dataset(data, bundle.model).spread(count)
    else:
        samples = synthetic_inputs(bundle.model, count, seed or SEED)
    timed = measure.DEFAULT_RUNS if runs is None else runs
    before = measure.DEFAULT_WARMUPS if warmups is None else warmups
    if _on_this_computer(board):
        device = port or ""
        return measure.measure_local(
            bundle, board, samples, device=device, warmups=before, runs=timed
        )

    def report(step: Step, result: str) -> None:
        console.note(f"{step.what}: {result}")

    host = (port or "").removeprefix("ssh:")
    options = {"host": host} if host else {}
    return measure.measure_devboard(bundle, samples[0], options, report, warmups=before, runs=timed)


def _estimate(
    board: Target,
    source: Model | None,
    bundle: Bundle | None,
    reason: EdgekitError,
    as_json: bool,
) -> None:
    """Prints an estimate; where there is none that holds, the reason why nothing was measured."""
    from edgekit.engines.edgetpu.latency import NotKnown, estimate_latency
    from edgekit.engines.edgetpu.partition import predict

    try:
        if source is None:
            raise NotKnown("the model before the compiler is not at hand (--model)")
        found = estimate_latency(
            source,
            board.engine_setting("edgetpu", "latency-model"),
            predict(source),
            bundle.compiled if bundle is not None else None,
        )
    except NotKnown as error:
        reason.what += f"; no latency is estimated: {error.what}"
        reason.args = (reason.what,)
        raise reason from None
    console.note(f"not measured: {reason.what}")
    if reason.fix:
        console.note(f"  try: {reason.fix}")
    if as_json:
        console.emit_json("bench", _estimate_document(board, source, bundle, found, reason))
        return
    print(
        f"{source.name} on {board.name}: {found.latency_ms:.2f} ms (estimated, ±"
        f"{found.mean_error:.1%} on average, ±{found.largest_error:.0%} at most)"
    )
    rows = [
        ("convolutions", found.conv_ms),
        ("depthwise convolutions", found.depthwise_ms),
        ("inputs, outputs, instructions", found.io_ms),
        ("streamed parameters", found.offchip_ms),
    ]
    console.print_table(
        ["part", ("ms (estimated)", "right")], [(name, f"{ms:.3f}") for name, ms in rows]
    )
    console.note(found.basis)


def _report(
    board: Target,
    model: Model,
    macs: int,
    *,
    kind: Literal["measured", "estimated"],
    latencies_us: tuple[float, ...],
    warmups: int = 0,
    port: str = "",
    outputs: OutputCheck | None = None,
    memory: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The document that every bench writes, for an Edge TPU."""
    from edgekit.records import Measurement
    from edgekit.report.figures import report_json

    return report_json(
        Measurement(
            kind=kind,
            target=board.name,
            engine="edgetpu",
            port=port,
            model_name=model.name,
            model_sha256=model.sha256,
            model_macs=macs,
            build_id=None,
            warmups=warmups,
            runs=len(latencies_us) if kind == "measured" else 0,
            latencies_us=latencies_us,
            memory=memory or {},
            outputs=outputs,
            notes=notes,
        )
    )


def _memory(bundle: Bundle | None) -> dict[str, Any]:
    if bundle is None:
        return {}
    compiled = bundle.compiled
    return {"cached_bytes": compiled.cached_bytes, "streamed_bytes": compiled.streamed_bytes}


def _estimate_document(
    board: Target,
    source: Model,
    bundle: Bundle | None,
    found: LatencyEstimate,
    reason: EdgekitError,
) -> dict[str, Any]:
    from edgekit.graph.macs import model_cost

    report = _report(
        board,
        source,
        model_cost(source).macs,
        kind="estimated",
        latencies_us=(found.latency_ms * 1e3,),
        memory=_memory(bundle),
        notes=(found.basis,),
    )
    return {
        **report,
        "latency_error": {"mean": found.mean_error, "largest": found.largest_error},
        "basis": found.basis,
        "parts_us": {
            "convolutions": found.conv_ms * 1e3,
            "depthwise_convolutions": found.depthwise_ms * 1e3,
            "io": found.io_ms * 1e3,
            "streamed_parameters": found.offchip_ms * 1e3,
        },
        "not_measured": {"reason": reason.what, "fix": reason.fix},
    }


def _document(
    board: Target, bundle: Bundle, source: Model | None, found: EdgeTpuRun
) -> dict[str, Any]:
    from edgekit.graph.macs import model_cost
    from edgekit.inspection import finite
    from edgekit.records import OutputCheck, to_json
    from edgekit.report.figures import percentile

    times, share, same = found.latencies_us, found.cpu_share, found.comparison
    model = source or bundle.model
    check = None
    if same is not None:
        check = OutputCheck(reference=same.reference, compared=same.inputs, match=same.close)
    document = _report(
        board,
        model,
        model_cost(model).macs,
        kind="measured",
        latencies_us=times,
        warmups=found.warmups,
        port=found.device,
        outputs=check,
        memory=_memory(bundle),
        notes=tuple(filter(None, (found.cpu_note, found.comparison_note))),
    )
    document["outputs"].update(to_json(same) if same is not None else {})
    document["latency_us"] = {
        "min": min(times),
        **{f"p{p}": percentile(times, p / 100) for p in (50, 90, 95, 99)},
        "max": max(times),
    }
    document.update(
        compiled={"name": bundle.path.name, "sha256": bundle.model.sha256},
        runtime=found.runtime,
        library=found.library,
        device=found.device,
        first_inference_us=found.first_us,
        shares={
            "cpu": share,
            "edge": None if share is None else 1.0 - share,
            "cpu_us": found.cpu_us,
            "basis": found.cpu_note,
        },
    )
    cleaned: dict[str, Any] = finite(document)
    return cleaned


def _print(board: Target, bundle: Bundle, found: EdgeTpuRun) -> None:
    from edgekit.report.figures import percentile

    print(f"{bundle.name} on {board.name} ({found.device}), {found.runtime}")
    rows: list[tuple[str, str]] = [
        ("first inference", f"{found.first_us / 1e3:.2f} ms, with the upload"),
        *(
            (f"p{p}", f"{percentile(found.latencies_us, p / 100) / 1e3:.3f} ms")
            for p in (50, 90, 95, 99)
        ),
        ("runs", f"{len(found.latencies_us)} after {found.warmups} warm-ups"),
    ]
    share = found.cpu_share
    if share is not None:
        rows.append(("Edge TPU and transfer", f"{1 - share:.0%}"))
        rows.append(("CPU", f"{share:.0%} ({found.cpu_note})"))
    else:
        rows.append(("shares", found.cpu_note))
    same = found.comparison
    if same is not None:
        rows.append(
            (
                "outputs",
                f"{same.equal_elements:,} of {same.elements:,} equal those of {same.reference}, "
                f"largest difference {same.largest_difference:g}",
            )
        )
    else:
        rows.append(("outputs", found.comparison_note))
    console.print_table(["measured", ""], rows)
