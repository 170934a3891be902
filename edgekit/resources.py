"""Where the data that travels with edgekit is: target files and firmware sources.

In a checkout they are the folders ``targets`` and ``firmware`` beside the package; an
installed package carries them inside itself (see ``package_dir`` in ``setup.cfg``).
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(inside: str, beside: str) -> Path:
    installed = _PACKAGE / inside
    return installed if installed.is_dir() else _PACKAGE.parent / beside


def targets_dir() -> Path:
    """The folder of target files (``*.yaml``)."""
    return _folder("_targets", "targets")


def firmware_dir() -> Path:
    """The folder of firmware sources: ``include``, ``kernels``, ``runtime``, ``port``."""
    return _folder("_firmware", "firmware")
