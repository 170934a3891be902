"""Keras 3 models as files that are the same for the same model.

Keras writes the date of saving, and for objects that several layers share their address in the
process; neither says anything about the model.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from edgekit.files import write_atomic


def save_keras(model: Any, path: Path) -> bytes:
    """Saves a Keras 3 model as a ``.keras`` file and returns the file's bytes.

    The file appears finished or not at all.

    Raises:
        UsageError: the folder cannot be written.
    """
    content = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        saved = Path(folder) / "model.keras"
        model.save(str(saved))
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(content, "w") as new:
            for name in sorted(old.namelist()):
                entry = old.read(name)
                if name == "metadata.json":
                    version = json.loads(entry)["keras_version"]
                    entry = json.dumps({"keras_version": version}).encode()
                elif name == "config.json":
                    config = json.loads(entry)
                    _number_shared_objects(config, {})
                    entry = json.dumps(config).encode()
                new.writestr(zipfile.ZipInfo(name), entry)
    write_atomic(path, content.getvalue())
    return content.getvalue()


def _number_shared_objects(node: Any, numbers: dict[int, int]) -> None:
    """Numbers objects that several layers share in their order, instead of by their address."""
    if isinstance(node, dict):
        if "shared_object_id" in node:
            address = node["shared_object_id"]
            node["shared_object_id"] = numbers.setdefault(address, len(numbers))
        for item in node.values():
            _number_shared_objects(item, numbers)
    elif isinstance(node, list):
        for item in node:
            _number_shared_objects(item, numbers)
