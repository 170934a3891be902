"""TANH, int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node
from edgekit.engines.aot.ops._fixed_point import tanh
from edgekit.engines.aot.ops._sigmoid import lower_sigmoid

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    return lower_sigmoid(node, tanh, 1 / 128, 0)
