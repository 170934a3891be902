"""Splits large layers into two thin ones (low-rank factorisation).

A dense layer or a convolution becomes one with ``rank`` outputs and a dense or 1x1 one behind
it. The factors are those that best keep the layer's outputs on training samples, a generalised
singular value decomposition: Zhang et al., "Accelerating Very Deep Convolutional Networks",
arXiv:1505.06798 (2016), section 3.1; or plainly those that best keep the weights (Denton et al.,
arXiv:1404.0736, 2014).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgekit.compress.keras_graph import KerasGraph, Part, copy_of, read_graph, rebuild
from edgekit.compress.settings import option
from edgekit.compress.training import Training
from edgekit.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.compress.data import Examples
    from edgekit.compress.session import Session, Subject

#: Patches or rows that the statistics of a layer's inputs are taken from.
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class Settings:
    energy: float = option(0.95, "share of each layer's output variance to keep", above=0, below=1)
    share: float | None = option(
        None, "instead: share of the factored layers' multiplications to keep", above=0, below=1
    )
    criterion: Literal["outputs", "weights"] = option("outputs", "what the factors keep best")
    samples: int = option(256, "training samples for the outputs", at_least=1)
    skip: tuple[str, ...] = option((), "layers to leave alone")
    training: Training = option(Training(learning_rate=5e-4), "how it is trained afterwards")


@dataclass(frozen=True, eq=False)
class _Factors:
    """A layer's decomposition: singular values, and factors of full rank."""

    layer: Any
    first: NDArray[Any]
    second: NDArray[Any]
    values: NDArray[Any]
    #: multiplications per position of the layer itself
    size: int

    def kept(self, rank: int) -> float:
        energy = self.values**2
        return float(energy[:rank].sum() / max(float(energy.sum()), 1e-30))

    def rank_for(self, energy: float) -> int:
        import numpy as np

        powers = self.values**2
        shares = np.cumsum(powers) / max(float(powers.sum()), 1e-30)
        return min(int(np.searchsorted(shares, energy)) + 1, len(powers))

    def cost(self, rank: int) -> int:
        """Multiplications per position with this rank, or the layer's own if that is less."""
        return min(rank * sum(self._dims), self.size)

    def pays(self, rank: int) -> bool:
        return rank * sum(self._dims) < self.size

    @property
    def _dims(self) -> tuple[int, int]:
        return self.first.shape[0], self.second.shape[1]


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    if not _candidates(subject.graph, settings):
        raise ModelError("the model has no layer that two factors could replace", "factorize")
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    layers = _candidates(subject.graph, settings)
    examples = session.data.training.first(settings.samples)
    factors = [_factored(subject.graph, layer, settings.criterion, examples) for layer in layers]
    ranks = _ranks(factors, settings)
    replaced = {
        id(f.layer): _parts(f, rank) for f, rank in zip(factors, ranks, strict=True) if f.pays(rank)
    }
    facts: dict[str, Any] = {
        "ranks": {
            f.layer.name: {
                "rank": rank if f.pays(rank) else None,
                "full": len(f.values),
                "energy": f.kept(rank) if f.pays(rank) else 1.0,
            }
            for f, rank in zip(factors, ranks, strict=True)
        }
    }
    if not replaced:
        session.note("factorize: no layer has a rank low enough to pay; the model stays as it is")
        facts["training"] = session.train(subject, settings.training)
        return replace(subject, facts=facts)
    model = rebuild(subject.graph, lambda layer: replaced.get(id(layer)))
    gone = {f.layer.name for f in factors if id(f.layer) in replaced}
    subject = replace(
        subject,
        graph=read_graph(subject.graph.keras, model),
        sparse=tuple(name for name in subject.sparse if name not in gone),
        shared=tuple(name for name in subject.shared if name not in gone),
    )
    facts["training"] = session.train(subject, settings.training)
    return replace(subject, facts=facts)


def _candidates(graph: KerasGraph, settings: Settings) -> list[Any]:
    found = []
    for layer in graph.layers():
        if type(layer).__name__ not in ("Dense", "Conv2D") or layer.name in settings.skip:
            continue
        if getattr(layer, "groups", 1) != 1:
            continue
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            continue
        kernel = layer.get_weights()[0]
        rows, outputs = kernel.reshape(-1, kernel.shape[-1]).shape
        # below this even rank 1 would not pay
        if rows * outputs > rows + outputs and len(graph.calls_of(layer)) == 1:
            found.append(layer)
    return found


def _factored(graph: KerasGraph, layer: Any, criterion: str, examples: Examples) -> _Factors:
    import numpy as np

    kernel = layer.get_weights()[0].astype(np.float64)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    root = np.eye(len(matrix))
    if criterion == "outputs":
        rows = _input_rows(graph, layer, examples).astype(np.float64)
        second = rows.T @ rows / len(rows)
        # a little of every direction, so that inputs that never vary do no harm
        second += np.eye(len(second)) * max(1e-6 * float(np.trace(second)) / len(second), 1e-12)
        root = np.linalg.cholesky(second).T
    # || X W - X A B || is || R W - R A B || with R'R = X'X
    left, values, right = np.linalg.svd(root @ matrix, full_matrices=False)
    first = np.linalg.solve(root, left * np.sqrt(values))
    return _Factors(layer, first, np.sqrt(values)[:, None] * right, values, matrix.size)


def _input_rows(graph: KerasGraph, layer: Any, examples: Examples) -> NDArray[Any]:
    """What the kernel is multiplied with: rows of inputs, or patches of images."""
    import numpy as np
    import tensorflow as tf

    from edgekit.compress.trainable import KerasTrainable

    call = graph.calls_of(layer)[0]
    model = KerasTrainable(graph, [call.inputs[0]])
    stream = np.random.default_rng(0)
    rows = []
    per_chunk = max(1, _MOST_ROWS * 32 // max(len(examples), 1))
    for chunk in examples.chunks(32):
        values = model([tf.constant(array) for array in chunk.inputs], training=False)[-1]
        if type(layer).__name__ == "Conv2D":
            height, width = layer.kernel_size
            values = tf.image.extract_patches(
                values, [1, height, width, 1], [1, *layer.strides, 1],
                [1, *layer.dilation_rate, 1], layer.padding.upper(),
            )  # fmt: skip
        flat = values.numpy().reshape(-1, values.shape[-1])
        if len(flat) > per_chunk:
            flat = flat[stream.choice(len(flat), per_chunk, replace=False)]
        rows.append(flat)
    return np.concatenate(rows)


def _ranks(factors: list[_Factors], settings: Settings) -> list[int]:
    if settings.share is None:
        return [f.rank_for(settings.energy) for f in factors]
    budget = settings.share * sum(f.size for f in factors)
    # the same energy everywhere, as high as the budget allows
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        cost = sum(f.cost(f.rank_for(middle)) for f in factors)
        low, high = (middle, high) if cost <= budget else (low, middle)
    return [f.rank_for(low) for f in factors]


def _parts(factors: _Factors, rank: int) -> list[Part]:
    import numpy as np

    layer = factors.layer
    first = factors.first[:, :rank].astype(np.float32)
    second = factors.second[:rank].astype(np.float32)
    bias = layer.get_weights()[1:]
    name = layer.name
    if type(layer).__name__ == "Dense":
        thin = copy_of(layer, name=f"{name}_low", units=rank, use_bias=False, activation="linear")
        return [Part(thin, [first]), Part(copy_of(layer), [second, *bias])]
    kernel = layer.get_weights()[0]
    thin = copy_of(layer, name=f"{name}_low", filters=rank, use_bias=False, activation="linear")
    wide = copy_of(layer, kernel_size=(1, 1), strides=(1, 1), padding="valid", dilation_rate=(1, 1))
    return [
        Part(thin, [first.reshape(*kernel.shape[:-1], rank)]),
        Part(wide, [second.reshape(1, 1, rank, -1), *bias]),
    ]
