"""Turns a trained model into a verified full-integer .tflite file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.convert.pipeline import Report


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
    labels: str | None,
    metadata_file: str | None,
    signature: str | None,
    input_shapes: tuple[str, ...],
    custom_objects: str | None,
    allow_custom_code: bool,
    as_json: bool,
) -> None:
    """Converts SOURCE and proves what came out of it.

    SOURCE is a .keras or .h5 file (Keras 2 or 3), a SavedModel folder, or a quantised .tflite
    file, which is verified and passed through. Which loader it needs is found in the file.

    \b
    edgekit convert digits.keras -o digits_int8.tflite --calibration-data digits_calibration.npz
    edgekit convert vww_mobilenet.h5 -o vww.tflite --calibration-data vww01.npz --normalize 0..1
    edgekit convert kws_dscnn_savedmodel -o kws.tflite --calibration-data kws01.npz \\
        --normalize scale=0.5847029,zero_point=83

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
    if report.targets:
        _print_targets(report)


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
