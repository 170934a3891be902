"""Measures a model on a Linux board over ssh: ``bench --target linux --port ssh:user@host``.

What is copied is named by its hash and stays there, so that a run that was cut goes on with what
it finds. :mod:`edgekit.remote.device` is what runs there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import errors
from edgekit.errors import DeviceError, EdgekitError
from edgekit.records import from_json
from edgekit.remote.ssh import SshHost, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model
    from edgekit.remote.profile import OperatorTime

#: In the home of the user there, where nothing else is said.
FOLDER = ".cache/edgekit"
#: What pip installs there, the first that can be installed. tflite-runtime is for old Pythons.
PACKAGES: tuple[tuple[str, ...], ...] = (
    ("ai-edge-litert", "numpy"),
    ("tflite-runtime", "numpy<2"),
)

_OLDEST_PYTHON = (3, 7)
_VERSION = "import sys; print('python3-%d.%d' % sys.version_info[:2])"


@dataclass(frozen=True)
class Wish:
    """How to measure.

    Attributes:
        threads: numbers of threads; ``None``: 1 to as many as the device has cores.
        cores: cores to pin to; ``None``: the fastest.
        governor: what the cores are set to where that is allowed; ``None``: left alone.
        python: a Python on the device that has an interpreter; ``None``: found or made.
        benchmark_model: LiteRT's benchmark_model, built for the device, to profile operators.
    """

    runs: int = 50
    warmups: int = 5
    threads: tuple[int, ...] | None = None
    cores: tuple[int, ...] | None = None
    governor: str | None = "performance"
    python: str | None = None
    benchmark_model: Path | None = None
    #: the sysfs there, and how long silence may last (seconds), for tests
    sysfs: str = "/sys"
    silence_s: float = 20.0


@dataclass(frozen=True)
class ThreadRun:
    """One number of threads. Times in microseconds, without setting inputs."""

    threads: int
    pinned: tuple[int, ...]
    load_us: float
    first_us: float
    latencies_us: tuple[float, ...]
    #: of the whole process, and before the model was loaded (Python with the interpreter)
    peak_bytes: int
    before_bytes: int
    #: whether all outputs are the first run's
    same_outputs: bool


@dataclass(frozen=True, eq=False)
class LinuxBench:
    """Everything that came back.

    ``temperatures_c``: at the start, the highest, at the end. ``throttling``: counters before
    and after. ``governors``: before and during, by core. ``environment_made``: whether the
    environment was made in this run; ``None`` where a Python of the device was used.
    """

    device: dict[str, Any]
    package: str
    cores: tuple[int, ...]
    runs: tuple[ThreadRun, ...]
    outputs: tuple[NDArray[Any], ...]
    governors: dict[str, list[str]]
    temperatures_c: dict[str, list[float]]
    frequencies_khz: dict[str, list[int]]
    throttling: dict[str, list[int]]
    profile: tuple[OperatorTime, ...]
    environment_made: bool | None
    notes: tuple[str, ...]


def bench_linux(
    model: Model,
    host: SshHost,
    samples: Sequence[Sequence[NDArray[Any]]],
    wish: Wish,
    *,
    folder: str = FOLDER,
    on_progress: Callable[[str], None] = lambda text: None,
) -> LinuxBench:
    """Measures a model there.

    Args:
        model: any .tflite model; LiteRT decides what it takes.
        host: where.
        samples: inputs, of which all are run for their outputs; the first is timed.
        wish: how.
        folder: on the device, made if it is not there; relative to the home.
        on_progress: called with a sentence for every stage.

    Raises:
        DeviceError: the login failed, or the connection was cut.
        MissingDependency: no ssh here, or nothing there that runs the model.
        ModelError: the interpreter there refuses the model.
        UsageError: cores that the device does not have.
    """
    on_progress(f"connecting to {host.name}")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        names = _copy(model, host, samples, wish, folder, Path(scratch), on_progress)
    request = {
        **names,
        "packages": PACKAGES,
        "runs": wish.runs,
        "warmups": wish.warmups,
        "threads": wish.threads,
        "cores": wish.cores,
        "governor": wish.governor,
        "python": wish.python,
        "sysfs": wish.sysfs,
        "silence_s": wish.silence_s,
    }
    return _collected(_talk(host, folder, names, request, on_progress))


def _copy(
    model: Model,
    host: SshHost,
    samples: Sequence[Sequence[NDArray[Any]]],
    wish: Wish,
    folder: str,
    scratch: Path,
    on_progress: Callable[[str], None],
) -> dict[str, str]:
    """Copies what is not there yet; the files' names there, by what they are.

    ``supervisor`` is the Python that runs the runner: the system's, or the user's without one.
    """
    import numpy as np

    runner = Path(__file__).with_name("device.py").read_bytes()
    inputs = scratch / "inputs.npz"
    stacked = {f"x{i}": np.stack(arrays) for i, arrays in enumerate(zip(*samples, strict=True))}
    # Not compressed: the same inputs give the same bytes, and the same name.
    np.savez(inputs, **stacked)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in stacked.values())).hexdigest()
    contents: dict[str, tuple[str, bytes]] = {
        "runner": (f"device-{hashlib.sha256(runner).hexdigest()[:16]}.py", runner),
        "model": (f"model-{model.sha256[:32]}.tflite", model.raw),
        "inputs": (f"inputs-{digest[:32]}.npz", inputs.read_bytes()),
    }
    if wish.benchmark_model is not None:
        program = _read(wish.benchmark_model)
        name = f"benchmark_model-{hashlib.sha256(program).hexdigest()[:16]}"
        contents["benchmark_model"] = (name, program)
    place = quoted(folder)
    there = host.run(
        f"mkdir -p {place} && cd {place} && ls -1 && echo system-$(uname -s) && "
        f"{{ python3 -c {quoted(_VERSION)} 2>/dev/null || echo python3-none; }}"
    ).split()
    supervisor = _supervisor(host, there, wish.python)
    missing = [(name, content) for name, content in contents.values() if name not in there]
    if missing:
        total = sum(len(content) for _, content in missing)
        on_progress(f"copying {len(missing)} files ({total:,} B) to {host.name}")
        for name, content in missing:
            (scratch / f"{name}.part").write_bytes(content)
        host.send([scratch / f"{name}.part" for name, _ in missing], folder)
        moves = " && ".join(f"mv {quoted(name + '.part')} {quoted(name)}" for name, _ in missing)
        host.run(f"cd {place} && {moves}")
    return {"supervisor": supervisor, **{key: name for key, (name, _) in contents.items()}}


def _supervisor(host: SshHost, there: Sequence[str], own: str | None) -> str:
    """The Python that runs the runner: the system's, or the user's where that is too old."""
    told = dict(word.split("-", 1) for word in there if word.startswith(("system-", "python3-")))
    if told.get("system") != "Linux":
        raise DeviceError(
            f"{host.name} runs {told.get('system') or 'an unknown system'}, not Linux", host.name
        )
    version = told.get("python3", "none")
    if version != "none" and tuple(map(int, version.split("."))) >= _OLDEST_PYTHON:
        return "python3"
    if own is not None:
        return own
    raise errors.MissingDependency(
        f"{host.name} has no python3"
        if version == "none"
        else f"{host.name} has Python {version}; 3.7 is the oldest that works",
        host.name,
        "on the device: sudo apt install python3-venv; or --device-python with a newer one",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.UsageError(
            f"benchmark_model cannot be read: {error.strerror}", str(path)
        ) from None


def _talk(
    host: SshHost,
    folder: str,
    names: dict[str, str],
    request: dict[str, Any],
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    """Runs the runner there to its result, with what it told on the way."""
    stage = "starting"
    told: dict[str, Any] = {"environment_made": None}
    words = f"{quoted(names['supervisor'])} {quoted(names['runner'])} ."
    command = f"cd {quoted(folder)} && exec {words}"
    with host.session(command) as session:
        session.send(json.dumps(request))
        for line in session.lines():
            try:
                document = json.loads(line)
            except ValueError:
                # A shell's greeting, or a warning of Python.
                continue
            event = document.pop("event", None)
            if event == "progress":
                stage = document["what"]
                on_progress(stage)
            elif event == "environment":
                told["environment_made"] = document["made"]
            elif event == "error":
                raise _error(document, host)
            elif event == "result":
                return {**told, **document}
        code, printed = session.end()
    last = [line for line in printed.strip().splitlines() if line.strip()]
    if code not in (0, 255) and last:
        raise DeviceError(f"the runner failed on {host.name} while {stage}: {last[-1]}", host.name)
    raise DeviceError(
        f"the connection to {host.name} was cut while {stage}; the device stops by itself and "
        "restores what was changed",
        last[-1] if last else None,
        "the same command again: the environment and the files that are there are used",
    )


def _error(document: dict[str, Any], host: SshHost) -> EdgekitError:
    kind = getattr(errors, str(document["kind"]), DeviceError)
    error: EdgekitError = kind(document["what"], f"ssh:{host.name}", document.get("fix"))
    return error


def _collected(told: dict[str, Any]) -> LinuxBench:
    import numpy as np

    from edgekit.remote.profile import read_benchmark

    first = told["runs"][0]
    outputs = tuple(
        np.frombuffer(base64.b64decode(item["data"]), np.dtype(item["dtype"]))
        .reshape(item["shape"])
        .copy()
        for item in first["outputs"]
    )
    runs = tuple(
        from_json(ThreadRun, {**run, "same_outputs": run["sha256"] == first["sha256"]})
        for run in told["runs"]
    )
    profile = read_benchmark(told["profile"]).operators if told["profile"] else ()
    return LinuxBench(
        device=told["device"],
        package=f"{first['package']} {first['version']}",
        cores=tuple(told["cores"]),
        runs=runs,
        outputs=outputs,
        governors=told["governors"],
        temperatures_c=told["temperatures_c"],
        frequencies_khz=told["frequencies_khz"],
        throttling=told["throttling"],
        profile=profile,
        environment_made=told["environment_made"],
        notes=tuple(told["notes"]),
    )


def throttled(bench: LinuxBench) -> str | None:
    """Whether the device slowed down for heat, in words; ``None`` where it does not tell.

    Raspberry Pi's ``get_throttled``: bit 1 frequency capped, bit 2 throttled, bit 3 soft
    temperature limit, now; the same bits plus 16: since boot (firmware documentation).
    """
    if not bench.throttling:
        return None
    found = []
    for name, (before, after) in bench.throttling.items():
        if name == "get_throttled":
            if after & 0b1110 or (after & ~before) & 0b1110 << 16:
                found.append(f"get_throttled is {after:#x}")
        elif "core_throttle_count" in name and after > before:
            found.append(f"{name} rose by {after - before}")
        elif name.startswith("cooling_device") and after > 0:
            found.append(f"{name} is at level {after}")
    return "; ".join(found) if found else "no"


def largest_difference(mine: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest absolute difference of two arrays of the same shape; NaN never counts."""
    import numpy as np

    if not mine.size:
        return 0.0
    difference = np.abs(mine.astype(np.float64) - other.astype(np.float64))
    largest = float(np.nan_to_num(difference).max())
    return largest if math.isfinite(largest) else float("inf")
