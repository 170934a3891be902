"""Measures compiled models on an Edge TPU, and compares their outputs with the CPU's."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import DeviceError, EdgekitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.engines.edgetpu.bundle import Bundle
    from edgekit.graph import Model
    from edgekit.installers import Report
    from edgekit.runtimes.edgetpu import Device, Library
    from edgekit.targets import Target

DEFAULT_RUNS = 50
DEFAULT_WARMUPS = 5
#: The Edge TPU rounds in other places than TensorFlow Lite: outputs may differ by some steps of
#: their quantisation. More than this share of the range is no rounding.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Comparison:
    """Outputs of the Edge TPU and of the same model on the CPU."""

    reference: str
    inputs: int
    elements: int
    equal_elements: int
    #: in steps of the quantisation (integers) or as it is (floats)
    largest_difference: float
    #: of the range that the type, or for floats the reference, spans
    largest_share: float

    @property
    def close(self) -> bool:
        return self.largest_share <= TOLERANCE


@dataclass(frozen=True)
class EdgeTpuRun:
    """A measurement; times in microseconds."""

    runtime: str
    library: str
    device: str
    first_us: float
    warmups: int
    latencies_us: tuple[float, ...]
    #: of the operators left on the CPU, timed by themselves; 0 when there are none
    cpu_us: float | None
    cpu_note: str
    comparison: Comparison | None
    comparison_note: str

    @property
    def median_us(self) -> float:
        ordered = sorted(self.latencies_us)
        return ordered[(len(ordered) - 1) // 2]

    @property
    def cpu_share(self) -> float | None:
        return None if self.cpu_us is None else min(self.cpu_us / self.median_us, 1.0)


def find_local(bundle: Bundle, target: Target, device: str = "") -> tuple[Library, Device]:
    """The library and a device of this computer that can run a compiled model.

    Raises:
        MissingDependency: no library, no package, or a runtime that is too old.
        DeviceError: no device.
    """
    from edgekit.runtimes.edgetpu import find_package, probe, require_device, require_runtime

    library = probe()
    found = require_device(library, device or _setting(target))
    find_package()
    require_runtime(library, bundle.compiled.min_runtime_version, bundle.name)
    return library, found


def _setting(target: Target) -> str:
    return str(target.engine_setting("edgetpu", "device", ""))


def measure_local(
    bundle: Bundle,
    target: Target,
    samples: Sequence[Sequence[NDArray[Any]]],
    *,
    device: str = "",
    warmups: int = DEFAULT_WARMUPS,
    runs: int = DEFAULT_RUNS,
) -> EdgeTpuRun:
    """Measures on an Edge TPU of this computer.

    Raises:
        MissingDependency: no library, no package, or a runtime that is too old.
        DeviceError: no device, or it fails.
    """
    from edgekit.runtimes import open_runner

    library, found = find_local(bundle, target, device)
    chosen = device or _setting(target)
    with open_runner("edgetpu", bundle.model.raw, device=chosen) as runner:
        # the very first inference uploads the parameters
        first_us = runner.time(samples[0], 1)[0]
        outputs = [runner.invoke(*sample) for sample in samples]
        runner.time(samples[0], warmups)
        latencies = runner.time(samples[0], runs)
        title = runner.title
    cpu_us, cpu_note = _cpu_time(bundle.model, runs)
    comparison, note = compare(bundle, samples, outputs)
    return EdgeTpuRun(
        runtime=title,
        library=library.version,
        device=f"{found.kind} {found.path}",
        first_us=first_us,
        warmups=warmups,
        latencies_us=tuple(latencies),
        cpu_us=cpu_us,
        cpu_note=cpu_note,
        comparison=comparison,
        comparison_note=note,
    )


def measure_devboard(
    bundle: Bundle,
    sample: Sequence[NDArray[Any]],
    options: Mapping[str, Any],
    report: Report,
    *,
    warmups: int = DEFAULT_WARMUPS,
    runs: int = DEFAULT_RUNS,
) -> EdgeTpuRun:
    """Measures on a Dev Board, through mdt or ssh.

    Raises:
        MissingDependency: mdt or ssh is not installed, or the board lacks a package.
        DeviceError: no board answers, or the model does not run there.
    """
    import numpy as np

    from edgekit.installers import mdt

    with tempfile.TemporaryDirectory(prefix="edgekit-coral-") as folder:
        inputs = Path(folder) / "inputs.bin"
        inputs.write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in sample))
        answer = mdt.execute(bundle, options, warmups, runs, report, inputs)
    try:
        latencies = tuple(float(value) for value in answer["latencies_us"])
        first_us = float(answer["first_us"])
        outputs = [
            np.frombuffer(base64.b64decode(text), np.dtype(tensor.dtype))
            for text, tensor in zip(
                answer["outputs"] or [], bundle.model.output_tensors, strict=False
            )
        ]
    except (TypeError, ValueError, KeyError) as error:
        raise DeviceError(
            f"the board's answer makes no sense ({type(error).__name__}: {error})", "runner"
        ) from None
    if not latencies:
        raise DeviceError("the board measured nothing", "runner")

    comparison: Comparison | None = None
    note = "the outputs are too large to send back"
    if outputs:
        comparison, note = compare(bundle, [sample], [outputs])
    return EdgeTpuRun(
        runtime="the board's TensorFlow Lite",
        library=str(answer.get("library", "")),
        device="Dev Board",
        first_us=first_us,
        warmups=warmups,
        latencies_us=latencies,
        cpu_us=None if bundle.compiled.cpu_ops else 0.0,
        cpu_note="not measured on the board" if bundle.compiled.cpu_ops else "all operators map",
        comparison=comparison,
        comparison_note=note,
    )


def _cpu_time(model: Model, runs: int) -> tuple[float | None, str]:
    """Median time of the operators on the CPU by themselves, and what it is."""
    from edgekit.engines.edgetpu.remainder import cpu_part
    from edgekit.graph import read_model
    from edgekit.quality.synthetic import synthetic_inputs
    from edgekit.runtimes import open_runner

    part = cpu_part(model)
    if part is None:
        return 0.0, "all operators are on the Edge TPU"
    try:
        rest = read_model(part, f"{model.name}_cpu")
        inputs = synthetic_inputs(rest)[0]
        with open_runner("litert", part, threads=1) as runner:
            runner.time(inputs, 2)
            times = sorted(runner.time(inputs, max(runs // 2, 1)))
    except EdgekitError as error:
        return None, f"the operators on the CPU do not run by themselves: {error.what}"
    return times[(len(times) - 1) // 2], "the operators on the CPU, timed by themselves, 1 thread"


def compare(
    bundle: Bundle,
    samples: Sequence[Sequence[NDArray[Any]]],
    outputs: Sequence[Sequence[NDArray[Any]]],
) -> tuple[Comparison | None, str]:
    """Compares outputs with those of the model before the compiler, on the CPU."""
    from edgekit.runtimes import open_runner

    if bundle.source is None:
        return None, "not compared: the model before the compiler is not at hand (--model)"
    try:
        with open_runner("litert", bundle.source.read_bytes()) as runner:
            expected = [runner.invoke(*sample) for sample in samples]
            return compared(runner.title, expected, outputs), ""
    except EdgekitError as error:
        return None, f"not compared: {error.what}"


def compared(
    reference: str,
    expected: Sequence[Sequence[NDArray[Any]]],
    outputs: Sequence[Sequence[NDArray[Any]]],
) -> Comparison:
    """The differences between two runs of the same samples."""
    import numpy as np

    elements = equal = 0
    largest = share = 0.0
    for mine, theirs in zip(outputs, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            one, two = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
            if one.size != two.size:
                return Comparison(reference, len(outputs), two.size, 0, float("inf"), 1.0)
            if not one.size:
                continue
            difference = np.nan_to_num(np.abs(one - two), nan=np.inf)
            elements += one.size
            equal += int((difference == 0).sum())
            worst = float(difference.max())
            integer = np.issubdtype(b.dtype, np.integer)
            span = float(np.iinfo(b.dtype).max) - float(np.iinfo(b.dtype).min) if integer else 0.0
            span = span or float(np.ptp(two)) or 1.0
            largest, share = max(largest, worst), max(share, min(worst / span, 1.0))
    return Comparison(reference, len(outputs), elements, equal, largest, share)
