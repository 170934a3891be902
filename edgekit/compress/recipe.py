"""Recipes: which techniques, one after the other, with which settings.

::

    training:                  # of every step that trains, unless the step says otherwise
      epochs: 20
      augment: [shift: {pixels: 1}]
    steps:
      - prune-channels: {share: 0.5, training: {epochs: 30}}
      - qat

A recipe is read whole and checked, every complaint with its line, before anything is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from edgekit.compress import augmentations, techniques
from edgekit.compress.distillation import Distillation
from edgekit.compress.settings import read_settings
from edgekit.compress.training import Training
from edgekit.errors import UsageError
from edgekit.records import to_json
from edgekit.yamlfile import YamlFile


@dataclass(frozen=True)
class RecipeStep:
    """One technique with its settings (of the class that its file declares)."""

    technique: str
    settings: Any

    @property
    def module(self) -> Any:
        return techniques.load(self.technique)

    @property
    def training(self) -> Training | None:
        return getattr(self.settings, "training", None)


@dataclass(frozen=True)
class Recipe:
    """Steps in the order in which they are taken. ``name`` is the file's."""

    name: str
    steps: tuple[RecipeStep, ...]

    def as_json(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {
            "name": self.name,
            "steps": [
                {"technique": step.technique, "settings": _plain(step.settings)}
                for step in self.steps
            ],
        }

    @property
    def teachers(self) -> tuple[str, ...]:
        """Every teacher that a step learns from, once."""
        found: list[str] = []
        for step in self.steps:
            training = step.training
            if training is not None and training.distillation is not None:
                found.extend(training.distillation.teacher)
        return tuple(dict.fromkeys(found))


def _plain(settings: Any) -> Any:
    values = to_json(settings)
    training = getattr(settings, "training", None)
    if training is not None:
        values["training"]["augment"] = [
            {type(a).__module__.rpartition(".")[2].replace("_", "-"): to_json(a)}
            for a in training.augment
        ]
    return values


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        UsageError: the file is no valid recipe; the error names the line.
    """
    return _parse(YamlFile(path), path.stem)


def make_recipe(technique: str, settings: Sequence[str]) -> Recipe:
    """A recipe of one step from ``key=value`` settings; dots reach into nested ones.

    Raises:
        UsageError: there is no such technique or setting, or a value makes no sense.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set wants KEY=VALUE, not '{setting}'")
        place = tree
        *folders, last = key.strip().split(".")
        for folder in folders:
            inner = place.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {key}: '{folder}' has a value of its own already")
            place = inner
        place[last] = _Text(text.strip())
    text = f"{{steps: [{_flow({technique: tree}) if tree else json.dumps(technique)}]}}"
    return _parse(YamlFile(Path("--set" if tree else "--technique"), text), technique)


class _Text(str):
    """A value as it stands on the command line."""


def _flow(value: Any) -> str:
    """YAML on one line; what looks like a number, a list or a mapping is left as it is."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    plain = re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?|true|false|yes|no|null", value)
    return value if plain or value[:1] in ("[", "{") else json.dumps(value)


def _parse(file: YamlFile, name: str) -> Recipe:
    if file.root is None:
        raise UsageError("the recipe is empty", str(file.path), "steps: [finetune]")
    top = file.mapping(file.root, "a recipe", {"training", "steps"})
    readers = {tuple[Any, ...]: augmentations.read}
    base = Training()
    if "training" in top:
        base = read_settings(Training, file, top["training"][1], "training", readers=readers)
    if "steps" not in top:
        raise file.error(file.root, "the recipe has no steps", "steps: [finetune]")
    steps = []
    nodes = file.sequence(top["steps"][1], "steps")
    if not nodes:
        raise file.error(top["steps"][1], "the recipe has no steps", "steps: [finetune]")
    for place, node in enumerate(nodes):
        technique, settings_node = _entry(file, node)
        if technique not in techniques.names():
            raise file.unknown(
                node, f"there is no technique '{technique}'", technique, techniques.names()
            )
        module = techniques.load(technique)
        blank = module.Settings()
        if hasattr(blank, "training"):
            blank = module.Settings(training=_merged(blank.training, base))
        settings = read_settings(
            module.Settings, file, settings_node, technique, blank,
            {**readers, Distillation: _distillation},
        )  # fmt: skip
        if getattr(module, "LAST", False) and place != len(nodes) - 1:
            raise file.error(node, f"'{technique}' makes the final file: no step can follow it")
        steps.append(RecipeStep(technique, settings))
    return Recipe(name, tuple(steps))


def _entry(file: YamlFile, node: yaml.Node) -> tuple[str, yaml.Node | None]:
    """A step: a technique's name, or ``name: {setting: value}``."""
    if isinstance(node, yaml.ScalarNode):
        return file.text(node, "a step"), None
    entries = list(file.mapping(node, "a step").items())
    if len(entries) != 1:
        raise file.error(node, "a step must be one technique")
    name, (_, settings) = entries[0]
    if isinstance(settings, yaml.ScalarNode) and not settings.value:
        return name, None
    return name, settings


def _distillation(file: YamlFile, node: yaml.Node, what: str) -> Distillation:
    return read_settings(Distillation, file, node, what)


def _merged(own: Training, base: Training) -> Training:
    """A technique's own defaults where the recipe says nothing."""
    from dataclasses import fields, replace

    plain = Training()
    said = {
        field.name: getattr(base, field.name)
        for field in fields(base)
        if getattr(base, field.name) != getattr(plain, field.name)
    }
    return replace(own, **said)


def with_budget(recipe: Recipe, budget: Mapping[str, str]) -> Recipe:
    """The recipe with a budget from the command line, which its steps with budgets take over.

    Raises:
        UsageError: no step of the recipe can keep to a budget.
    """
    if not budget:
        return recipe
    steps = tuple(
        replace(step, settings=replace(step.settings, **budget))
        if hasattr(step.settings, "max_latency")
        else step
        for step in recipe.steps
    )
    if steps == recipe.steps:
        raise UsageError(
            "no step of the recipe can keep to a budget", recipe.name, "--technique prune-channels"
        )
    return replace(recipe, steps=steps)
