"""The one folder where edgekit keeps what it can make again: environments, builds, downloads.

It is ``EDGEKIT_CACHE`` if set (``cache`` in ``edgekit.yaml`` sets it), else
``$XDG_CACHE_HOME/edgekit``, else ``~/.cache/edgekit``. It carries a ``CACHEDIR.TAG``
(bford.info/cachedir), by which backup programs skip it and ``clear`` knows it is ours.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from edgekit.errors import UsageError

CACHE_VARIABLE = "EDGEKIT_CACHE"
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache made by edgekit. `edgekit cache clear` empties it.\n"
)


def cache_dir() -> Path:
    """Where the cache is; the folder need not exist yet."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    parent = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return parent / "edgekit"


def cache_folder(kind: str) -> Path:
    """A folder of the cache for one kind of thing, made if it is not there.

    Raises:
        UsageError: the cache cannot be written, or is a folder that holds something else.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", kind):
        raise ValueError(f"not a name of a cache folder: {kind!r}")
    root = cache_dir()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (root / _TAG).exists():
            _refuse_foreign(root)
            (root / _TAG).write_text(_TAG_TEXT, encoding="utf-8")
        (root / kind).mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the cache cannot be written: {error.strerror}",
            str(root),
            f"another folder in the environment variable {CACHE_VARIABLE}",
        ) from None
    return root / kind


def cache_sizes() -> dict[str, int]:
    """What each entry of the cache takes on disk, in bytes, by name."""
    root = cache_dir()
    if not root.is_dir():
        return {}
    return {entry.name: _nbytes(entry) for entry in sorted(root.iterdir()) if entry.name != _TAG}


def clear_cache() -> int:
    """Deletes everything in the cache. Returns how many bytes that freed.

    Raises:
        UsageError: the folder was not made by edgekit, or something in it cannot be deleted.
    """
    root = cache_dir()
    if not root.is_dir():
        return 0
    if not (root / _TAG).exists():
        _refuse_foreign(root)
    freed = sum(cache_sizes().values())
    for entry in list(root.iterdir()):
        if entry.name == _TAG:
            continue
        try:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        except OSError as error:
            raise UsageError(f"this cannot be deleted: {error.strerror}", str(entry)) from None
    return freed


def _refuse_foreign(root: Path) -> None:
    if any(root.iterdir()):
        raise UsageError(
            "this folder is not empty and was not made by edgekit, so it is no cache of ours",
            str(root),
            f"an empty folder in the environment variable {CACHE_VARIABLE}",
        )


def _nbytes(entry: Path) -> int:
    if entry.is_dir() and not entry.is_symlink():
        total = 0
        for folder, _, files in os.walk(entry):
            total += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
        return total
    return entry.lstat().st_size
