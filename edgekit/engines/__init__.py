"""Engines: what turns a model into code or a binary for a target.

An engine is a module or package in this folder, found by its file name. It defines::

    NAME = "tflm"
    TITLE = "TensorFlow Lite Micro"
    OPTIONS: Mapping[str, str]          # what `edgekit compile --set key=value` takes, with a
                                        # sentence each
    def supports(model: Model, target: Target | None) -> Support        # cheap, no compilation
    def compile(model, target, out: Path, *, command: str, options: Mapping[str, Any]) -> Artifact

and may define ``memory_estimate(model, target) -> MemoryEstimate``, which
:func:`support_table` uses to tell whether a model fits, and ``tables(artifact)``, the columns,
rows and title of each table that ``edgekit compile`` prints in the place of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.graph import Model
    from edgekit.records import Artifact
    from edgekit.targets import Target


@dataclass(frozen=True)
class Support:
    """Whether an engine takes a model for a target; ``missing`` holds the reasons it does not."""

    ok: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryEstimate:
    """What a model takes of a target's memories; both figures are estimates, in bytes."""

    ram_bytes: int
    flash_bytes: int
    basis: str


@dataclass(frozen=True)
class Verdict:
    """One row of :func:`support_table`: what a target makes of a model with one engine."""

    target: str
    engine: str
    verdict: Literal["runs", "unsupported", "does not fit"]
    reasons: tuple[str, ...] = ()
    #: estimated; ``None`` where the engine gives no estimate
    ram_bytes: int | None = None
    flash_bytes: int | None = None
    #: of the target; 0 where it has no such limit (a host)
    ram_available_bytes: int = 0
    flash_available_bytes: int = 0


class Engine(Protocol):
    """The interface of an engine's module."""

    NAME: str
    TITLE: str
    OPTIONS: Mapping[str, str]

    def supports(self, model: Model, target: Target | None) -> Support: ...

    def compile(
        self, model: Model, target: Target, out: Path, *, command: str, options: Mapping[str, Any]
    ) -> Artifact: ...


def names() -> tuple[str, ...]:
    """The engines there are, sorted."""
    folder = Path(__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return tuple(sorted(modules | packages))


def load(name: str) -> Engine:
    """The engine's module.

    Raises:
        UsageError: there is no engine of that name.
    """
    known = names()
    if name not in known:
        import difflib

        close = difflib.get_close_matches(name, known, n=1)
        hint = f"--engine {close[0]}" if close else f"one of: {', '.join(known)}"
        raise UsageError(f"there is no engine '{name}'", fix=hint)
    return cast("Engine", importlib.import_module(f"edgekit.engines.{name}"))


def support_table(model: Model, targets: Sequence[Target] | None = None) -> tuple[Verdict, ...]:
    """What each target makes of a model with each of its engines. Cheap: nothing is compiled.

    Args:
        model: the model.
        targets: the targets to ask about, by default all there are.

    Returns:
        One verdict per target and engine that exists, in the targets' order.
    """
    if targets is None:
        from edgekit.targets import list_targets

        targets = list_targets()
    known = names()
    return tuple(
        _verdict(model, target, load(name))
        for target in targets
        for name in target.engines
        if name in known
    )


def _verdict(model: Model, target: Target, engine: Engine) -> Verdict:
    support = engine.supports(model, target)
    if not support.ok:
        return Verdict(target.name, engine.NAME, "unsupported", support.missing)
    estimate = getattr(engine, "memory_estimate", None)
    if estimate is None or target.kind != "mcu":
        return Verdict(target.name, engine.NAME, "runs")
    need: MemoryEstimate = estimate(model, target)
    reasons = tuple(
        f"{kind}: about {wanted:,} B needed, {have:,} B there"
        for kind, wanted, have in (
            ("RAM", need.ram_bytes, target.ram_bytes),
            ("flash", need.flash_bytes, target.flash_bytes),
        )
        if have and wanted > have
    )
    return Verdict(
        target=target.name,
        engine=engine.NAME,
        verdict="does not fit" if reasons else "runs",
        reasons=reasons,
        ram_bytes=need.ram_bytes,
        flash_bytes=need.flash_bytes,
        ram_available_bytes=target.ram_bytes,
        flash_available_bytes=target.flash_bytes,
    )
