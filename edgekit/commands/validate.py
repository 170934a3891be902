"""Measure what quantisation costs: accuracy, error per operator, equality of runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.quality.metrics import Accuracy
    from edgekit.quality.on_device import DeviceAccuracy
    from edgekit.quality.validation import Validation

#: Operators in the table of errors.
_OPS_SHOWN = 12


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--reference", "--float", "reference", type=click.Path(path_type=Path),
    help="The float original: a float .tflite, or the .keras, .h5 or SavedModel source.",
)  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="An .npz file with arrays x and y.")
@click.option(
    "--metric", type=click.Choice(["top1", "auc", "mse"]), help="What to measure on the data."
)
@click.option(
    "--input-mode", type=click.Choice(["auto", "quantized", "image", "real"]), default="auto",
    show_default=True, help="How x becomes the model's input.",
)  # fmt: skip
@click.option(
    "--samples", type=click.IntRange(1), default=16, show_default=True,
    help="Inputs for the error per operator and the comparison of runtimes.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), help="Measure only the first so many samples.")
@click.option(
    "--runtime", type=click.Choice(["tflm", "litert-ref", "litert"]), default="tflm",
    show_default=True, help="What computes the metric.",
)  # fmt: skip
@click.option("--target", metavar="NAME", help="Compute the metric on this board.")
@click.option("--port", help="Where the board is.  [default: virtual]")
@click.option("--min-top1", type=click.FloatRange(0, 1), help="Fail (code 7) below this share.")
@click.option("--min-auc", type=click.FloatRange(0, 1), help="Fail (code 7) below this area.")
@click.option("--max-mse", type=click.FloatRange(0), help="Fail (code 7) above this error.")
@console.json_option
def command(model: Path, as_json: bool, **options: Any) -> None:
    """Measures how good a .tflite model is.

    With --data its accuracy; with --reference the error of every operator against the float
    original, the worst first, with the likely reason; always whether TFLM and LiteRT's
    reference kernels agree (a disagreement is reported and is no failure). --input-mode says
    how x becomes the input: 'quantized' as it is, 'image' as pixels (int8: x - 128), 'real' by
    scale and zero point; 'auto' takes the one that fits without doubt.

    With --target the metric comes from a board, which runs all the data, and every output is
    compared with TFLM's; the exit code is 7 when one differs.

    \b
    edgekit validate kws_int8.tflite --data kws01.npz --metric top1 --min-top1 0.89
    edgekit validate vww_int8.tflite --reference vww_float.tflite --data vww01.npz
    edgekit validate kws_int8.tflite --data kws01.npz --metric top1 --target nucleo-l4r5zi
    """
    from edgekit.errors import LimitError
    from edgekit.graph import read_model
    from edgekit.quality.on_device import Board
    from edgekit.quality.validation import Request, validate

    target, port = options.pop("target"), options.pop("port")
    if port is not None and target is None:
        raise click.UsageError("--port wants --target.")
    board = None if target is None else Board(target, port or "virtual")
    names = ("min_top1", "min_auc", "max_mse")
    limits = {name: options.pop(name) for name in names}
    request = Request(
        **options,
        board=board,
        limits={name: value for name, value in limits.items() if value is not None},
    )
    loaded = read_model(model)
    found = validate(loaded, request, console.progress)
    missed = [limit for limit in found.limits if not limit.kept]
    problem = None
    if missed:
        limit = missed[0]
        problem = (
            f"{limit.name[4:]} is {limit.value:.4f}, the limit --{limit.name} is {limit.limit}"
        )
    device = found.device
    if problem is None and device is not None and device.equal != device.compared:
        problem = (
            f"{device.compared - device.equal} of {device.compared} outputs differ from TFLM's "
            f"on {device.board.target}, the first at input {device.first_different}"
        )
    if as_json:
        console.emit_json("validate", _payload(loaded, found))
        if problem is not None:
            # The document is out: one more for the error would make two.
            console.note(f"error: {problem}")
            click.get_current_context().exit(LimitError.exit_code)
        return
    _print(found)
    if problem is not None:
        raise LimitError(problem, str(model))


def _payload(model: Any, found: Validation) -> dict[str, Any]:
    from edgekit.inspection import finite
    from edgekit.records import to_json

    layers, agreement = found.layers, found.agreement
    payload: dict[str, Any] = {
        "model": {"name": model.name, "sha256": model.sha256},
        "inputs": found.inputs,
        "adaptation": list(found.adaptation),
        "accuracy": _accuracy(found.accuracy, found.accuracy_runtime, _kind(found)),
        "reference_accuracy": _accuracy(found.reference_accuracy, None),
        "operators": to_json(layers) if layers else None,
        "agreement": to_json(agreement) | {"agree": agreement.agree} if agreement else None,
        "agreement_missing": found.agreement_missing,
        "device": _device(found.device),
        "limits": to_json(found.limits),
        "passed": found.passed,
    }
    cleaned: dict[str, Any] = finite(payload)
    return cleaned


def _device(device: DeviceAccuracy | None) -> dict[str, Any] | None:
    if device is None:
        return None
    return {
        "kind": device.kind,
        "target": device.board.target,
        "port": device.board.port,
        "build_id": device.build_id,
        "compared": device.compared,
        "equal_to_tflm": device.equal,
        "first_different": device.first_different,
    }


def _kind(found: Validation) -> str:
    return "measured" if found.device is None else found.device.kind


def _accuracy(
    measured: Accuracy | None, runtime: str | None, kind: str = "measured"
) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "kind": kind,
        "metric": measured.metric,
        "value": measured.value,
        "samples": measured.samples,
        "right": measured.right,
        "score": measured.score,
        "runtime": runtime,
    }


def _print(found: Validation) -> None:
    rows: list[tuple[str, object]] = [("inputs", found.inputs)]
    rows += [("adaptation", rule) for rule in found.adaptation]
    for title, measured in (
        (f"{_kind(found)} ({found.accuracy_runtime})", found.accuracy),
        ("measured, float model", found.reference_accuracy),
    ):
        if measured is not None:
            rows.append((title, _accuracy_text(measured)))
    if found.device is not None:
        device = found.device
        rows.append(
            (f"outputs of {device.board.target}, {device.kind}",
             f"equal to TFLM's for {device.equal} of {device.compared} inputs")
        )  # fmt: skip
    agreement = found.agreement
    if agreement is not None:
        rows.append((f"{agreement.one} = {agreement.two}", _agreement_text(found)))
    else:
        rows.append(("TFLM = LiteRT", f"not compared: {found.agreement_missing}"))
    rows += [
        (f"limit {limit.name} {limit.limit:g}", "kept" if limit.kept else "MISSED")
        for limit in found.limits
    ]
    console.print_table(["", ""], rows)
    layers = found.layers
    if layers is None:
        return
    console.print_table(
        ["#", "operator", ("SQNR dB", "right"), ("added noise", "right"), ("cosine", "right"),
         ("largest, steps", "right"), ("saturated", "right"), "likely reason"],
        [
            (
                str(e.op),
                e.kind,
                "–" if e.sqnr_db is None else f"{e.sqnr_db:.1f}",
                f"{e.added:.2%}",
                "–" if e.cosine is None else f"{e.cosine:.5f}",
                "–" if e.largest_steps is None else f"{e.largest_steps:.0f}",
                f"{e.saturated:.2%}",
                e.reason,
            )
            for e in layers.ops[:_OPS_SHOWN]
        ],
        title=f"operators against the float model, the largest added noise first "
        f"({layers.samples} inputs)",
    )  # fmt: skip
    if len(layers.ops) > _OPS_SHOWN:
        console.note(f"{len(layers.ops) - _OPS_SHOWN} more operators: --json lists them all")
    if layers.unmatched:
        listed = ", ".join(str(index) for index in layers.unmatched)
        console.note(f"operators without a counterpart in the float model: {listed}")


def _accuracy_text(measured: Accuracy) -> str:
    if measured.right is not None:
        return (
            f"{measured.metric} {measured.value:.4f}: {measured.right} of {measured.samples} right"
        )
    return (
        f"{measured.metric} {measured.value:.6g} over {measured.samples} samples "
        f"(score: {measured.score})"
    )


def _agreement_text(found: Validation) -> str:
    agreement = found.agreement
    if agreement is None or agreement.agree:
        return f"equal on all {agreement.samples} inputs" if agreement else ""
    text = (
        f"equal on {agreement.equal} of {agreement.samples} inputs; "
        f"outputs differ by up to {agreement.largest:g}"
    )
    first = agreement.first
    if first is not None:
        text += (
            f"; first at operator {first.op} {first.kind} '{first.name}': {first.differing} of "
            f"{first.elements} elements, by up to {first.largest:g}"
        )
    return text
