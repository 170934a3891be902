"""The figures of a measurement under the names that every form of the report uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgekit.records import Measurement


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def latency_us(measurement: Measurement) -> dict[str, float] | None:
    """p50, p95 and max over the timed runs, microseconds."""
    values = measurement.latencies_us
    if not values:
        return None
    return {
        "p50": percentile(values, 0.5),
        "p95": percentile(values, 0.95),
        "max": max(values),
    }


def report_json(measurement: Measurement) -> dict[str, Any]:
    """The JSON report. ``kind`` says for every figure whether it is measured or simulated."""
    check = measurement.outputs
    return {
        "model": {
            "name": measurement.model_name,
            "sha256": measurement.model_sha256,
            "macs": measurement.model_macs,
        },
        "target": measurement.target,
        "engine": measurement.engine,
        "port": measurement.port,
        "kind": measurement.kind,
        "build_id": measurement.build_id,
        "clock_hz": measurement.clock_hz,
        "warmups": measurement.warmups,
        "runs": measurement.runs,
        "instructions": measurement.instructions,
        "cycles": measurement.cycles,
        "cycles_error": measurement.cycles_error,
        "cycles_basis": measurement.cycles_basis,
        "latency_us": latency_us(measurement),
        "latency_floor_us": measurement.latency_floor_us,
        "ops": [
            {
                "index": step.index,
                "kind": step.kind,
                "name": step.name,
                "macs": step.macs,
                "instructions": step.instructions,
                "cycles": step.cycles,
                "latency_us": step.latency_us,
            }
            for step in measurement.steps
        ],
        "memory": measurement.memory,
        "outputs": {
            "reference": check.reference if check is not None else None,
            "match": check.match if check is not None else None,
            "compared": check.compared if check is not None else 0,
            "first_mismatch": check.first_mismatch if check is not None else None,
            "sha256": list(check.digests) if check is not None else [],
        },
        "notes": list(measurement.notes),
    }
