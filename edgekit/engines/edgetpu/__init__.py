"""Edge TPU: drives Google's compiler where it is installed, predicts its result where it is not.

:func:`compile` and :func:`compile_models` run the real ``edgetpu_compiler`` and check what it
made; :func:`edgekit.engines.edgetpu.partition.predict` estimates the partition without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.engines import Support
from edgekit.errors import ModelError, UsageError
from edgekit.records import Artifact, to_json

if TYPE_CHECKING:
    from edgekit.engines.edgetpu.compiler import LogFile, ModelReport, Row, Run
    from edgekit.engines.edgetpu.darwinn import CompiledModel
    from edgekit.engines.edgetpu.partition import Partition
    from edgekit.graph import Model
    from edgekit.targets import Target

NAME = "edgetpu"
TITLE = "Google Edge TPU"
OPTIONS: Mapping[str, str] = {
    "segments": "split the model into a pipeline for so many Edge TPUs (the compiler's -n)",
    "timeout": "seconds that one compilation may take (default 180)",
    "retries": "how often a crashed or unexplained run is repeated (default 2)",
    "min-runtime": "oldest runtime version that must load the result (10 to 14; default: newest)",
    "search": "1: let the compiler look for the largest part that compiles (its -d)",
    "search-step": "operators per step of this search (its -k)",
    "intermediate": "names of tensors, with commas, at which the Edge TPU's part ends (its -i)",
    "multiple-subgraphs": "1: allow several Edge TPU subgraphs (its -a, experimental)",
}
SCHEMA_VERSION = 1
_RUNTIMES = range(10, 15)


def supports(model: Model, target: Target | None) -> Support:
    """Whether the compiler would map at least one operator; predicted, nothing is run."""
    from edgekit.engines.edgetpu.darwinn import is_compiled
    from edgekit.engines.edgetpu.partition import predict

    if target is not None and target.kind != "edgetpu":
        return Support(False, (f"{target.name} has no Edge TPU",))
    if is_compiled(model):
        return Support(True)
    found = predict(model)
    if found.refused:
        return Support(False, found.refused)
    if not found.ops_mapped:
        first = found.ops_cpu[0]
        return Support(
            False, (f"no operator would be mapped: {first.kind} at {first.index}: {first.reason}",)
        )
    return Support(True)


def compile(
    model: Model, target: Target, out: Path, *, command: str, options: Mapping[str, Any]
) -> Artifact:
    """Compiles one model; see :func:`compile_models`."""
    return compile_models([model], target, out, command=command, options=options)


def compile_models(
    models: Sequence[Model],
    target: Target,
    out: Path,
    *,
    command: str,
    options: Mapping[str, Any],
) -> Artifact:
    """Runs the compiler over one model, or several that share the memory of one Edge TPU.

    The folder ``out`` gets for each model the compiled file(s), their log, the model as it was
    (``bench`` compares with it), the labels if it has some, and one ``manifest.json``.

    Raises:
        MissingDependency: the compiler is not installed, crashed, or ran out of time.
        ModelError: it refuses a model, maps nothing, or its result does not hold what it says.
        FitError: activations do not fit into the memory of the chip.
        UsageError: an option that makes no sense.
    """
    from edgekit.engines.edgetpu.compiler import find_compiler, run_compiler
    from edgekit.files import folder_atomic
    from edgekit.graph.macs import model_cost

    arguments, timeout_s, retries, segments = _arguments(options)
    _check_models(models, segments)
    find_compiler()
    with folder_atomic(out) as folder:
        work = folder / ".compiler"
        work.mkdir()
        sources = []
        for model in models:
            sources.append(folder / f"{model.name}.tflite")
            sources[-1].write_bytes(model.raw)
        run = run_compiler(sources, work, arguments=arguments, timeout_s=timeout_s, retries=retries)
        details, files, warnings = [], [path.name for path in sources], list[str]()
        for model in models:
            detail, made, notes = _collect(model, run, work, segments)
            details.append(detail)
            warnings += notes
            labels = _labels(model)
            if labels:
                files.append(f"{model.name}_labels.txt")
                (folder / files[-1]).write_text("\n".join(labels) + "\n", encoding="utf-8")
            for path in made:
                files.append(path.name)
                path.replace(folder / path.name)
        for path in work.iterdir():
            path.unlink()
        work.rmdir()
        first = models[0]
        cost = model_cost(first)
        artifact = Artifact(
            engine=NAME,
            target=target.name,
            model_name=first.name,
            model_sha256=first.sha256,
            model_macs=cost.macs,
            folder=out,
            files=tuple(sorted([*files, "manifest.json"])),
            weights_bytes=sum(
                d["cached_bytes"] + d["streamed_bytes"] for d in details[0]["compiled"]
            ),
            options={
                "compiler": run.output.version,
                "attempts": run.attempts,
                "segments": segments,
                "models": details,
            },
            warnings=tuple(warnings),
        )
        _write_manifest(folder, artifact, models, command)
    return artifact


def _arguments(options: Mapping[str, Any]) -> tuple[list[str], int, int, int]:
    """The compiler's arguments, the time limit in seconds, the retries and the segments.

    Raises:
        UsageError: an option that does not exist, or a value that makes no sense.
    """
    import difflib

    for key in options:
        if key.replace("_", "-") not in OPTIONS:
            close = difflib.get_close_matches(key, OPTIONS, n=1)
            raise UsageError(
                f"the engine edgetpu has no option '{key}'",
                fix=f"--set {close[0]}=…" if close else f"one of: {', '.join(OPTIONS)}",
            )
    settings = {key.replace("_", "-"): str(value) for key, value in options.items()}

    def number(key: str, default: int, low: int, high: int) -> int:
        text = settings.get(key, str(default))
        if not text.isdigit() or not low <= int(text) <= high:
            raise UsageError(f"{key} must be {low} to {high}, not '{text}'", f"--set {key}")
        return int(text)

    arguments: list[str] = []
    segments = number("segments", 1, 1, 16)
    if segments > 1:
        arguments += ["-n", str(segments)]
    if "min-runtime" in settings:
        lowest, highest = _RUNTIMES[0], _RUNTIMES[-1]
        arguments += ["-m", str(number("min-runtime", highest, lowest, highest))]
    if number("search", 0, 0, 1):
        arguments.append("-d")
        if "search-step" in settings:
            arguments += ["-k", str(number("search-step", 1, 1, 1_000))]
    if settings.get("intermediate"):
        arguments += ["-i", settings["intermediate"]]
    if number("multiple-subgraphs", 0, 0, 1):
        arguments.append("-a")
    return arguments, number("timeout", 180, 1, 86_400), number("retries", 2, 0, 20), segments


def _check_models(models: Sequence[Model], segments: int) -> None:
    from edgekit.engines.edgetpu.darwinn import is_compiled

    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            fix = "rename one of the files"
            raise UsageError(f"two of the models are called '{name}'", fix=fix)
    if segments > 1 and len(models) > 1:
        raise UsageError(
            "several models are compiled for one Edge TPU, segments for several",
            fix="one model with --segments, or several without",
        )
    for model in models:
        if is_compiled(model):
            raise ModelError(
                "this model has been through edgetpu_compiler already",
                model.name,
                "edgekit inspect shows what it mapped; edgekit flash installs it",
            )


def _collect(
    model: Model, run: Run, work: Path, segments: int
) -> tuple[dict[str, Any], list[Path], list[str]]:
    """Checks what the compiler made of one model: details for the manifest, files, warnings."""
    names = (
        [model.name]
        if segments == 1
        else [f"{model.name}_segment_{i}_of_{segments}" for i in range(segments)]
    )
    made: list[Path] = []
    warnings: list[str] = []
    compiled: list[dict[str, Any]] = []
    read: list[Model] = []
    advice = _advice(model)
    for name in names:
        path = work / f"{name}_edgetpu.tflite"
        result, content = _checked(path, run)
        read.append(content)
        report = _report_of(run, name)
        log_path = work / f"{name}_edgetpu.log"
        log = _log(log_path)
        made.append(path)
        if log is not None:
            made.append(log_path)
        else:
            warnings.append(f"the compiler left no {log_path.name}")
        rows = report.rows or (log.rows if log is not None else ())
        warnings += _disagreements(name, result, report, rows)
        compiled.append(_detail(path.name, result, report, rows, advice))
    _check_ends(model, read[0], read[-1])
    total = sum(item["ops_total"] or 0 for item in compiled)
    if total and total != len(model.ops):
        warnings.append(
            f"the compiler counted {total} operators in {model.name}, the file has {len(model.ops)}"
        )
    return (
        {"model": {"name": model.name, "sha256": model.sha256}, "compiled": compiled},
        made,
        warnings,
    )


def _checked(path: Path, run: Run) -> tuple[CompiledModel, Model]:
    """A compiled file, read whole.

    Raises:
        ModelError: it is missing, a stub, damaged, or without the Edge TPU's operator.
    """
    from edgekit.engines.edgetpu.compiler import PROGRAM, nothing_mapped
    from edgekit.engines.edgetpu.darwinn import read_compiled
    from edgekit.graph import read_model

    place = f"{PROGRAM} {run.output.version or ''}".strip()
    if not path.is_file():
        raise ModelError(
            f"edgetpu_compiler said that it succeeded, but there is no {path.name}",
            place,
            "run it by hand to see what it does",
        )
    size = path.stat().st_size
    try:
        content = read_model(path)
    except ModelError as error:
        raise ModelError(
            f"edgetpu_compiler left {path.name} of {size:,} B, which is no model: {error.what}",
            place,
            "--set retries=5",
        ) from None
    result = read_compiled(content)
    if result is None:
        if not content.ops or size <= 2048:
            raise ModelError(
                f"edgetpu_compiler left a stub: {path.name} has {size:,} B and no Edge TPU program",
                place,
                "--set retries=5, or --predict to see which operators it would take",
            )
        raise nothing_mapped(place)
    return result, content


def _check_ends(model: Model, first: Model, last: Model) -> None:
    """The compiled model must take and give what the model takes and gives.

    Raises:
        ModelError: it does not.
    """
    for role, mine, theirs in (
        ("input", model.input_tensors, first.input_tensors),
        ("output", model.output_tensors, last.output_tensors),
    ):
        one = [(t.shape, t.dtype) for t in mine]
        two = [(t.shape, t.dtype) for t in theirs]
        if sorted(one) != sorted(two):
            raise ModelError(
                f"the compiled model's {role}s are {two}, the model's {one}",
                model.name,
                "compile it again",
            )


def _report_of(run: Run, name: str) -> ModelReport:
    from edgekit.engines.edgetpu.compiler import ModelReport

    for report in run.output.models:
        if report.input is not None and Path(report.input).stem == name:
            return report
    return run.output.models[0] if len(run.output.models) == 1 else ModelReport()


def _log(path: Path) -> LogFile | None:
    from edgekit.engines.edgetpu.compiler import parse_log

    try:
        return parse_log(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _disagreements(
    name: str, result: CompiledModel, report: ModelReport, rows: Sequence[Row]
) -> list[str]:
    """Where the printed figures (rounded to 0.01 of their unit) differ from the file's."""
    found = []
    for label, printed, real in (
        ("cached", report.cached_bytes, result.cached_bytes),
        ("streamed", report.streamed_bytes, result.streamed_bytes),
    ):
        if printed is None:
            continue
        unit = 1 << 20 if printed >= 1 << 20 else 1 << 10
        if abs(printed - real) > 0.01 * unit + 1:
            found.append(
                f"{name}: the compiler printed {printed:,} {label} bytes, the file holds {real:,}"
            )
    counted = sum(row.count for row in rows)
    if rows and report.ops_total is not None and counted != report.ops_total:
        found.append(f"{name}: the table lists {counted} of {report.ops_total} operators")
    return found


def _detail(
    file: str,
    result: CompiledModel,
    report: ModelReport,
    rows: Sequence[Row],
    advice: Mapping[str, str],
) -> dict[str, Any]:
    from edgekit.engines.edgetpu.compiler import MAPPED

    left = [(row.operator, row.count, row.status) for row in rows if row.status != MAPPED]
    if not rows:
        # no table and no log: the file itself tells which operators are left, not why
        left = [
            (kind, count, "the compiler did not say") for kind, count in result.cpu_kinds.items()
        ]
    total, mapped = report.ops_total, report.ops_mapped
    if rows:
        total = sum(row.count for row in rows) if total is None else total
        mapped = sum(row.count for row in rows if row.status == MAPPED)
    elif mapped is None and total is not None:
        mapped = total - len(result.cpu_ops)
    return {
        "file": file,
        "ops_total": total,
        "ops_mapped": mapped,
        "ops_cpu": [
            {
                "kind": kind,
                "count": count,
                "reason": status,
                "advice": advice.get(kind.partition(":")[0]),
            }
            for kind, count, status in left
        ],
        "rows": to_json(tuple(rows)),
        **compiled_json(result),
        "remaining_bytes": report.remaining_bytes,
    }


def _advice(model: Model) -> dict[str, str]:
    """What helps an operator that stayed on the CPU, by its kind as the compiler writes it.

    An operator that is refused by itself tells more than one that comes after such a one.
    """
    from edgekit.engines.edgetpu.operators import SUBGRAPH
    from edgekit.engines.edgetpu.partition import predict

    found: dict[str, str] = {}
    left = predict(model).ops_cpu
    for op in sorted(left, key=lambda one: one.status == SUBGRAPH):
        found.setdefault(op.kind.partition(":")[0], op.advice)
    return found


def compiled_json(result: CompiledModel) -> dict[str, Any]:
    """What a compiled file holds, exactly."""
    return {
        "subgraphs": result.subgraphs,
        "cached_bytes": result.cached_bytes,
        "streamed_bytes": result.streamed_bytes,
        "instruction_bytes": result.instruction_bytes,
        "min_runtime_version": result.min_runtime_version,
        "cpu_operators": result.cpu_kinds,
    }


def prediction_json(model: Model, target: Target, found: Partition) -> dict[str, Any]:
    """A predicted partition as JSON values; every figure in it is an estimate."""
    return {
        "kind": "estimated",
        "model": {"name": model.name, "sha256": model.sha256},
        "target": target.name,
        "engine": NAME,
        "ops_total": found.ops_total,
        "ops_mapped": found.ops_mapped,
        "mapped": list(found.mapped),
        "ops_cpu": [to_json(op) for op in found.ops_cpu],
        "cached_bytes": found.memory.cached_bytes,
        "streamed_bytes": found.memory.streamed_bytes,
        "activation_bytes": found.memory.activation_bytes,
        "framework": found.framework,
        "refused": list(found.refused),
        "notes": list(found.notes),
        "basis": "rules gathered from Google's table, public logs and compiled models; "
        "edgetpu_compiler was not run",
    }


def _labels(model: Model) -> tuple[str, ...]:
    from edgekit.convert.metadata import read_metadata

    metadata = read_metadata(model)
    if metadata is None:
        return ()
    return next((t.labels for t in metadata.outputs if t.labels), ())


def _write_manifest(
    folder: Path, artifact: Artifact, models: Sequence[Model], command: str
) -> None:
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "edgekit": __version__,
        "stage": "compile",
        "command": command,
        "model": {
            "name": artifact.model_name,
            "sha256": artifact.model_sha256,
            "macs": artifact.model_macs,
        },
        "models": [{"name": m.name, "sha256": m.sha256} for m in models],
        "target": artifact.target,
        "engine": NAME,
        "artifact": to_json(replace(artifact, folder=Path("."))),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
