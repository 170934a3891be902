"""Measures a model on Android with LiteRT's ``benchmark_model``, which the user brings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.errors import DeviceError, MissingDependency, UsageError
from edgekit.remote.adb import FOLDER, AdbDevice
from edgekit.remote.profile import BenchmarkOutput, read_benchmark

if TYPE_CHECKING:
    from edgekit.graph import Model

Delegate = Literal["cpu", "gpu", "nnapi"]
DELEGATES: tuple[Delegate, ...] = ("cpu", "gpu", "nnapi")

#: Where the program comes from, for those who have none.
HOW_TO_GET = (
    "--benchmark-model PATH with LiteRT's benchmark_model for Android (arm64): the nightly build "
    "linked from ai.google.dev/edge/litert/models/measurement, or "
    "bazel build -c opt --config=android_arm64 //tensorflow/lite/tools/benchmark:benchmark_model"
)
_TIMEOUT_S = 900.0
_ELF = b"\x7fELF"
#: e_machine of ELF files by Android's name of the interface.
_MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "x86_64": 62, "x86": 3}


@dataclass(frozen=True)
class AndroidRun:
    """One delegate with one number of threads. ``missing``: why it gave no figures."""

    delegate: str
    threads: int
    options: tuple[str, ...]
    result: BenchmarkOutput | None
    missing: str | None = None

    @property
    def on(self) -> str:
        """What computed: the delegate, or the CPU where it took nothing or only a part."""
        if self.result is None or self.delegate == "cpu":
            return self.delegate
        if self.result.refused or not self._taken:
            return "cpu (the delegate took nothing)"
        nodes, total = self._taken
        return (
            self.delegate if nodes == total else f"{self.delegate} ({nodes} of {total} operators)"
        )

    @property
    def _taken(self) -> tuple[int, int] | None:
        words = {"gpu": "Gpu", "nnapi": "Nnapi"}[self.delegate]
        found = [r for r in self.result.replaced if words in r.delegate] if self.result else []
        return (sum(r.nodes for r in found), max(r.of for r in found)) if found else None


@dataclass(frozen=True)
class AndroidBench:
    """All runs, and what the device says of itself."""

    name: str
    android: str
    abi: str
    chip: str
    runs: tuple[AndroidRun, ...]
    notes: tuple[str, ...] = ()


def bench_android(
    model: Model,
    serial: str | None,
    program: Path | None,
    *,
    delegates: Sequence[Delegate] = ("cpu",),
    threads: int = 1,
    runs: int = 50,
    warmups: int = 5,
    nnapi_accelerator: str | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> AndroidBench:
    """Copies model and program to the device and measures.

    Args:
        model: any .tflite model.
        serial: of the device; ``None``: the only one.
        program: benchmark_model, built for the device.
        delegates: in this order; one that fails does not end the others.
        threads: of the CPU.
        runs: timed inferences at least.
        warmups: inferences before them at least.
        nnapi_accelerator: the driver's name for NNAPI; ``None``: its choice.
        on_progress: called with a sentence for every stage.

    Raises:
        MissingDependency: no adb, or no benchmark_model.
        UsageError: the file is no program for the device.
        DeviceError: no device, or it went away, or every run failed.
    """
    if program is None:
        raise MissingDependency(
            "measuring on Android needs LiteRT's benchmark_model", fix=HOW_TO_GET
        )
    content = _program(program)
    device = AdbDevice.find(serial)
    abi = device.property("ro.product.cpu.abi")
    machine = int.from_bytes(content[18:20], "little")
    if abi in _MACHINES and machine != _MACHINES[abi] and content.startswith(_ELF):
        raise UsageError(
            f"this benchmark_model is for another processor than the device's {abi}",
            str(program),
            HOW_TO_GET,
        )
    remote_program = f"{FOLDER}/benchmark_model-{hashlib.sha256(content).hexdigest()[:16]}"
    remote_model = f"{FOLDER}/model-{model.sha256[:32]}.tflite"
    _copy(device, model, program, remote_program, remote_model, on_progress)
    found = []
    for delegate in delegates:
        options = _options(delegate, nnapi_accelerator)
        on_progress(f"measuring on {delegate}")
        words = [
            remote_program,
            f"--graph={remote_model}",
            f"--num_threads={threads}",
            f"--num_runs={runs}",
            f"--warmup_runs={warmups}",
            "--enable_op_profiling=true",
            *options,
        ]
        text = device.shell(words, timeout_s=_TIMEOUT_S, check=False)
        try:
            found.append(AndroidRun(delegate, threads, options, read_benchmark(text)))
        except DeviceError as error:
            found.append(AndroidRun(delegate, threads, options, None, error.what))
    if all(run.result is None for run in found):
        raise DeviceError(
            f"no run gave figures: {found[0].missing}",
            f"adb:{device.serial}",
            "is benchmark_model built for this device?",
        )
    return AndroidBench(
        name=f"{device.property('ro.product.manufacturer')} "
        f"{device.property('ro.product.model')}".strip(),
        android=device.property("ro.build.version.release"),
        abi=abi,
        chip=device.property("ro.soc.model") or device.property("ro.board.platform"),
        runs=tuple(found),
        notes=tuple(_notes(found)),
    )


def _program(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingDependency(
            f"benchmark_model cannot be read: {error.strerror}", str(path), HOW_TO_GET
        ) from None
    if not content.startswith((_ELF, b"#!")):
        raise UsageError("this is no program", str(path), HOW_TO_GET)
    return content


def _copy(
    device: AdbDevice,
    model: Model,
    program: Path,
    remote_program: str,
    remote_model: str,
    on_progress: Callable[[str], None],
) -> None:
    """Copies what is not there; files are named by their hashes."""
    import tempfile

    device.shell(["mkdir", "-p", FOLDER])
    there = device.shell(["ls", FOLDER]).split()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        graph = Path(scratch) / "model.tflite"
        graph.write_bytes(model.raw)
        for path, remote in ((program, remote_program), (graph, remote_model)):
            if remote.rsplit("/", 1)[1] in there:
                continue
            on_progress(f"copying {path.name} ({path.stat().st_size:,} B)")
            # Under another name first: a copy that was cut must not be taken for whole.
            device.push(path, f"{remote}.part")
            device.shell(["chmod", "755", f"{remote}.part"])
            device.shell(["mv", f"{remote}.part", remote])


def _options(delegate: Delegate, accelerator: str | None) -> tuple[str, ...]:
    if delegate == "gpu":
        return ("--use_gpu=true",)
    if delegate == "nnapi":
        # Without the CPU of NNAPI: its reference kernels would hide that no driver takes a part.
        options = ("--use_nnapi=true", "--disable_nnapi_cpu=true")
        return (*options, f"--nnapi_accelerator_name={accelerator}") if accelerator else options
    return ("--use_xnnpack=true",)


def _notes(runs: Sequence[AndroidRun]) -> list[str]:
    notes = [
        f"{run.delegate}: the delegate was asked for but took nothing; the figures of this run "
        "are the CPU's"
        for run in runs
        if run.result is not None and run.delegate != "cpu" and run.on.startswith("cpu")
    ]
    if any(run.delegate == "nnapi" for run in runs):
        notes.append("NNAPI is deprecated since Android 15")
    return notes
