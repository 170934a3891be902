"""Vela's figures, read from its CSV files; nothing is computed anew except sums per operator."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import MissingDependency

if TYPE_CHECKING:
    from edgekit.engines.ethosu.vela import VelaFiles
    from edgekit.graph import Model

#: Columns of the per-layer file by what they say; the names changed between versions.
_COLUMNS = {
    "kind": ("Original Operator", "TFLite_operator", "TFLite Operator"),
    "runs_on": ("Target",),
    "cycles": ("Op Cycles",),
    "macs": ("MAC Count",),
    "staging": ("Staging Usage", "SRAM Usage"),
    "name": ("Name",),
}
_KIB = 1024


@dataclass(frozen=True)
class OperatorCycles:
    """One operator of the model, as one or several rows of Vela's per-layer file.

    ``op`` is its index in the model, ``None`` where Vela made the operator itself. Cycles and
    MACs are sums over the rows, ``staging_bytes`` the largest. ``utilisation_percent`` is the
    share of the MAC units' peak, as Vela's, weighted with the rows' cycles.
    """

    op: int | None
    kind: str
    name: str
    runs_on: str
    cycles: int
    macs: int
    utilisation_percent: float
    staging_bytes: int
    rows: int


@dataclass(frozen=True)
class Performance:
    """Vela's summary, and its operators. Times and cycles are of one inference."""

    accelerator: str
    system_config: str
    memory_mode: str
    clock_hz: int
    cycles: int
    time_us: float
    macs: int
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    original_weights_bytes: int
    encoded_weights_bytes: int
    npu_operators: int
    operators: tuple[OperatorCycles, ...]
    #: the summary as Vela wrote it
    summary: Mapping[str, str]


def read_performance(files: VelaFiles, model: Model) -> Performance:
    """Reads both CSV files.

    Raises:
        MissingDependency: they lack what this version of edgekit knows of them.
    """
    summary = _rows(files.summary)[0]
    rows = _rows(files.per_layer)
    try:
        operators = _grouped(rows, model)
        return Performance(
            accelerator=summary["accelerator_configuration"],
            system_config=summary["system_config"],
            memory_mode=summary["memory_mode"],
            clock_hz=round(float(summary["core_clock"])),
            cycles=_whole(summary["cycles_total"]),
            time_us=float(summary["inference_time"]) * 1e6,
            macs=_whole(summary["nn_macs"]),
            sram_bytes=_kib(summary["sram_memory_used"]),
            dram_bytes=_kib(summary["dram_memory_used"]),
            flash_bytes=_kib(summary["on_chip_flash_memory_used"])
            + _kib(summary["off_chip_flash_memory_used"]),
            original_weights_bytes=_whole(summary["total_original_weights"]),
            encoded_weights_bytes=_whole(summary["total_npu_encoded_weights"]),
            npu_operators=sum(operator.runs_on == "NPU" for operator in operators),
            operators=operators,
            summary=summary,
        )
    except (KeyError, ValueError) as error:
        raise MissingDependency(
            f"the figures of Vela {files.version} cannot be read ({error})",
            fix="pip install 'ethos-u-vela>=5'",
        ) from None


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise MissingDependency("Vela wrote an empty file", path.name)
    return rows


def _whole(text: str) -> int:
    """A count; Vela writes some as floating-point numbers, and NaN for an empty network."""
    value = float(text)
    return 0 if math.isnan(value) else round(value)


def _kib(text: str) -> int:
    return round(float(text) * _KIB)


def _grouped(rows: Sequence[Mapping[str, str]], model: Model) -> tuple[OperatorCycles, ...]:
    """Rows joined by the model's operator that they come from.

    A row carries the name of the tensor that it writes. Rows up to one that writes an operator's
    output belong to this operator, with a fused activation that follows under the same name.
    """
    columns = {key: _column(rows[0], names) for key, names in _COLUMNS.items()}
    written = {model.tensors[i].name: op.index for op in model.ops for i in op.outputs}
    groups: list[list[Mapping[str, str]]] = []
    closed = True
    for row in rows:
        if groups:
            before = groups[-1][-1]
            follows = row[columns["name"]] == before[columns["name"]]
            same = row[columns["kind"]] == before[columns["kind"]]
            on = row[columns["runs_on"]] == before[columns["runs_on"]]
            if on and same and (follows or not closed):
                groups[-1].append(row)
                closed = closed or row[columns["name"]] in written
                continue
        groups.append([row])
        closed = row[columns["name"]] in written
    return tuple(_operator(group, columns, written) for group in groups)


def _column(row: Mapping[str, str], names: Sequence[str]) -> str:
    for name in names:
        if name in row:
            return name
    raise KeyError(f"no column {names[0]}")


def _operator(
    group: Sequence[Mapping[str, str]], columns: Mapping[str, str], written: Mapping[str, int]
) -> OperatorCycles:
    cycles = [_whole(row[columns["cycles"]]) for row in group]
    uses = [_share(row.get("Util% (MAC)", "")) for row in group]
    name = group[-1][columns["name"]]
    total = sum(cycles)
    return OperatorCycles(
        op=written.get(name),
        kind=group[0][columns["kind"]],
        name=name,
        runs_on=group[0][columns["runs_on"]],
        cycles=total,
        macs=sum(_whole(row[columns["macs"]]) for row in group),
        utilisation_percent=(
            sum(c * u for c, u in zip(cycles, uses, strict=True)) / total if total else 0.0
        ),
        staging_bytes=max(_whole(row[columns["staging"]]) for row in group),
        rows=len(group),
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(value) else value
