"""FEED: rows of an input that the caller has put there before the step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.engines.aot.lowering import Kernel, Node, Output

if TYPE_CHECKING:
    from edgekit.targets import Target

#: Estimated instructions of a step that does nothing.
_COST = 4.0


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    return (Kernel(function="ek_fed", header="ek_move.h", args=(Output(0),), cost=_COST),)
