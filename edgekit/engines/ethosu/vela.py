"""Runs Vela in a process of its own and finds what it wrote."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, MissingDependency, ModelError, UsageError, missing_extra

if TYPE_CHECKING:
    from edgekit.graph import Model

ACCELERATORS = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256",
    "ethos-u65-256", "ethos-u65-512",
    "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
)  # fmt: skip

_OLDEST = 5
#: Vela takes seconds for most models; large ones with many tensors take minutes.
TIMEOUT_S = 900.0

_FLAGS = {
    "accelerator": "--accelerator-config",
    "system_config": "--system-config",
    "memory_mode": "--memory-mode",
    "config": "--config",
    "optimise": "--optimise",
    "arena_cache_size": "--arena-cache-size",
    "ignore_ops": "--ignore-ops",
}
#: "Warning (supported operators) operator: MEAN, ofm: 'name'", then reasons up to a blank line.
_REFUSED = re.compile(
    r"^Warning \([^)]*\) operator: (?P<kind>\S+), ofm: '(?P<name>[^\n]*)'\n"
    r"(?:Reason: )?(?P<reason>[^\n]*)",
    re.MULTILINE,
)
_OPTION_ERROR = re.compile(r"(?:CliOptionError|ConfigOptionError): ['\"]?(?:Error: )?(.*?)['\"]?$")
_CHOICE_ERROR = re.compile(
    r"error: ((?:argument|unrecognized) .*)$|(Unrecognised ignore_ops value .*)$"
)


@dataclass(frozen=True)
class VelaFiles:
    """What Vela wrote, and why it left operators on the CPU, by the name of their output."""

    model: Path
    per_layer: Path
    summary: Path
    version: str
    reasons: Mapping[str, str] = field(default_factory=dict)


def run(
    model: Model, stem: str, folder: Path, settings: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> VelaFiles:
    """Compiles a model into ``folder``.

    Raises:
        MissingDependency: Vela is not installed, failed in itself, or took too long.
        ModelError: it does not take the model.
        UsageError: it does not know a value of the settings.
    """
    program, version = find_vela()
    major = re.match(r"\d+", version)
    if major and int(major[0]) < _OLDEST:
        raise MissingDependency(
            f"Vela {version} is too old: {_OLDEST}.0 is the first whose figures name the unit that "
            "runs an operator",
            " ".join(program),
            "pip install 'ethos-u-vela>=5'",
        )
    source = folder / f"{stem}.tflite"
    source.write_bytes(model.raw)
    arguments = [f"{_FLAGS[key]}={value}" for key, value in settings.items() if key in _FLAGS]
    try:
        ended = subprocess.run(
            # cycles per operator are only written with the performance option
            [*program, source.name, "--verbose-performance", "--output-dir=.", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MissingDependency(
            f"Vela did not end within {timeout_s:g} s", model.name, "--set optimise=Size"
        ) from None
    except OSError as error:
        raise MissingDependency(f"Vela cannot be run: {error.strerror}", program[0]) from None
    finally:
        source.unlink(missing_ok=True)
    if ended.returncode:
        raise _refusal(model, ended)
    compiled = folder / f"{stem}_vela.tflite"
    per_layer = folder / f"{stem}_per-layer.csv"
    summaries = sorted(folder.glob("*_summary_*.csv"))
    if not (compiled.is_file() and per_layer.is_file() and summaries):
        raise MissingDependency(
            f"Vela {version} did not write what is expected of it: the model and two CSV files",
            fix="pip install 'ethos-u-vela>=5'",
        )
    return VelaFiles(compiled, per_layer, summaries[0], version, _reasons(ended.stdout))


def find_vela() -> tuple[list[str], str]:
    """The command that runs Vela, and its version.

    Raises:
        MissingDependency: it is neither a package of this Python nor a program on PATH.
    """
    try:
        found = importlib.util.find_spec("ethosu.vela")
    except ModuleNotFoundError:
        found = None
    if found is not None:
        return [sys.executable, "-m", "ethosu.vela"], importlib.metadata.version("ethos-u-vela")
    path = shutil.which("vela")
    if path is None:
        raise missing_extra("ethos-u-vela", "ethosu", "compiling for Ethos-U")
    try:
        told = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        raise MissingDependency(
            "Vela cannot be run", path, "pip install 'edgekit[ethosu]'"
        ) from None
    return [path], told.stdout.strip().splitlines()[-1] if told.stdout.strip() else "(unknown)"


def _reasons(text: str) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for match in _REFUSED.finditer(text.replace("\r\n", "\n")):
        words = " ".join(match["reason"].removeprefix("- ").split())
        reasons.setdefault(match["name"], words)
    return reasons


def _refusal(model: Model, ended: subprocess.CompletedProcess[str]) -> EdgekitError:
    lines = [line.strip() for line in (ended.stdout + "\n" + ended.stderr).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Warning: No ")]
    for line in lines:
        match = _OPTION_ERROR.search(line) or _CHOICE_ERROR.search(line)
        if match:
            return UsageError(
                f"Vela refuses the settings: {match[1] or match[match.lastindex or 1]}",
                fix="vela --list-configs Arm/vela.ini shows the sections, vela --help the values",
            )
    last = lines[-1] if lines else "it printed nothing"
    if ended.returncode < 0:
        how = signal.Signals(-ended.returncode).name
        return ModelError(f"Vela crashed on this model ({how}): {last}", model.name)
    return ModelError(f"Vela refuses this model: {last}", model.name)
