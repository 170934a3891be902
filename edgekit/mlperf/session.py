"""A whole session with a device: find out who is there, run, keep log and results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench import kind_of
from edgekit.errors import UsageError
from edgekit.files import write_atomic
from edgekit.links import open_link
from edgekit.mlperf.benchmarks import PERFORMANCE_INPUTS, Benchmark, find_benchmark
from edgekit.mlperf.dut import Dut
from edgekit.mlperf.personality import PROTOCOL
from edgekit.mlperf.runner import (
    Log,
    Mode,
    Summary,
    accuracy,
    new_session,
    performance,
    result_json,
    result_lines,
)
from edgekit.mlperf.samples import Sample, random_samples, read_samples
from edgekit.records import Firmware
from edgekit.targets import Target

#: A simulation repeats to the instruction: more inferences tell nothing more.
SIMULATED_ITERATIONS, SIMULATED_WARMUPS = 2, 1
#: A simulated inference takes as long as the computer needs, seconds.
_SIMULATED_TIMEOUT_S = 900.0

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Order:
    """What :func:`run_session` is asked for.

    ``firmware`` and ``target`` may be missing where the port needs neither. ``data`` as
    :func:`edgekit.mlperf.samples.read_samples` takes it; without it performance mode sends random
    inputs. ``iterations`` and ``warmups``: by default what the benchmark wants, on virtual boards
    a few. ``count`` bounds the samples of accuracy mode.
    """

    port: str
    mode: Mode = "performance"
    firmware: Firmware | None = None
    target: Target | None = None
    data: Path | None = None
    count: int | None = None
    iterations: int | None = None
    warmups: int | None = None
    seed: int = 0
    sessions: Path = Path("sessions")


def run_session(
    order: Order,
    watch: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda amount: None,
) -> tuple[Summary, Path]:
    """Runs one mode; returns what it found and the folder with the session's files.

    Raises:
        UsageError: the order makes no sense.
        ModelError: the data do not fit the device's benchmark.
        DeviceError: the device failed; ``log.txt`` tells how far it came.
    """
    firmware = order.firmware
    if firmware is not None and firmware.protocol not in (PROTOCOL, ""):
        raise UsageError(
            f"this firmware speaks the protocol '{firmware.protocol}'",
            firmware.elf.name,
            "edgekit build ARTIFACT --protocol mlperf-tiny",
        )
    if order.mode == "accuracy" and order.data is None:
        raise UsageError("accuracy mode needs data", fix="--data FOLDER or --data FILE.npz")
    simulated = kind_of(order.port) == "simulated"
    port = order.port
    if order.mode == "performance" and port.endswith("virtual"):
        port += ":profile"  # its timers then follow the core's cycle model
    folder = new_session(order.sessions)
    with open(folder / "log.txt", "w", encoding="utf-8") as file:

        def keep(line: str) -> None:
            file.write(line + "\n")
            file.flush()
            watch(line)

        log = Log(keep)
        log.bare(f"Logging initialized. Writing output to {folder.name}/log.txt")
        link = open_link(port, order.target, firmware)
        baud = getattr(link, "baud", None)
        with Dut(link, infer_timeout_s=_SIMULATED_TIMEOUT_S if simulated else 30.0) as dut:
            log.bare(f"Port: {port}" + (f" at {baud} baud" if baud else ""))
            profile = dut.identify()
            log.bare(f"Device name retrieved: {profile.name}")
            log.bare(f"Device profile retrieved: {profile.profile}")
            log.bare(f"Device model retrieved: {profile.model}")
            benchmark = find_benchmark(profile.model)
            samples = _samples(order, benchmark)
            if order.mode == "accuracy":
                found = accuracy(dut, profile, benchmark, samples, log=log, progress=progress)
            else:
                few = simulated and order.iterations is None
                found = performance(
                    dut,
                    profile,
                    benchmark,
                    samples,
                    iterations=SIMULATED_ITERATIONS if few else order.iterations,
                    warmups=SIMULATED_WARMUPS
                    if simulated and order.warmups is None
                    else order.warmups,
                    log=log,
                    progress=progress,
                )
        lines = result_lines(found)
        for line in lines:
            log.bare(line)
        log.bare(f"Session logged in file {folder.name}/log.txt")
    write_atomic(folder / "results.txt", "\n".join(lines) + "\n")
    write_atomic(folder / "results.json", json.dumps(result_json(found)))
    return found, folder


def _samples(order: Order, benchmark: Benchmark) -> Sequence[Sample]:
    if order.data is None:
        return random_samples(benchmark, PERFORMANCE_INPUTS, order.seed)
    limit = PERFORMANCE_INPUTS if order.mode == "performance" else order.count
    return read_samples(order.data, benchmark, limit)


def firmware_of_elf(elf: Path, target: Target) -> Firmware:
    """Somebody else's ELF file, for a virtual board.

    Raises:
        UsageError: it is not there.
    """
    if not elf.is_file():
        raise UsageError("there is no such firmware", str(elf), "edgekit build --help")
    return Firmware(
        target=target.name,
        model_name=elf.stem,
        model_sha256="",
        engine="",
        elf=elf,
        build_id="",
        compiler="",
        sections=(),
        symbols=(),
        flash_bytes=0,
        ram_bytes=0,
        code_bytes=0,
        weights_bytes=0,
        stack_bound_bytes=None,
        plan=None,
        artifact_folder=elf.parent,
        protocol="",
    )
