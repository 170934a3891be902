"""Tools as processes: found, run, watched for progress, and judged by what they print."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit.errors import DeviceError, EdgekitError, MissingDependency

#: A tool that says nothing for so long hangs.
_SILENCE_S = 90.0
_SHOWN_LINES = 3


@dataclass(frozen=True)
class Sign:
    """What a tool's output means: a pattern (any case), and what to tell the user."""

    pattern: str
    what: str
    fix: str | None = None
    error: type[EdgekitError] = DeviceError


def find_tool(name: str) -> str:
    """Path of a tool of :mod:`edgekit.doctor`'s list.

    Raises:
        MissingDependency: it is not installed; says the command that installs it.
    """
    from edgekit.doctor import TOOLS, find_program

    tool = next(tool for tool in TOOLS if tool.name == name)
    for program in tool.programs:
        path = find_program(program)
        if path is not None:
            return path
    raise MissingDependency(f"{name} is not installed", tool.needed_for, tool.install)


def is_installed(name: str) -> bool:
    """Whether :func:`find_tool` finds a tool."""
    try:
        find_tool(name)
    except MissingDependency:
        return False
    return True


def tool_version(name: str) -> str | None:
    """The version that a tool prints."""
    return _version(name, find_tool(name)) if is_installed(name) else None


@cache
def _version(name: str, path: str) -> str | None:
    """Asked once for each installation: some tools take a second to say it."""
    from edgekit.doctor import TOOLS, check_tools

    return check_tools([tool for tool in TOOLS if tool.name == name])[0].version


def run_tool(
    command: Sequence[str],
    *,
    where: str,
    signs: Sequence[Sign] = (),
    on_text: Callable[[str], None] = lambda text: None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    silence_s: float = _SILENCE_S,
) -> str:
    """Runs a tool to its end and returns all that it printed.

    Args:
        command: its path and arguments.
        where: the port, probe or drive, for errors.
        signs: what known outputs of a failure mean, the most telling first.
        on_text: called with everything printed so far whenever there is more.
        environment: variables that are added.

    Raises:
        DeviceError: the tool failed, or said nothing for ``silence_s`` seconds.
        MissingDependency: it does not start.
    """
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            cwd=folder,
        )
    except OSError as error:
        raise MissingDependency(
            f"{Path(command[0]).name} does not start: {error.strerror}", command[0]
        ) from None
    assert process.stdout is not None
    text = ""
    heard = time.monotonic()
    try:
        while True:
            ready, _, _ = select.select([process.stdout], [], [], 1.0)
            if ready:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                text += data.decode(errors="replace")
                heard = time.monotonic()
                on_text(text)
            elif time.monotonic() - heard > silence_s:
                raise DeviceError(
                    f"{Path(command[0]).name} said nothing for {silence_s:g} s and was ended",
                    where,
                    f"to see what it does: {shlex.join(command)}",
                )
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if code != 0:
        raise failure(command, where, text, f"ended with code {code}", signs)
    return text


def failure(
    command: Sequence[str], where: str, text: str, how: str, signs: Sequence[Sign] = ()
) -> EdgekitError:
    """The error for a tool's output: a known sign, or its last lines."""
    for sign in signs:
        if re.search(sign.pattern, text, re.IGNORECASE):
            return sign.error(sign.what, where, sign.fix)
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    said = "; ".join(lines[-_SHOWN_LINES:])
    return DeviceError(
        f"{Path(command[0]).name} {how}" + (f": {said}" if said else ""),
        where,
        f"to see all of it: {shlex.join(command)}",
    )


def last_share(pattern: str) -> Callable[[str], float | None]:
    """Reads progress from a tool's output.

    ``pattern`` has one group, a percentage, or two, done and all.
    """
    compiled = re.compile(pattern)

    def share(text: str) -> float | None:
        found = None
        for match in compiled.finditer(text, max(0, len(text) - 4096)):
            found = match
        if found is None:
            return None
        values = [float(value) for value in found.groups()]
        return values[0] / 100 if len(values) == 1 else values[0] / max(values[1], 1.0)

    return share
