"""AVERAGE_POOL_2D, int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node
from edgekit.engines.aot.ops._pool import lower_pool

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    return lower_pool(node, "ek_average_pool_2d_s8", target)
