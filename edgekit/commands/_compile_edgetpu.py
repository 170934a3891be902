"""The part of ``edgekit compile`` that concerns the Edge TPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import console

if TYPE_CHECKING:
    from edgekit.engines.edgetpu.partition import Partition
    from edgekit.graph import Model
    from edgekit.records import Artifact
    from edgekit.targets import Target


def run(
    paths: Sequence[Path],
    target: Target,
    engine: str,
    output: Path | None,
    *,
    name: str | None,
    options: Mapping[str, Any],
    predict: bool,
    command: str,
    as_json: bool,
) -> None:
    """Compiles one or several models for the Edge TPU, or predicts what would be mapped."""
    from edgekit.engines import edgetpu
    from edgekit.engines.edgetpu.compiler import find_compiler
    from edgekit.errors import UsageError
    from edgekit.graph import read_model

    if engine != edgetpu.NAME:
        raise UsageError(
            f"several models, --predict and --segments are for Edge TPUs; {target.name} is built "
            f"with the engine {engine}",
            fix="--target coral",
        )
    if name is not None and len(paths) > 1:
        raise UsageError("--name names one model", fix="leave it out")
    models = [read_model(path, name) for path in paths]
    if predict:
        _predict(models, target, as_json)
        return
    find_compiler()
    output = output or Path(f"{models[0].name}_edgetpu")
    console.note(f"running edgetpu_compiler on {', '.join(m.name for m in models)}")
    artifact = edgetpu.compile_models(models, target, output, command=command, options=options)
    for warning in artifact.warnings:
        console.warn(warning)
    if as_json:
        console.emit_json("compile", _document(artifact))
    else:
        _print(artifact, target)


def _predict(models: Sequence[Model], target: Target, as_json: bool) -> None:
    from edgekit.engines import edgetpu
    from edgekit.engines.edgetpu.partition import predict

    found = [predict(model) for model in models]
    documents = [
        edgetpu.prediction_json(model, target, partition)
        for model, partition in zip(models, found, strict=True)
    ]
    if as_json and len(documents) == 1:
        console.emit_json("compile", {"predicted": True, **documents[0]})
    elif as_json:
        console.emit_json("compile", {"predicted": True, "models": documents})
    else:
        for model, partition in zip(models, found, strict=True):
            _print_prediction(model, target, partition)


def _print_prediction(model: Model, target: Target, found: Partition) -> None:
    print(
        f"{model.name} on {target.name}: {found.ops_mapped} of {found.ops_total} operators map to "
        "the Edge TPU (estimated; edgetpu_compiler was not run)"
    )
    for reason in found.refused:
        console.warn(f"the compiler would refuse this file: {reason}")
    parameters = found.memory
    console.print_table(
        ["parameters", ("bytes", "right"), "is"],
        [
            ("cached", parameters.cached_bytes, "estimated, kept on the chip"),
            ("streamed", parameters.streamed_bytes, "estimated, sent at each inference"),
        ],
    )
    if found.ops_cpu:
        rows = [(op.index, op.kind, op.name[:40], op.reason, op.advice) for op in found.ops_cpu]
        console.print_table([("#", "right"), "on the CPU", "name", "because", "what helps"], rows)
    for note in found.notes:
        console.note(note)


def _document(artifact: Artifact) -> dict[str, Any]:
    from edgekit.records import to_json

    first = artifact.options["models"][0]["compiled"]
    document: dict[str, Any] = {
        "predicted": False,
        "artifact": to_json(artifact),
        "files": [
            {"path": file, "bytes": (artifact.folder / file).stat().st_size}
            for file in artifact.files
        ],
        "compiler": artifact.options["compiler"],
        "attempts": artifact.options["attempts"],
        "models": artifact.options["models"],
        "warnings": list(artifact.warnings),
    }
    if len(artifact.options["models"]) == 1 and len(first) == 1:
        keys = ("ops_total", "ops_mapped", "ops_cpu", "cached_bytes", "streamed_bytes")
        document |= {key: first[0][key] for key in (*keys, "min_runtime_version")}
    return document


def _print(artifact: Artifact, target: Target) -> None:
    print(
        f"{artifact.model_name} for {target.name}: compiled by edgetpu_compiler "
        f"{artifact.options['compiler']}, in {artifact.folder}"
    )
    rows: list[tuple[object, ...]] = []
    left: Counter[tuple[str, str, str, str]] = Counter()
    for model in artifact.options["models"]:
        for part in model["compiled"]:
            rows.append(
                (
                    part["file"],
                    part["ops_mapped"],
                    part["ops_total"],
                    part["cached_bytes"],
                    part["streamed_bytes"],
                    part["min_runtime_version"],
                )
            )
            for op in part["ops_cpu"]:
                key = (part["file"], op["kind"], op["reason"], op["advice"] or "")
                left[key] += op["count"]
    console.print_table(
        ["file", ("mapped", "right"), ("operators", "right"), ("cached B", "right"),
         ("streamed B", "right"), ("runtime", "right")],
        rows,
    )  # fmt: skip
    if left:
        console.print_table(
            ["file", "on the CPU", ("count", "right"), "because", "what helps"],
            [(file, kind, count, why, tip) for (file, kind, why, tip), count in left.items()],
        )
