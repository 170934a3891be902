"""What a user allows a model to take, and the plan that keeps to it.

Limits are hard: a plan that crosses one is not made. The arena's size is exact. Flash and
latency are estimates here, before anything is built: flash from the tables (exact) and the code
(by the count of functions), latency from the kernels' instructions and the cycles that the
simulated boards take per instruction of these kernels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import FitError, UsageError

if TYPE_CHECKING:
    from edgekit.engines.aot.memory import Layout
    from edgekit.engines.aot.search import Choice, Search
    from edgekit.records import Plan
    from edgekit.targets import Target

#: Cycles per instruction of this engine's kernels on the cores that have a cycle model (KWS and
#: IC of MLPerf Tiny on nucleo-l4r5zi, -u575zi-q, -h7a3zi-q and -g0b1re), between which models
#: differ by 4 %.
_CYCLES_PER_INSTRUCTION = {
    "cortex-m4": 1.77,
    "cortex-m33": 1.49,
    "cortex-m7": 0.90,
    "cortex-m0plus": 1.46,
}
#: Of the estimated instructions and of the cycles per instruction between models.
_SPREAD = 0.05

#: Code of an instance and of a step, bytes, as gcc -O2 made it of the MLPerf Tiny models; and
#: the error of that.
_INSTANCE_BYTES = {"mve": 640, "dsp": 430, "": 560}
_STEP_BYTES = 24
CODE_ERROR = 0.3

#: Plans of the search that are placed to the byte, at most.
_MOST_PLANS = 6


@dataclass(frozen=True)
class Limits:
    """What must not be exceeded; ``None`` where nothing was said."""

    ram_bytes: int | None = None
    flash_bytes: int | None = None
    latency_us: float | None = None


@dataclass(frozen=True)
class Outlook:
    """A plan with what it is expected to take."""

    arena_bytes: int
    #: estimated
    instructions: float
    #: estimated; ``None`` where the core has no cycle model
    latency_us: float | None
    latency_error: float | None
    stages: tuple[tuple[int, int, int], ...]


def read_limits(options: Mapping[str, Any]) -> Limits:
    """Limits as a command line gives them: sizes like ``64K``, times like ``50ms``.

    Raises:
        UsageError: a value that is no size or no time.
    """
    latency = options.get("max_latency")
    return Limits(
        ram_bytes=read_size(options, "max_ram"),
        flash_bytes=read_size(options, "max_flash"),
        latency_us=None if latency in (None, "") else read_time_us(str(latency)),
    )


def read_size(options: Mapping[str, Any], name: str) -> int | None:
    """A size in bytes.

    Raises:
        UsageError: it is none, or not positive.
    """
    from edgekit.yamlfile import parse_size

    value = options.get(name)
    if value in (None, ""):
        return None
    found = parse_size(str(value))
    if not found:
        other = "flash, ram or " if name == "weights" else ""
        raise UsageError(f"{name} is {other}a size such as 24K or 20000, not '{value}'")
    return found


def read_time_us(text: str) -> float:
    """Microseconds in ``50ms``, ``800us`` or ``1.5s``.

    Raises:
        UsageError: it is no time, or zero.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s)\s*", text)
    if not found or not float(found[1]):
        raise UsageError(f"max_latency is a time such as 50ms, 800us or 1s, not '{text}'")
    return float(found[1]) * {"us": 1.0, "ms": 1e3, "s": 1e6}[found[2]]


def latency_us(instructions: float, target: Target | None) -> tuple[float, float] | None:
    """Estimated microseconds of an inference and their relative error.

    ``None`` without a clock or a core with a cycle model.
    """
    from edgekit.sim.timing import model_for

    if target is None or not target.clock_hz:
        return None
    core, factor = model_for(target), _CYCLES_PER_INSTRUCTION.get(target.core or "")
    if core is None or factor is None:
        return None
    return instructions * factor / target.clock_hz * 1e6, core.error + _SPREAD


def code_bytes(instances: int, steps: int, target: Target | None) -> int:
    """Estimated code of a model, within :data:`CODE_ERROR`."""
    isa = next((isa for isa in ("mve", "dsp") if target is not None and target.has(isa)), "")
    return instances * _INSTANCE_BYTES[isa] + steps * _STEP_BYTES


def outlook(choice: Choice, layout: Layout, target: Target | None) -> Outlook:
    time = latency_us(choice.instructions, target)
    return Outlook(
        arena_bytes=layout.plan.arena_bytes,
        instructions=choice.instructions,
        latency_us=None if time is None else time[0],
        latency_error=None if time is None else time[1],
        stages=tuple((s.start, s.stop, s.rows) for s in choice.stages),
    )


def decide(
    search: Search, limits: Limits, *, goal: str, target: Target | None
) -> tuple[Layout, tuple[Outlook, ...]]:
    """The plan to use, and all those that were weighed, the fastest one first.

    With ``goal`` ``ram`` it is the smallest one that is fast enough, otherwise the fastest one
    that is small enough.

    Raises:
        FitError: there is none; says what stands in the way and what the nearest plan takes.
    """
    allowed = limits.ram_bytes
    hard = target.largest_ram_bytes if target is not None else 0
    plain = search.choice(least=False)
    assert plain is not None
    if limits.latency_us is not None and latency_us(plain.instructions, target) is None:
        where = target.core if target is not None else "no target"
        raise UsageError(
            "there is no model of this core's cycles to hold max_latency against",
            where,
            "edgekit bench measures it on the board",
        )
    first = search.layout(plain)
    arena = first.plan.arena_bytes
    small = (allowed is None or arena <= allowed) and (not hard or arena <= hard)
    if goal != "ram" and small:
        weighed = [(plain, first)]
    else:
        enough = 0 if goal == "ram" else min(n for n in (allowed, hard) if n)
        choices = search.smaller(enough)
        weighed = _placed(search, choices, enough)
    options = tuple(outlook(choice, layout, target) for choice, layout in weighed)
    ceiling = min((n for n in (allowed, hard) if n), default=None)
    fitting = [
        i for i, option in enumerate(options) if ceiling is None or option.arena_bytes <= ceiling
    ]
    if not fitting:
        _refuse_ram(weighed, options, limits, target)
    quick = [
        i
        for i in fitting
        if limits.latency_us is None or (options[i].latency_us or 0.0) <= limits.latency_us
    ]
    if not quick:
        _refuse_latency(options, fitting, limits, target)
    index = (
        min(quick, key=lambda i: (options[i].arena_bytes, options[i].instructions))
        if goal == "ram"
        else min(quick, key=lambda i: (options[i].instructions, options[i].arena_bytes))
    )
    return weighed[index][1], options


def _placed(search: Search, choices: Sequence[Choice], enough: int) -> list[tuple[Choice, Layout]]:
    """Choices with their plans; of many, the fastest, the smallest and those around the limit."""
    chosen = list(choices)
    if len(chosen) > _MOST_PLANS:
        near = sorted(chosen[1:-1], key=lambda c: (abs(c.bound_bytes - enough), c.instructions))
        kept = {id(c) for c in (chosen[0], chosen[-1], *near[: _MOST_PLANS - 2])}
        chosen = [c for c in chosen if id(c) in kept]
    kept_plans: list[tuple[Choice, Layout]] = []
    for choice in chosen:
        layout = search.layout(choice)
        if not kept_plans or layout.plan.arena_bytes < kept_plans[-1][1].plan.arena_bytes:
            kept_plans.append((choice, layout))
    return kept_plans


def _refuse_ram(
    weighed: Sequence[tuple[Choice, Layout]],
    options: Sequence[Outlook],
    limits: Limits,
    target: Target | None,
) -> None:
    index = min(range(len(options)), key=lambda i: options[i].arena_bytes)
    plan, best = weighed[index][1].plan, options[index]
    name = target.name if target is not None else "the target"
    hard = target.largest_ram_bytes if target is not None else 0
    if limits.ram_bytes is None or (hard and hard < limits.ram_bytes):
        raise FitError(
            f"the model needs an arena of {best.arena_bytes:,} B; {name} has {hard:,} B of RAM in"
            " one piece",
            pair(plan),
            f"edgekit targets --min-ram {-(-best.arena_bytes // 1024)}K",
        )
    slower = best.instructions / options[0].instructions
    cost = f", for {slower:.2f} times the instructions (estimated)" if slower > 1.005 else ""
    bound = (
        "which is proven" if plan.arena_optimal else f"at least {plan.arena_lower_bound_bytes:,} B"
    )
    raise FitError(
        f"the arena cannot be {limits.ram_bytes:,} B: the smallest plan found takes"
        f" {best.arena_bytes:,} B ({bound} for its kernels and order)",
        pair(plan),
        f"--max-ram {best.arena_bytes}{cost}",
    )


def _refuse_latency(
    options: Sequence[Outlook], fitting: Sequence[int], limits: Limits, target: Target | None
) -> None:
    fastest = min((options[i] for i in fitting), key=lambda o: o.instructions)
    assert limits.latency_us is not None
    assert fastest.latency_us is not None
    assert fastest.latency_error is not None
    quicker = [o for o in options if o.latency_us is not None and o.latency_us <= limits.latency_us]
    fix = f"--max-latency {time_text(fastest.latency_us, up=True)}"
    if quicker:
        least = min(quicker, key=lambda o: o.arena_bytes)
        fix += f", or --max-ram {least.arena_bytes}"
    where = f"{fastest.instructions:,.0f} instructions (estimated)"
    if target is not None and target.clock_hz:
        where += f" on {target.name}, {target.core} at {target.clock_hz / 1e6:g} MHz"
    raise FitError(
        f"an inference cannot take {time_text(limits.latency_us)}: the fastest plan that fits takes"
        f" {time_text(fastest.latency_us)} (estimated, within {fastest.latency_error:.0%})",
        where,
        fix,
    )


def flash_fits(weights_bytes: int, code: int, limits: Limits) -> bool:
    """Whether the tables and the estimated code stay within the limit."""
    return limits.flash_bytes is None or weights_bytes + code <= limits.flash_bytes


def check_flash(weights_bytes: int, code: int, limits: Limits) -> None:
    """Refuses a model whose estimated flash crosses the limit.

    Raises:
        FitError: it does.
    """
    if flash_fits(weights_bytes, code, limits):
        return
    need = weights_bytes + code
    raise FitError(
        f"the model cannot take {limits.flash_bytes:,} B of flash: with shared code it needs about"
        f" {need:,} B (estimated)",
        f"weights and tables {weights_bytes:,} B, code about {code:,} B (within {CODE_ERROR:.0%})",
        f"--max-flash {need}",
    )


def pair(plan: Plan) -> str:
    """The fullest step and the two largest buffers there, for messages."""

    def live(step: int) -> list[Any]:
        return sorted(
            (b for b in plan.buffers if b.first <= step <= b.last), key=lambda b: -b.nbytes
        )

    top = max(plan.steps, key=lambda s: sum(b.nbytes for b in live(s.index)))
    names = " and ".join(f"{b.name[:60]} {b.nbytes:,} B" for b in live(top.index)[:2])
    return f"step {top.index} {top.kind}; live: {names}"


def time_text(us: float, *, up: bool = False) -> str:
    """A time in the unit that suits it, rounded up where it is to be a limit."""
    import math

    unit, scale = ("us", 1.0) if us < 1e3 else ("ms", 1e3)
    value = us / scale
    return f"{math.ceil(value * 10) / 10 if up else value:.1f}{unit}"


def estimates(layout: Layout, code: int, target: Target | None) -> dict[str, Any]:
    """What a plan is expected to take, for reports; every figure is estimated."""
    instructions = sum(kernel.cost for kernel in layout.kernels)
    time = latency_us(instructions, target)
    return {
        "kind": "estimated",
        "code_bytes": code,
        "code_error": CODE_ERROR,
        "instructions": round(instructions),
        "latency_us": None if time is None else round(time[0], 1),
        "latency_error": None if time is None else time[1],
    }
