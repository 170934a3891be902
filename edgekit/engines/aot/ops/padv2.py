"""PADV2, int8: PAD with a value of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node
from edgekit.engines.aot.ops import pad

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    return pad.lower(node, target)
