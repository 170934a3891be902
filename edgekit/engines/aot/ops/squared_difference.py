"""SQUARED_DIFFERENCE, int8, with broadcasting. Reference: squared_difference.cc of TensorFlow
Lite Micro."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node
from edgekit.engines.aot.ops._binary import lower_binary

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    return lower_binary(node, "SQUARED_DIFFERENCE", target)
