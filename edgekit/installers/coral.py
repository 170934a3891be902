"""Installs a compiled model for an Edge TPU of this computer (USB or PCIe).

Nothing is flashed: libedgetpu uploads the model at its first inference. What can be wrong is
checked before: the library, the device, the udev rule, the runtime version.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.installers import Report, Step

if TYPE_CHECKING:
    from edgekit.engines.edgetpu.bundle import Bundle
    from edgekit.targets import Target

NAME = "coral"
TITLE = "Edge TPU of this computer"
OPTIONS: Mapping[str, str] = {
    "install-dir": "folder that gets the model's folder (default: the user's data folder)",
    "labels": "labels file to install (default: the one beside the model)",
    "device": "usb, usb:N, pci, pci:N or :N (default: the target's)",
}


def plan(artifact: Path, target: Target, options: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps; reads the artifact, asks no device."""
    from edgekit.runtimes.edgetpu import library_name

    bundle = _bundle(artifact, options)
    folder = install_folder(bundle, options)
    needed = bundle.compiled.min_runtime_version
    names = [path.name for path in bundle.files]
    files = ", ".join(names if bundle.manifest else [*names, "a manifest.json"])
    device = _device(target, options)
    return (
        Step("library", f"load {Path(library_name()).name} and ask for its version"),
        Step("package", "find a Python package with TensorFlow Lite and delegates"),
        Step("runtime", f"check that the runtime version is {needed} or newer"),
        Step("device", f"find an Edge TPU ({device or 'any'})"),
        Step("udev", "check that a udev rule gives users access to it"),
        Step("install", f"copy {files} to {folder}"),
        Step("inference", f"load {bundle.path.name} with the delegate and run one inference"),
    )


def flash(
    artifact: Path, target: Target, options: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Checks, installs, and runs one inference.

    Raises:
        MissingDependency: no package, no library, or a runtime that is too old.
        DeviceError: no device, or it fails.
    """
    from edgekit.doctor import find_permissions
    from edgekit.quality.synthetic import synthetic_inputs
    from edgekit.runtimes import open_runner
    from edgekit.runtimes.edgetpu import find_package, probe, require_device, require_runtime

    bundle = _bundle(artifact, options)
    steps = {step.name: step for step in plan(artifact, target, options)}
    library = probe()
    report(steps["library"], library.version)
    _, package = find_package()
    report(steps["package"], package)
    require_runtime(library, bundle.compiled.min_runtime_version, bundle.name)
    report(steps["runtime"], str(library.runtime_version or "not told by the library"))
    device = _device(target, options)
    found = require_device(library, device)
    report(steps["device"], f"{found.kind} {found.path}")
    missing = [f for f in find_permissions() if f.name == "udev 1a6e"] if device != "pci" else []
    report(steps["udev"], f"missing; {missing[0].fix}" if missing else "fine")
    installed = install(bundle, install_folder(bundle, options))
    report(steps["install"], f"{len(installed)} files")
    inputs = synthetic_inputs(bundle.model)[0]
    with open_runner("edgetpu", bundle.model.raw, device=device) as runner:
        first_us = runner.time(inputs, 1)[0]
        outputs = runner.invoke(*inputs)
    report(steps["inference"], f"{first_us / 1000:.2f} ms (measured, upload included)")
    return {
        "device": {"kind": found.kind, "path": found.path},
        "library": {"version": library.version, "runtime_version": library.runtime_version},
        "package": package,
        "folder": str(install_folder(bundle, options)),
        "files": [path.name for path in installed],
        "first_inference_us": first_us,
        "kind": "measured",
        "output_bytes": sum(array.nbytes for array in outputs),
    }


def install_folder(bundle: Bundle, options: Mapping[str, Any]) -> Path:
    """Where a model is installed."""
    base = options.get("install-dir")
    if base is None:
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
        base = Path(data) / "edgekit" / "coral"
    return Path(base) / bundle.name


def install(bundle: Bundle, folder: Path) -> list[Path]:
    """Copies model, labels and manifest; a model without a manifest gets one."""
    import json

    from edgekit import __version__
    from edgekit.files import folder_atomic

    with folder_atomic(folder) as staging:
        for path in bundle.files:
            shutil.copyfile(path, staging / path.name)
        if bundle.manifest is None:
            manifest = {
                "schema_version": 1,
                "edgekit": __version__,
                "stage": "flash",
                "engine": "edgetpu",
                "model": {"name": bundle.name, "sha256": bundle.model.sha256},
            }
            text = json.dumps(manifest, indent=2) + "\n"
            (staging / "manifest.json").write_text(text, encoding="utf-8")
    return sorted(folder.iterdir())


def _bundle(artifact: Path, options: Mapping[str, Any]) -> Bundle:
    from edgekit.engines.edgetpu.bundle import open_bundle

    labels = options.get("labels")
    return open_bundle(artifact, labels=Path(labels) if labels else None)


def _device(target: Target, options: Mapping[str, Any]) -> str:
    return str(options.get("device", target.engine_setting("edgetpu", "device", "")))
