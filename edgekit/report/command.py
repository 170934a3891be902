"""How the verbs that measure end: the report, and the exit code that says whether it matched."""

from __future__ import annotations

import click

from edgekit import console
from edgekit.errors import LimitError
from edgekit.records import Measurement
from edgekit.report.figures import report_json
from edgekit.report.text import print_report


def finish(measurement: Measurement, *, as_json: bool) -> None:
    """Prints the report; ends the command with exit code 7 when outputs differ."""
    from edgekit.bench import mismatch_text

    text = mismatch_text(measurement)
    if as_json:
        console.emit_json("bench", report_json(measurement))
        if text is not None:
            # the document is out already: only the sentence and the code are left
            console.note(f"error: {text}")
            click.get_current_context().exit(LimitError.exit_code)
        return
    print_report(measurement)
    if text is not None:
        raise LimitError(
            text,
            measurement.port,
            "compile with --debug-steps: it shows single operators",
        )
