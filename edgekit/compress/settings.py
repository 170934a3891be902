"""Settings of techniques: frozen dataclasses whose fields say what they mean and allow.

A technique declares its settings once; reading them from a recipe, refusing what makes no
sense (with file and line), and explaining them on the command line follow from that.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import yaml

    from edgekit.yamlfile import YamlFile

_Settings = TypeVar("_Settings")


def option(
    default: Any,
    help: str,  # noqa: A002
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a settings dataclass: its default, what it means, and its limits."""
    limits = {"at_least": at_least, "at_most": at_most, "above": above, "below": below}
    metadata = {"help": help, **{k: v for k, v in limits.items() if v is not None}}
    if isinstance(default, (list, dict)) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read_settings(
    kind: type[_Settings],
    file: YamlFile,
    node: yaml.Node | None,
    what: str,
    base: _Settings | None = None,
    readers: Mapping[Any, Any] | None = None,
) -> _Settings:
    """Settings from a mapping of a YAML file; keys are the fields' names with dashes.

    Args:
        kind: the dataclass.
        file: the file that the node is of.
        node: a mapping, or ``None`` for none.
        what: what errors call it.
        base: values of what the mapping leaves out; the dataclass' own defaults otherwise.
        readers: functions ``(file, node, what)`` for fields of further types.

    Raises:
        UsageError: an unknown key, or a value of the wrong type or outside its limits.
    """
    result = kind() if base is None else base
    if node is None:
        return result
    hints = typing.get_type_hints(kind)
    fields = {key_of(f.name): f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, (key_node, value) in file.mapping(node, what, set(fields)).items():
        field = fields[key]
        label = f"{what}.{key}"
        hint = hints[field.name]
        before = getattr(result, field.name)
        values[field.name] = _read(hint, file, value, label, before, readers or {})
        _check_limits(values[field.name], field.metadata, file, key_node, label)
    return dataclasses.replace(result, **values)  # type: ignore[type-var]


def key_of(name: str) -> str:
    """A field's name as it is written in a recipe."""
    return name.rstrip("_").replace("_", "-")


def _read(
    hint: Any, file: YamlFile, node: yaml.Node, what: str, before: Any, readers: Mapping[Any, Any]
) -> Any:
    origin = typing.get_origin(hint)
    if hint in readers:
        return readers[hint](file, node, what)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if type(None) in typing.get_args(hint) and file.plain(node, what) is None:
            return None
        return _read(inner[0], file, node, what, before, readers)
    if origin is Literal:
        allowed = [str(a) for a in typing.get_args(hint)]
        word = _word(file, node, what)
        if word not in allowed:
            raise file.unknown(node, f"{what} cannot be '{word}'", word, allowed)
        return word
    if origin is tuple:
        import yaml

        item = typing.get_args(hint)[0]
        nodes = [node] if isinstance(node, yaml.ScalarNode) else file.sequence(node, what)
        return tuple(_read(item, file, each, what, None, readers) for each in nodes)
    if dataclasses.is_dataclass(hint):
        return read_settings(hint, file, node, what, before, readers)  # type: ignore[arg-type]
    if hint is bool:
        return file.boolean(node, what)
    if hint is int:
        return file.integer(node, what)
    if hint is float:
        return _number(file, node, what)
    return _word(file, node, what)


def _number(file: YamlFile, node: yaml.Node, what: str) -> float:
    """A number; YAML itself takes ``1e-3`` without a point for text."""
    text = node.value if isinstance(getattr(node, "value", None), str) else ""
    if re.fullmatch(r"[+-]?[0-9]+[eE][+-]?[0-9]{1,3}", text.strip()):
        return float(text)
    return float(file.number(node, what))


def _word(file: YamlFile, node: yaml.Node, what: str) -> str:
    """Text; unlike in prose, ``2:4`` or ``1e-3`` are words here as well."""
    import yaml

    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise file.error(node, f"{what} must be text")
    return " ".join(node.value.split())


def _check_limits(
    value: Any, limits: Mapping[str, Any], file: YamlFile, node: yaml.Node, what: str
) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        low, high = limits.get("at_least"), limits.get("at_most")
        above, below = limits.get("above"), limits.get("below")
        if not (
            (low is None or number >= low)
            and (high is None or number <= high)
            and (above is None or number > above)
            and (below is None or number < below)
        ):
            raise file.error(node, f"{what} is {number:g}; it must be {limits_text(limits)}")


def limits_text(limits: Mapping[str, Any]) -> str:
    """Limits in words, such as ``from 0 to below 1``; empty where there are none."""
    low, high = limits.get("at_least"), limits.get("at_most")
    above, below = limits.get("above"), limits.get("below")
    lower = f"from {low:g}" if low is not None else f"above {above:g}" if above is not None else ""
    upper = f"to {high:g}" if high is not None else f"below {below:g}" if below is not None else ""
    if lower.startswith("from") and not upper:
        return f"at least {low:g}"
    if upper.startswith("to") and not lower:
        return f"at most {high:g}"
    return " and ".join(part for part in (lower, upper) if part).replace(" and to ", " to ")


@dataclasses.dataclass(frozen=True)
class Described:
    """One setting, as ``edgekit compress --explain`` shows it."""

    key: str
    values: str
    default: str
    help: str


def describe(kind: type[Any]) -> tuple[Described, ...]:
    """The settings of a dataclass, nested ones left to themselves."""
    hints = typing.get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if "help" not in field.metadata:
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        rows.append(
            Described(
                key_of(field.name),
                limits_text(field.metadata) or _values_text(hints[field.name]),
                _default_text(default),
                field.metadata["help"],
            )
        )
    return tuple(rows)


def _values_text(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return ", ".join(str(a) for a in typing.get_args(hint))
    if hint is bool:
        return "yes, no"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _values_text(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        return f"list of {_values_text(typing.get_args(hint)[0])}"
    return {int: "whole number", float: "number", str: "text"}.get(hint, "mapping")


def _default_text(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "see training" if type(value).__name__ == "Training" else "…"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ((), []):
        return "–"
    if isinstance(value, tuple):
        return ", ".join(str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
