"""Runs a firmware on a device and measures it: ``Device`` → ``Measurement``.

The device sends raw ticks and bytes; units, statistics and the comparison with TFLM are made
here. Outputs are compared step by step by their CRC-32; on a difference only the tensor of the
first step that differs is fetched.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgekit.device import Device
from edgekit.errors import DeviceError, ModelError
from edgekit.links import Link, open_link
from edgekit.records import (
    Firmware,
    Kind,
    Measurement,
    OutputCheck,
    Plan,
    Step,
    StepMeasurement,
)
from edgekit.targets import Target
from edgekit.wire import Area, Mode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model

#: How TFLM, the reference, is called in reports.
REFERENCE = "tflm"
#: Runs that are timed when nothing else is asked for. A simulation repeats to the instruction,
#: so that more runs there tell nothing more.
MEASURED_RUNS, SIMULATED_RUNS = 20, 2
#: Link kinds behind which there is a simulation. A pseudo-terminal is never a chip.
_SIMULATED_LINKS = ("virtual", "qemu", "pty")

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Example:
    """The raw bytes of all inputs of one inference, as the model takes them."""

    arrays: tuple[NDArray[Any], ...]

    @property
    def raw(self) -> list[bytes]:
        return [np.ascontiguousarray(array).tobytes() for array in self.arrays]


def random_examples(plan: Plan, count: int, seed: int) -> list[Example]:
    """Uniformly random inputs over the whole range of their types.

    Raises:
        ModelError: an input has a type for which there is no such range.
    """
    generator = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        arrays = []
        for view in plan.inputs:
            dtype = np.dtype(view.dtype)
            if dtype.kind not in "iu":
                raise ModelError(f"input '{view.name}' is {view.dtype}; give data with --data")
            limits = np.iinfo(dtype)
            arrays.append(
                generator.integers(limits.min, limits.max, view.shape, dtype=dtype, endpoint=True)
            )
        examples.append(Example(tuple(arrays)))
    return examples


def load_examples(path: Path, model: Model, limit: int | None = None) -> list[Example]:
    """Inputs from an ``.npz`` file with ``x``, adapted to the model as ``validate`` does.

    Raises:
        ModelError: the file cannot be read, or does not fit the model's inputs.
    """
    from edgekit.quality.dataset import read_dataset

    found = [Example(tuple(sample)) for sample in read_dataset(path, model, limit=limit).samples()]
    return found if limit is None else found[:limit]


class Reference:
    """What TFLM computes for a firmware's model, arranged as the firmware's plan says."""

    def __init__(self, model: Model, plan: Plan) -> None:
        from edgekit.engines.aot.host import StepReference

        self._steps = StepReference(model, plan)

    def __call__(self, example: Example) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Every step's bytes, and the outputs'."""
        steps = self._steps.invoke(*example.arrays)
        return steps, self._steps.outputs()

    def close(self) -> None:
        self._steps.close()


@contextmanager
def connected(
    port: str, target: Target, firmware: Firmware, *, link: Link | None = None
) -> Iterator[Device]:
    """A device that runs exactly this firmware; it is closed at the end, whatever happens."""
    device = Device(link if link is not None else open_link(port, target, firmware))
    try:
        device.connect(firmware.build_id)
        yield device
    finally:
        device.close()


def measure(
    device: Device,
    firmware: Firmware,
    target: Target,
    examples: Sequence[Example],
    *,
    port: str,
    reference: Callable[[Example], tuple[tuple[bytes, ...], tuple[bytes, ...]]] | None = None,
    warmups: int = 1,
    runs: int | None = None,
    progress: Progress = lambda amount: None,
) -> Measurement:
    """Checks all examples, then times the first one.

    Args:
        device: connected to ``firmware``.
        examples: at least one; every one is compared with the reference.
        reference: TFLM's steps and outputs for an example; no comparison without it.
        runs: timed inferences; by default few in a simulation, 20 on hardware.
        progress: called with 1 after each example and after the timed runs.

    Raises:
        DeviceError: the device failed, beyond what repetition mends.
    """
    kind = kind_of(port)
    if runs is None:
        runs = SIMULATED_RUNS if kind == "simulated" else MEASURED_RUNS
    plan = firmware.plan
    steps = plan.steps if plan is not None else ()
    check = _check(device, steps, examples, reference, progress)
    step_ticks = device.persist(lambda: _steps_run(device, examples[0]))
    if warmups:
        device.persist(lambda: _timed(device, examples[0], warmups))
    ticks = device.persist(lambda: _timed(device, examples[0], runs))
    progress(1)
    stack_bytes, stack_used = device.stack()
    tick_hz = device.identity.tick_hz
    measurement = Measurement(
        kind=kind,
        target=target.name,
        engine=firmware.engine,
        port=port,
        model_name=firmware.model_name,
        model_sha256=firmware.model_sha256,
        model_macs=firmware.model_macs,
        build_id=firmware.build_id,
        warmups=warmups,
        runs=runs,
        clock_hz=target.clock_hz,
        latencies_us=tuple(1e6 * value / tick_hz for value in ticks),
        steps=tuple(
            StepMeasurement(
                step.index,
                step.kind,
                step.name,
                step.macs,
                ticks=value,
                latency_us=1e6 * value / tick_hz,
            )
            for step, value in zip(steps, step_ticks, strict=True)
        ),
        memory=memory_of(firmware, device.identity.staging_bytes, stack_bytes, stack_used),
        outputs=check,
        notes=_notes(device),
    )
    if kind == "measured":
        return _with_measured_cycles(measurement, ticks, tick_hz)
    instruction_ns = getattr(device.link, "instruction_ns", None)
    if instruction_ns is not None:
        return _with_counted_time(measurement, ticks, tick_hz, instruction_ns)
    return with_counters(measurement, device.link, target)


def _notes(device: Device) -> tuple[str, ...]:
    statistics = device.statistics
    notes = []
    if statistics.repeated:
        notes.append(
            f"the line lost frames: {statistics.repeated} of {statistics.sent_frames} requests "
            "were sent again"
        )
    if statistics.resets:
        notes.append(f"the device was reset {statistics.resets} times meanwhile")
    return tuple(notes)


def kind_of(port: str) -> Kind:
    """Whether figures from a port are measured on hardware or simulated."""
    while port.startswith("mistreated:"):
        port = port.split(":", 2)[-1]
    return "simulated" if port.partition(":")[0] in _SIMULATED_LINKS else "measured"


def memory_of(
    firmware: Firmware, staging_bytes: int, stack_bytes: int, stack_used: int
) -> dict[str, Any]:
    """What the firmware takes of the memories. ``stack_bytes`` is the most that was used."""
    plan = firmware.plan
    return {
        "arena_bytes": plan.arena_bytes if plan is not None else None,
        "arena_lower_bound_bytes": plan.arena_lower_bound_bytes if plan is not None else None,
        "arena_optimal": plan.arena_optimal if plan is not None else None,
        "stack_bytes": stack_used or None,
        "stack_reserved_bytes": stack_bytes or None,
        "stack_bound_bytes": firmware.stack_bound_bytes,
        "staging_bytes": staging_bytes,
        "inputs_apart": plan is not None and any(view.apart for view in plan.inputs),
        "inputs_in_rows": plan is not None and bool(plan.feeds),
        "ram_bytes": firmware.ram_bytes or None,
        "weights_bytes": firmware.weights_bytes or None,
        "code_bytes": firmware.code_bytes or None,
        "flash_bytes": firmware.flash_bytes or None,
    }


def _with_measured_cycles(
    measurement: Measurement, ticks: Sequence[int], tick_hz: int
) -> Measurement:
    """Cycles where the tick counter counts them; else only times are known."""
    if tick_hz != measurement.clock_hz:
        return measurement
    return replace(
        measurement,
        cycles=sorted(ticks)[len(ticks) // 2],
        cycles_error=0.0,
        cycles_basis="cycle counter",
        steps=tuple(replace(step, cycles=step.ticks) for step in measurement.steps),
    )


def _with_counted_time(
    measurement: Measurement, ticks: Sequence[int], tick_hz: int, instruction_ns: float
) -> Measurement:
    """Instructions where a simulation's time goes on by the same amount for each of them.

    Exact to one tick. There are no cycles in such a time.
    """

    def instructions(value: int) -> int:
        return round(1e9 * value / tick_hz / instruction_ns)

    return replace(
        measurement,
        instructions=instructions(ticks[-1]),
        latencies_us=(),
        steps=tuple(
            replace(s, ticks=None, latency_us=None, instructions=instructions(s.ticks or 0))
            for s in measurement.steps
        ),
    )


def with_counters(
    measurement: Measurement, link: Link, target: Target | None = None
) -> Measurement:
    """Adds what the simulation counted: instructions, exact, and estimated cycles.

    A simulation's own clock is not a chip's: latencies are the estimated cycles over the clock,
    or absent. Without a model of the core there is a floor where ``target`` states one.
    """
    read = getattr(link, "counters", None)
    counters = read() if read is not None else None
    bare = replace(
        measurement,
        latencies_us=(),
        steps=tuple(replace(s, ticks=None, latency_us=None) for s in measurement.steps),
    )
    if counters is None:
        return bare
    clock_hz = float(measurement.clock_hz or 0)

    def microseconds(cycles: int | None) -> float | None:
        return 1e6 * cycles / clock_hz if cycles is not None and clock_hz else None

    total = counters.total.cycles
    floor = None
    if total is None and target is not None and "instructions_per_cycle" in target.timing:
        cycles = counters.instructions / float(target.timing["instructions_per_cycle"])
        floor = microseconds(math.ceil(cycles))
    counted = []
    if len(counters.steps) == len(bare.steps):
        for step, count in zip(bare.steps, counters.steps, strict=True):
            cycles = count.cycles.value if count.cycles is not None else None
            counted.append(
                replace(
                    step,
                    instructions=count.instructions,
                    cycles=cycles,
                    latency_us=microseconds(cycles),
                )
            )
    inferences: tuple[int, ...] = ()
    if total is not None:
        # Where steps are called one by one, only the last ones are there.
        inferences = counters.inference_cycles[-measurement.runs :] or (total.value,)
    return replace(
        bare,
        instructions=counters.instructions,
        cycles=total.value if total is not None else None,
        cycles_error=total.error if total is not None else None,
        cycles_basis=total.basis if total is not None else None,
        latencies_us=tuple(cast(float, microseconds(value)) for value in inferences),
        latency_floor_us=floor,
        steps=tuple(counted) or bare.steps,
        notes=(*bare.notes, *counters.reports),
    )


# ---- running ----


def _steps_run(device: Device, example: Example) -> tuple[int, ...]:
    device.run_on(example.raw, Mode.STEPS, 0)
    return device.step_ticks()


def _timed(device: Device, example: Example, count: int) -> tuple[int, ...]:
    """Ticks of ``count`` inferences; the input is there again before each."""
    identity = device.identity
    batch = identity.max_runs if identity.input_kept or identity.input_staged else 1
    ticks: list[int] = []
    while len(ticks) < count:
        amount = min(batch, count - len(ticks))
        again = device.run if ticks and batch > 1 else partial(device.run_on, example.raw)
        ticks.extend(again(Mode.INVOKE, amount))
    return tuple(ticks)


# ---- comparing ----


def _check(
    device: Device,
    steps: Sequence[Step],
    examples: Sequence[Example],
    reference: Callable[[Example], tuple[tuple[bytes, ...], tuple[bytes, ...]]] | None,
    progress: Progress,
) -> OutputCheck:
    digests = []
    for index, example in enumerate(examples):
        outputs, crcs = device.persist(lambda example=example: _run_checked(device, example))  # type: ignore[misc]
        digests.append(hashlib.sha256(b"".join(outputs)).hexdigest())
        if reference is not None:
            wanted, wanted_outputs = reference(example)
            mismatch = _first_difference(device, steps, example, crcs, wanted)
            if mismatch is None and tuple(outputs) != wanted_outputs:
                mismatch = _difference_of_outputs(outputs, wanted_outputs, steps)
            if mismatch is not None:
                mismatch = {"example": index, **mismatch}
                return OutputCheck(REFERENCE, index + 1, False, tuple(digests), mismatch)
        progress(1)
    match = True if reference is not None else None
    return OutputCheck(REFERENCE, len(examples) if match else 0, match, tuple(digests))


def _run_checked(device: Device, example: Example) -> tuple[list[bytes], tuple[int, ...]]:
    """The outputs of a whole inference, and the CRCs of one step by step."""
    identity = device.identity
    device.run_on(example.raw)
    outputs = [device.read_output(i) for i in range(len(identity.output_bytes))]
    if identity.input_kept or identity.input_staged:
        device.run(Mode.STEPS, 0)
    else:
        device.run_on(example.raw, Mode.STEPS, 0)
    return outputs, device.step_crcs()


def _first_difference(
    device: Device,
    steps: Sequence[Step],
    example: Example,
    crcs: Sequence[int],
    wanted: Sequence[bytes],
) -> dict[str, Any] | None:
    for step, crc, expected in zip(steps, crcs, wanted, strict=True):
        if crc == zlib.crc32(expected):
            continue

        def fetch(step: Step = step) -> bytes:
            device.run_on(example.raw, Mode.UNTIL, step.index)
            return device.read(Area.STEP_OUTPUT, step.index, step.nbytes)

        return describe_difference(step, device.persist(fetch), expected)
    return None


def describe_difference(step: Step, found: bytes, expected: bytes) -> dict[str, Any]:
    """The first element that differs, and how many do."""
    width = max(1, step.nbytes // max(1, int(np.prod(step.shape)))) if step.shape else 1
    dtype = {1: np.int8, 2: np.int16, 4: np.int32}.get(width, np.int8)
    got, want = np.frombuffer(found, dtype), np.frombuffer(expected, dtype)
    where = np.flatnonzero(got != want)
    first: dict[str, Any] = {
        "step": step.index,
        "kind": step.kind,
        "name": step.name,
        "ops": list(step.ops),
        "differing": int(where.size),
        "elements": int(got.size),
    }
    if where.size == 0:
        # the stepwise run and the repetition disagree: the device does not compute alike twice
        return {**first, "element": None, "device": None, "host": None}
    element = int(where[0])
    position = None
    if step.shape and int(np.prod(step.shape)) == got.size:
        position = [int(i) for i in np.unravel_index(element, step.shape)]
    difference = np.abs(got.astype(np.int64) - want.astype(np.int64))
    return {
        **first,
        "element": element,
        "position": position,
        "device": int(got[element]),
        "host": int(want[element]),
        "largest_difference": int(difference.max()),
    }


def _difference_of_outputs(
    outputs: Sequence[bytes], wanted: Sequence[bytes], steps: Sequence[Step]
) -> dict[str, Any]:
    """Every step agrees, but a whole inference's output does not."""
    index = next(
        i for i, pair in enumerate(zip(outputs, wanted, strict=True)) if pair[0] != pair[1]
    )
    got, want = np.frombuffer(outputs[index], np.int8), np.frombuffer(wanted[index], np.int8)
    element = int(np.flatnonzero(got != want)[0])
    return {
        "step": len(steps) - 1,
        "kind": "OUTPUT",
        "name": f"output {index}, of a whole inference; step by step it agrees",
        "element": element,
        "device": int(got[element]),
        "host": int(want[element]),
        "differing": int((got != want).sum()),
        "elements": int(got.size),
    }


def mismatch_text(measurement: Measurement) -> str | None:
    """One sentence about the first difference from the reference; ``None`` without one."""
    check = measurement.outputs
    if check is None or check.match is not False or check.first_mismatch is None:
        return None
    first = check.first_mismatch
    return (
        f"the device's outputs differ from {check.reference}'s: input {first['example']}, "
        f"step {first['step']} {first['kind']} '{first['name']}', {first['differing']:,} of "
        f"{first['elements']:,} elements differ; the first is element {first['element']}: "
        f"device {first['device']}, host {first['host']}"
    )


class DeviceRunner:
    """A firmware on a device as a runner of :mod:`edgekit.runtimes`: inputs in, outputs out.

    Args:
        model: the firmware's model, for the shapes and types of its outputs.

    Raises:
        DeviceError: the device does not answer, or the firmware is of another model.
    """

    def __init__(self, firmware: Firmware, target: Target, port: str, model: Model) -> None:
        check_model(model.sha256, firmware)
        self.title = f"{target.name} on {port}, build {firmware.build_id[:8]}"
        self._outputs = [(np.dtype(t.dtype), t.shape) for t in model.output_tensors]
        self.device = Device(open_link(port, target, firmware))
        try:
            self.device.connect(firmware.build_id)
        except BaseException:
            self.device.close()
            raise

    def invoke(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """One inference on the device, which is repeated if the device is reset meanwhile."""
        found = self.device.infer(Example(inputs).raw)
        return [
            np.frombuffer(data, dtype).reshape(shape)
            for data, (dtype, shape) in zip(found, self._outputs, strict=True)
        ]

    def close(self) -> None:
        self.device.close()

    def __enter__(self) -> DeviceRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_model(firmware: Firmware) -> Path | None:
    """The ``.tflite`` file that lies beside a firmware or its artifact, if it is the right one."""
    for folder in (firmware.elf.parent, firmware.artifact_folder):
        for path in sorted(folder.glob("*.tflite")):
            if hashlib.sha256(path.read_bytes()).hexdigest() == firmware.model_sha256:
                return path
    return None


def check_model(model_sha256: str, firmware: Firmware) -> None:
    """Raises when a model is not the one that the firmware was made from.

    Raises:
        DeviceError: it is another one.
    """
    if model_sha256 != firmware.model_sha256:
        raise DeviceError(
            f"the firmware was made from model {firmware.model_sha256[:16]}…, "
            f"this is {model_sha256[:16]}…",
            str(firmware.elf.name),
            "the model that the firmware was compiled from",
        )


def bench_firmware(
    firmware: Firmware,
    target: Target,
    port: str,
    *,
    model: Model | None,
    examples: Sequence[Example],
    warmups: int = 1,
    runs: int | None = None,
    progress: Progress = lambda amount: None,
) -> Measurement:
    """Opens ``port``, measures, closes it.

    A virtual board counts features, too, from which its cycles are estimated.

    Raises:
        DeviceError: the device failed, or runs another build.
        ModelError: ``model`` is not the firmware's.
    """
    if model is not None:
        check_model(model.sha256, firmware)
    plan = firmware.plan
    reference = Reference(model, plan) if model is not None and plan is not None else None
    try:
        timed_port = f"{port}:profile" if port.endswith("virtual") else port
        if "virtual:state=" in port and ",profile" not in port:
            timed_port = f"{port},profile"
        with connected(timed_port, target, firmware) as device:
            return measure(
                device,
                firmware,
                target,
                examples,
                port=port,
                reference=reference,
                warmups=warmups,
                runs=runs,
                progress=progress,
            )
    finally:
        if reference is not None:
            reference.close()
