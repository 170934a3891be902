"""Runs ``edgetpu_compiler`` and reads what it prints and writes.

The compiler is a closed x86-64 Linux binary that users install themselves. It exits 0 after some
failures, leaves stubs behind, and fails now and then for no reason: a run counts only when the
exit code, its last sentence and its output files agree.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekit.errors import EdgekitError, FitError, MissingDependency, ModelError
from edgekit.graph.reader import shown

PROGRAM = "edgetpu_compiler"
MAPPED = "Mapped to Edge TPU"
#: The compiler's own default of ``--timeout_sec``.
DEFAULT_TIMEOUT_S = 180
DEFAULT_RETRIES = 2
#: From this version on a run ends with "Compilation succeeded!" or "Compilation failed!".
_VERDICT_SINCE = 16
#: The process may take so much longer than the compilation that it limits by itself.
_GRACE_S = 30.0
#: No output of a real run comes near; what a process prints is not trusted.
_MAX_OUTPUT_BYTES = 16 << 20

INSTALL = (
    "install Google's Debian package edgetpu-compiler (x86-64 Linux only; "
    "coral.ai/docs/edgetpu/compiler tells how, and how on other systems), "
    "or --predict for an estimate without it"
)

_VERSION = re.compile(r"^Edge TPU Compiler version (\S+)", re.MULTILINE)
_ELAPSED = re.compile(r"^Models? compiled successfully in (\d+) ms", re.MULTILINE)
_VERDICTS = re.compile(r"^Compilation (succeeded|failed)!", re.MULTILINE)
_ROW = re.compile(r"^([A-Z][A-Z0-9_]*)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)
_SIZE = re.compile(r"([\d.]+)\s*([KMGT]i)?B$")
_UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_FIELDS = {
    "Input model": "input",
    "Input": "input",
    "Output model": "output",
    "Output": "output",
    "Operation log": "log",
    "Input size": "input_bytes",
    "Output size": "output_bytes",
    "On-chip memory used for caching model parameters": "cached_bytes",
    "On-chip memory remaining for caching model parameters": "remaining_bytes",
    "On-chip memory available for caching model parameters": "remaining_bytes",
    "Off-chip memory used for streaming uncached model parameters": "streamed_bytes",
    "Number of Edge TPU subgraphs": "subgraphs",
    "Total number of operations": "ops_total",
    "Number of operations that will run on Edge TPU": "ops_mapped",
    "Number of operations that will run on CPU": "ops_cpu",
}
_TEXTS = ("input", "output", "log")


@dataclass(frozen=True)
class Row:
    """A row of the compiler's table. An operator can stand in several, one per status."""

    operator: str
    count: int
    status: str


@dataclass(frozen=True)
class ModelReport:
    """What the compiler says about one model. Sizes as printed, so rounded to 0.01 of a unit."""

    input: str | None = None
    output: str | None = None
    log: str | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    cached_bytes: int | None = None
    remaining_bytes: int | None = None
    streamed_bytes: int | None = None
    subgraphs: int | None = None
    ops_total: int | None = None
    ops_mapped: int | None = None
    ops_cpu: int | None = None
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class CompilerOutput:
    """Standard output (and error) of one run."""

    version: str | None
    elapsed_ms: int | None
    models: tuple[ModelReport, ...]
    #: the last verdict; ``None`` where the run printed none (before version 16, or cut off)
    succeeded: bool | None
    text: str

    @property
    def major(self) -> int:
        match = re.match(r"\d+", self.version or "")
        return int(match.group()) if match else 0


@dataclass(frozen=True)
class LogFile:
    """A ``<name>_edgetpu.log``."""

    version: str | None
    input: str | None
    output: str | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Run:
    """A finished run of the compiler that can be relied on."""

    output: CompilerOutput
    attempts: int
    command: tuple[str, ...]


def parse_output(text: str) -> CompilerOutput:
    """Reads what the compiler printed, whole or cut off."""
    version, elapsed = _VERSION.search(text), _ELAPSED.findall(text)
    verdicts = _VERDICTS.findall(text)
    # With -d failed attempts come first: what counts begins with the last success.
    start = max((m.start() for m in _ELAPSED.finditer(text)), default=0)
    return CompilerOutput(
        version=version.group(1) if version else None,
        elapsed_ms=int(elapsed[-1]) if elapsed else None,
        models=_models(text[start:]),
        succeeded=verdicts[-1] == "succeeded" if verdicts else None,
        text=text,
    )


def parse_log(text: str) -> LogFile:
    """Reads a log file."""
    version = _VERSION.search(text)
    fields = dict(_fields(text))
    return LogFile(
        version=version.group(1) if version else None,
        input=_text(fields.get("input")),
        output=_text(fields.get("output")),
        rows=_rows(text),
    )


def _models(text: str) -> tuple[ModelReport, ...]:
    """One report per "Input model:"; a text without one may still tell numbers."""
    starts = [m.start() for m in re.finditer(r"^Input model:", text, re.MULTILINE)]
    if not starts:
        starts = [0] if any(True for _ in _fields(text)) else []
    ends = [*starts, len(text)][1:]
    return tuple(_report(text[a:b]) for a, b in zip(starts, ends, strict=True))


def _report(text: str) -> ModelReport:
    values: dict[str, str | int] = {}
    for key, value in _fields(text):
        values.setdefault(key, value)
    rows = _rows(text)
    if rows and "ops_mapped" not in values:
        values["ops_mapped"] = sum(row.count for row in rows if row.status == MAPPED)
        values["ops_cpu"] = sum(row.count for row in rows if row.status != MAPPED)
    return ModelReport(**values, rows=rows)  # type: ignore[arg-type]


def _fields(text: str) -> list[tuple[str, str | int]]:
    found: list[tuple[str, str | int]] = []
    for line in text.splitlines():
        label, colon, value = line.partition(":")
        name = _FIELDS.get(label.strip()) if colon else None
        if name is None:
            continue
        value = value.strip()
        if name in _TEXTS:
            found.append((name, shown(value)))
        elif name.endswith("_bytes"):
            size = parse_size(value)
            if size is not None:
                found.append((name, size))
        elif value.isdigit():
            found.append((name, int(value)))
    return found


def parse_size(text: str) -> int | None:
    """``7.37MiB`` in bytes."""
    match = _SIZE.match(text.strip())
    return round(float(match.group(1)) * _UNITS[match.group(2)]) if match else None


def _rows(text: str) -> tuple[Row, ...]:
    return tuple(Row(m.group(1), int(m.group(2)), shown(m.group(3))) for m in _ROW.finditer(text))


def _text(value: str | int | None) -> str | None:
    return value if isinstance(value, str) else None


@dataclass(frozen=True)
class _Failure:
    """A sentence of the compiler, and what it means."""

    pattern: re.Pattern[str]
    error: type[EdgekitError]
    what: str
    fix: str
    #: the same run may succeed when it is tried again
    intermittent: bool = False


_FAILURES = (
    _Failure(
        re.compile(r"^Model not quantized", re.MULTILINE),
        ModelError,
        "edgetpu_compiler says that the model is not quantised",
        "edgekit convert MODEL -o OUT.tflite --data FILES makes a full-integer model",
    ),
    _Failure(
        re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'"),
        ModelError,
        "edgetpu_compiler does not know version {1} of {0}",
        "convert the model with an older TensorFlow (2.5 to 2.8), or replace this operator",
    ),
    _Failure(
        re.compile(r"Encountered unresolved custom op: ([^\s.]+)"),
        ModelError,
        "edgetpu_compiler cannot run the custom operator {0}",
        "remove it from the model, or compile the part before it",
    ),
    _Failure(
        re.compile(r"large activation tensors"),
        FitError,
        "activations of the model do not fit into the memory of the Edge TPU",
        "a lower input resolution; --set search=1 (the largest part that compiles); or "
        "--segments 2 for two Edge TPUs",
    ),
    _Failure(
        re.compile(r"dynamic-sized tensors"),
        ModelError,
        "the model has tensors whose sizes are not fixed",
        "convert it with a fixed batch of 1 and fixed input sizes",
    ),
    _Failure(
        re.compile(r"Model failed in Tflite interpreter"),
        ModelError,
        "the model does not run in the compiler's TensorFlow Lite",
        "edgekit bench MODEL --target host shows whether it runs at all",
    ),
    _Failure(
        re.compile(r"Model could not be parsed"),
        ModelError,
        "edgetpu_compiler cannot read the model",
        "convert the model with an older TensorFlow (2.5 to 2.8)",
    ),
    _Failure(
        re.compile(r"^Invalid model: (.*)$", re.MULTILINE),
        ModelError,
        "edgetpu_compiler takes {0} for no valid model",
        "edgekit inspect MODEL",
    ),
    _Failure(
        re.compile(r"Segmentation fault|core dumped|Aborted\b"),
        MissingDependency,
        "edgetpu_compiler crashed",
        "--set retries=5; another input resolution; or --set search=1",
        intermittent=True,
    ),
    _Failure(
        re.compile(r"Internal compiler error"),
        MissingDependency,
        "edgetpu_compiler stopped with an internal error",
        "--set retries=5; another input resolution; or --set search=1",
        intermittent=True,
    ),
)
_UNEXPLAINED = _Failure(
    re.compile(r"\Z"),
    MissingDependency,
    "edgetpu_compiler failed without saying why",
    "--set retries=5; --set timeout=600; or --predict to see which operators it would take",
    intermittent=True,
)


def failure_of(output: CompilerOutput, returncode: int) -> tuple[EdgekitError, bool] | None:
    """The error that a run ended with and whether a retry may help; ``None`` for a success."""
    if _successful(output, returncode):
        return None
    text = output.text
    if returncode == 0 and any(_maps_nothing(report) for report in output.models):
        return nothing_mapped(_place(output)), False
    found, match = _UNEXPLAINED, None
    for failure in _FAILURES:
        match = failure.pattern.search(text)
        if match is not None:
            found = failure
            break
    what = found.what
    if match is not None and match.groups():
        what = what.format(*(shown(group) for group in match.groups()))
    if found is _UNEXPLAINED and output.elapsed_ms is not None and output.succeeded is None:
        what = "edgetpu_compiler stopped before it said that the compilation succeeded"
    if found is _UNEXPLAINED and (returncode < 0 or returncode > 128):
        # killed: a shell reports 128 and the signal's number
        what = "edgetpu_compiler crashed"
    if found is _UNEXPLAINED:
        what += f" (exit code {returncode})" if returncode else " (and exited with code 0)"
    return found.error(what, _place(output), found.fix), found.intermittent


def _successful(output: CompilerOutput, returncode: int) -> bool:
    if returncode != 0 or output.succeeded is False:
        return False
    if output.succeeded is None and (output.major >= _VERDICT_SINCE or output.elapsed_ms is None):
        return False
    return bool(output.models) and not any(_maps_nothing(report) for report in output.models)


def _maps_nothing(report: ModelReport) -> bool:
    return report.subgraphs == 0 or report.ops_mapped == 0


def nothing_mapped(place: str) -> ModelError:
    """The error for a compilation that leaves everything on the CPU."""
    return ModelError(
        "edgetpu_compiler mapped no operator to the Edge TPU",
        place,
        "without --set min-runtime (or with 14); edgekit compile MODEL --target coral --predict "
        "tells what each operator needs",
    )


def _place(output: CompilerOutput) -> str:
    return f"{PROGRAM} {output.version}" if output.version else PROGRAM


def find_compiler() -> str:
    """The compiler's path.

    Raises:
        MissingDependency: it is not on PATH.
    """
    import shutil

    path = shutil.which(PROGRAM)
    if path is None:
        raise MissingDependency(
            "compiling for the Edge TPU needs edgetpu_compiler, which is not on PATH",
            None,
            INSTALL,
        )
    return path


def run_compiler(
    models: Sequence[Path],
    out: Path,
    *,
    arguments: Sequence[str] = (),
    timeout_s: int = DEFAULT_TIMEOUT_S,
    retries: int = DEFAULT_RETRIES,
) -> Run:
    """Runs the compiler until it succeeds, or fails in a way that is no accident.

    Args:
        models: files to compile (together, when there are several).
        out: an existing folder for its output files.
        arguments: further options of the compiler.
        timeout_s: limit of one compilation; the compiler gets it as ``--timeout_sec``.
        retries: how often a run is repeated that crashed or failed without a reason.

    Raises:
        MissingDependency: the compiler is not installed, crashed, or ran out of time.
        ModelError: it refuses the model.
        FitError: activations do not fit.
    """
    program = find_compiler()
    base = ["-s", "-o", str(out), *arguments]
    last: EdgekitError | None = None
    for attempt in range(1, retries + 2):
        words = [*base, "-t", str(timeout_s), *map(str, models)]
        returncode, text = _execute([program, *words], timeout_s)
        if _unknown_option(text, "timeout_sec", "-t"):
            # compilers before version 16 have no time limit of their own
            words = [*base, *map(str, models)]
            returncode, text = _execute([program, *words], timeout_s)
        output = parse_output(text)
        failed = failure_of(output, returncode)
        if failed is None:
            return Run(output, attempt, (PROGRAM, *words))
        last, intermittent = failed
        if not intermittent:
            break
        for path in out.iterdir():
            # a failed run leaves stubs behind
            path.unlink()
    if last is None:
        raise RuntimeError("no attempt was made")
    if attempt > 1:
        last.what += f", {attempt} times in a row"
        last.args = (last.what,)
    raise last


def _unknown_option(text: str, long: str, short: str) -> bool:
    return bool(
        re.search(
            rf"[Uu]nknown (command line )?(flag|option)\W+({long}|{short.strip('-')})\b", text
        )
    )


def _execute(command: list[str], timeout_s: int) -> tuple[int, str]:
    """Exit code and everything printed. The whole process group ends at the time limit."""
    limit = timeout_s + _GRACE_S
    with tempfile.TemporaryFile() as sink:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise MissingDependency(
                f"edgetpu_compiler cannot be started: {error.strerror or error}",
                command[0] if not command[0].startswith("/") else Path(command[0]).name,
                INSTALL,
            ) from None
        try:
            returncode = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise MissingDependency(
                f"edgetpu_compiler did not finish within {limit:.0f} s and was ended",
                PROGRAM,
                f"--set timeout={timeout_s * 4}",
            ) from None
        finally:
            _end(process)
        return returncode, _printed(sink)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the process group: the compiler is a script around a binary."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        # nothing is left, the usual case
        return
    finally:
        if process.poll() is None:
            process.wait()


def _printed(sink: IO[bytes]) -> str:
    sink.seek(0)
    return sink.read(_MAX_OUTPUT_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
