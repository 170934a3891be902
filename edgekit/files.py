"""Writing files so that an interrupted run leaves the old content or the new, never half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import UsageError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file by renaming a finished temporary one over it.

    Raises:
        UsageError: the folder does not exist or cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write here: {error.strerror}", str(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder that takes ``path``'s place when the block succeeds.

    An existing folder is replaced only when edgekit made it (it holds ``manifest.json``) or
    when it is empty.

    Raises:
        UsageError: ``path`` holds something that edgekit did not make, or cannot be written.
    """
    if path.exists():
        ours = path.is_dir() and ((path / "manifest.json").exists() or not any(path.iterdir()))
        if not ours:
            raise UsageError(
                "the output folder exists and was not made by edgekit; nothing was written",
                str(path),
                "another folder with -o, or remove this one",
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UsageError(f"cannot write here: {error.strerror}", str(path)) from None
    staging.chmod(0o755)
    try:
        yield staging
        old = None
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old / path.name)
        os.replace(staging, path)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
