"""MOVE: rows that a rolling buffer still needs go to its start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node
from edgekit.engines.aot.ops._reshape import lower_reshape

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    return lower_reshape(node)
