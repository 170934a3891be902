"""The part of ``edgekit flash`` that installs compiled models for Edge TPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit import console


def takes(path: Path, target: str | None) -> bool:
    """Whether ``flash PATH --target NAME`` is about a model for an Edge TPU."""
    if target is not None:
        from edgekit.targets import load_target

        return load_target(target).kind == "edgetpu"
    from edgekit.engines.edgetpu.bundle import is_edgetpu_artifact

    return is_edgetpu_artifact(path)


def run(
    path: Path,
    target: str | None,
    *,
    port: str | None,
    settings: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Installs a compiled model and runs one inference, or prints the steps."""
    from edgekit.installers import Step, check_options, installer_of
    from edgekit.targets import load_target

    board = load_target(target or "coral")
    installer = installer_of(board)
    options = _options(settings, port)
    check_options(installer, options)
    steps = installer.plan(path, board, options)
    head: dict[str, Any] = {
        "target": board.name,
        "installer": installer.NAME,
        "artifact": path.name,
        "dry_run": dry_run,
    }
    if dry_run:
        if as_json:
            rows = [
                {"name": s.name, "what": s.what, "command": list(s.command) or None} for s in steps
            ]
            console.emit_json("flash", {**head, "steps": rows})
            return
        print(f"{board.name}, {installer.TITLE}: what would be done")
        for number, step in enumerate(steps, 1):
            print(f"{number}. {step.what}")
            if step.command:
                print(f"   $ {step.command_line}")
        return
    done: list[dict[str, str]] = []

    def report(step: Step, result: str) -> None:
        console.note(f"{step.what}: {result}")
        done.append({"name": step.name, "result": result})

    found = installer.flash(path, board, options, report)
    if as_json:
        console.emit_json("flash", {**head, "steps": done, **found})
    elif "first_inference_us" in found:
        print(
            f"{path.name} is installed for {board.name} in {found['folder']}; its first inference "
            f"took {found['first_inference_us'] / 1000:.2f} ms (measured, with the upload)"
        )
    else:
        print(f"{board.name} is flashed: {found['said']}")


def _options(settings: tuple[str, ...], port: str | None) -> Mapping[str, str]:
    from edgekit.errors import UsageError

    options: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, not '{text}'")
        options[key.strip()] = value.strip()
    if port is not None and port.startswith("ssh:"):
        options.setdefault("host", port.removeprefix("ssh:"))
    elif port is not None:
        options.setdefault("device", port)
    return options
