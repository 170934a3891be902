"""Run a whole data set through one or several boards: accuracy, latency, every difference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.evaluation.evaluate import Evaluation
    from edgekit.evaluation.evaluate import Plan as EvaluationPlan
    from edgekit.evaluation.stations import Lost

#: Differing inputs in the table; --json has them all.
_SHOWN = 20


@click.command(name="eval")
@click.argument("subject", metavar="MODEL_OR_FIRMWARE", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="An .npz file with x and y."
)
@click.option(
    "--port", "ports", multiple=True, help="Where a board is; once for each.  [default: virtual]"
)
@click.option("--target", metavar="NAME", help="The board; needed for a model.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="The .tflite file of a firmware's model."
)
@click.option("--metric", type=click.Choice(["top1", "auc", "mse"]), help="Default: what y allows.")
@click.option(
    "--input-mode", type=click.Choice(["auto", "quantized", "image", "real"]), default="auto",
    show_default=True, help="How x becomes the model's input.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), help="Only the first so many samples.")
@click.option(
    "--results", type=click.Path(path_type=Path),
    help="Where results are kept, and found again; default: a name from firmware and data.",
)  # fmt: skip
@console.json_option
def command(
    subject: Path,
    data: Path,
    ports: tuple[str, ...],
    target: str | None,
    model: Path | None,
    metric: str | None,
    input_mode: str,
    count: int | None,
    results: Path | None,
    as_json: bool,
) -> None:
    """Runs all of the data through boards, and compares every output with TFLM's.

    Each board takes the next input when it is free. One that fails gives its input back; its port
    is opened again for half a minute. Every result is kept in a file as soon as it is there: the
    same command goes on where one that was stopped ended. The exit code is 7 when an output
    differs.

    \b
    edgekit eval firmware --data kws01.npz --port serial:/dev/ttyACM0 --port serial:/dev/ttyACM1
    edgekit eval model.tflite --target nucleo-l4r5zi --data kws01.npz --port virtual --port virtual
    """
    import tempfile

    from edgekit.errors import LimitError
    from edgekit.evaluation.evaluate import evaluate

    with tempfile.TemporaryDirectory(prefix="edgekit-eval-") as folder:
        plan = _plan(
            subject, data, ports or ("virtual",), target, model, metric, input_mode, count, results,
            Path(folder),
        )  # fmt: skip
        total = len(plan.dataset.inputs[0])
        boards = "1 board" if len(plan.ports) == 1 else f"{len(plan.ports)} boards"
        with console.progress(f"running {total:,} inputs on {boards}", total) as advance:
            found = evaluate(plan, progress=advance, lose=_tell_lost)
    if as_json:
        console.emit_json("eval", _payload(found, plan))
    else:
        _print(found, plan)
    if found.different:
        inputs = len({d.index for d in found.different})
        text = f"the outputs of {inputs:,} of {found.inputs:,} inputs differ from TFLM's"
        if as_json:
            # the document is out already: only the sentence and the code are left
            console.note(f"error: {text}")
            click.get_current_context().exit(LimitError.exit_code)
        raise LimitError(text, fix="edgekit bench FIRMWARE shows the first step that differs")


def _tell_lost(lost: Lost) -> None:
    state = "is gone" if lost.final else "failed and is opened again"
    console.warn(f"the board on {lost.station} {state}: {lost.error.what}")


def _plan(
    subject: Path,
    data: Path,
    ports: tuple[str, ...],
    target: str | None,
    model: Path | None,
    metric: Any,
    input_mode: Any,
    count: int | None,
    results: Path | None,
    folder: Path,
) -> EvaluationPlan:
    from edgekit.bench import find_model
    from edgekit.build import load_firmware
    from edgekit.errors import UsageError
    from edgekit.evaluation.evaluate import Plan, default_results, station_names
    from edgekit.evaluation.firmware import firmware_of_model
    from edgekit.flashing import require_target
    from edgekit.graph.reader import read_model
    from edgekit.quality.dataset import read_dataset
    from edgekit.targets import load_target

    station_names(ports)
    if subject.suffix == ".tflite":
        if target is None:
            raise click.UsageError("--target says for which board the model is built.")
        graph, board = read_model(subject), load_target(target)
        dataset = read_dataset(data, graph, mode=input_mode, limit=count)
        firmware = firmware_of_model(graph, board, ports, folder)
    else:
        firmware = load_firmware(subject)
        board = load_target(target or firmware.target)
        require_target(firmware, board)
        path = model or find_model(firmware)
        if path is None:
            raise UsageError(
                "outputs are compared with the model's, and there is none beside the firmware",
                str(subject),
                "--model FILE.tflite",
            )
        graph = read_model(path)
        dataset = read_dataset(data, graph, mode=input_mode, limit=count)
    if firmware.protocol != "edgekit":
        raise UsageError(
            f"this firmware speaks the protocol '{firmware.protocol}'",
            str(subject),
            "edgekit bench FIRMWARE --mode accuracy",
        )
    return Plan(
        firmware=firmware,
        target=board,
        ports=ports,
        model=graph,
        dataset=dataset,
        results=results or default_results(firmware, data),
        metric=metric,
    )


def _payload(found: Evaluation, plan: EvaluationPlan) -> dict[str, Any]:
    accuracy = found.accuracy
    return {
        "model": {"name": plan.model.name, "sha256": plan.model.sha256},
        "target": plan.target.name,
        "build_id": plan.firmware.build_id,
        "kind": found.kind,
        "data": plan.dataset.source,
        "adaptation": list(found.adaptation),
        "inputs": found.inputs,
        "resumed": found.resumed,
        "answered": found.answered,
        "lost": [
            {"port": lost.station, "reason": lost.error.what, "final": lost.final}
            for lost in found.lost
        ],
        "accuracy": None
        if accuracy is None
        else {
            "metric": accuracy.metric,
            "value": accuracy.value,
            "samples": accuracy.samples,
            "right": accuracy.right,
        },
        "latency_us": found.latency_us,
        "equal_to_tflm": found.inputs - len({d.index for d in found.different}),
        "different": [
            {
                "index": d.index,
                "port": d.port,
                "output": d.output,
                "elements": d.elements,
                "largest": d.largest,
            }
            for d in found.different
        ],
        "results": str(found.results),
    }


def _print(found: Evaluation, plan: EvaluationPlan) -> None:
    print(f"model     {plan.model.name} on {plan.target.name}, build {plan.firmware.build_id}")
    print(f"inputs    {found.inputs:,} of {plan.dataset.source} ({'; '.join(found.adaptation)})")
    if found.resumed:
        print(f"          {found.resumed:,} of them had results in the file")
    for port, number in found.answered.items():
        print(f"          {number:,} on {port}")
    accuracy = found.accuracy
    if accuracy is not None:
        right = f" ({accuracy.right:,} right)" if accuracy.right is not None else ""
        print(f"{accuracy.metric:9} {accuracy.value:.4f}{right} ({found.kind})")
    if found.latency_us is not None:
        shown = ", ".join(f"{key} {value / 1e3:.3f} ms" for key, value in found.latency_us.items())
        print(f"latency   {shown} ({found.kind})")
    elif found.kind == "simulated":
        print("latency   none: a virtual board tells a chip's time with --port virtual:profile")
    different = len({d.index for d in found.different})
    print(f"outputs   {found.inputs - different:,} equal to TFLM's, {different:,} different")
    if found.different:
        console.print_table(
            [("input", "right"), "port", ("output", "right"), ("elements", "right"),
             ("largest", "right")],
            [(d.index, d.port, d.output, d.elements, d.largest) for d in found.different[:_SHOWN]],
        )  # fmt: skip
        if len(found.different) > _SHOWN:
            print(f"          {len(found.different) - _SHOWN:,} more: --json")
    print(f"results   {found.results}")
