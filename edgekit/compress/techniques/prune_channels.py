"""Removes whole channels: a smaller model of the same kind (structured pruning).

The channels that matter least go from every layer that makes or reads them, through additions,
depthwise layers, normalisations and concatenations; what is left is an ordinary, smaller model.
How many go is a share, or whatever a budget of latency, RAM or flash asks for.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.compress import channels, conversion, footprint
from edgekit.compress.channels import Channels
from edgekit.compress.keras_graph import KerasGraph, read_graph
from edgekit.compress.settings import option
from edgekit.compress.trainable import KerasTrainable, as_variable
from edgekit.compress.training import Training
from edgekit.errors import FitError, ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.compress.footprint import Footprint, Forecast
    from edgekit.compress.session import Session, Subject

#: Shares that a budget tries: all multiples of this.
_GRID = 1 / 32
_MOST_SHARE = 31 / 32
#: Training changes tables, and with them how many instructions a kernel takes; by less than this.
_ROOM = 0.03
#: How often the chosen size is checked on the virtual board and corrected.
_ATTEMPTS = 6
#: Samples that give a model of the right shape roughly the right ranges.
_SHAPE_SAMPLES = 32


@dataclass(frozen=True)
class Settings:
    share: float = option(0.5, "of the channels to remove", above=0, below=1)
    criterion: Literal["magnitude", "saliency"] = option(
        "saliency", "what matters least: small filters, or little effect on the loss"
    )
    allocation: Literal["uniform", "global", "cost"] = option(
        "global",
        "the same share in every layer, the least important of all, or the least important "
        "for the multiplications that they take",
    )
    multiple: int = option(4, "channels that stay come in multiples of", at_least=1, at_most=64)
    rounds: int = option(1, "prune and train in so many rounds", at_least=1, at_most=100)
    samples: int = option(512, "training samples for the saliency", at_least=1)
    skip: tuple[str, ...] = option((), "layers whose channels all stay")
    max_latency: str | None = option(None, "instead of a share: longest inference, such as 50ms")
    max_ram: str | None = option(None, "instead of a share: most RAM of the firmware, such as 64K")
    max_flash: str | None = option(None, "instead of a share: most flash for code and weights")
    training: Training = option(Training(epochs=20), "how what is left is trained")

    @property
    def has_budget(self) -> bool:
        return any((self.max_latency, self.max_ram, self.max_flash))


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    found = _analysed(subject.graph, settings)
    if not found.groups():
        reasons = "; ".join(f"{k}: {v}" for k, v in list(found.kept_whole().items())[:3])
        raise ModelError(
            "the model has no channels that can be removed", "prune-channels", reasons or None
        )
    if settings.has_budget:
        _limits(settings)
        if session.target is None:
            raise UsageError(
                "a budget needs a target to be kept on", "prune-channels", "--target NAME"
            )
        conversion.for_shape(subject.graph, session.data.training.first(8))
    outputs = {
        call.name for call in subject.graph.calls if subject.graph.outputs[0] in call.outputs
    }
    whole = [name for name in found.kept_whole() if name not in outputs]
    if whole:
        reason = found.kept_whole()[whole[0]]
        return [f"{len(whole)} layers keep all channels; '{whole[0]}': {reason}"]
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    share = _share_for_budget(subject, settings, session) if settings.has_budget else settings.share
    before = _widths(subject.graph)
    histories = []
    for number in range(settings.rounds):
        # equal factors from round to round, the last one reaching the share
        part = 1 - (1 - share) ** (1 / (settings.rounds - number)) if number else None
        if part is None:
            part = 1 - (1 - share) ** (1 / settings.rounds)
        done = 1 - (1 - share) ** ((number + 1) / settings.rounds)
        graph = pruned(subject.graph, settings, session, part, target_share=done, widths=before)
        subject = replace(subject, graph=graph)
        training = settings.training
        if settings.rounds > 1:
            training = replace(training, epochs=-(-training.epochs // settings.rounds))
        histories.append(session.train(subject, training, part=f"-round{number + 1}"))
    facts: dict[str, Any] = {
        "training": histories[-1] if settings.rounds == 1 else histories,
        "share": share,
        "channels": {
            name: [before[name], after]
            for name, after in _widths(subject.graph).items()
            if before.get(name, after) != after
        },
    }
    return replace(subject, facts=facts)


def _widths(graph: KerasGraph) -> dict[str, int]:
    """Channels that each convolution and dense layer makes."""
    found = channels.analyse(graph)
    return {
        layer.name: len(found.made[id(layer)])
        for layer in graph.layers()
        if id(layer) in found.made
    }


def _analysed(graph: KerasGraph, settings: Settings) -> Channels:
    found = channels.analyse(graph)
    known = {layer.name: layer for layer in graph.layers()}
    for name in settings.skip:
        if name not in known:
            import difflib

            close = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"the model has no layer '{name}' to skip",
                "prune-channels",
                f"did you mean '{close[0]}'?" if close else None,
            )
        found.pin(found.made.get(id(known[name])), "it is to be skipped")
    return found


def pruned(
    graph: KerasGraph,
    settings: Settings,
    session: Session,
    share: float,
    *,
    target_share: float | None = None,
    widths: Mapping[str, int] | None = None,
) -> KerasGraph:
    """The model without a share of its channels, untrained.

    ``target_share`` of the ``widths`` that layers had at first is what shall be gone, where
    channels go in rounds.
    """
    found = _analysed(graph, settings)
    scores = importance(found, settings, session)
    classes = chosen(
        found, scores, target_share if target_share is not None else share, settings, widths
    )
    if not classes:
        return graph
    return read_graph(graph.keras, channels.removed(found, classes))


def importance(found: Channels, settings: Settings, session: Session) -> dict[int, float]:
    """How much each class of channels matters, by the criterion of the settings."""
    if settings.criterion == "magnitude":
        return channels.magnitudes(found)
    products = _Products(found.graph, session, settings)
    return channels.saliencies(found, products)


class _Products:
    """Gradient times value, summed per output channel of a layer, for some batches."""

    def __init__(self, graph: KerasGraph, session: Session, settings: Settings) -> None:
        self.graph = graph
        self._layers: dict[int, list[tuple[Any, int]]] = {}
        variables: list[Any] = []
        for layer in graph.layers():
            entries = []
            for variable, axis in _parameters(graph, layer):
                entries.append((len(variables), axis))
                variables.append(variable)
            self._layers[id(layer)] = entries
        trainer = session.trainer(
            KerasTrainable(graph), replace(settings.training, distillation=None)
        )
        examples = session.data.training.first(settings.samples)
        self._values = [variable.numpy() for variable in variables]
        self._gradients = []
        for batch in examples.chunks(settings.training.batch):
            self._gradients.append([g.numpy() for g in trainer.gradients(batch, variables)])

    def __call__(self, layer: Any) -> NDArray[Any]:
        import numpy as np

        rows = []
        for gradients in self._gradients:
            total: Any = 0.0
            for place, axis in self._layers[id(layer)]:
                product = gradients[place] * self._values[place]
                if axis == 0:  # a depthwise kernel: inputs and multipliers make the outputs
                    flat = product.reshape(-1, product.shape[-2] * product.shape[-1])
                else:
                    flat = np.moveaxis(product, axis, -1).reshape(-1, product.shape[axis])
                total = total + flat.astype(np.float64).sum(axis=0)
            rows.append(total)
        return np.stack(rows)


def _parameters(graph: KerasGraph, layer: Any) -> list[tuple[Any, int]]:
    """A layer's trainable parameters with the axis of their output channels (0: depthwise)."""
    kind = type(layer).__name__
    if kind in channels._DEPTHWISE:
        kernel = getattr(layer, "depthwise_kernel", None)
        if kernel is None:
            kernel = layer.kernel
        found = [(as_variable(kernel), 0)]
    elif kind in channels._SEPARABLE:
        found = [(as_variable(layer.pointwise_kernel), -1)]
    elif kind in channels._KERNELS:
        found = [(as_variable(layer.kernel), channels._KERNELS[kind][1])]
    elif kind == "Embedding":
        return [(as_variable(layer.embeddings), -1)]
    else:
        return []
    if getattr(layer, "use_bias", False) and layer.bias is not None:
        found.append((as_variable(layer.bias), -1))
    consumers = graph.consumers(graph.calls_of(layer)[0].outputs[0])
    if len(consumers) == 1 and consumers[0].kind == "BatchNormalization":
        norm = consumers[0].layer
        found += [(as_variable(v), -1) for v in (norm.gamma, norm.beta) if v is not None]
    return found


def chosen(
    found: Channels,
    scores: Mapping[int, float],
    share: float,
    settings: Settings,
    widths: Mapping[str, int] | None = None,
) -> set[int]:
    """The classes to remove, so that ``share`` of the channels (of ``widths``) is gone."""
    groups = found.groups()
    gone: set[int] = set()
    keep: dict[int, int] = {}
    for place, group in enumerate(groups):
        at_first = (widths or {}).get(group.name, len(group.classes))
        total = max(at_first, len(group.classes))
        keep[place] = _kept(total, len(group.classes), share, settings.multiple)
    if settings.allocation != "uniform":
        costs = channels.multiplications(found) if settings.allocation == "cost" else {}
        keep = _global(groups, scores, costs, share, settings.multiple, widths)
    for place, group in enumerate(groups):
        order = sorted(group.classes, key=lambda number: (scores[number], number))
        gone.update(order[: len(order) - keep[place]])
    return gone


def _kept(total: int, present: int, share: float, multiple: int) -> int:
    """How many of ``total`` channels stay, in multiples where there are enough."""
    wanted = total * (1 - share)
    if wanted < multiple:
        # fewer than one multiple: a thin layer is thinned by single channels
        return min(present, max(1, min(multiple, math.ceil(wanted))))
    kept = multiple * max(1, int(wanted / multiple + 0.5))
    # never a tenth below what was asked for, as in MobileNet's widths
    return min(present, kept + multiple if kept < 0.9 * wanted else kept)


def _global(
    groups: Any,
    scores: Mapping[int, float],
    costs: Mapping[int, float],
    share: float,
    multiple: int,
    widths: Mapping[str, int] | None,
) -> dict[int, int]:
    """How many stay in each group, where the least important of all go.

    Scores are made comparable between groups by their Euclidean norm: Molchanov et al.,
    "Pruning Convolutional Neural Networks for Resource Efficient Inference", arXiv:1611.06440
    (2017), section 2.2 (normalisation).
    """
    total = sum(max((widths or {}).get(g.name, 0), len(g.classes)) for g in groups)
    left = max(1, round(total * (1 - share)))
    norms = [math.sqrt(sum(scores[n] ** 2 for n in g.classes)) or 1.0 for g in groups]
    ranked = sorted(
        (scores[n] / norms[place] / costs.get(n, 1.0), n, place)
        for place, g in enumerate(groups)
        for n in g.classes
    )
    stays = dict.fromkeys(range(len(groups)), 0)
    for _, _, place in ranked[len(ranked) - min(left, len(ranked)) :]:
        stays[place] += 1
    kept = {}
    for place, group in enumerate(groups):
        present = len(group.classes)
        # a tenth stays everywhere: a layer that thin is a wall
        least = max(1, min(multiple, present), math.ceil(present / 10))
        wanted = multiple * round(stays[place] / multiple)
        kept[place] = min(present, max(least, wanted))
    return kept


# -- budgets -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limits:
    latency_us: float | None
    ram_bytes: int | None
    flash_bytes: int | None

    def allow(self, latency_us: float, ram_bytes: int, flash_bytes: int) -> bool:
        """Whether figures of a model that is still to be trained leave enough room."""
        left = 1 - _ROOM
        return (
            (self.latency_us is None or latency_us <= left * self.latency_us)
            and (self.ram_bytes is None or ram_bytes <= self.ram_bytes)
            and (self.flash_bytes is None or flash_bytes <= left * self.flash_bytes)
        )


def exceeded(settings: Settings, real: Footprint) -> list[str]:
    """What a finished model takes too much of, in words."""
    limits = _limits(settings)
    found = []
    if limits.latency_us is not None and (real.latency_us or 0.0) > limits.latency_us:
        found.append(f"{(real.latency_us or 0) / 1000:.3g} ms (limit {settings.max_latency})")
    if limits.ram_bytes is not None and (real.ram_bytes or 0) > limits.ram_bytes:
        found.append(f"{real.ram_bytes:,} B of RAM (limit {settings.max_ram})")
    if limits.flash_bytes is not None and (real.flash_bytes or 0) > limits.flash_bytes:
        found.append(f"{real.flash_bytes:,} B of flash (limit {settings.max_flash})")
    return found


def _limits(settings: Settings) -> _Limits:
    from edgekit.engines.aot.limits import read_limits

    given = {
        "max_latency": settings.max_latency,
        "max_ram": settings.max_ram,
        "max_flash": settings.max_flash,
    }
    read = read_limits({key: value for key, value in given.items() if value})
    return _Limits(read.latency_us, read.ram_bytes, read.flash_bytes)


@dataclass(frozen=True)
class _Correction:
    """What the virtual board said of a plan's forecast: a factor, and bytes besides."""

    slower: float = 1.0
    ram_bytes: int = 0
    flash_bytes: int = 0

    def of(self, forecast: Forecast) -> tuple[float, int, int]:
        """Latency in microseconds, RAM and flash in bytes, as they are to be expected."""
        return (
            (forecast.latency_us or 0.0) * self.slower,
            forecast.arena_bytes + self.ram_bytes,
            forecast.flash_bytes + self.flash_bytes,
        )

    @staticmethod
    def between(forecast: Forecast, real: Footprint) -> _Correction:
        slower = 1.0
        if real.latency_us and forecast.latency_us:
            slower = real.latency_us / forecast.latency_us
        return _Correction(
            slower,
            (real.ram_bytes or 0) - forecast.arena_bytes,
            (real.flash_bytes or 0) - forecast.flash_bytes,
        )


def _share_for_budget(subject: Subject, settings: Settings, session: Session) -> float:
    """The smallest share whose model keeps to the budget on the virtual board.

    The plan's forecast finds a share by bisection; the board then says what is true, and the
    forecast is corrected by that until both agree.

    Raises:
        FitError: even the thinnest model is too large or too slow.
    """
    limits, target = _limits(settings), session.target
    if target is None:
        raise UsageError("a budget needs a target to be kept on", fix="--target NAME")
    few = session.data.training.first(_SHAPE_SAMPLES)
    found = _analysed(subject.graph, settings)
    scores = importance(found, settings, session)
    planned: dict[float, tuple[Forecast, bytes]] = {}

    def plan(share: float) -> tuple[Forecast, bytes]:
        if share not in planned:
            session.note(f"planning a model without {share:.0%} of its channels")
            graph = subject.graph
            classes = chosen(found, scores, share, settings) if share else set()
            if classes:
                graph = read_graph(graph.keras, channels.removed(found, classes))
            content = conversion.for_shape(graph, few)
            planned[share] = (footprint.forecast(content, target), content)
        return planned[share]

    correction = _Correction()
    built: dict[float, bool] = {}
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        for _ in range(_ATTEMPTS):
            share = _smallest(partial(_fits, plan, correction, limits))
            if share is None:
                raise _too_tight(correction.of(plan(_MOST_SHARE)[0]), settings, target)
            forecast, content = plan(share)
            real = footprint.measure(content, target, Path(folder), "budget")
            if real.missing:
                raise ModelError(f"the budget cannot be checked: {real.missing}", target)
            if limits.latency_us is not None and real.latency_us is None:
                raise UsageError("there is no model of this core's cycles", target, "--max-ram")
            built[share] = limits.allow(
                real.latency_us or 0.0, real.ram_bytes or 0, real.flash_bytes or 0
            )
            correction = _Correction.between(forecast, real)
            below = share - _GRID
            if built[share] and (below < 0 or not _fits(plan, correction, limits, below)):
                return share
            if built[share] and built.get(below) is False:
                return share
    fitting = [share for share, fits in built.items() if fits]
    if not fitting:
        raise FitError("no size that keeps to the budget was found", target, "a little more room")
    return min(fitting)


def _fits(
    plan: Callable[[float], tuple[Forecast, bytes]],
    correction: _Correction,
    limits: _Limits,
    share: float,
) -> bool:
    return limits.allow(*correction.of(plan(share)[0]))


def _smallest(fits: Callable[[float], bool]) -> float | None:
    """The smallest share on the grid that fits, by bisection; ``None`` if none does."""
    if fits(0.0):
        return 0.0
    low, high = 0, round(_MOST_SHARE / _GRID)
    if not fits(high * _GRID):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle * _GRID) else (middle, high)
    return high * _GRID


def _too_tight(expected: tuple[float, int, int], settings: Settings, target: str) -> FitError:
    latency_us, ram_bytes, flash_bytes = expected
    parts = []
    if settings.max_latency:
        parts.append(f"{latency_us / 1000:.3g} ms (limit {settings.max_latency})")
    if settings.max_ram:
        parts.append(f"{ram_bytes:,} B of RAM (limit {settings.max_ram})")
    if settings.max_flash:
        parts.append(f"{flash_bytes:,} B of flash (limit {settings.max_flash})")
    return FitError(
        f"without {_MOST_SHARE:.0%} of its channels the model still takes {', '.join(parts)}",
        target,
        "a smaller architecture (edgekit zoo), or a wider budget",
    )
