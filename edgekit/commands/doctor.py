"""Say what is installed, what is missing, and which command installs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit import console

if TYPE_CHECKING:
    from edgekit.doctor import Check


@click.command()
@click.option(
    "--require",
    multiple=True,
    metavar="NAME",
    help="Exit with code 5 unless this package, tool or extra is fine. May be repeated.",
)
@console.json_option
@click.pass_context
def command(ctx: click.Context, require: tuple[str, ...], as_json: bool) -> None:
    """Says what is installed at which version, and what is missing.

    For everything that is missing it names the command that installs it and what works
    without it. The exit code is 0 unless something that --require names is missing.

    \b
    edgekit doctor
    edgekit doctor --require convert --require arm-none-eabi-gcc
    """
    import edgekit
    from edgekit import doctor
    from edgekit.cache import cache_dir
    from edgekit.config import find_config
    from edgekit.errors import MissingDependency
    from edgekit.records import to_json

    checks = [
        *doctor.check_packages(),
        *doctor.check_tools(),
        *doctor.check_libraries(),
        *doctor.check_packs(),
    ]
    unmet = doctor.unmet_requirements(checks, require)
    conflicts = doctor.find_conflicts()
    permissions = doctor.find_permissions()
    settings = find_config()
    about = {
        "edgekit": edgekit.__version__,
        **doctor.describe_platform(),
        "settings": str(settings) if settings else "none (edgekit.yaml)",
        "cache": str(cache_dir()),
    }
    if as_json:
        console.emit_json(
            "doctor",
            {
                "platform": about,
                "checks": to_json(checks),
                "conflicts": to_json(conflicts),
                "permissions": to_json(permissions),
                "unmet": [check.name for check in unmet],
            },
        )
    else:
        for key, value in about.items():
            print(f"{key:<17} {value}")
        _print_checks("Python packages", [c for c in checks if c.group in doctor.EXTRAS])
        _print_checks("Programs and libraries", [c for c in checks if c.group not in doctor.EXTRAS])
        missing = [check for check in checks if check.status != "ok"]
        if missing:
            print("Missing or wrong:")
        for group in doctor.group_missing(missing):
            print(f"  {', '.join(group.names)}{': ' + group.note if group.note else ''}")
            print(f"    needed for  {group.needed_for}")
            print(f"    without it  {group.without}")
            print(f"    install     {group.install}")
        for title, findings in (("Known conflicts:", conflicts), ("Permissions:", permissions)):
            if findings:
                print(title)
            for finding in findings:
                print(f"  {finding.what}")
                print(f"    do          {finding.fix}")
    if unmet:
        # With --json the one document is out already, so the error goes to standard error only.
        error = MissingDependency(
            f"required, but not there: {', '.join(check.name for check in unmet)}",
            None,
            "; ".join(dict.fromkeys(check.install for check in unmet)),
        )
        if not as_json:
            raise error
        console.note(f"error: {error}")
        ctx.exit(error.exit_code)


def _print_checks(title: str, checks: list[Check]) -> None:
    console.print_table(
        ["", "group", "status", "version"],
        [(check.name, check.group, check.status, check.version) for check in checks],
        title=title,
    )
