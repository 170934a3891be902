"""The ahead-of-time engine: an int8 model becomes plain C11, planned to the byte.

A model is read into a frozen program (:mod:`.ir`), rewritten by passes (:mod:`.passes`), each
step gets a kernel (:mod:`.select`, :mod:`.ops`), every buffer an offset (:mod:`.plan`,
:mod:`.memory`), and :mod:`.emit` writes the C. Nothing runs at start-up on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.engines import MemoryEstimate, Support
from edgekit.engines.aot.limits import Limits, Outlook
from edgekit.errors import FitError, ModelError, UsageError
from edgekit.records import Artifact, Firmware, Plan, to_json

if TYPE_CHECKING:
    from edgekit.engines.aot.ir import Program
    from edgekit.engines.aot.memory import Layout
    from edgekit.graph import Model
    from edgekit.targets import Target

NAME = "aot"
TITLE = "edgekit ahead-of-time C"

OPTIONS: Mapping[str, str] = {
    "keep_input": "keep the model's inputs intact through the inference (default: may overwrite)",
    "debug_steps": "one step per operator: no fusion, no overlap, no removal of channels",
    "optimize": "speed, ram or flash: what to prefer where kernels differ (default: speed)",
    "kernels": "kernel functions to prefer over cheaper ones, separated by commas; portable: none"
    " of a single instruction set",
    "patches": "yes or no: stages may run in strips to make the arena smaller (default: yes)",
    "weights": "flash, ram, or a size such as 16K: so much RAM for the tables that are read most"
    " often, which start-up copies there (default: flash)",
    "input": "arena; apart: the application keeps it and passes a pointer; rows: it comes a few"
    " rows at a time (default: arena)",
    "max_ram": "largest arena, such as 24K",
    "max_flash": "most flash for the model's code and tables, such as 96K (the code is estimated)",
    "max_latency": "longest inference, such as 50ms (estimated)",
    "project": "esp-idf: a project around the sources that runs the wire protocol",
}

#: Where inputs may be.
INPUTS = ("arena", "apart", "rows")

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Options:
    """What ``compile`` was asked for, checked."""

    keep_input: bool = False
    debug_steps: bool = False
    optimize: str = "speed"
    kernels: tuple[str, ...] = ()
    project: str = ""
    patches: bool = True
    weights: str = "flash"
    #: RAM for tables; ``None`` for all of them
    tables_ram_bytes: int | None = 0
    input: str = "arena"
    limits: Limits = Limits()


def read_options(options: Mapping[str, Any]) -> Options:
    """Checks option values as they come from a command line or a settings file.

    Raises:
        UsageError: an option or a value that does not exist.
    """
    from edgekit.engines.aot.limits import read_limits, read_size
    from edgekit.engines.aot.select import GOALS

    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise UsageError(
            f"the engine aot has no option '{unknown[0]}'", fix=f"one of: {', '.join(OPTIONS)}"
        )
    goal = str(options.get("optimize", "speed"))
    if goal not in GOALS:
        raise UsageError(f"optimize cannot be '{goal}'", fix=f"one of: {', '.join(GOALS)}")
    project = str(options.get("project") or "")
    if project not in ("", "esp-idf"):
        raise UsageError(
            f"the engine aot has no project for '{project}': its sources build in any C11 project",
            fix="--project esp-idf, or --engine tflm",
        )
    weights = str(options.get("weights", "flash"))
    places = {"flash": 0, "ram": None}
    tables = places[weights] if weights in places else read_size(options, "weights")
    where = str(options.get("input", "arena"))
    if where not in INPUTS:
        raise UsageError(f"input is one of {', '.join(INPUTS)}, not '{where}'")
    if where == "rows" and _flag(options, "keep_input"):
        raise UsageError("an input that comes in rows is not kept", fix="without --keep-input")
    kernels = options.get("kernels", ())
    if isinstance(kernels, str):
        kernels = [name.strip() for name in kernels.split(",") if name.strip()]
    return Options(
        keep_input=_flag(options, "keep_input"),
        debug_steps=_flag(options, "debug_steps"),
        optimize=goal,
        kernels=tuple(kernels),
        project=project,
        patches=_flag(options, "patches", default=True),
        weights=weights,
        tables_ram_bytes=tables,
        input=where,
        limits=read_limits(options),
    )


def _flag(options: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = options.get(name, default)
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in words:
        raise UsageError(f"{name} is yes or no, not '{value}'")
    return words[str(value).lower()]


def supports(model: Model, target: Target | None) -> Support:
    """Whether every step of the model has a kernel that the target executes."""
    if target is not None and target.kind not in ("mcu", "host"):
        return Support(False, (f"the engine aot makes firmware; {target.name} is none",))
    missing = _missing(model)
    return Support(not missing, missing)


@lru_cache(maxsize=4)
def _missing(model: Model) -> tuple[str, ...]:
    """Why steps cannot run. Every operator has a portable kernel, so no target is asked."""
    from edgekit.engines.aot import select
    from edgekit.engines.aot.lowering import Unsupported

    try:
        program = _passed(model)
    except ModelError as error:
        return (error.what,)
    missing = []
    for step in program.steps:
        try:
            select.candidates(program, step, None)
        except Unsupported as error:
            missing.append(f"{program.place(step)}: {error}")
        except ModelError as error:
            missing.append(f"{error.where}: {error.what}")
    return tuple(missing)


#: Estimated code: of a model as such, and of a step.
_CODE_BYTES, _CODE_BYTES_PER_STEP = 3000, 400


def memory_estimate(model: Model, target: Target) -> MemoryEstimate:
    """RAM and flash from the plan with portable kernels; the code's size is a rule of thumb.

    Raises:
        ModelError: the model holds what the engine does not take.
    """
    arena, tables, steps = _estimate(model)
    return MemoryEstimate(
        ram_bytes=arena,
        flash_bytes=tables + _CODE_BYTES + _CODE_BYTES_PER_STEP * steps,
        basis="the arena's plan with portable kernels, without stack; code by the count of steps",
    )


def _estimate(model: Model) -> tuple[int, int, int]:
    """Arena, tables (bytes) and steps of the model with portable kernels; the last is kept."""
    if model.sha256 not in _ESTIMATES:
        layout = decide(model, None)
        tables = sum(step.weights_bytes for step in layout.plan.steps)
        _ESTIMATES.clear()
        _ESTIMATES[model.sha256] = (layout.plan.arena_bytes, tables, len(layout.plan.steps))
    return _ESTIMATES[model.sha256]


#: The last model's figures: they are asked for once per target.
_ESTIMATES: dict[str, tuple[int, int, int]] = {}


def decide(model: Model, target: Target | None, options: Options | None = None) -> Layout:
    """Everything that is decided before the C is written.

    Raises:
        ModelError: the model holds what the engine does not take.
    """
    return weigh(model, target, options)[0]


def weigh(
    model: Model, target: Target | None, options: Options | None = None
) -> tuple[Layout, tuple[Outlook, ...]]:
    """The plan, and what the others that were weighed would take, the fastest one first.

    Raises:
        ModelError: the model holds what the engine does not take.
        FitError: no plan keeps to the limits, or to the target's RAM.
    """
    from edgekit.engines.aot import limits, memory, select
    from edgekit.engines.aot.search import Search

    chosen = options or Options()
    program = _passed(model, debug_steps=chosen.debug_steps)
    if chosen.input == "rows":
        program = _in_rows(program)
    if chosen.input == "apart":
        returned = {program.home(index) for index in program.outputs}
        homes = frozenset(program.home(index) for index in program.inputs)
        program = replace(program, apart=homes - returned)
    if chosen.debug_steps:
        kernels, _ = select.choose(program, target, goal=chosen.optimize, forced=chosen.kernels)
        layout = memory.arrange(program, kernels, keep_input=chosen.keep_input, overlap=False)
        if target is not None:
            _check_fit(layout.plan, target)
        return layout, ()
    search = Search(
        program,
        target,
        goal=chosen.optimize,
        forced=chosen.kernels,
        keep_input=chosen.keep_input,
        patches=chosen.patches,
    )
    return limits.decide(search, chosen.limits, goal=chosen.optimize, target=target)


def _in_rows(program: Program) -> Program:
    """The program with a step at which the caller has put the input's rows there.

    Raises:
        UsageError: the model has several inputs, or one without rows.
    """
    from edgekit.engines.aot.ir import Instruction
    from edgekit.engines.aot.patches import FEED

    if len(program.inputs) != 1:
        raise UsageError(
            f"input=rows is for models with one input; this one has {len(program.inputs)}",
            program.model.name,
        )
    image = program.tensors[program.inputs[0]]
    reason, fix = "", None
    if len(image.shape) != 4:
        reason = f"it is {list(image.shape)}, not an image"
    elif image.dtype != "int8":
        reason, fix = (
            f"it is {image.dtype}",
            "edgekit convert, which makes full-integer int8 models",
        )
    elif image.index in program.outputs:
        reason = "it is an output as well"
    if reason:
        raise UsageError(f"the input cannot come in rows: {reason}", program.model.name, fix)
    feed = Instruction(FEED, (), (), (image.index,))
    return replace(program, steps=(feed, *program.steps), fed=frozenset((image.index,)))


def _passed(model: Model, *, debug_steps: bool = False) -> Program:
    """The model as a checked program after all passes."""
    from edgekit.engines.aot import passes
    from edgekit.engines.aot.check import check_model, check_step
    from edgekit.engines.aot.ir import program_of

    check_model(model)
    program = program_of(model)
    for step in program.steps:
        check_step(program, step)
    try:
        return passes.run(program, debug_steps=debug_steps)
    except (ValueError, IndexError, KeyError, ArithmeticError, TypeError) as error:
        # A file may hold anything; a pass that stumbles over it has found it out.
        raise ModelError(f"the graph makes no sense ({error})", model.name) from error


def model_macs(model: Model) -> int:
    """Multiply-accumulates of the model as it is, before any pass."""
    from edgekit.engines.aot import select
    from edgekit.engines.aot.ir import program_of

    program = program_of(model)
    return sum(select.macs(program, step) for step in program.steps)


def compile(
    model: Model, target: Target, out: Path, *, command: str, options: Mapping[str, Any]
) -> Artifact:
    """Writes the model as C into the folder ``out``.

    Raises:
        ModelError: the model holds what the engine does not take.
        FitError: the arena does not fit the target's largest RAM.
        UsageError: an unknown option, or a folder that cannot be written.
    """
    import json

    from edgekit.engines.aot import emit, limits
    from edgekit.files import folder_atomic

    chosen = read_options(options)
    goal = chosen.optimize
    layout, weighed = weigh(model, target, chosen)
    emitted = emit.emit(
        layout, command=command, goal=goal, tables_ram_bytes=chosen.tables_ram_bytes
    )
    code = limits.code_bytes(emitted.instances, len(layout.plan.steps), target)
    if not limits.flash_fits(emitted.weights_bytes, code, chosen.limits):
        # Steps share code, at some cost in time, before the model is refused.
        goal = "flash"
        layout, weighed = weigh(model, target, replace(chosen, optimize=goal))
        emitted = emit.emit(
            layout, command=command, goal=goal, tables_ram_bytes=chosen.tables_ram_bytes
        )
        code = limits.code_bytes(emitted.instances, len(layout.plan.steps), target)
        limits.check_flash(emitted.weights_bytes, code, chosen.limits)
    texts = emitted.files
    prefix = emit.prefix_of(model.name)
    macs = model_macs(model)
    folder_of_sources, made = "", None
    if chosen.project:
        from edgekit.engines.aot.espidf import project

        made = project(texts, prefix, layout.plan, target, command)
        texts, folder_of_sources = dict(made.files), f"{made.component}/"
    artifact = Artifact(
        engine=NAME,
        target=target.name,
        model_name=model.name,
        model_sha256=model.sha256,
        model_macs=macs,
        folder=out,
        files=tuple(sorted([*texts, "manifest.json"])),
        sources=(f"{folder_of_sources}{prefix}.c",),
        include_dirs=(folder_of_sources.rstrip("/") or ".",),
        plan=layout.plan,
        weights_bytes=emitted.weights_bytes,
        arena_bytes=layout.plan.arena_bytes,
        options={
            "keep_input": chosen.keep_input,
            "debug_steps": chosen.debug_steps,
            "optimize": goal,
            "kernels": list(chosen.kernels),
            "weights": chosen.weights,
            "tables_in_ram": to_json(emitted.in_ram),
            "input": chosen.input,
            "estimates": limits.estimates(layout, code, target),
            "plans": to_json(weighed),
            **({"project": chosen.project} if chosen.project else {}),
        },
    )
    record = to_json(artifact)
    record["folder"] = "."
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "edgekit": __version__,
        "stage": "compile",
        "command": command,
        "model": {"name": model.name, "sha256": model.sha256, "macs": macs},
        "target": target.name,
        "engine": NAME,
        "prefix": prefix,
        "artifact": record,
    }
    if made is not None:  # what the host has to know of it, to talk to the board
        manifest["firmware"] = to_json(
            Firmware(
                target=target.name,
                model_name=model.name,
                model_sha256=model.sha256,
                engine=NAME,
                elf=made.elf,
                build_id=made.build_id,
                compiler="ESP-IDF",
                sections=(),
                symbols=(),
                flash_bytes=0,
                ram_bytes=0,
                code_bytes=0,
                weights_bytes=emitted.weights_bytes,
                stack_bound_bytes=None,
                plan=layout.plan,
                artifact_folder=Path("."),
                model_macs=macs,
            )
        )
    with folder_atomic(out) as folder:
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return artifact


def _check_fit(plan: Plan, target: Target) -> None:
    from edgekit.engines.aot.limits import pair

    limit = target.largest_ram_bytes
    if not limit or plan.arena_bytes <= limit:
        return
    raise FitError(
        f"the model needs an arena of {plan.arena_bytes:,} B; {target.name} has {limit:,} B of"
        " RAM in one piece",
        pair(plan),
        f"edgekit targets --min-ram {-(-plan.arena_bytes // 1024)}K",
    )
