"""Whether two runtimes compute the same, and the first operator where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.runtimes import Runner, open_runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model


@dataclass(frozen=True)
class Difference:
    """The first operator (in the file's order) whose output differs, on one of the inputs.

    ``largest`` is the largest difference in the tensor's own units (steps of an integer
    tensor), ``differing`` how many of its ``elements`` differ, ``first`` the first of them with
    its two values.
    """

    sample: int
    op: int
    kind: str
    tensor: int
    name: str
    largest: float
    differing: int
    elements: int
    first: int
    values: tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Two runtimes over ``samples`` inputs; ``equal`` of them gave the same output bytes."""

    one: str
    two: str
    samples: int
    equal: int
    largest: float
    first: Difference | None

    @property
    def agree(self) -> bool:
        return self.equal == self.samples


def compare_runtimes(
    model: Model,
    inputs: Sequence[Sequence[NDArray[Any]]],
    *,
    one: str = "tflm",
    two: str = "litert-ref",
) -> Agreement:
    """Runs both over the inputs, each in a process of its own.

    Raises:
        ModelError: a runtime does not take the model.
        MissingDependency: a runtime is not installed.
    """
    with (
        open_runner(one, model.raw, keep_tensors=True) as first,
        open_runner(two, model.raw, keep_tensors=True) as second,
    ):
        equal, largest, found = 0, 0.0, None
        for index, sample in enumerate(inputs):
            a, b = first.invoke(*sample), second.invoke(*sample)
            if all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)):
                equal += 1
                continue
            largest = max(largest, *(_largest(x, y) for x, y in zip(a, b, strict=True)))
            if found is None:
                found = first_difference(model, first, second, index)
        return Agreement(first.title, second.title, len(inputs), equal, largest, found)


def first_difference(model: Model, one: Runner, two: Runner, sample: int = 0) -> Difference | None:
    """Compares every tensor that both runners hold after the same invocation.

    Args:
        model: the model in both.
        one: a runner with ``keep_tensors``.
        two: another one.
        sample: number of the input, for the record.
    """
    import numpy as np

    outputs = [(op, index) for op in model.ops for index in op.outputs]
    indices = [index for _, index in outputs]
    pairs = zip(outputs, one.tensors(indices), two.tensors(indices), strict=True)
    for (op, index), a, b in pairs:
        if a.tobytes() == b.tobytes() or a.size != b.size:
            continue
        differs = np.flatnonzero(a.reshape(-1) != b.reshape(-1))
        if differs.size == 0:
            continue
        at = int(differs[0])
        return Difference(
            sample=sample,
            op=op.index,
            kind=op.kind,
            tensor=index,
            name=model.tensors[index].name,
            largest=_largest(a, b),
            differing=int(differs.size),
            elements=int(a.size),
            first=at,
            values=(float(a.reshape(-1)[at]), float(b.reshape(-1)[at])),
        )
    return None


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    import numpy as np

    if a.size != b.size or not a.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.reshape(-1).astype(np.float64) - b.reshape(-1).astype(np.float64))
    return float(np.nanmax(difference)) if not np.isnan(difference).all() else 0.0
