"""Turns a trained model into a verified full-integer .tflite file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.convert.pipeline import Report
    from edgekit.quantize.recipe import Recipe


@click.command()
@click.argument("source")
@click.option("-o", "--output", required=True, help="The .tflite file to write.")
@click.option(
    "--calibration-data",
    metavar="DATA",
    help="Samples that find the ranges: .npz or .npy, a folder of images, or a Python file with "
    "get_calibration_data(), which is executed.",
)
@click.option(
    "--calibration",
    type=click.Choice(["random"]),
    help="Random values instead of data: for shape-only work; the model is marked uncalibrated.",
)
@click.option("--validation-data", metavar="DATA", help="Other samples to compare the models on.")
@click.option(
    "--samples", default=200, show_default=True, help="Calibration samples to use, evenly spaced."
)
@click.option(
    "--verify-samples", default=200, show_default=True, help="Samples to compare on; 0 for none."
)
@click.option(
    "--normalize",
    metavar="FORM",
    help="How stored values become inputs: 0..1, -1..1, none, mean=M,std=S, scale=S,offset=O or "
    "scale=S,zero_point=Z (dequantises). Per channel with slashes: mean=124/117/104.",
)
@click.option("--image-size", metavar="HxW", help="Size of images; must be the model's.")
@click.option(
    "--image-fit",
    type=click.Choice(["stretch", "crop"]),
    default="stretch",
    show_default=True,
    help="Resize images as they are, or cut out the middle in the model's proportions.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8", "int16x8", "float16", "dynamic"]),
    default="int8",
    show_default=True,
    help="int8 has per-channel weights; only int8 and int16x8 are full-integer.",
)
@click.option(
    "--io",
    type=click.Choice(["int8", "uint8", "int16", "float32"]),
    help="Type of inputs and outputs; by default int8 (int16 for int16x8).",
)
@click.option(
    "--per-tensor-dense",
    is_flag=True,
    help="One weight scale per fully connected layer instead of one per output: for runtimes "
    "from before 2024 and the Edge TPU.",
)
@click.option(
    "--quantizer",
    type=click.Choice(["tensorflow", "edgekit"]),
    help="Who chooses the integers. By default TensorFlow's converter; edgekit's own quantiser for "
    "float .tflite files and wherever one of its options, which follow, is given.",
)
@click.option(
    "--ranges",
    metavar="WAY",
    help="Ranges of activations: minmax, percentile=99.99 or mse (least squared error).",
)
@click.option(
    "--weight-ranges",
    metavar="WAY",
    help="Ranges of weights: minmax or mse; by default as --ranges.",
)
@click.option(
    "--equalize",
    type=click.Choice(["weights", "activations"]),
    help="Rescale channels of neighbouring layers so that their weights, or activations and next "
    "weights, span the same.",
)
@click.option(
    "--replace-relu6", is_flag=True, help="Turn RELU6 into RELU where equalisation needs it."
)
@click.option(
    "--bias-correction", is_flag=True, help="Take the mean error of rounding out of the biases."
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "adaptive"]),
    help="Round weights to the nearest, or up or down so that each layer's results come closest.",
)
@click.option(
    "--rounding-iterations", type=int, metavar="COUNT", help="Steps of adaptive rounding (1000)."
)
@click.option(
    "--mixed",
    metavar="TARGET",
    help="Keep activations in int16 where it helps most for its cost, until sqnr=DB, "
    "accuracy=SHARE, layers=COUNT or macs=SHARE is met; several with commas.",
)
@click.option(
    "--int16-layers",
    metavar="LAYER,…",
    help="Keep the results of these operators (numbers or names) in int16.",
)
@click.option("--sensitivity", is_flag=True, help="Measure what quantising each layer costs.")
@click.option("--labels", metavar="FILE", help="Names of the classes, one per line.")
@click.option(
    "--metadata",
    "metadata_file",
    metavar="FILE",
    help="YAML or JSON with name, description, version, author, license, input, output.",
)
@click.option("--signature", help="Signature of a SavedModel; by default serving_default.")
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="[NAME=]D,D,…",
    help="Shape without the batch, for inputs with open dimensions.",
)
@click.option(
    "--custom-objects",
    metavar="FILE",
    help="Python file with custom layers and functions; it is executed.",
)
@click.option(
    "--allow-custom-code", is_flag=True, help="Run the Python code in Lambda layers: trusted files."
)
@console.json_option
def command(
    source: str,
    output: str,
    calibration_data: str | None,
    calibration: str | None,
    validation_data: str | None,
    samples: int,
    verify_samples: int,
    normalize: str | None,
    image_size: str | None,
    image_fit: Any,
    quantize: Any,
    io: Any,
    per_tensor_dense: bool,
    quantizer: str | None,
    ranges: str | None,
    weight_ranges: str | None,
    equalize: Any,
    replace_relu6: bool,
    bias_correction: bool,
    rounding: Any,
    rounding_iterations: int | None,
    mixed: str | None,
    int16_layers: str | None,
    sensitivity: bool,
    labels: str | None,
    metadata_file: str | None,
    signature: str | None,
    input_shapes: tuple[str, ...],
    custom_objects: str | None,
    allow_custom_code: bool,
    as_json: bool,
) -> None:
    """Converts SOURCE and proves what came out of it.

    SOURCE is a .keras or .h5 file (Keras 2 or 3), a SavedModel folder, or a .tflite file: a
    float one is quantised, a quantised one verified and passed through. Which loader it needs
    is found in the file.

    \b
    edgekit convert digits.keras -o digits_int8.tflite --calibration-data digits_calibration.npz
    edgekit convert vww_mobilenet.h5 -o vww.tflite --calibration-data vww01.npz --normalize 0..1
    edgekit convert kws_dscnn_savedmodel -o kws.tflite --calibration-data kws01.npz \\
        --normalize scale=0.5847029,zero_point=83
    edgekit convert float.tflite -o int8.tflite --calibration-data few.npz --ranges mse \\
        --bias-correction

    A Python file given to --calibration-data or --custom-objects is executed with your rights.
    The same input gives the same bytes. A manifest is written beside the output.
    """
    from pathlib import Path

    from edgekit.convert import metadata, normalization, pipeline
    from edgekit.convert.calibration import Reading
    from edgekit.convert.quantize import ConversionFailed
    from edgekit.errors import UsageError

    if calibration and calibration_data:
        raise UsageError("--calibration random and --calibration-data exclude each other")
    if samples < 1 or verify_samples < 0:
        raise UsageError("--samples must be at least 1, --verify-samples at least 0")
    normal = normalization.parse(normalize) if normalize else None
    recipe = _recipe(
        quantizer,
        {
            "ranges": ranges,
            "weight_ranges": weight_ranges,
            "equalize": equalize,
            "replace_relu6": replace_relu6,
            "bias_correction": bias_correction,
            "rounding": rounding,
            "rounding_iterations": rounding_iterations,
            "mixed": mixed,
            "int16_layers": int16_layers,
            "sensitivity": sensitivity,
        },
    )
    request = pipeline.Request(
        source=Path(source),
        output=Path(output),
        quantize=quantize,
        io=io,
        calibration_data=calibration or (Path(calibration_data) if calibration_data else None),
        validation_data=Path(validation_data) if validation_data else None,
        calibration_samples=samples,
        verification_samples=verify_samples,
        per_tensor_dense=per_tensor_dense,
        reading=Reading(
            normal, _size(image_size), image_fit, limit=samples + max(verify_samples, samples)
        ),
        description=metadata.Description(
            metadata.read_labels(Path(labels)) if labels else (),
            metadata.read_description(Path(metadata_file)) if metadata_file else {},
            normal,
        ),
        allow_custom_code=allow_custom_code,
        custom_objects=Path(custom_objects) if custom_objects else None,
        signature=signature,
        input_shapes=dict(_shape(text) for text in input_shapes),
        recipe=recipe,
    )
    try:
        report = pipeline.convert(request, console.note)
    except ConversionFailed as error:
        for line in error.log.strip().splitlines()[-20:]:
            console.note(f"  | {line[:200]}")
        raise
    if as_json:
        from edgekit.records import to_json

        console.emit_json("convert", to_json(report))
    else:
        _print(report)
    for warning in report.warnings:
        console.warn(warning)


def _recipe(quantizer: str | None, options: dict[str, Any]) -> Recipe | None:
    """What edgekit's quantiser is asked for, or ``None`` if TensorFlow's is used."""
    from edgekit.errors import UsageError
    from edgekit.quantize.recipe import Recipe, parse_mixed

    given = {name: value for name, value in options.items() if value not in (None, False)}
    if quantizer == "tensorflow":
        if given:
            option = next(iter(given)).replace("_", "-")
            raise UsageError(f"--{option} is an option of edgekit's quantiser", fix="leave out "
                             "--quantizer tensorflow")  # fmt: skip
        return None
    if not given and quantizer is None:
        return None
    if given.get("rounding_iterations") is not None and given.get("rounding") != "adaptive":
        raise UsageError(
            "--rounding-iterations is for adaptive rounding", fix="--rounding adaptive"
        )
    if "mixed" in given:
        given["mixed"] = parse_mixed(given["mixed"])
    if "int16_layers" in given:
        names = tuple(part.strip() for part in given["int16_layers"].split(",") if part.strip())
        if not names:
            raise UsageError("--int16-layers names no layer")
        given["int16_layers"] = names
    recipe = Recipe(**given)
    recipe.check()
    return recipe


def _size(text: str | None) -> tuple[int, int] | None:
    from edgekit.errors import UsageError

    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UsageError(f"--image-size {text} is no size", fix="--image-size 96x96")
    return int(height), int(width)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    from edgekit.errors import UsageError

    name, equals, dims = text.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or (equals and not name):
        raise UsageError(f"--input-shape {text} is no shape", fix="--input-shape 96,96,3")
    return name, shape


def _print(report: Report) -> None:
    kind = report.calibration["kind"]
    ratio = report.size_before_bytes / report.size_after_bytes
    state = "full-integer" if report.full_integer else "NOT full-integer"
    calibrated = {
        "none": "no calibration needed",
        "trained": "ranges from training",
        "unknown": "calibration unknown",
        "random": "UNCALIBRATED (random values)",
    }.get(kind, f"calibrated with {report.calibration['samples']} samples ({kind})")
    ops = ", ".join(f"{count} {name}" for name, count in sorted(report.ops.items()))
    click.echo(f"{report.output}: {state}, {report.quantize}, io {report.io}, {calibrated}")
    click.echo(
        f"  size        {report.size_after_bytes:,} B, before {report.size_before_bytes:,} B "
        f"({ratio:.1f} times smaller)"
        if ratio > 1
        else f"  size        {report.size_after_bytes:,} B, before {report.size_before_bytes:,} B"
    )
    click.echo(f"  operators   {ops}")
    if report.quantizer.get("name") == "edgekit":
        done = ", ".join(report.quantizer["techniques"]) or "plain ranges"
        click.echo(f"  quantiser   edgekit: {done}")
    quality = report.quality
    if quality is not None:
        figures = [
            f"SQNR {quality.sqnr_db:.1f} dB" if quality.sqnr_db is not None else "",
            f"cosine {quality.cosine:.5f}" if quality.cosine is not None else "",
            f"top-1 agreement {quality.top1_agreement:.1%}"
            if quality.top1_agreement is not None
            else "",
        ]
        click.echo(
            f"  quality     {', '.join(f for f in figures if f)} "
            f"(measured, {quality.samples} samples, {quality.data})"
        )
        if quality.accuracy_float is not None and quality.accuracy_integer is not None:
            click.echo(
                f"  accuracy    {quality.accuracy_integer:.2%}, "
                f"float {quality.accuracy_float:.2%} (measured, the same samples)"
            )
    shown = 3 if report.quantize in ("float16", "dynamic") else 10
    for problem in report.non_integer[:shown]:
        place = "" if problem.op is None else f"operator {problem.op} {problem.kind}, "
        click.echo(
            f"  not integer {place}tensor '{problem.tensor}' {problem.dtype}: {problem.reason}"
        )
    if len(report.non_integer) > shown:
        more = len(report.non_integer) - shown
        click.echo(f"  not integer and {more} more tensors (--json lists them)")
    _print_techniques(report.quantizer)
    if report.targets:
        _print_targets(report)


def _print_techniques(done: Mapping[str, Any]) -> None:
    """What edgekit's quantiser reports of its techniques."""
    equalized = done.get("equalization")
    if equalized:
        click.echo(
            f"  equalised   {len(equalized['pairs'])} pairs of layers, "
            f"{len(equalized['skipped'])} layers left alone"
        )
        reasons: dict[str, int] = {}
        for _, reason in equalized["skipped"]:
            reasons[reason] = reasons.get(reason, 0) + 1
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            click.echo(f"                {count}: {reason}")
        if equalized["relu6_replaced"]:
            click.echo(f"                {len(equalized['relu6_replaced'])} RELU6 became RELU")
    corrected = done.get("bias_correction")
    if corrected and corrected["layers"]:
        largest = max(layer["largest_steps"] for layer in corrected["layers"])
        click.echo(
            f"  biases      {len(corrected['layers'])} layers corrected, by {largest:.2f} int8 "
            "steps of their results at most"
        )
    rounded = done.get("rounding")
    if rounded:
        console.print_table(
            ["layer", "rounded adaptively", ("error, nearest", "right"),
             ("error, adaptive", "right"), ("weights changed", "right")],
            [
                (layer["op"], layer["kind"], f"{layer['nearest_error']:.3g}",
                 f"{layer['adaptive_error']:.3g}", f"{layer['changed']:.1%}")
                for layer in rounded["layers"]
            ],
        )  # fmt: skip
    mixture, cost = done.get("mixture"), done.get("cost")
    if mixture:
        console.print_table(
            ["kept in int16", ("SQNR dB", "right"), ("accuracy", "right"),
             ("MACs in int16", "right"), ("converted", "right"), ("peak bytes", "right")],
            [
                _mixture_row("(none)", mixture["before"], mixture["cost_before"]),
                *(_mixture_row(c["name"], c["score"], c["cost"])
                  for c in mixture["choices"]),
            ],
            title="simulated, on calibration samples",
        )  # fmt: skip
        click.echo(f"  int16       {mixture['verdict']}")
    elif cost:
        click.echo(
            f"  int16       {cost['int16_macs']:,} of {cost['macs']:,} MACs, "
            f"{cost['quantize_ops']} conversions of {cost['converted']:,} elements, "
            f"peak {cost['peak_bytes']:,} B"
        )
    measured = done.get("sensitivity")
    if measured:
        _print_sensitivity(measured)


def _mixture_row(name: str, score: Mapping[str, Any], cost: Mapping[str, Any]) -> tuple[Any, ...]:
    accuracy = score["accuracy"]
    return (
        name, f"{score['sqnr_db']:.2f}", "–" if accuracy is None else f"{accuracy:.2%}",
        f"{cost['int16_macs'] / max(cost['macs'], 1):.1%}", cost["converted"], cost["peak_bytes"],
    )  # fmt: skip


def _print_sensitivity(measured: Mapping[str, Any]) -> None:
    with_accuracy = measured["whole"]["accuracy"] is not None
    figures = [("alone dB", "right"), ("spared wins dB", "right")]
    if with_accuracy:
        figures += [("alone", "right"), ("spared", "right")]
    rows = []
    for layer in measured["layers"]:
        number = "input" if layer["op"] < 0 else layer["op"]
        row = [number, layer["kind"], layer["name"], layer["macs"],
               f"{layer['alone']['sqnr_db']:.1f}", f"{layer['gain_db']:+.2f}"]  # fmt: skip
        if with_accuracy:
            row += [f"{layer[key]['accuracy']:.2%}" for key in ("alone", "spared")]
        rows.append(row)
    console.print_table(
        ["#", "operator", "result", ("MACs", "right"), *figures],
        rows,
        title=f"each layer alone in integers, and all but each (simulated, {measured['samples']} "
        f"calibration samples; all: {measured['whole']['sqnr_db']:.1f} dB)",
    )


def _print_targets(report: Report) -> None:
    """Targets that make the same of the model share a row."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for target, engines in report.targets.items():
        for engine, entry in engines.items():
            reasons = entry["reasons"] if entry["verdict"] == "unsupported" else []
            key = (engine, entry["verdict"], _shortened("; ".join(reasons)))
            rows.setdefault(key, []).append(target)
    console.print_table(
        ["engine", "verdict (estimated)", "targets", "why not"],
        [
            (engine, verdict, ", ".join(targets), why)
            for (engine, verdict, why), targets in sorted(rows.items())
        ],
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
