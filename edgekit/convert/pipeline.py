"""The whole conversion: recognise, load, calibrate, quantise, describe, verify, write."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekit
from edgekit.convert import calibration, metadata, packing, quantize, sources, verify
from edgekit.convert.calibration import Reading, Samples
from edgekit.convert.metadata import Description, Provenance
from edgekit.convert.quantize import Io, Quantize
from edgekit.convert.sources import FloatFile, FloatModel
from edgekit.errors import ModelError, UsageError
from edgekit.files import write_atomic
from edgekit.graph import read_model
from edgekit.quantize.recipe import Recipe
from edgekit.records import to_json

if TYPE_CHECKING:
    from edgekit.convert.sources import Source
    from edgekit.graph import Model

_RANDOM = "random"
_UNCALIBRATED = "UNCALIBRATED: ranges from random values, for shape-only work"


@dataclass(frozen=True)
class Request:
    """What ``edgekit convert`` was asked for.

    ``calibration_data`` is a path, ``"random"``, or ``None``. ``calibration_samples`` are used
    to find ranges, ``verification_samples`` at most to compare the models.
    """

    source: Path
    output: Path
    quantize: Quantize = "int8"
    io: Io | None = None
    calibration_data: Path | str | None = None
    validation_data: Path | None = None
    calibration_samples: int = 200
    verification_samples: int = 200
    per_tensor_dense: bool = False
    reading: Reading = field(default_factory=Reading)
    description: Description = field(default_factory=Description)
    allow_custom_code: bool = False
    custom_objects: Path | None = None
    signature: str | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    #: for edgekit's own quantiser; without it TensorFlow's is used, but for float .tflite files
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Report:
    """What the conversion gave; ``size_*_bytes`` are files, ``ops`` counts by operator."""

    source: str
    source_sha256: str
    format: str
    output: str
    output_sha256: str
    quantize: str
    io: str
    calibration: Mapping[str, Any]
    uncalibrated: bool
    ops: Mapping[str, int]
    full_integer: bool
    non_integer: tuple[verify.NonInteger, ...]
    size_before_bytes: int
    size_after_bytes: int
    quality: verify.Quality | None
    targets: Mapping[str, Any]
    metadata: metadata.ModelMetadata | None
    warnings: tuple[str, ...]
    #: ``name``, and for edgekit's ``recipe``, ``techniques`` and what they report
    quantizer: Mapping[str, Any] = field(default_factory=dict)


def convert(
    request: Request,
    progress: Callable[[str], None] = lambda stage: None,
    *,
    isolated: bool = True,
) -> Report:
    """Converts a model and writes it, with a manifest beside it (``OUT.manifest.json``).

    Args:
        request: what to do.
        progress: called with a sentence when a stage begins.
        isolated: use TensorFlow in a child process, where it may crash and can be interrupted.

    Raises:
        ModelError: the model or the data cannot be used.
        UsageError: the request makes no sense.
        MissingDependency: TensorFlow is needed and not installed.
    """
    if not request.output.parent.is_dir():
        raise UsageError("the output's folder does not exist", str(request.output.parent))
    if request.output.is_dir():
        raise UsageError("the output is a folder; -o takes a file", str(request.output))
    source = sources.identify(request.source)
    if request.output.resolve() == request.source.resolve():
        raise UsageError("the output would replace the source", str(request.output))
    if source.format == "tflite" and verify.is_quantized(read_model(source.path)):
        content, outcome = _pass_through(source, request)
    else:
        request = _with_recipe(request, source)
        quantize.io_type(request.quantize, request.io)
        _require_calibration(request, source)
        # Loading TensorFlow takes seconds: what is missing is told before.
        for path in (request.calibration_data, request.validation_data):
            if isinstance(path, Path) and not path.exists():
                raise ModelError("there is no such file or folder", str(path))
        if request.custom_objects is not None and not request.custom_objects.exists():
            raise UsageError("there is no such file", str(request.custom_objects))
        if isolated:
            from edgekit.convert import worker

            content, outcome = worker.run(source, request, progress)
        else:
            content, outcome = from_float(source, request, progress)
    progress("verifying")
    return _finish(source, request, content, outcome)


@dataclass(frozen=True)
class Outcome:
    """What a conversion found out on its way to the bytes; see :class:`Report`."""

    quantize: str
    io: str
    calibration: Mapping[str, Any]
    uncalibrated: bool
    quality: verify.Quality | None
    warnings: tuple[str, ...]
    quantizer: Mapping[str, Any] = field(default_factory=dict)


def _with_recipe(request: Request, source: Source) -> Request:
    """The request with the recipe that is followed, if edgekit's quantiser is used.

    Raises:
        UsageError: the settings make no sense together.
    """
    recipe = request.recipe
    if source.format == "tflite":
        for name, given in (
            ("--input-shape", bool(request.input_shapes)),
            ("--signature", request.signature is not None),
            ("--custom-objects", request.custom_objects is not None),
        ):
            if given:
                raise UsageError(f"{name} is of no use for a .tflite file", str(source.path))
        recipe = recipe or Recipe()
    if recipe is None:
        return request
    if not quantize.needs_calibration(request.quantize):
        raise UsageError(
            f"--quantize {request.quantize} leaves activations float: edgekit's quantiser has "
            "nothing to choose",
            str(source.path),
            "--quantize int8 or int16x8"
            if source.format == "tflite"
            else f"--quantize {request.quantize} without the options of edgekit's quantiser",
        )
    recipe = replace(
        recipe,
        form="int16" if request.quantize == "int16x8" else "int8",
        per_tensor_dense=request.per_tensor_dense,
    )
    recipe.check()
    return replace(request, recipe=recipe)


def from_float(
    source: Source, request: Request, progress: Callable[[str], None]
) -> tuple[bytes, Outcome]:
    """Loads, quantises and compares: the part of :func:`convert` that needs TensorFlow."""
    mode = request.quantize
    io = quantize.io_type(mode, request.io)
    progress(f"loading {source.path.name}")
    model: FloatModel | FloatFile
    if source.format == "tflite":
        from edgekit.quantize.prepare import prepare

        model = sources.open_file(prepare(read_model(source.path), isolated=False))
    else:
        model = sources.load(
            source,
            allow_custom_code=request.allow_custom_code,
            custom_objects=request.custom_objects,
            signature=request.signature,
            input_shapes=request.input_shapes,
        )
    for_ranges, for_quality, data = _samples(request, model)
    count = len(for_ranges) if for_ranges is not None else 0
    progress(f"converting to {mode}" + (f" with {count} calibration samples" if count else ""))
    details: Mapping[str, Any] = {"name": metadata.TENSORFLOW}
    notes: tuple[str, ...] = ()
    if request.recipe is not None and for_ranges is not None:
        raw, details, notes = _own_quantizer(
            source, model, request.recipe, io, for_ranges, progress
        )
    elif isinstance(model, FloatModel):
        raw = quantize.quantize(
            model, mode, io, for_ranges, per_tensor_dense=request.per_tensor_dense
        )
    else:
        raise UsageError("quantising a .tflite file needs samples", str(source.path))
    calibrated = "none"
    if for_ranges is not None:
        calibrated = for_ranges.kind
    elif quantize.needs_calibration(mode):
        calibrated = "trained"
    provenance = Provenance(
        edgekit.__version__, source.sha256, source.format, mode, io, calibrated, count,
        _title(details),
    )  # fmt: skip
    content = packing.repack(
        raw,
        entries={metadata.ENTRY: metadata.provenance_entry(provenance)},
        description=_UNCALIBRATED if provenance.uncalibrated else "",
        output_names=_names(model.outputs),
    )
    warnings = [*(for_ranges.warnings if for_ranges is not None else ()), *notes]
    if provenance.uncalibrated:
        warnings.append(
            "uncalibrated: the ranges come from random values, and the model is good for "
            "shapes, sizes and timing only"
        )
    elif for_ranges is not None and (few := calibration.few_samples_warning(count)):
        warnings.append(few)
    quality = None
    if for_quality is not None:
        progress(f"comparing with the float model on {len(for_quality)} samples")
        quality = _quality(model, read_model(content), for_quality, data)
        warnings.extend(w for w in for_quality.warnings if w not in warnings)
    stated = {"kind": calibrated, "samples": count}
    outcome = Outcome(mode, io, stated, provenance.uncalibrated, quality, tuple(warnings), details)
    return content, outcome


def _own_quantizer(
    source: Source,
    model: FloatModel | FloatFile,
    recipe: Recipe,
    io: Io,
    samples: Samples,
    progress: Callable[[str], None],
) -> tuple[bytes, Mapping[str, Any], tuple[str, ...]]:
    """The integer model by edgekit's quantiser, what it reports, and what to warn of."""
    from edgekit.quantize.quantizer import quantize as quantize_graph

    if isinstance(model, FloatModel):
        graph = read_model(quantize.float_tflite(model), source.path.stem)
        order = _input_order(model, graph)
    else:
        # The file itself, so that what was made float again is told.
        graph = read_model(source.path)
        order = list(range(len(model.inputs)))
    inputs = [[samples.sample(i)[place] for place in order] for i in range(len(samples))]
    labels = samples.labels if recipe.mixed or recipe.sensitivity else None
    done = quantize_graph(
        graph, inputs, recipe, io=io, labels=labels, progress=progress, isolated=False
    )
    details = {"name": "edgekit", "recipe": to_json(recipe), **to_json(done.report)}
    return done.content, details, done.report.notes


def _title(details: Mapping[str, Any]) -> str:
    """The quantiser as the model's provenance names it."""
    techniques = details.get("techniques", ())
    return ": ".join([str(details["name"]), *([", ".join(techniques)] if techniques else [])])


def _require_calibration(request: Request, source: Source) -> None:
    if (
        request.calibration_data is None
        and quantize.needs_calibration(request.quantize)
        and not (
            request.quantize == "int8"
            and request.recipe is None
            and sources.is_quantization_aware(source)
        )
    ):
        raise UsageError(
            f"--quantize {request.quantize} needs samples to find the ranges of activations",
            str(source.path),
            "--calibration-data FILE, or --calibration random for shape-only work",
        )


def _samples(
    request: Request, model: FloatModel | FloatFile
) -> tuple[Samples | None, Samples | None, str]:
    """Samples to calibrate with, samples to compare on, and what the latter are."""
    given: Samples | None = None
    if request.calibration_data == _RANDOM:
        given = calibration.random_samples(model.inputs)
    elif request.calibration_data is not None:
        given = calibration.read_samples(
            Path(request.calibration_data), model.inputs, request.reading
        )
    most = request.verification_samples
    if request.validation_data is not None:
        checked = calibration.read_samples(request.validation_data, model.inputs, request.reading)
        for_quality, data = checked, "validation data"
        if given is not None and len(given) > request.calibration_samples:
            given = given.take(calibration.spaced(len(given), request.calibration_samples))
    elif given is None:
        return None, None, ""
    elif given.kind == "random":
        for_quality, data = given, "random values"
    elif not quantize.needs_calibration(request.quantize):
        for_quality, data = given, "given samples"
    else:
        given, rest = calibration.split(given, request.calibration_samples)
        for_quality, data = (given, "calibration data") if rest is None else (rest, "held out")
    if not quantize.needs_calibration(request.quantize):
        given = None
    if most == 0:
        return given, None, ""
    return given, for_quality.take(calibration.spaced(len(for_quality), most)), data


def _quality(
    model: FloatModel | FloatFile, converted: Model, samples: Samples, data: str
) -> verify.Quality:
    order = _input_order(model, converted)
    runtime, integers = verify.integer_outputs(converted, samples, order)
    return verify.compare(
        verify.float_outputs(model, samples),
        integers,
        labels=samples.labels,
        data=data,
        runtime=runtime,
        output_is_input=[p.shape for p in model.outputs] == [p.shape for p in model.inputs],
    )


def _input_order(model: FloatModel | FloatFile, converted: Model) -> list[int]:
    """For each input of the converted model its place among the float model's."""
    names = [re.sub(r"\W", "_", port.name) for port in model.inputs]
    order = [
        names.index(name) if (name := t.name.partition(":")[0]) in names else -1
        for t in converted.input_tensors
    ]
    if -1 in order or len(set(order)) != len(names):
        # The converter keeps the order of a function's arguments.
        order = list(range(len(converted.inputs)))
    if len(order) != len(names):
        raise ModelError(
            f"the converted model has {len(order)} inputs, the source {len(names)}: "
            "some are not used by any output",
            ", ".join(names),
        )
    return order


def _names(ports: tuple[sources.Port, ...]) -> list[str]:
    return [port.name for port in ports]


def _pass_through(source: Source, request: Request) -> tuple[bytes, Outcome]:
    model = read_model(source.path)
    _refuse_settings(request, source)
    found = metadata.read_provenance(model)
    io_types = {t.dtype for t in (*model.input_tensors, *model.output_tensors)}
    warnings = []
    if found is not None and found.uncalibrated:
        warnings.append("uncalibrated: the ranges of this model come from random values")
    outcome = Outcome(
        quantize=found.quantize if found else "as it was",
        io="/".join(sorted(io_types)),
        calibration={
            "kind": found.calibration if found else "unknown",
            "samples": found.samples if found else None,
        },
        uncalibrated=found is not None and found.uncalibrated,
        quality=None,
        warnings=tuple(warnings),
        quantizer={"name": found.quantizer if found else "unknown"},
    )
    return model.raw, outcome


def _refuse_settings(request: Request, source: Source) -> None:
    """Settings that a model which is passed through cannot follow."""
    settings = {
        "calibration data": request.calibration_data is not None,
        "validation data": request.validation_data is not None,
        "--io": request.io is not None,
        f"--quantize {request.quantize}": request.quantize != "int8",
        "--per-tensor-dense": request.per_tensor_dense,
        "--input-shape": bool(request.input_shapes),
        "--signature": request.signature is not None,
        "--custom-objects": request.custom_objects is not None,
        "an option of edgekit's quantiser": request.recipe is not None,
    }
    given = [name for name, is_given in settings.items() if is_given]
    if given:
        raise UsageError(
            f"this .tflite model is quantised already and passed through as it is: "
            f"{', '.join(given)} would change nothing",
            str(source.path),
        )


def _finish(source: Source, request: Request, content: bytes, outcome: Outcome) -> Report:
    if request.description.labels or request.description.texts:
        content = metadata.write_metadata(content, request.description, request.output.stem)
    model = read_model(content, request.output.stem)
    problems = verify.non_integer_tensors(model)
    warnings = list(outcome.warnings)
    inside = [p for p in problems if p.kind not in ("QUANTIZE", "DEQUANTIZE")]
    if inside and outcome.quantize not in ("float16", "dynamic"):
        first = inside[0]
        place = "" if first.op is None else f" at operator {first.op} {first.kind}"
        warnings.append(
            f"not full-integer: {len(inside)} tensors, first '{first.tensor}' ({first.dtype})"
            f"{place}: {first.reason}"
        )
    ops: dict[str, int] = {}
    for graph in model.graphs:
        for op in graph.ops:
            ops[op.kind] = ops.get(op.kind, 0) + 1
    report = Report(
        source=source.path.name,
        source_sha256=source.sha256,
        format=source.format,
        output=request.output.name,
        output_sha256=model.sha256,
        quantize=outcome.quantize,
        io=outcome.io,
        calibration=outcome.calibration,
        uncalibrated=outcome.uncalibrated,
        ops=ops,
        full_integer=not problems,
        non_integer=problems,
        size_before_bytes=source.nbytes,
        size_after_bytes=len(content),
        quality=outcome.quality,
        targets=verify.on_targets(model),
        metadata=metadata.read_metadata(model),
        warnings=tuple(warnings),
        quantizer=outcome.quantizer,
    )
    write_atomic(request.output, content)
    write_atomic(manifest_path(request.output), _manifest(report))
    return report


def manifest_path(output: Path) -> Path:
    """Where the manifest of a converted model is: beside it."""
    return output.with_name(f"{output.stem}.manifest.json")


def _manifest(report: Report) -> str:
    import json

    from edgekit.console import SCHEMA_VERSION

    return (
        json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "edgekit": edgekit.__version__,
                "stage": "convert",
                "model": {"name": Path(report.output).stem, "sha256": report.output_sha256},
                **{key: value for key, value in to_json(report).items() if key != "targets"},
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )
