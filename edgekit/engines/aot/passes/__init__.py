"""Rewrites of a program, one file per pass; each keeps every output byte for every input.

A pass is a function from :class:`~edgekit.engines.aot.ir.Program` to a new one. A new pass is a
file here and a line in :data:`ORDER`.
"""

from __future__ import annotations

from collections.abc import Callable

from edgekit.engines.aot.ir import Program
from edgekit.engines.aot.passes import (
    channels,
    fuse_activations,
    fuse_float,
    fuse_padding,
    joins,
    remove_unused,
    schedule,
    simplify,
    splits,
    views,
)

Pass = Callable[[Program], Program]

#: Always run: without them some models could not be lowered at all.
NORMALIZE: tuple[Pass, ...] = (
    simplify.run,
    splits.run,
    fuse_float.run,
    remove_unused.run,
)

#: Run in this order. Fusion comes before the channels, so that these see what is left of the
#: padding; views come after them, since a view needs the same elements on both sides.
ORDER: tuple[Pass, ...] = (
    *NORMALIZE,
    fuse_padding.run,
    fuse_activations.run,
    channels.run,
    remove_unused.run,
    views.run,
    schedule.run,
    joins.run,
)


def run(program: Program, *, debug_steps: bool = False) -> Program:
    """All passes, or with ``debug_steps`` only those that leave every operator a step."""
    for each in (*NORMALIZE, joins.run) if debug_steps else ORDER:
        program = each(program)
    return program
