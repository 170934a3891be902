"""Installers: what puts a compiled model onto a device that runs an operating system.

(:mod:`edgekit.flashers` write firmware into the flash of boards.) An installer is a module in this
folder, found by its file name. It defines::

    NAME = "mdt"
    TITLE = "Mendel Development Tool"
    OPTIONS: Mapping[str, str]      # what `edgekit flash --set key=value` takes
    def plan(artifact: Path, target: Target, options) -> tuple[Step, ...]
    def flash(artifact: Path, target: Target, options, report: Report) -> dict[str, Any]

``plan`` touches no device and needs no tool: it is what ``flash --dry-run`` prints. ``flash`` calls
``report`` with each step and what came of it, and returns what the JSON document says.
"""

from __future__ import annotations

import importlib
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgekit.errors import DeviceError, MissingDependency, UsageError

if TYPE_CHECKING:
    from edgekit.targets import Target


@dataclass(frozen=True)
class Step:
    """One thing a installer does: a short name, a sentence, and the command if it is one."""

    name: str
    what: str
    command: tuple[str, ...] = ()

    @property
    def command_line(self) -> str:
        return shlex.join(self.command)


Report = Callable[[Step, str], None]


class Installer(Protocol):
    """The interface of a installer's module."""

    NAME: str
    TITLE: str
    OPTIONS: Mapping[str, str]

    def plan(
        self, artifact: Path, target: Target, options: Mapping[str, Any]
    ) -> tuple[Step, ...]: ...

    def flash(
        self, artifact: Path, target: Target, options: Mapping[str, Any], report: Report
    ) -> dict[str, Any]: ...


def names() -> tuple[str, ...]:
    """The installers there are, sorted."""
    folder = Path(__file__).parent
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))


def load(name: str) -> Installer:
    """The installer's module.

    Raises:
        UsageError: there is no installer of that name.
    """
    known = names()
    if name not in known:
        raise UsageError(f"there is no installer '{name}'", fix=f"one of: {', '.join(known)}")
    return cast("Installer", importlib.import_module(f"edgekit.installers.{name}"))


def installer_of(target: Target, wanted: str | None = None) -> Installer:
    """The installer of a target: the first of the target's ``flashers`` that is one, else coral.

    Raises:
        UsageError: the target does not take the one wanted.
    """
    named = [name for item in target.flashers if (name := str(item["name"])) in names()]
    named = named or ["coral"]
    if wanted is not None and wanted not in named:
        raise UsageError(
            f"{target.name} is not flashed with '{wanted}'", fix=f"one of: {', '.join(named)}"
        )
    return load(wanted or named[0])


def check_options(installer: Installer, options: Mapping[str, Any]) -> None:
    """Raises on an option that a installer does not know.

    Raises:
        UsageError: with the nearest one that exists.
    """
    import difflib

    for key in options:
        if key not in installer.OPTIONS:
            close = difflib.get_close_matches(key, installer.OPTIONS, n=1)
            raise UsageError(
                f"the installer {installer.NAME} has no option '{key}'",
                fix=f"--set {close[0]}=…" if close else f"one of: {', '.join(installer.OPTIONS)}",
            )


def run_step(step: Step, *, install: str, timeout_s: float = 120.0, cwd: Path | None = None) -> str:
    """Runs a step's command: everything it printed.

    Raises:
        MissingDependency: the program is not installed.
        DeviceError: it ended with another exit code than 0, or did not end.
    """
    program = step.command[0]
    try:
        done = subprocess.run(
            list(step.command),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise MissingDependency(f"{program} is not installed", step.what, install) from None
    except OSError as error:
        raise MissingDependency(
            f"{program} cannot be started: {error.strerror}", step.what, install
        ) from None
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"{program} did not finish within {timeout_s:.0f} s",
            step.what,
            "check the connection, then try again",
        ) from None
    if done.returncode != 0:
        raise DeviceError(
            f"{program} ended with code {done.returncode}: {last_line(done.stdout)}",
            step.what,
            step.command_line,
        )
    return done.stdout


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def require_files(paths: Sequence[Path]) -> None:
    """Raises when a file is missing.

    Raises:
        UsageError: names the first one.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path.name}", str(path.parent))
