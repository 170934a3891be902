"""Modem lines for pseudo-terminals: what they lack, and flashing tools want.

A serial adapter's DTR and RTS reset a board and select its boot ROM. A pseudo-terminal refuses
to set them, and some tools end there. ``environment`` puts a module of the standard kind
(``sitecustomize``) before the tool's Python: where the system answers that a pseudo-terminal has
no such lines, it passes them to the virtual board behind it. The tool itself is not touched.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent / "modem_lines"


def environment(port: str) -> dict[str, str]:
    """Variables for a tool that is run on ``port``; none unless it is a pseudo-terminal."""
    if not port.startswith("/dev/pts/"):
        return {}
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(_FOLDER), before)))}
