"""Techniques of compression: one per file, found by the file's name.

A file defines

``Settings``
    a frozen dataclass whose fields are declared with ``settings.option``,
``check(subject, settings, session)``
    which raises, before anything is trained, where the technique does not take the model, and
    returns what else is to be said beforehand (a list of sentences),
``apply(subject, settings, session)``
    which gives the changed :class:`~edgekit.compress.session.Subject`; the one it is given is
    not used again.

``LAST = True`` marks a technique whose result is a full-integer file, so that nothing can
follow. The first line of a file's docstring is what ``edgekit compress --list`` shows.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """All techniques, as recipes call them."""
    return tuple(sorted(path.stem.replace("_", "-") for path in _FOLDER.glob("[!_]*.py")))


def load(name: str) -> Any:
    """The module of a technique."""
    return importlib.import_module(f"edgekit.compress.techniques.{name.replace('-', '_')}")


def summary(name: str) -> str:
    """The first line of a technique's docstring, read without importing it."""
    source = (_FOLDER / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")
