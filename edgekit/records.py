"""The records that pass between stages, all frozen and all convertible to JSON and back.

``Model``, ``Tensor`` and ``Op`` are in :mod:`edgekit.graph`, ``Target`` is in
:mod:`edgekit.targets`. Sizes are bytes, addresses and offsets are bytes from the start of
their memory or arena.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

Kind = Literal["measured", "simulated", "estimated"]

_Record = TypeVar("_Record")


def to_json(value: Any) -> Any:
    """A record as plain JSON values (paths become strings, tuples become lists)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_json(record: type[_Record], value: Any) -> _Record:
    """The inverse of :func:`to_json`; unknown keys are ignored, so that new files can be read.

    Raises:
        KeyError: a field without a default is missing.
    """
    hints = typing.get_type_hints(record)
    known = {}
    for item in dataclasses.fields(record):  # type: ignore[arg-type]
        if item.name in value:
            known[item.name] = _convert(hints[item.name], value[item.name])
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise KeyError(item.name)
    return record(**known)


def _convert(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert(next(a for a in typing.get_args(hint) if a is not type(None)), value)
    if origin is tuple:
        args = typing.get_args(hint)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], item) for item in value)
        return tuple(_convert(arg, item) for arg, item in zip(args, value, strict=True))
    if origin is dict:
        return {key: _convert(typing.get_args(hint)[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)  # type: ignore[arg-type]
    if hint is Path:
        return Path(value)
    return value


@dataclass(frozen=True)
class Buffer:
    """A piece of the arena: an activation, an input or output, or a step's scratch.

    ``first`` and ``last`` are the steps (inclusive) between which its bytes must survive; a
    graph input is live from step 0, a graph output until the last step.
    """

    name: str
    role: Literal["input", "output", "activation", "scratch"]
    offset: int
    nbytes: int
    first: int
    last: int
    #: the model's tensor that it holds, or -1
    tensor: int = -1


@dataclass(frozen=True)
class Step:
    """One thing that the generated code does, and what it leaves behind in the arena.

    A step is what the code materialises: it may stand for several operators of the model
    (``ops``) and may leave only the live channels of the last one's output. The host
    recomputes exactly these bytes to check a device: take the model's tensor ``tensor``
    (int8, shape N…C), keep ``channels`` of the last axis (all when ``None``), and arrange
    them as ``layout`` says ("nhwc": as they are; "nchw": channel planes).
    """

    index: int
    kind: str
    name: str
    #: indices of the model's operators that it replaces
    ops: tuple[int, ...]
    #: the model's tensor that it materialises
    tensor: int
    #: where: offset and size in the arena
    offset: int
    nbytes: int
    macs: int
    kernel: str
    channels: tuple[int, ...] | None = None
    layout: str = "nhwc"
    scratch_bytes: int = 0
    weights_bytes: int = 0
    #: shape of what is materialised, before ``layout`` rearranges it
    shape: tuple[int, ...] = ()
    #: rows (axis 1, first and end) of the tensor, where the step makes only some of them
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class TensorView:
    """A graph input or output in the arena, with what a caller needs to fill or read it."""

    name: str
    tensor: int
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int
    #: not in the arena: there is a pointer to it at ``offset``
    apart: bool = False
    #: not in the arena as a whole: its rows are put where the plan's ``feeds`` say
    fed: bool = False


@dataclass(frozen=True)
class Feed:
    """Rows of an input that the caller puts into the arena right before a step.

    The feeds of a plan bring every row of every fed input once, in ascending order.
    """

    step: int
    #: of the model's inputs
    input: int
    first_row: int
    rows: int
    #: first byte in the input
    start: int
    #: where in the arena
    offset: int
    nbytes: int


@dataclass(frozen=True)
class StripStage:
    """Steps that run in strips of rows, so that less is alive at once (patch-based execution)."""

    #: steps of the plan, first and end
    first: int
    end: int
    #: rows of the stage's last tensor per turn
    rows: int
    #: multiply-accumulates of the stage as it runs, and of its operators by themselves
    macs: int
    model_macs: int
    #: bytes that are moved within rolling buffers, per inference
    moved_bytes: int


@dataclass(frozen=True)
class Plan:
    """Where everything is in the arena, and what runs when. Made once, on the host."""

    arena_bytes: int
    arena_lower_bound_bytes: int
    arena_optimal: bool
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    inputs: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]
    stages: tuple[StripStage, ...] = ()
    #: in the order of their steps
    feeds: tuple[Feed, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """What an engine made of a model for a target: files in a folder."""

    engine: str
    target: str
    model_name: str
    model_sha256: str
    model_macs: int
    folder: Path
    #: relative to ``folder``
    files: tuple[str, ...]
    #: C sources among them that a firmware must compile, relative to ``folder``
    sources: tuple[str, ...] = ()
    include_dirs: tuple[str, ...] = ()
    plan: Plan | None = None
    #: bytes of weights, biases and quantisation tables in flash
    weights_bytes: int = 0
    arena_bytes: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of an ELF file as the target's memory sees it."""

    name: str
    region: str
    address: int
    nbytes: int


@dataclass(frozen=True)
class Symbol:
    name: str
    section: str
    address: int
    nbytes: int


@dataclass(frozen=True)
class Firmware:
    """A built ELF file, with what it takes of the target's memories."""

    target: str
    model_name: str
    model_sha256: str
    engine: str
    elf: Path
    #: 32 hexadecimal digits; the device reports it and ``bench`` refuses any other
    build_id: str
    compiler: str
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    #: 0 where they are not known: in a project that another tool builds
    flash_bytes: int
    ram_bytes: int
    code_bytes: int
    weights_bytes: int
    #: static bound of the stack from the call graph, ``None`` where it cannot be had
    stack_bound_bytes: int | None
    plan: Plan | None
    artifact_folder: Path
    #: other files made from the ELF, by format ("bin", "hex", "uf2"), beside it
    images: dict[str, Path] = field(default_factory=dict)
    #: multiply-accumulates of one inference, as the model's file asks for them
    model_macs: int = 0
    #: what it speaks on its line: "edgekit" (docs/wire.md) or "mlperf-tiny"
    protocol: str = "edgekit"


@dataclass(frozen=True)
class StepMeasurement:
    index: int
    kind: str
    name: str
    macs: int
    ticks: int | None = None
    instructions: int | None = None
    cycles: int | None = None
    latency_us: float | None = None


@dataclass(frozen=True)
class OutputCheck:
    """The comparison of device outputs with the host's.

    ``first_mismatch`` names the first step that differs and the first differing element.
    """

    reference: str
    compared: int
    match: bool | None
    digests: tuple[str, ...] = ()
    first_mismatch: dict[str, Any] | None = None


@dataclass(frozen=True)
class Measurement:
    """What running a firmware (or a model on the host) gave."""

    kind: Kind
    target: str
    engine: str
    port: str
    model_name: str
    model_sha256: str
    model_macs: int
    build_id: str | None
    warmups: int
    runs: int
    clock_hz: int | None = None
    instructions: int | None = None
    cycles: int | None = None
    #: mean relative error of the cycle estimate (0.035 = 3.5 %), with its basis
    cycles_error: float | None = None
    cycles_basis: str | None = None
    #: one value per run, microseconds
    latencies_us: tuple[float, ...] = ()
    #: estimated, where there are no cycles: no inference is faster, for the core executes no
    #: more instructions in a cycle than its target states (``timing.instructions_per_cycle``)
    latency_floor_us: float | None = None
    steps: tuple[StepMeasurement, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)
    outputs: OutputCheck | None = None
    notes: tuple[str, ...] = ()
