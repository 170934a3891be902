"""What a user sees: tables and results on standard output, progress and notes on standard error.

With ``--json`` standard output carries exactly one document and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Version of every JSON document that edgekit writes. It goes up when a key changes its
#: meaning or goes away; new keys do not change it.
SCHEMA_VERSION = 1

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def json_option(function: _Decorated) -> _Decorated:
    """The ``--json`` flag, passed to the command as ``as_json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document on standard output."
    )(function)


def emit_json(kind: str, payload: dict[str, Any]) -> None:
    """Prints the one JSON document: ``schema_version``, ``document``, then ``payload``."""
    document = {"schema_version": SCHEMA_VERSION, "document": kind, **payload}
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def note(message: str) -> None:
    """One line on standard error."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    note(f"warning: {message}")


def print_table(
    columns: Sequence[str | tuple[str, str]],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
) -> None:
    """Prints a table. A column is its heading, or ``(heading, "right")`` for figures.

    Integers are written with thousands separators.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        heading, justify = (column, "left") if isinstance(column, str) else column
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))

    class Output(Console):
        def on_broken_pipe(self) -> None:
            # rich would exit with code 1; edgekit.cli knows that a reader who leaves is no error
            raise BrokenPipeError

    console = Output(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty():
        console = Output(highlight=False, markup=False, width=200)
    if title:
        # rich would wrap a table's title to the width of the table
        console.print(title)
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Progress of long work on standard error; yields a function that advances it by n.

    On a terminal a bar that goes away at the end, elsewhere one line at the start.
    """
    if not sys.stderr.isatty():
        note(description)
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    if total is not None:
        columns.append(MofNCompleteColumn())
    columns.append(TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda amount: bar.advance(task, amount)


class Stages:
    """Progress of work with parts whose names and lengths show only as it goes."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar
        self._task: Any = None
        self._said = ""

    def note(self, message: str) -> None:
        """A sentence: a stage begins."""
        if self._bar is None:
            note(message)
        else:
            self._bar.console.print(message, highlight=False, markup=False)

    def progress(self, text: str, done: int, total: int) -> None:
        """How far the current part is; elsewhere than on a terminal, its ends and tenths."""
        if self._bar is None:
            tenth = 10 * done // max(total, 1)
            said = f"{text.partition(' (')[0]}: {done} of {total}"
            if said != self._said and (done == total or 10 * (done - 1) // max(total, 1) < tenth):
                self._said = said
                note(said)
            return
        if self._task is None:
            self._task = self._bar.add_task(text, total=total)
        self._bar.update(self._task, description=text, completed=done, total=total)


@contextmanager
def stages() -> Iterator[Stages]:
    """Notes and progress on standard error: on a terminal a bar below the notes."""
    if not sys.stderr.isatty():
        yield Stages()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Stages(bar)
