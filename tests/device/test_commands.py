"""build, flash, bench and run as a user calls them, on our own model."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MODEL = Path(__file__).parents[2] / "edgekit" / "examples" / "digits" / "digits_int8.tflite"

Run = Callable[..., subprocess.CompletedProcess[str]]


def edgekit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``run -o out`` left everything for nucleo-l4r5zi."""
    if not MODEL.exists():
        pytest.skip("the digits model is not here")
    folder = tmp_path_factory.mktemp("commands")
    done = edgekit(
        "run", MODEL, "--target", "nucleo-l4r5zi", "--inputs", 3, "--json", "-o", "out", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    (folder / "run.json").write_text(done.stdout)
    return folder


def test_run_reports_everything(made: Path) -> None:
    report = json.loads((made / "run.json").read_text())
    assert report["schema_version"] == 1 and report["document"] == "bench"
    assert set(report["model"]) == {"name", "sha256", "macs"}
    assert report["model"]["sha256"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert report["model"]["macs"] > 0
    assert (report["target"], report["engine"]) == ("nucleo-l4r5zi", "aot")
    assert (report["port"], report["kind"]) == ("virtual", "simulated")
    assert report["instructions"] > 0 and report["cycles"] > report["instructions"]
    assert 0 < report["cycles_error"] < 0.2
    assert set(report["latency_us"]) == {"p50", "p95", "max"}
    for op in report["ops"]:
        assert {"index", "kind", "name", "macs", "instructions", "cycles"} <= set(op)
    memory = report["memory"]
    assert {
        "arena_bytes", "stack_bytes", "ram_bytes", "weights_bytes", "code_bytes", "flash_bytes",
        "arena_lower_bound_bytes", "arena_optimal",
    } <= set(memory)  # fmt: skip
    assert memory["stack_bytes"] <= memory["stack_bound_bytes"]
    assert memory["weights_bytes"] + memory["code_bytes"] < memory["flash_bytes"]
    assert report["outputs"]["reference"] == "tflm" and report["outputs"]["match"] is True
    assert report["outputs"]["first_mismatch"] is None


def test_bench_repeats_to_the_instruction(made: Path) -> None:
    done = edgekit("bench", "out/firmware", "--inputs", 1, "--json", cwd=made)
    assert done.returncode == 0, done.stderr
    again, first = json.loads(done.stdout), json.loads((made / "run.json").read_text())
    assert again["instructions"] == first["instructions"]
    assert again["ops"] == first["ops"]
    assert again["outputs"]["sha256"] == first["outputs"]["sha256"][:1]


def test_bench_with_data_as_text(made: Path) -> None:
    plan = json.loads((made / "out/firmware/manifest.json").read_text())["firmware"]["plan"]
    shape = plan["inputs"][0]["shape"]
    np.savez(made / "set.npz", x=np.zeros((2, *shape[1:]), np.float32))
    done = edgekit("bench", "out/firmware", "--data", "set.npz", cwd=made)
    assert done.returncode == 0, done.stderr
    assert "equal to tflm's for 2 inputs" in done.stdout
    assert "simulated ±" in done.stdout


def test_a_mistreated_line_gives_the_same_report(made: Path) -> None:
    """1 % of bytes dropped, changed or doubled, in both directions."""
    port = "mistreated:0.01:virtual"
    done = edgekit("bench", "out/firmware", "--port", port, "--json", "--inputs", 3, cwd=made)
    assert done.returncode == 0, done.stderr
    again, first = json.loads(done.stdout), json.loads((made / "run.json").read_text())
    assert again["kind"] == "simulated"
    assert again["outputs"] == first["outputs"]
    assert again["ops"] == first["ops"]
    assert any("sent again" in note for note in again["notes"])


def test_a_device_as_a_runner(made: Path) -> None:
    from edgekit.bench import DeviceRunner
    from edgekit.build import load_firmware
    from edgekit.graph.reader import read_model
    from edgekit.runtimes.tflm import TflmRunner
    from edgekit.targets import load_target

    model, firmware = read_model(MODEL), load_firmware(made / "out" / "firmware")
    shape = model.input_tensors[0].shape
    generator = np.random.default_rng(1)
    with (
        TflmRunner(model.raw) as host,
        DeviceRunner(firmware, load_target("nucleo-l4r5zi"), "virtual", model) as device,
    ):
        for _ in range(5):
            x = generator.integers(-128, 128, shape).astype(np.int8)
            for mine, theirs in zip(device.invoke(x), host.invoke(x), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_build_flash_and_their_refusals(made: Path) -> None:
    built = edgekit("build", "out/artifact", "-o", "again", "--json", cwd=made)
    assert built.returncode == 0, built.stderr
    firmware = json.loads(built.stdout)["firmware"]
    first = json.loads((made / "run.json").read_text())
    assert firmware["build_id"] == first["build_id"]
    text = edgekit("build", "out/artifact", "-o", "again", cwd=made)
    assert "largest symbols" in text.stdout and "static bound" in text.stdout
    flashed = edgekit("flash", "again", "--port", "virtual", "--json", cwd=made)
    assert flashed.returncode == 0, flashed.stderr
    assert json.loads(flashed.stdout)["build_id"] == firmware["build_id"]
    elsewhere = edgekit("flash", "again", "--port", "serial:/dev/nothing", cwd=made)
    assert elsewhere.returncode == 6 and "there is no port /dev/nothing" in elsewhere.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("bench", "out/firmware", "--port", "carrier-pigeon"), 2, "no kind of port"),
        (
            ("bench", "out/firmware", "--port", "/dev/ttyACM9:9600"),
            2,
            "--port serial:/dev/ttyACM9:9600",
        ),
        (("bench", "out/firmware", "--port", "COM3"), 2, "--port serial:COM3"),
        (
            ("run", MODEL, "--target", "nucleo-l4r5zi", "--port", "/dev/x"),
            2,
            "--port serial:/dev/x",
        ),
        (("bench", "out/firmware", "--port", "serial:/dev/nothing"), 6, "cannot be opened"),
        (("bench", "out/firmware", "--port", "tcp:localhost:1"), 6, "no connection"),
        (("bench", "out/firmware", "--target", "pico"), 2, "built for nucleo-l4r5zi"),
        (("bench", "out/firmware", "--data", "missing.npz"), 3, "does not exist"),
        (("bench", "out/firmware", "--port", "mistreated:2:virtual"), 2, "how to mistreat"),
        (("bench", "out"), 2, "not a folder that build wrote: it holds no manifest.json"),
        (("build", "out"), 2, "not a folder that compile wrote: it holds no manifest.json"),
        (("build", "nothere"), 2, "not a folder that compile wrote: it does not exist"),
        (("build", MODEL), 2, "not a folder that compile wrote: it is a file"),
        (("build", "out/artifact", "--target", "pico"), 2, "kernels for DSP, which pico"),
        (("build", "out/artifact", "--compiler", "iar"), 2, "no compiler is called"),
        (("run", MODEL, "--target", "host"), 2, "no firmware for host"),
        (("run", MODEL, "--target", "pico", "--port", "tcp:a:1"), 2, "no board is flashed"),
        (("run", MODEL, "--target", "pico", "--engine", "tflm"), 3, "makes no plain C"),
        (("run", "missing.tflite", "--target", "pico"), 3, "cannot be read"),
    ],
)
def test_errors(made: Path, arguments: tuple[object, ...], code: int, said: str) -> None:
    done = edgekit(*arguments, cwd=made)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_fails_leaves_no_empty_folder(made: Path) -> None:
    done = edgekit("run", "missing.tflite", "--target", "pico", "-o", "none", cwd=made)
    assert done.returncode == 3
    assert not (made / "none").exists()
    (made / "file").touch()
    done = edgekit("run", MODEL, "--target", "nucleo-l4r5zi", "-o", "file", cwd=made)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the folder cannot be made: File exists" in done.stderr


def test_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tflite"
    changed = bytearray(MODEL.read_bytes())
    other.write_bytes(bytes(changed) + b"\0" * 4)
    done = edgekit("bench", "out/firmware", "--model", other, cwd=made)
    assert done.returncode == 6, done.stderr
    assert "was made from model" in done.stderr


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_interruption_leaves_no_process_behind(made: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "bench", "out/firmware", "--inputs", "5000"],
        cwd=made,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    children: list[int] = []
    while not children and time.monotonic() < deadline:
        time.sleep(0.2)
        children = _children(process.pid)
    assert children
    time.sleep(1.0)
    children = _children(process.pid)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if _alive(pid)]
