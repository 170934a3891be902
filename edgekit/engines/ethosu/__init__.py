"""Arm Ethos-U: the model compiled by Vela, with Vela's own estimates in edgekit's report.

Vela (the package ``ethos-u-vela``) is run as a process. Operators that it leaves on the CPU are
found in the file that it wrote, and get the cost of edgekit's kernels for the target's core.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.engines import Support
from edgekit.errors import FitError, ModelError, UsageError
from edgekit.records import Artifact, to_json

if TYPE_CHECKING:
    from edgekit.engines.ethosu.performance import Performance
    from edgekit.graph import Model
    from edgekit.targets import Target

NAME = "ethosu"
TITLE = "Arm Ethos-U (Vela)"

OPTIONS: Mapping[str, str] = {
    "accelerator": "ethos-u55-32, -64, -128, -256, ethos-u65-256, -512, ethos-u85-128 to -2048 "
    "(default: the target's)",
    "system_config": "clock, ports and memories: a section of Vela's configuration file, such as "
    "Ethos_U55_High_End_Embedded",
    "memory_mode": "Sram_Only, Shared_Sram, Dedicated_Sram, Dedicated_Sram_384KB, …",
    "config": "a configuration file (.ini) of one's own; needs system_config and memory_mode",
    "optimise": "Performance or Size",
    "arena_cache_size": "bytes of the fast memory that Vela may use",
    "ignore_ops": "operators that stay on the CPU, such as SOFTMAX,MEAN",
    "fit": "warn: write the files although the target's memory is too small",
}

SCHEMA_VERSION = 1

#: The custom operator that Vela puts in the place of what the NPU runs.
NPU_OPERATOR = "CUSTOM:ethos-u"


def supports(model: Model, target: Target | None) -> Support:
    """Whether the target has an Ethos-U and the model something for it; Vela is not run."""
    reasons = []
    if target is not None and NAME not in target.engines:
        reasons.append(f"{target.name} has no Ethos-U")
    if any(op.kind == NPU_OPERATOR for op in model.ops):
        reasons.append("the model is compiled for an Ethos-U already")
    elif not any(
        model.tensors[index].dtype in ("int8", "uint8", "int16")
        for op in model.ops
        for index in op.outputs
    ):
        reasons.append("no operator computes in int8, uint8 or int16: all would stay on the CPU")
    return Support(not reasons, tuple(reasons))


def compile(
    model: Model, target: Target, out: Path, *, command: str, options: Mapping[str, Any]
) -> Artifact:
    """Writes the model as Vela compiled it, Vela's CSV files and ``manifest.json``.

    Raises:
        MissingDependency: Vela is not installed, or what it wrote cannot be understood.
        ModelError: Vela refuses the model, or maps none of it.
        FitError: the model needs more SRAM than the target has in one piece.
        UsageError: an unknown option, a value that Vela does not know, or a folder that cannot
            be written.
    """
    from edgekit.engines.ethosu import cpu, vela
    from edgekit.engines.ethosu.performance import read_performance
    from edgekit.files import folder_atomic
    from edgekit.graph import read_model
    from edgekit.graph.macs import model_cost

    settings = _settings(target, options)
    if any(op.kind == NPU_OPERATOR for op in model.ops):
        raise ModelError("the model is compiled for an Ethos-U already", model.name)
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", model.name) or "model"
    costs = model_cost(model)
    with folder_atomic(out) as folder:
        files = vela.run(model, stem, folder, settings)
        compiled = read_model(files.model)
        found = read_performance(files, model)
        left = cpu.left_on_cpu(
            model, compiled, target, files.reasons, _ignored(settings.get("ignore_ops"))
        )
        warnings = _warnings(model, target, found, left, options.get("fit") == "warn")
        artifact = Artifact(
            engine=NAME,
            target=target.name,
            model_name=model.name,
            model_sha256=model.sha256,
            model_macs=costs.macs,
            folder=out,
            files=tuple(sorted(["manifest.json", *(path.name for path in folder.iterdir())])),
            weights_bytes=found.encoded_weights_bytes,
            arena_bytes=found.sram_bytes,
            options={
                # a file's name is enough: the manifest must not depend on where it lies
                "settings": {
                    key: Path(value).name if key == "config" else value
                    for key, value in settings.items()
                },
                "vela": {
                    "kind": "estimated",
                    "basis": f"Vela {files.version}",
                    "compiled_sha256": compiled.sha256,
                    **to_json(found),
                    "cpu": [to_json(op) for op in left],
                },
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
            "artifact": record,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    return artifact


def _settings(target: Target, options: Mapping[str, Any]) -> dict[str, str]:
    """The target's settings for Vela, overridden by the user's."""
    import difflib

    from edgekit.engines.ethosu.vela import ACCELERATORS

    for key in options:
        if key not in OPTIONS:
            close = difflib.get_close_matches(key, OPTIONS, n=1)
            raise UsageError(
                f"the engine ethosu has no option '{key}'",
                fix=f"--set {close[0]}=…" if close else f"one of: {', '.join(OPTIONS)}",
            )
    chosen = {**target.engine_options.get(NAME, {}), **options}
    settings = {key: str(value) for key, value in chosen.items() if value and key != "fit"}
    if options.get("accelerator") and options["accelerator"] != target.engine_setting(
        NAME, "accelerator"
    ):
        # The target's memories belong to its own accelerator.
        for key in ("system_config", "memory_mode"):
            if key not in options:
                settings.pop(key, None)
    if options.get("fit") not in (None, "", "warn"):
        raise UsageError(f"fit cannot be '{options['fit']}'", fix="--set fit=warn")
    accelerator = settings.get("accelerator")
    if accelerator is None:
        raise UsageError(
            f"{target.name} names no Ethos-U",
            fix="--set accelerator=ethos-u55-128, or --target corstone-300",
        )
    if accelerator not in ACCELERATORS:
        raise UsageError(
            f"there is no accelerator '{accelerator}'", fix=f"one of: {', '.join(ACCELERATORS)}"
        )
    if settings.get("optimise") not in (None, "Performance", "Size"):
        raise UsageError(
            f"optimise cannot be '{settings['optimise']}'", fix="one of: Performance, Size"
        )
    config = settings.get("config")
    if config is not None:
        missing = [key for key in ("system_config", "memory_mode") if key not in settings]
        if missing:
            raise UsageError(
                f"a configuration file needs {' and '.join(missing)} as well",
                config,
                " ".join(f"--set {key}=SECTION" for key in missing),
            )
        if not Path(config).is_file():
            raise UsageError("this configuration file does not exist", config)
        settings["config"] = str(Path(config).resolve())
    return settings


def _ignored(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip().upper() for name in (text or "").split(",") if name.strip())


def _warnings(
    model: Model, target: Target, found: Performance, left: Sequence[Any], lenient: bool
) -> Iterator[str]:
    if left and found.npu_operators == 0:
        raise ModelError(
            f"Vela maps none of the {len(model.ops)} operators to the NPU: {left[0].reason}",
            model.name,
            "edgekit convert makes a full-integer model; --engine aot or tflm run it on the CPU",
        )
    limit = target.largest_ram_bytes
    if limit and found.sram_bytes > limit:
        text = f"Vela plans {found.sram_bytes:,} B of SRAM; {target.name} has {limit:,} B"
        if not lenient:
            raise FitError(
                f"{text} in one piece",
                f"{found.accelerator}, memory mode {found.memory_mode}",
                "--set optimise=Size, --set memory_mode=Dedicated_Sram_384KB with a U65 or U85, "
                "or --set fit=warn",
            )
        yield text
    unknown = [op for op in left if op.instructions is None]
    if unknown:
        names = ", ".join(sorted({op.kind for op in unknown}))
        yield (
            f"{len(unknown)} operators on the CPU have no known cost ({names}): Vela counts them"
            " with 0 cycles, so that the total is too low"
        )
    elif left:
        yield (f"{len(left)} operators stay on the CPU: Vela's total counts them with 0 cycles")


def tables(
    artifact: Artifact,
) -> Iterator[tuple[list[str | tuple[str, str]], list[list[object]], str]]:
    """What ``edgekit compile`` prints of the artifact: columns, rows and title of each table."""
    vela = artifact.options["vela"]
    total = vela["cycles"]
    yield (
        ["what", ("value", "right"), "is"],
        [
            ["accelerator", vela["accelerator"], f"at {vela['clock_hz'] / 1e6:g} MHz"],
            ["system, memory", f"{vela['system_config']}, {vela['memory_mode']}", ""],
            ["cycles", total, f"estimated ({vela['basis']}), without operators on the CPU"],
            ["time", f"{vela['time_us']:,.1f} µs", f"estimated ({vela['basis']}), as above"],
            ["SRAM", vela["sram_bytes"], "bytes, planned by Vela"],
            ["DRAM", vela["dram_bytes"], "bytes, planned by Vela"],
            ["flash", vela["flash_bytes"], "bytes: weights, as encoded, and commands"],
            ["operators", len(vela["operators"]), f"{len(vela['cpu'])} of them on the CPU"],
        ],
        f"{artifact.model_name} for {artifact.target}: {TITLE}, in {artifact.folder}",
    )
    yield (
        [("#", "right"), "operator", "runs on", ("cycles", "right"), ("share", "right"),
         ("MACs", "right"), ("use", "right"), ("SRAM B", "right"), "name"],
        [
            [
                op["op"],
                op["kind"],
                op["runs_on"],
                op["cycles"] if op["runs_on"] == "NPU" else None,
                f"{100 * op['cycles'] / total:.1f} %" if total else None,
                op["macs"],
                f"{op['utilisation_percent']:.1f} %" if op["macs"] else None,
                op["staging_bytes"],
                op["name"].split(";")[0][-40:],
            ]
            for op in vela["operators"]
        ],
        f"operators: estimated ({vela['basis']})",
    )  # fmt: skip
    if vela["cpu"]:
        yield (
            [("#", "right"), "on the CPU", ("instructions", "right"), "why"],
            [
                [
                    op["op"],
                    op["kind"],
                    op["instructions"],
                    op["reason"]
                    if op["instructions"] is not None
                    else f"{op['reason']}; cost not known: {op['cost_basis']}",
                ]
                for op in vela["cpu"]
            ],
            "operators on the CPU: instructions estimated, edgekit's kernels for "
            f"{vela['cpu'][0]['core']}",
        )
