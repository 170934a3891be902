"""What LiteRT's ``benchmark_model`` prints, in all the forms that its versions have.

The figures come in one line ("Inference timings in us: Init: …, First inference: …, Warmup (avg):
…, Inference (avg): …"), the spread in lines of ``count=… first=… curr=… min=… max=… avg=… std=…``
(newer versions add ``p5= median= p95=``), large figures with exponents ("2.95e+06"). With the
profiler on there are two groups of tables, of the initialisation and of the regular runs, whose
columns are found by their headings. Newer versions put "INFO: " before lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import DeviceError

_NUMBER = r"([0-9.]+(?:e[+-]?\d+)?)"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_COUNT = re.compile(r"^count=(\d+)((?: \w+=\S+)*)$")
_MEMORY = re.compile(
    r"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): "
    rf"init={_NUMBER} overall={_NUMBER}"
)
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]+)\)")
_NOT_USED = re.compile(r"Though (.+?) delegate is explicitly applied, .*not be executed")
_CREATED = re.compile(r"Created TensorFlow Lite (\S+) delegate")
_ERROR = re.compile(r"^(?:ERROR|FATAL|F\b)[: ]+(.*)$")
_REGULAR = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class OperatorTime:
    """A row of the profile: mean microseconds of one inference over all calls."""

    kind: str
    name: str
    average_us: float
    first_us: float | None
    share: float
    calls: int
    memory_bytes: int


@dataclass(frozen=True)
class Replaced:
    """What a delegate took of the graph."""

    delegate: str
    nodes: int
    of: int


@dataclass(frozen=True)
class BenchmarkOutput:
    """The result of one run of benchmark_model; times in microseconds.

    ``spread`` holds ``min``, ``max``, ``std``, and where the version prints them ``p5``,
    ``median`` and ``p95``, of the regular runs. ``refused`` names delegates that were asked for
    and took nothing.
    """

    init_us: float
    first_us: float
    warmup_us: float
    average_us: float
    runs: int
    spread: dict[str, float]
    init_memory_bytes: int | None
    peak_memory_bytes: int | None
    replaced: tuple[Replaced, ...]
    refused: tuple[str, ...]
    operators: tuple[OperatorTime, ...]


def read_benchmark(text: str) -> BenchmarkOutput:
    """Reads what was printed on both outputs.

    Raises:
        DeviceError: the line with the timings is missing; tells the last error that was printed.
    """
    lines = [_plain(line) for line in text.splitlines()]
    timings = next((match for line in lines if (match := _TIMINGS.search(line))), None)
    if timings is None:
        raise DeviceError(f"benchmark_model gave no timings: {_reason(lines)}")
    init, first, warmup, average = (float(value) for value in timings.groups())
    runs, spread = _spread(lines)
    memory = next((match for line in lines if (match := _MEMORY.search(line))), None)
    return BenchmarkOutput(
        init_us=init,
        first_us=first,
        warmup_us=warmup,
        average_us=average,
        runs=runs,
        spread=spread,
        init_memory_bytes=round(float(memory[1]) * _MEGABYTE) if memory else None,
        peak_memory_bytes=round(float(memory[2]) * _MEGABYTE) if memory else None,
        replaced=tuple(
            Replaced(match[3], int(match[1]), int(match[2]))
            for line in lines
            if (match := _REPLACED.search(line))
        ),
        refused=tuple(match[1] for line in lines if (match := _NOT_USED.search(line))),
        operators=_operators(lines),
    )


def _plain(line: str) -> str:
    return re.sub(r"^(?:INFO|WARNING): ", "", line.rstrip("\r\n"))


def _reason(lines: Sequence[str]) -> str:
    """The last thing that was wrong, or the last line."""
    for line in reversed(lines):
        match = _ERROR.match(line)
        if match or "Failed to" in line or "not found" in line:
            return match[1] if match else line.strip()
    printed = [line.strip() for line in lines if line.strip()]
    return printed[-1] if printed else "it printed nothing"


def _spread(lines: Sequence[str]) -> tuple[int, dict[str, float]]:
    """Number and spread of the regular runs: the last of the lines before the timings."""
    found: tuple[int, dict[str, float]] = (0, {})
    for line in lines:
        if _TIMINGS.search(line):
            break
        match = _COUNT.match(line.strip())
        if match:
            pairs = (word.split("=", 1) for word in match[2].split())
            found = (int(match[1]), {key: _real(value) for key, value in pairs})
    return found


def _real(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0


def _operators(lines: Sequence[str]) -> tuple[OperatorTime, ...]:
    """The table in run order of the regular runs."""
    try:
        start = next(i for i, line in enumerate(lines) if _REGULAR in line)
    except StopIteration:
        return ()
    header: list[str] | None = None
    rows: list[OperatorTime] = []
    for line in lines[start + 1 :]:
        if header is None:
            if "[node type]" in line:
                header = re.findall(r"\[([^\]]+)\]", line)
            continue
        if not line.strip():
            break
        cells = _cells(line, len(header))
        if cells is None:
            break
        row = dict(zip(header, cells, strict=True))
        rows.append(
            OperatorTime(
                kind=row["node type"],
                name=row.get("Name", ""),
                average_us=_real(row["avg ms"]) * 1000,
                first_us=_real(row["first"]) * 1000 if "first" in row else None,
                share=_real(row["%"].rstrip("%")) / 100,
                calls=int(_real(row["times called"])),
                memory_bytes=round(_real(row.get("mem KB", "0")) * 1024),
            )
        )
    return tuple(rows)


def _cells(line: str, columns: int) -> list[str] | None:
    """The cells of a row: separated by tabs, or by at least two blanks.

    Kinds and names may hold single blanks ("Convolution (NHWC, QC8) IGEMM").
    """
    if "\t" in line.strip():
        cells = [cell.strip() for cell in line.strip().split("\t")]
    else:
        cells = re.split(r"\s{2,}", line.strip())
    if len(cells) > columns:
        cells = [*cells[: columns - 1], " ".join(cells[columns - 1 :])]
    return cells if len(cells) == columns else None
