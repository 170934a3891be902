"""Augmentations: one per file, found by the file's name, applied to whole batches.

A file defines ``Augmentation``, a frozen dataclass of settings with a method
``__call__(images, wanted, seed)``: the batch's first input ``[N, …]``, what it is trained
towards ``[N, outputs]``, and a seed ``[2]``, from which alone its random choices follow.
``RANK`` is how many dimensions the input must have with the batch (``None``: any).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edgekit.compress.settings import read_settings

if TYPE_CHECKING:
    from edgekit.yamlfile import YamlFile


def names() -> tuple[str, ...]:
    """All augmentations, as recipes call them."""
    found = Path(__file__).parent.glob("[!_]*.py")
    return tuple(sorted(path.stem.replace("_", "-") for path in found))


def load(name: str) -> Any:
    """The module of an augmentation."""
    return importlib.import_module(f"edgekit.compress.augmentations.{name.replace('-', '_')}")


def read(file: YamlFile, node: yaml.Node, what: str) -> tuple[Any, ...]:
    """Augmentations of a recipe: a list of names, or of ``name: {setting: value}``.

    Raises:
        UsageError: there is no such augmentation or setting.
    """
    found = []
    nodes = [node] if isinstance(node, yaml.ScalarNode) else file.sequence(node, what)
    for item in nodes:
        settings: yaml.Node | None = None
        if isinstance(item, yaml.MappingNode):
            entries = list(file.mapping(item, f"an entry of {what}").items())
            if len(entries) != 1:
                raise file.error(item, f"an entry of {what} must be one augmentation")
            name, (_, settings) = entries[0]
        else:
            name = file.text(item, f"an entry of {what}")
        if name not in names():
            raise file.unknown(item, f"there is no augmentation '{name}'", name, names())
        found.append(read_settings(load(name).Augmentation, file, settings, f"{what}.{name}"))
    return tuple(found)
