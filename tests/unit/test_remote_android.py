"""Android over a recorded adb, through real processes; and benchmark_model's printed forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DeviceError
from edgekit.remote.profile import read_benchmark

RECORDED = Path(__file__).parent / "recorded"


class Phone:
    """The recorded device: its state, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"
        self.set(
            devices={"R58M1234": "device"},
            files=[],
            abi="arm64-v8a",
            transcripts={name: f"benchmark_model_{name}.txt" for name in ("cpu", "gpu", "nnapi")},
        )
        # the head of an ELF file for AArch64: what edgekit looks at
        self.program = folder / "benchmark_model"
        self.program.write_bytes(
            b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(64)
        )
        python = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "EDGEKIT_ADB_STATE": str(self.path),
            "PATH": f"{RECORDED}{os.pathsep}{python}{os.pathsep}{os.environ['PATH']}",
        }

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    def set(self, **changes: Any) -> None:
        old = self.state if self.path.exists() else {}
        self.path.write_text(json.dumps({**old, **changes}))

    def bench(self, model: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgekit", "bench", str(model), "--target", "android"]
        if "--benchmark-model" not in options:
            command += ["--benchmark-model", str(self.program)]
        return subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )

    def runs(self) -> list[str]:
        """The lines with which benchmark_model was started."""
        lines = [words[3] for words in self.state["calls"] if words[2:3] == ["shell"]]
        return [line for line in lines if "--graph=" in line]


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path)


@pytest.fixture(scope="module")
def kws(mlperf: Path) -> Path:
    return mlperf / "kws_dscnn_int8.tflite"


def test_cpu_gpu_and_nnapi(phone: Phone, kws: Path) -> None:
    delegates = ["--delegate", "cpu", "--delegate", "gpu", "--delegate", "nnapi"]
    ended = phone.bench(
        kws, "--port", "adb:R58M1234", *delegates, "--threads", "4", "--runs", "30", "--json"
    )
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["kind"] == "measured"
    assert document["device"] == {
        "name": "Example Phone 8",
        "android": "15",
        "abi": "arm64-v8a",
        "chip": "EX1234",
    }
    cpu, gpu, nnapi = document["runs"]
    assert cpu["ran_on"] == "cpu"
    assert cpu["result"]["average_us"] == 299.84
    assert cpu["result"]["spread"]["median"] == 297
    assert [op["kind"] for op in cpu["result"]["operators"]][1] == "Convolution (NHWC, QC8) IGEMM"
    assert gpu["ran_on"] == "gpu"
    assert gpu["result"]["average_us"] == 1_200_340
    assert nnapi["ran_on"].startswith("cpu")
    assert any("took nothing" in note for note in document["notes"])
    first, second, third = phone.runs()
    assert "--num_threads=4" in first and "--num_runs=30" in first and "--use_xnnpack=true" in first
    assert "--use_gpu=true" in second
    assert "--use_nnapi=true" in third and "--disable_nnapi_cpu=true" in third


def test_files_are_copied_once_and_whole(phone: Phone, kws: Path) -> None:
    for _ in range(2):
        ended = phone.bench(kws)
        assert ended.returncode == 0, ended.stderr
    pushes = [words for words in phone.state["calls"] if words[2:3] == ["push"]]
    assert len(pushes) == 2
    assert all(words[4].endswith(".part") for words in pushes)
    assert not [name for name in phone.state["files"] if name.endswith(".part")]
    assert "mean µs" in ended.stdout
    assert "measured" in ended.stdout


def test_nnapi_takes_an_accelerators_name(phone: Phone, kws: Path) -> None:
    ended = phone.bench(kws, "--delegate", "nnapi", "--nnapi-accelerator", "qti-dsp")
    assert ended.returncode == 0, ended.stderr
    assert "--nnapi_accelerator_name=qti-dsp" in phone.runs()[0]


def test_one_delegate_that_fails_does_not_end_the_others(phone: Phone, kws: Path) -> None:
    transcripts = {"cpu": "benchmark_model_cpu.txt", "gpu": "benchmark_model_failed.txt"}
    phone.set(transcripts=transcripts)
    ended = phone.bench(kws, "--delegate", "gpu", "--delegate", "cpu", "--json")
    assert ended.returncode == 0, ended.stderr
    gpu, cpu = json.loads(ended.stdout)["runs"]
    assert gpu["result"] is None
    assert "Failed to apply GPU delegate" in gpu["missing"]
    assert cpu["result"]["average_us"] == 299.84
    ended = phone.bench(kws, "--delegate", "gpu")
    assert ended.returncode == 6
    assert "no run gave figures" in ended.stderr


def test_a_device_that_goes_away(phone: Phone, kws: Path) -> None:
    phone.set(cut=True)
    ended = phone.bench(kws)
    assert ended.returncode == 6
    assert "device offline" in ended.stderr or "was cut" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("devices", "port", "says"),
    [
        ({}, "adb", "adb lists 0 devices"),
        ({"A1": "device", "B2": "device"}, "adb", "adb lists 2 devices: A1, B2"),
        ({"A1": "device"}, "adb:C3", "no device 'C3', but: A1"),
        ({"A1": "unauthorized"}, "adb:A1", "not ready: unauthorized"),
        ({"A1": "offline"}, "adb:A1", "not ready: offline"),
    ],
)
def test_devices_that_are_not_there(
    phone: Phone, kws: Path, devices: dict[str, str], port: str, says: str
) -> None:
    phone.set(devices=devices)
    ended = phone.bench(kws, "--port", port)
    assert ended.returncode == 6
    assert says in ended.stderr
    assert "try:" in ended.stderr


def test_a_device_without_room(phone: Phone, kws: Path) -> None:
    phone.set(full=True)
    ended = phone.bench(kws)
    assert ended.returncode == 6
    assert "No space left on device" in ended.stderr


def test_without_adb_or_the_program(phone: Phone, kws: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    phone.environment["PATH"] = str(empty)
    ended = phone.bench(kws)
    assert ended.returncode == 5
    assert "needs the program adb" in ended.stderr
    command = [sys.executable, "-m", "edgekit", "bench", str(kws), "--target", "android"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 5
    assert "--benchmark-model PATH" in ended.stderr
    ended = phone.bench(kws, "--benchmark-model", str(tmp_path / "nothing"))
    assert ended.returncode == 5
    assert "cannot be read" in ended.stderr


def test_a_program_for_another_processor(phone: Phone, kws: Path) -> None:
    phone.set(abi="x86_64")
    ended = phone.bench(kws)
    assert ended.returncode == 2
    assert "another processor than the device's x86_64" in ended.stderr
    ended = phone.bench(kws, "--benchmark-model", str(kws))
    assert ended.returncode == 2
    assert "this is no program" in ended.stderr


def test_options_that_make_no_sense(phone: Phone, kws: Path) -> None:
    ended = phone.bench(kws, "--port", "ssh:me@phone")
    assert ended.returncode == 2
    assert "reached over adb" in ended.stderr
    ended = phone.bench(kws, "--data", "data.npz")
    assert ended.returncode == 2
    assert "random inputs" in ended.stderr


# -- what benchmark_model prints ------------------------------------------------------------


def recorded(name: str) -> str:
    return (RECORDED / f"benchmark_model_{name}.txt").read_text()


def test_the_newer_form() -> None:
    result = read_benchmark(recorded("cpu"))
    assert (result.init_us, result.first_us) == (1204, 812)
    assert (result.warmup_us, result.average_us) == (302.117, 299.84)
    assert result.runs == 3310
    assert result.spread["p95"] == 322
    assert result.spread["std"] == 11
    assert result.peak_memory_bytes == int(2.75 * 2**20)
    assert [(r.delegate, r.nodes, r.of) for r in result.replaced] == [
        ("TfLiteXNNPackDelegate", 12, 13)
    ]
    assert [op.average_us for op in result.operators] == [3, 60, 22, 36, 4]
    assert result.operators[2].calls == 4
    assert sum(op.share for op in result.operators) == pytest.approx(1, abs=1e-3)
    assert result.operators[4].name == "[StatefulPartitionedCall:0]:12"


def test_the_older_form_with_tabs_and_exponents() -> None:
    result = read_benchmark(recorded("gpu"))
    assert result.average_us == 1_200_340
    assert result.warmup_us == 1_512_390
    assert result.spread["avg"] == 1_200_340
    assert "median" not in result.spread
    assert result.init_memory_bytes == round(54.2852 * 2**20)
    (op,) = result.operators
    assert (op.kind, op.average_us, op.memory_bytes) == ("TfLiteGpuDelegateV2", 1_200_020, 16384)
    assert op.name == "[Identity, aspp0/Relu]:13"


def test_a_delegate_that_took_nothing() -> None:
    result = read_benchmark(recorded("nnapi"))
    assert result.refused == ("NNAPI",)
    assert result.operators == ()


def test_output_without_timings_names_the_reason() -> None:
    with pytest.raises(DeviceError, match="Failed to apply GPU delegate"):
        read_benchmark(recorded("failed"))
    with pytest.raises(DeviceError, match="it printed nothing"):
        read_benchmark("")


def test_output_that_was_cut_anywhere_is_read_or_refused() -> None:
    text = recorded("cpu")
    end = text.index("Inference (avg): 299.84") + len("Inference (avg): 299.84")
    for at in range(0, len(text), 37):
        if at < end:
            with pytest.raises(DeviceError):
                read_benchmark(text[: min(at, text.index("Warmup (avg)"))])
        else:
            assert read_benchmark(text[:at]).average_us == 299.84
