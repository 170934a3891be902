"""LiteRT on Linux boards and Android: the model as it is, measured by ``edgekit bench``.

There is nothing to compile: LiteRT reads the .tflite file on the device. Float, float16,
dynamic-range and integer models all run; the device's interpreter has the last word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.engines import Support
from edgekit.errors import ModelError, UsageError
from edgekit.records import Artifact, to_json

if TYPE_CHECKING:
    from edgekit.graph import Model
    from edgekit.targets import Target

NAME = "litert"
TITLE = "LiteRT (XNNPACK)"
OPTIONS: Mapping[str, str] = {}

SCHEMA_VERSION = 1
#: Custom operators that other compilers leave; only their own runtimes know them.
_FOREIGN = {
    "CUSTOM:edgetpu-custom-op": "the model is compiled for the Edge TPU",
    "CUSTOM:ethos-u": "the model is compiled for an Ethos-U",
}


def supports(model: Model, target: Target | None) -> Support:
    """Whether LiteRT may take the model; custom operators are only known on the device."""
    reasons = [_FOREIGN[kind] for kind in sorted({op.kind for op in model.ops} & set(_FOREIGN))]
    if target is not None and target.kind == "mcu":
        reasons.append(f"LiteRT needs an operating system; {target.name} is a microcontroller")
    return Support(not reasons, tuple(reasons))


def compile(
    model: Model, target: Target, out: Path, *, command: str, options: Mapping[str, Any]
) -> Artifact:
    """Writes the model and ``manifest.json``; ``edgekit bench`` takes either.

    Raises:
        ModelError: the model is for another runtime.
        UsageError: an option, or a folder that cannot be written.
    """
    from edgekit.files import folder_atomic
    from edgekit.graph.macs import model_cost

    if options:
        raise UsageError(
            f"the engine litert has no option '{next(iter(options))}'",
            fix="edgekit bench takes --threads, --cores and --governor",
        )
    support = supports(model, target)
    if not support.ok:
        raise ModelError(support.missing[0], model.name)
    file = (re.sub(r"[^A-Za-z0-9._-]", "_", model.name) or "model") + ".tflite"
    costs = model_cost(model)
    artifact = Artifact(
        engine=NAME,
        target=target.name,
        model_name=model.name,
        model_sha256=model.sha256,
        model_macs=costs.macs,
        folder=out,
        files=(file, "manifest.json"),
        weights_bytes=costs.weights_bytes + costs.bias_bytes,
    )
    record = to_json(artifact)
    record["folder"] = "."
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "edgekit": __version__,
        "stage": "compile",
        "command": command,
        "model": {"name": model.name, "sha256": model.sha256, "macs": costs.macs},
        "target": target.name,
        "engine": NAME,
        "artifact": record,
    }
    with folder_atomic(out) as folder:
        (folder / file).write_bytes(model.raw)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    return artifact


def model_in(path: Path) -> Path:
    """The .tflite file of a folder that :func:`compile` wrote, or the file itself.

    Raises:
        UsageError: the folder holds no such model.
    """
    if not path.is_dir():
        return path
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        engine, files = manifest["engine"], manifest["artifact"]["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError("this folder holds nothing that edgekit compiled", str(path)) from None
    models = [file for file in files if str(file).endswith(".tflite")]
    if engine != NAME or not models:
        raise UsageError(
            f"this folder was made by the engine {engine}, not {NAME}",
            str(path),
            "the .tflite file",
        )
    return path / str(models[0])
