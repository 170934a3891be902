"""Errors that a user sees: what is wrong, where, and what to do about it.

Every error that edgekit raises on purpose is an :class:`EdgekitError`; the command line
(``edgekit.cli``) is the only place that catches it. Exit codes are part of the interface:

== =====================================================
0  fine
2  usage
3  unsupported or invalid model, or data
4  does not fit
5  toolchain or dependency missing
6  device or link
7  outputs differ, or a limit was crossed
== =====================================================
"""

from __future__ import annotations


class EdgekitError(Exception):
    """A problem stated in one sentence, with its place and a remedy.

    Args:
        what: the fact, with its numbers, in one sentence without a full stop.
        where: the place (operator, file and line, port), if there is one.
        fix: a command or an action that helps, if there is one.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  at: {self.where}")
        if self.fix:
            lines.append(f"  try: {self.fix}")
        return "\n".join(lines)


class UsageError(EdgekitError):
    """The command line or a settings file asks for something that makes no sense."""

    exit_code = 2


class ModelError(EdgekitError):
    """A model or a data file is invalid, or holds what the chosen engine does not take."""

    exit_code = 3


class FitError(EdgekitError):
    """The model does not fit the target's memory or a limit that the user set on it."""

    exit_code = 4


class MissingDependency(EdgekitError):
    """A toolchain, library or optional package is not installed, or failed."""

    exit_code = 5


class DeviceError(EdgekitError):
    """A device, a port or the link to it failed."""

    exit_code = 6


class LimitError(EdgekitError):
    """Outputs differ from the reference, or a quality or speed limit was crossed."""

    exit_code = 7


def missing_extra(package: str, extra: str, needed_for: str) -> MissingDependency:
    """The error for a package that only comes with one of edgekit's extras."""
    return MissingDependency(
        f"{needed_for} needs the Python package '{package}', which is not installed",
        fix=f"pip install 'edgekit[{extra}]'",
    )
