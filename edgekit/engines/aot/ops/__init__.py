"""Lowering of operators, one file per operator, found by its file name.

``ops/fully_connected.py`` lowers ``FULLY_CONNECTED``. A file defines::

    def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]
    def macs(node: Node) -> int            # optional; 0 without it

``lower`` returns every way to run the node that is exact (each equals TFLM byte for byte), and
the engine chooses among those whose ``requires`` the target has. What it cannot run exactly it
refuses with :class:`~edgekit.engines.aot.lowering.Unsupported`. The types are in
:mod:`edgekit.engines.aot.lowering`; ``fully_connected.py`` is a complete example.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType


def names() -> tuple[str, ...]:
    """The operators that can be lowered, by their schema names, sorted."""
    folder = Path(__file__).parent
    return tuple(sorted(p.stem.upper() for p in folder.glob("*.py") if not p.stem.startswith("_")))


def find(kind: str) -> ModuleType | None:
    """The module that lowers ``kind``, or ``None``."""
    if not kind.isidentifier() or kind not in names():
        return None
    return importlib.import_module(f"{__name__}.{kind.lower()}")
