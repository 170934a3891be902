"""Finished runs of a benchmark in a JSON file, so that one that was stopped goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Results:
    """Finished runs by their keys, kept in a file if there is one.

    Args:
        path: the file, read if it is there and replaced whenever a run is added.
        names: what the parts of a key are called in it.
    """

    def __init__(self, path: Path | None, names: tuple[str, ...]) -> None:
        self.path = path
        self.names = names
        self.found: dict[Any, dict[str, Any]] = {}
        if path is not None and path.exists():
            for item in json.loads(path.read_text())["runs"]:
                self.found[tuple(item[name] for name in names)] = item["result"]

    def add(self, key: tuple[Any, ...], result: dict[str, Any]) -> None:
        self.found[key] = result
        if self.path is None:
            return
        runs = [
            {**dict(zip(self.names, item, strict=True)), "result": self.found[item]}
            for item in sorted(self.found)
        ]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"schema_version": 1, "runs": runs}, indent=1) + "\n")
        os.replace(temporary, self.path)
