"""The command line: finds the verbs, and turns errors into sentences and exit codes.

A verb is a file in ``edgekit/commands`` with a click command named ``command``; the file's
name is the verb and its docstring's first line is the line that ``edgekit --help`` shows. A
file is imported only when its verb is used, which keeps ``--help`` fast.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

import edgekit
from edgekit.errors import EdgekitError

_COMMANDS = Path(__file__).parent / "commands"


#: key of ``click.Context.meta`` for the arguments as they were given
_ARGUMENTS = "edgekit.arguments"


class _ReaderLeft(Exception):  # noqa: N818
    """The reader of our output (head, less) left: no error, but nothing more to write."""


class _Verbs(click.Group):
    """A group whose commands are the files of ``edgekit/commands``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # click would end with code 1 here. Only if it is our own output that nobody reads
            # is it no error; a link that broke must not pass silently.
            if _output_is_unread():
                raise _ReaderLeft from None
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            path.stem.replace("_", "-")
            for path in _COMMANDS.glob("*.py")
            if not path.stem.startswith("_")
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"edgekit.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        command.name = cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if close and "Did you mean" not in error.message:
                raise click.UsageError(f"{error.message} Did you mean '{close[0]}'?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(verb, _summary(verb)) for verb in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _output_is_unread() -> bool:
    """Whether standard output is a pipe whose other end is closed."""
    import select

    if not hasattr(select, "poll"):  # Windows, where links do not raise BrokenPipeError
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _summary(verb: str) -> str:
    """The first line of a command file's docstring, read without importing the file."""
    with (_COMMANDS / f"{verb.replace('-', '_')}.py").open(encoding="utf-8") as file:
        return file.readline().strip().strip('"').rstrip(".")


@click.command(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each verb explains itself with an example: edgekit VERB --help",
)
@click.version_option(edgekit.__version__, prog_name="edgekit")
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    help="Settings file instead of the edgekit.yaml of this folder or repository.",
)
@click.pass_context
def cli(ctx: click.Context, config: str | None) -> None:
    """Takes a trained model to a measured binary on an edge device."""
    # A verb's --help must come out even when the settings file is broken.
    if not {"-h", "--help"}.intersection(ctx.meta[_ARGUMENTS]):
        _load_settings(ctx, config)


def _load_settings(ctx: click.Context, config: str | None) -> None:
    """Gives the verb the defaults that ``edgekit.yaml`` holds (see ``edgekit.config``)."""
    from edgekit.config import find_config, load_config

    path = Path(config) if config is not None else find_config()
    if path is None:
        return
    group = ctx.command
    if not isinstance(group, click.Group):
        return
    settings = load_config(
        path,
        group.list_commands(ctx),
        lambda verb: group.get_command(ctx, verb),
        ctx.invoked_subcommand,
    )
    settings.apply_environment()
    ctx.default_map = settings.defaults


def main(args: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with the code that ``edgekit.errors`` documents."""
    argv = sys.argv[1:] if args is None else args
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Without standalone mode click returns the code of --help, --version and ctx.exit().
        result = cli.main(args=argv, prog_name="edgekit", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
    except EdgekitError as error:
        _report(error.what, error.where, error.fix, error.exit_code, argv)
        code = error.exit_code
    except click.ClickException as error:
        if "--json" in argv:
            _report(error.format_message(), None, None, error.exit_code, argv)
        else:
            error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        code = 130
    except (_ReaderLeft, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _terminate(signum: int, frame: FrameType | None) -> None:
    # SIGTERM unwinds like Ctrl-C, so that child processes end and temporary files go.
    raise KeyboardInterrupt


def _report(what: str, where: str | None, fix: str | None, exit_code: int, argv: list[str]) -> None:
    lines = [f"error: {what}"]
    if where:
        lines.append(f"  at: {where}")
    if fix:
        lines.append(f"  try: {fix}")
    print("\n".join(lines), file=sys.stderr)
    if "--json" in argv:
        from edgekit.console import emit_json

        document: dict[str, Any] = {"what": what, "where": where, "fix": fix}
        emit_json("error", {"error": {**document, "exit_code": exit_code}})
