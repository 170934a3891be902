"""Strict reading of small YAML files: every complaint names the file, the line and the reason.

Target files and ``edgekit.yaml`` are read with it. A :class:`YamlFile` hands out nodes, which
know their line, and turns them into plain values. Duplicate keys, anchors and tags that are
not plain data are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from edgekit.errors import UsageError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null")}
_UNITS = {"": 1, "K": 1024, "KB": 1024, "M": 1024**2, "MB": 1024**2, "G": 1024**3, "GB": 1024**3}
_FREQUENCIES = {"": 1, "HZ": 1, "KHZ": 10**3, "MHZ": 10**6, "GHZ": 10**9}


class YamlFile:
    """One YAML document. ``root`` is its top node, or ``None`` when the file is empty.

    ``text`` is the document where it does not come from a file; ``path`` then only names it.

    Raises:
        UsageError: the file cannot be read, or is not well-formed YAML.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        if text is None:
            text = self._read(path)
        try:
            self.root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{path}:{mark.line + 1}" if mark else str(path)
            reason = error.problem or "not well-formed"
            raise UsageError(f"not valid YAML: {reason}", place) from None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"not valid YAML: {reason}", str(path)) from None
        self._refuse_shared_nodes()

    @staticmethod
    def _read(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UsageError(f"the file cannot be read: {reason}", str(path)) from None
        except UnicodeDecodeError as error:
            raise UsageError(f"the file is not UTF-8 text ({error.reason})", str(path)) from None

    def _refuse_shared_nodes(self) -> None:
        # Anchors would let a small file stand for a huge value, and no file here needs them.
        seen: set[int] = set()
        waiting = [self.root] if self.root is not None else []
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                raise self.error(node, "anchors and aliases (& and *) are not supported here")
            seen.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                waiting += node.value
            elif isinstance(node, yaml.MappingNode):
                for pair in node.value:
                    waiting += pair

    def place(self, node: yaml.Node | None) -> str:
        """``file:line`` of a node; lines count from 1."""
        return f"{self.path}:{node.start_mark.line + 1}" if node is not None else str(self.path)

    def error(self, node: yaml.Node | None, what: str, fix: str | None = None) -> UsageError:
        return UsageError(what, self.place(node), fix)

    def mapping(
        self, node: yaml.Node | None, what: str, known: Collection[str] | None = None
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key → (key node, value node) of a mapping whose keys are all among ``known``."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} must be a mapping (key: value)")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, f"the keys of {what} must be plain words")
            key = key_node.value
            if key in found:
                raise self.error(key_node, f"'{key}' occurs twice in {what}")
            if known is not None and key not in known:
                raise self.unknown(key_node, f"unknown key '{key}' in {what}", key, known)
            found[key] = (key_node, value)
        return found

    def unknown(self, node: yaml.Node, what: str, word: str, known: Collection[str]) -> UsageError:
        """An error for a word that is not among ``known``, with the nearest one."""
        close = difflib.get_close_matches(word, list(known), n=1)
        if close:
            return self.error(node, what, f"did you mean '{close[0]}'?")
        return self.error(node, what, f"one of: {', '.join(sorted(known))}")

    def sequence(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, f"{what} must be a list")
        return list(node.value)

    def text(self, node: yaml.Node, what: str) -> str:
        if (
            not isinstance(node, yaml.ScalarNode)
            or node.tag in _PLAIN_TAGS
            or not node.value.strip()
        ):
            raise self.error(node, f"{what} must be text{_got(node)}")
        return " ".join(node.value.split())

    def boolean(self, node: yaml.Node, what: str) -> bool:
        value = self.plain(node, what)
        if not isinstance(value, bool):
            raise self.error(node, f"{what} must be yes or no{_got(node)}")
        return value

    def integer(self, node: yaml.Node, what: str) -> int:
        value = self.plain(node, what)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(node, f"{what} must be a whole number{_got(node)}")
        return value

    def number(self, node: yaml.Node, what: str) -> float:
        value = self.plain(node, what)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.error(node, f"{what} must be a number{_got(node)}")
        return value

    def nbytes(self, node: yaml.Node, what: str) -> int:
        """A size in bytes, such as ``640K``, ``2M`` (powers of 1024) or ``0x1000``; not zero."""
        value = parse_size(node.value) if isinstance(node, yaml.ScalarNode) else None
        if value is None or value <= 0:
            raise self.error(node, f"{what} must be a size such as 640K, 2M or 0x1000{_got(node)}")
        return value

    def hertz(self, node: yaml.Node, what: str) -> int:
        """A frequency in Hz, such as ``120 MHz`` or ``32768``; not zero."""
        value = None
        if isinstance(node, yaml.ScalarNode):
            value = _scaled(node.value, _FREQUENCIES)
        if value is None or value <= 0:
            raise self.error(node, f"{what} must be a frequency such as 120 MHz{_got(node)}")
        return value

    def plain(self, node: yaml.Node, what: str) -> Any:
        """A node as str, int, float, bool, None, list or dict with text keys."""
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, what) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            pairs = self.mapping(node, what)
            return {key: self.plain(value, f"{what}.{key}") for key, (_, value) in pairs.items()}
        if node.tag in _PLAIN_TAGS:
            try:
                return yaml.safe_load(node.value)
            except (yaml.YAMLError, ValueError):
                raise self.error(node, f"{what} has no valid value{_got(node)}") from None
        return node.value


def parse_size(text: str) -> int | None:
    """Bytes in a text such as ``640K``, ``1.5M``, ``0x1000`` or ``4096``; ``None`` if it is none.

    K, M and G (also KB, MB, GB, KiB …) are powers of 1024.
    """
    return _scaled(re.sub(r"(?i)([kmg])ib$", r"\1b", text.strip()), _UNITS)


def _scaled(text: str, units: dict[str, int]) -> int | None:
    word = text.strip().replace("_", "")
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", word):
        return int(word, 16)
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", word)
    if not match or match.group(2).upper() not in units:
        return None
    scaled = float(match.group(1)) * units[match.group(2).upper()]
    return int(scaled) if scaled.is_integer() else None


def _got(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f", not '{node.value}'" if node.value else ", not nothing"
    return ", not a list" if isinstance(node, yaml.SequenceNode) else ", not a mapping"
