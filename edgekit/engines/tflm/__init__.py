"""TensorFlow Lite Micro: the model as a C array with the operators, the arena and a wrapper.

TFLM itself comes from the ecosystem's own package or from the user; none of it is copied. What
it needs of RAM on the target is predicted by :mod:`~edgekit.engines.tflm.arena`, and the model is
loaded into the real TFLM on the host before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.engines import MemoryEstimate, Support
from edgekit.errors import EdgekitError, FitError, ModelError, UsageError
from edgekit.records import Artifact, to_json

if TYPE_CHECKING:
    from edgekit.engines.tflm.arena import ArenaEstimate
    from edgekit.engines.tflm.kernels import Kernels
    from edgekit.engines.tflm.layout import Abi
    from edgekit.graph import Model
    from edgekit.targets import Target

NAME = "tflm"
TITLE = "TensorFlow Lite Micro"

OPTIONS: Mapping[str, str] = {
    "kernels": "kernel library that the firmware links: reference, cmsis-nn or esp-nn "
    "(default: the target's)",
    "project": "cmake, platformio, arduino, esp-idf or zephyr: a project around the sources",
    "board": "the board's name in PlatformIO or Zephyr, the chip's in ESP-IDF",
    "platform": "PlatformIO's platform, such as ststm32",
    "framework": "PlatformIO's framework (default: arduino)",
    "fit": "warn: write the files although the target's memories are too small",
}

SCHEMA_VERSION = 1

#: Code of TFLM, its kernels and the C library: builds of the MLPerf Tiny models with GCC 12 -O2
#: and int8 registrations took 17 to 53 KB on Cortex-M4, M7 and M55.
_CODE_BYTES = 56 * 1024
#: Interpreter, resolver and C library took up to 1.5 KB in these builds, the stack 1.1 KB.
_STATIC_RAM_BYTES = 3 * 1024


def supports(model: Model, target: Target | None) -> Support:
    """Whether TFLM has kernels for every operator, type and shape of the model."""
    from edgekit.engines.tflm import operators

    if target is not None and target.kind not in ("mcu", "host"):
        return Support(False, (f"TFLM is for microcontrollers; {target.name} is none",))
    reasons = [f"{reason} (at {place})" for reason, place in operators.refusals(model)]
    for role, tensors in (("input", model.inputs), ("output", model.outputs)):
        if not tensors:
            reasons.append(f"the model has no {role}")
    return Support(not reasons, tuple(reasons))


def memory_estimate(model: Model, target: Target) -> MemoryEstimate:
    """RAM and flash that firmware with this model needs; estimated, nothing is run."""
    from edgekit.engines.tflm.arena import estimate
    from edgekit.engines.tflm.kernels import kernels_for

    arena = estimate(model, kernels_for(target), abi_of(target))
    return MemoryEstimate(
        ram_bytes=arena.recommended_bytes + _STATIC_RAM_BYTES,
        flash_bytes=len(model.raw) + _CODE_BYTES,
        basis=f"arena with {arena.kernels}, the file, and what TFLM's code takes at most",
    )


def abi_of(target: Target) -> Abi:
    """How structures are laid out on a target."""
    from edgekit.engines.tflm import layout

    if target.kind == "host":
        return layout.LP64
    return layout.ARM32 if (target.core or "").startswith("cortex-m") else layout.ILP32


def compile(
    model: Model, target: Target, out: Path, *, command: str, options: Mapping[str, Any]
) -> Artifact:
    """Writes the sources, and a project if one is asked for, into the folder ``out``.

    Raises:
        ModelError: TFLM lacks an operator or refuses the model; nothing was written.
        FitError: the arena or the model is larger than the target's memory.
        UsageError: an unknown option, or a folder that cannot be written.
    """
    from edgekit.engines.tflm import carray, operators, sources
    from edgekit.engines.tflm.arena import estimate
    from edgekit.files import folder_atomic
    from edgekit.graph.macs import model_cost

    project, kernels = _chosen(target, options)
    _check(model, target)
    recorded, notes = _record(model)
    arena = estimate(
        model,
        kernels,
        abi_of(target),
        recorded,
        static_memory=project not in sources.WITHOUT_STATIC_MEMORY,
    )
    warnings = [*notes, *arena.notes, *_warnings(model, target, project, kernels)]
    warnings += _check_fit(model, target, arena, lenient=options.get("fit") == "warn")
    name = sources.name_of(model)
    texts = sources.source_texts(model, target, arena, kernels, project=project, settings=options)
    folder_name = sources.SOURCE_FOLDERS[project]
    data_file = f"{folder_name}{name}_model_data.c"
    costs = model_cost(model)
    artifact = Artifact(
        engine=NAME,
        target=target.name,
        model_name=model.name,
        model_sha256=model.sha256,
        model_macs=costs.macs,
        folder=out,
        files=tuple(sorted([*texts, data_file, "manifest.json"])),
        sources=(f"{folder_name}{name}.cpp", data_file),
        include_dirs=(folder_name.rstrip("/") or ".",),
        weights_bytes=len(model.raw),
        arena_bytes=arena.recommended_bytes,
        options={
            "project": project or None,
            "kernels": kernels.library,
            "arena": to_json(arena),
            "operators": [
                {"kind": kind, "registration": operators.registration(model, kind)}
                for kind in operators.kinds(model)
            ],
        },
        warnings=tuple(warnings),
    )
    record = to_json(artifact)
    record["folder"] = "."
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "edgekit": __version__,
        "stage": "compile",
        "command": command,
        "model": {"name": model.name, "sha256": model.sha256, "macs": costs.macs},
        "target": target.name,
        "engine": NAME,
        "prefix": name,
        "artifact": record,
    }
    with folder_atomic(out) as folder:
        for path, text in texts.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        with (folder / data_file).open("wb") as array:
            array.write(sources.array_head(model, name).encode())
            for block in carray.array_lines(model.raw):
                array.write(block)
            array.write(b"};\n")
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    return artifact


def _chosen(target: Target, options: Mapping[str, Any]) -> tuple[str, Kernels]:
    """Project and kernels from the options.

    Raises:
        UsageError: an option or a value that does not exist.
    """
    import difflib

    from edgekit.engines.tflm.kernels import LIBRARIES, kernels_for
    from edgekit.engines.tflm.sources import PROJECTS

    for key in options:
        if key not in OPTIONS:
            close = difflib.get_close_matches(key, OPTIONS, n=1)
            raise UsageError(
                f"the engine tflm has no option '{key}'",
                fix=f"--set {close[0]}=…" if close else f"one of: {', '.join(OPTIONS)}",
            )
    for key, known in (("project", PROJECTS), ("kernels", LIBRARIES), ("fit", ("warn",))):
        value = options.get(key)
        if value and value not in known:
            raise UsageError(f"{key} cannot be '{value}'", fix=f"one of: {', '.join(known)}")
    return str(options.get("project") or ""), kernels_for(target, options.get("kernels"))


def _check(model: Model, target: Target) -> None:
    from edgekit.engines.tflm import operators

    refused = operators.refusals(model)
    if refused:
        reason, place = refused[0]
        more = len(refused) - 1
        raise ModelError(
            reason + (f" (and {more} more like it)" if more else ""),
            place,
            "edgekit inspect shows which engines take the model",
        )
    support = supports(model, target)
    if not support.ok:
        raise ModelError(support.missing[0], model.name)


def _record(model: Model) -> tuple[Mapping[str, int] | None, list[str]]:
    """What TFLM records when it loads the model on the host, and notes where it cannot.

    Raises:
        ModelError: TFLM refuses the model.
    """
    from edgekit.engines.tflm import operators
    from edgekit.runtimes import open_runner

    if "CUSTOM:ethos-u" in operators.kinds(model):
        return None, ["the Ethos-U operator does not run on the host: the arena is not checked"]
    try:
        with open_runner("tflm", model.raw) as runner:
            found = runner.allocations()
    except EdgekitError as error:
        if error.fix is None:
            error.fix = "edgekit inspect shows which engines take the model"
        raise
    return found, []


def _check_fit(model: Model, target: Target, arena: ArenaEstimate, *, lenient: bool) -> list[str]:
    """Warnings about memories that are too small, or the error."""
    problems = []
    ram, flash = target.largest_ram_bytes, target.flash_bytes
    if ram and arena.recommended_bytes > ram:
        problems.append(
            (
                f"the model needs an arena of {arena.recommended_bytes:,} B (estimated); "
                f"{target.name} has {ram:,} B of RAM in one piece",
                f"edgekit targets --min-ram {-(-arena.recommended_bytes // 1024)}K",
            )
        )
    if flash and len(model.raw) > flash:
        problems.append(
            (
                f"the model has {len(model.raw):,} B; {target.name} has {flash:,} B of flash",
                f"edgekit targets --min-flash {-(-len(model.raw) // 1024)}K",
            )
        )
    if problems and not lenient:
        what, fix = problems[0]
        raise FitError(what, model.name, f"{fix}, or --set fit=warn to write the files anyway")
    return [what for what, _ in problems]


def _warnings(model: Model, target: Target, project: str, kernels: Kernels) -> list[str]:
    found = []
    floats = any(t.dtype == "float32" for g in model.graphs for t in g.tensors if not t.is_constant)
    if floats and target.kind == "mcu" and not any(e.startswith("fpv") for e in target.isa):
        found.append(
            f"the model computes in float and {target.name} has no floating-point unit that "
            "edgekit knows of: it will be slow"
        )
    if project in ("platformio", "arduino") and kernels.library == "esp-nn":
        found.append(
            "this project's TFLM package has no ESP-NN kernels; --project esp-idf has them"
        )
    if project == "esp-idf" and kernels.library == "reference":
        found.append(
            "Espressif's package computes with ESP-NN; the arena is estimated for the "
            "reference kernels (--set kernels=esp-nn)"
        )
    if any(t.dtype == "int16" for g in model.graphs for t in g.tensors if not t.is_constant):
        found.append("int16 activations: older packages of TFLM lack some int16 kernels")
    return found
