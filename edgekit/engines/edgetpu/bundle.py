"""A compiled model with what belongs to it: the folder that ``compile`` wrote, or a lone file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.engines.edgetpu.darwinn import CompiledModel, read_compiled
from edgekit.errors import ModelError, UsageError
from edgekit.graph import read_model

if TYPE_CHECKING:
    from edgekit.graph import Model


@dataclass(frozen=True)
class Bundle:
    """A compiled model. ``source`` is the model before the compiler, where it is known."""

    path: Path
    model: Model
    compiled: CompiledModel
    source: Path | None = None
    labels: Path | None = None
    manifest: Path | None = None

    @property
    def name(self) -> str:
        return self.path.stem.removesuffix("_edgetpu")

    @property
    def files(self) -> tuple[Path, ...]:
        """What is installed beside each other."""
        return tuple(p for p in (self.path, self.labels, self.manifest) if p is not None)


def open_bundle(path: Path, *, labels: Path | None = None, model: Path | None = None) -> Bundle:
    """Opens a folder that ``edgekit compile --target coral`` wrote, or a compiled file.

    Args:
        path: the folder or file.
        labels: a labels file, by default the one beside the model.
        model: the model before the compiler, by default the one beside it.

    Raises:
        ModelError: the file was not compiled, or is damaged.
        UsageError: there is no such file, or the folder holds none or several.
    """
    file = _file(path)
    content = read_model(file)
    compiled = read_compiled(content)
    if compiled is None:
        raise ModelError(
            "this model was not compiled for the Edge TPU",
            str(file),
            f"edgekit compile {file.name} --target coral",
        )
    stem = file.stem.removesuffix("_edgetpu")
    for given in (labels, model):
        if given is not None and not given.is_file():
            raise UsageError(f"there is no file {given.name}", str(given.parent))
    source = model or _if_file(file.with_name(f"{stem}.tflite"))
    beside = (f"{stem}_labels.txt", f"{stem}.txt", "labels.txt")
    found = next((p for name in beside if (p := file.with_name(name)).is_file()), None)
    return Bundle(
        path=file,
        model=content,
        compiled=compiled,
        source=source if source != file else None,
        labels=labels or found,
        manifest=_if_file(file.with_name("manifest.json")),
    )


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"there is no {path.name}", str(path.parent))
    found = sorted(path.glob("*_edgetpu.tflite"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            "this folder holds no compiled model (*_edgetpu.tflite)",
            str(path),
            "edgekit compile MODEL --target coral",
        )
    raise UsageError(
        f"this folder holds {len(found)} compiled models",
        str(path),
        f"name one of them: {found[0].name}",
    )


def is_edgetpu_artifact(path: Path) -> bool:
    """Whether a path is a compiled file, or a folder with a manifest of the engine edgetpu."""
    if path.is_file():
        return path.name.endswith("_edgetpu.tflite")
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("engine") == "edgetpu"
