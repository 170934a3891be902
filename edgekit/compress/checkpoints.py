"""Checkpoints: variables and a few numbers in one file, replaced whole.

A run that is killed at any moment finds the last checkpoint or the one before it, never half
of one.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import ModelError
from edgekit.files import write_atomic

_META = "meta"


def save(path: Path, variables: Sequence[Any], meta: dict[str, Any]) -> None:
    """Writes variables, in their order, and plain values beside them."""
    import numpy as np

    arrays = {f"v{place}": variable.numpy() for place, variable in enumerate(variables)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{_META: np.frombuffer(json.dumps(meta).encode(), np.uint8)})
    write_atomic(path, buffer.getvalue())


def load(path: Path, variables: Sequence[Any]) -> dict[str, Any]:
    """Puts back the variables' values and returns what stood beside them.

    Raises:
        ModelError: the checkpoint is damaged, or of other variables.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            meta = json.loads(archive[_META].tobytes())
            values = [archive[f"v{place}"] for place in range(len(archive.files) - 1)]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"the checkpoint is damaged: {' '.join(str(error).split())}", str(path), "--restart"
        ) from None
    fits = len(values) == len(variables) and all(
        value.shape == tuple(variable.shape)
        for value, variable in zip(values, variables, strict=True)
    )
    if not fits:
        raise ModelError("the checkpoint is of another model", str(path), "--restart")
    for value, variable in zip(values, variables, strict=True):
        variable.assign(value)
    return meta  # type: ignore[no-any-return]


def peek(path: Path) -> dict[str, Any] | None:
    """What stands beside the variables; ``None`` without a readable checkpoint."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return json.loads(archive[_META].tobytes())  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
