"""What the techniques that set weights to zero have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.compress import sparsity
from edgekit.compress.training import Training
from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject
    from edgekit.compress.sparsity import Kernel, Pattern


def prunable(subject: Subject, skip: tuple[str, ...], what: str) -> tuple[Kernel, ...]:
    """The kernels that are thinned out.

    Raises:
        ModelError: there are none.
        UsageError: a name in ``skip`` is no layer's.
    """
    known = {layer.name for layer in subject.graph.layers()}
    for name in skip:
        if name not in known:
            import difflib

            close = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"the model has no layer '{name}' to skip",
                what,
                f"did you mean '{close[0]}'?" if close else None,
            )
    found = sparsity.kernels(subject.graph, skip)
    if not found:
        raise ModelError("the model has no convolution or dense layer to thin out", what)
    return found


def prune(
    subject: Subject,
    session: Session,
    training: Training,
    kernels: tuple[Kernel, ...],
    pattern: Callable[[Kernel], Pattern],
    finals: tuple[float, ...],
    begin: float,
    end: float,
    updates: int = 100,
) -> Subject:
    """Prunes while training; without any epochs, at once."""
    hook = sparsity.PruningHook(
        kernels, [pattern(kernel) for kernel in kernels], finals, begin, end, updates
    )
    if training.epochs == 0:
        hook.update(1.0)
    history = session.train(subject, training, [hook])
    names = tuple(dict.fromkeys((*subject.sparse, *(kernel.layer for kernel in kernels))))
    facts: dict[str, Any] = {
        "training": history,
        "sparsity": sparsity.measured(kernels),
        "sparsity by layer": {k.layer: sparsity.measured([k]) for k in kernels},
    }
    return replace(subject, sparse=names, facts=facts)
