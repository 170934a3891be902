"""MLPerf Tiny from both sides: our firmware on virtual boards, our runner in both modes.

The runner knows nothing of the firmware but the protocol's description; what it gets is compared
with what TFLM computes for the same inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit import engines
from edgekit.build import build
from edgekit.commands import bench
from edgekit.errors import EdgekitError
from edgekit.graph import Model
from edgekit.graph.reader import read_model
from edgekit.links import open_link
from edgekit.mlperf.dut import Dut
from edgekit.mlperf.personality import choose
from edgekit.records import Firmware
from edgekit.runtimes import open_runner
from edgekit.targets import load_target

BOARD = "nucleo-l4r5zi"
MODELS = {
    "kws01": "kws_dscnn_int8",
    "ic01": "ic_resnet_int8",
    "vww01": "vww_mobilenet_int8",
    "ad01": "ad_autoencoder_int8",
}


def made(model: Model, folder: Path, board: str = BOARD, **options: Any) -> Firmware:
    target = load_target(board)
    artifact = engines.load("aot").compile(
        model, target, folder / "artifact", command="test", options={}
    )
    personality = choose(artifact, None, "edgekit test", **options)
    return build(artifact, target, folder / "firmware", personality=personality)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bench.command, [str(a) for a in arguments], catch_exceptions=False)


def report_of(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def real_inputs(name: str, shared: Path, seed: int, count: int) -> np.ndarray:
    """As the runner sends them; anomaly detection has no public recordings here."""
    if name == "ad01":
        generator = np.random.default_rng(seed)
        return generator.normal(-8, 18, (count, 3, 640)).astype(np.float32)
    file = {"ic01": "ic01_calibration"}.get(name, name)
    found: np.ndarray = np.load(shared / "data" / f"{file}.npz")["x"][:count]
    return found


def expected(model: Model, x: np.ndarray) -> list[list[float]]:
    """TFLM's results for inputs ``[N, …]``, with three digits."""
    given, made_ = model.input_tensors[0], model.output_tensors[0]
    rows = []
    with open_runner("tflm", model.raw) as host:
        for item in x:
            real = item.reshape(given.shape)
            if item.dtype == np.float32:
                steps = real / np.float32(given.scale)
                whole = np.trunc(steps) + (np.abs(steps - np.trunc(steps)) >= 0.5) * np.sign(steps)
                sent = np.clip(whole + given.zero_point, -128, 127).astype(np.int8)
            elif item.dtype == np.uint8:
                sent = (real.astype(np.int16) - 128).astype(np.int8)
            else:
                sent = real
            output = host.invoke(sent)[0].astype(np.float64).reshape(-1)
            values = (output - made_.zero_point) * made_.scale
            if item.dtype == np.float32:
                values = np.array([np.mean((values - item.reshape(-1).astype(np.float64)) ** 2)])
            rows.append([float(f"{value:.3f}") for value in values])
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_both_modes(name: str, mlperf: Path, shared: Path, tmp_path: Path, seed: int) -> None:
    pytest.importorskip("unicorn")
    model = read_model(mlperf / f"{MODELS[name]}.tflite")
    firmware = made(model, tmp_path)
    assert firmware.protocol == "mlperf-tiny" and firmware.stack_bound_bytes is not None
    folder = firmware.elf.parent
    count = 2 if name == "vww01" else 4
    x = real_inputs(name, shared, seed, count)
    windows = x.reshape(-1, 640) if name == "ad01" else x
    wanted = expected(model, windows)
    if name == "ad01":
        y = np.arange(count) % 2
    else:
        y = np.array([int(np.argmax(row)) for row in wanted])
        y[0] = (y[0] + 1) % len(wanted[0])  # one that the model gets wrong
    np.savez(tmp_path / "data.npz", x=x, y=y)
    common = ("--data", tmp_path / "data.npz", "--sessions", tmp_path / "sessions")
    # accuracy
    found = report_of(folder, *common, "--mode", "accuracy")
    assert found["benchmark"] == name and found["kind"] == "simulated"
    session = Path(found["session"])
    entries = json.loads((session / "results.json").read_text())
    assert len(entries) == len(windows) == found["inferences"]
    for entry, row in zip(entries, wanted, strict=True):
        # the device's float32 sum of 640 squares against float64
        tolerance = 2e-6 * row[0] + 0.0011 if name == "ad01" else 0.0
        assert entry["infer"]["results"] == pytest.approx(row, abs=tolerance, rel=0)
        assert entry["mode"] == "a" and entry["infer"]["iterations"] == 1
    text = (session / "results.txt").read_text()
    if name == "ad01":
        assert found["top1"] is None and 0 <= found["auc"] <= 1
        assert {entry["total_length"] for entry in entries} == {3}
    else:
        assert found["top1"] == pytest.approx(1 - 1 / count)
        assert f"Top 1% = {100 * found['top1']:2.1f}" in text
    # performance: five inputs, whose content does not matter
    found = report_of(folder, "--sessions", tmp_path / "sessions", "--runs", 2, "--warmups", 0)
    assert len(found["windows"]) == 5 and found["throughput_per_s"] > 1
    elapsed = [window["elapsed_us"] for window in found["windows"]]
    assert max(elapsed) - min(elapsed) < 0.01 * max(elapsed)
    assert found["throughput_per_s"] == pytest.approx(2e6 / sorted(elapsed)[2])
    assert found["remarks"] and "a submission wants 10" in found["remarks"][0]
    session = Path(found["session"])
    assert "Median throughput is" in (session / "results.txt").read_text()
    log = (session / "log.txt").read_text()
    assert log.count("Performance results for window") == 5
    assert f"Device model retrieved: {name}" in log and "edgekit test" in log


@pytest.fixture(scope="session")
def ad_folder(mlperf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("unicorn")
    model = read_model(mlperf / f"{MODELS['ad01']}.tflite")
    return made(model, tmp_path_factory.mktemp("ad")).elf.parent


def test_the_runners_own_folders(ad_folder: Path, mlperf: Path, tmp_path: Path, seed: int) -> None:
    """``y_labels.csv``, and windows that slide over a recording."""
    generator = np.random.default_rng(seed)
    data = tmp_path / "ad01"
    data.mkdir()
    lines, windows = [], []
    for index in range(2):
        recording = generator.normal(-8, 18, 640 + 2 * 128).astype("<f4")
        (data / f"r{index}.bin").write_bytes(recording.tobytes())
        lines.append(f"r{index}.bin,2,{index},2560,512")
        windows += [recording[start : start + 640] for start in (0, 128, 256)]
    (data / "y_labels.csv").write_text("\n".join(lines) + "\n")
    found = report_of(
        ad_folder, "--mode", "accuracy", "--data", data, "--sessions", tmp_path / "sessions"
    )
    entries = json.loads((Path(found["session"]) / "results.json").read_text())
    assert [entry["file"] for entry in entries] == ["r0.bin"] * 3 + ["r1.bin"] * 3
    assert {(e["bytes_to_send"], e["stride"], e["total_length"]) for e in entries} == {
        ("2560", "512", 3)
    }
    wanted = expected(read_model(mlperf / f"{MODELS['ad01']}.tflite"), np.array(windows))
    means = [np.mean([row[0] for row in wanted[start : start + 3]]) for start in (0, 3)]
    assert found["auc"] == (1.0 if means[1] > means[0] else 0.0)
    for entry, row in zip(entries, wanted, strict=True):
        assert entry["infer"]["results"][0] == pytest.approx(row[0], rel=1e-5, abs=0.0011)


@pytest.mark.parametrize("board", ["nucleo-g0b1re", "pico"])
def test_other_ports(board: str, mlperf: Path, tmp_path: Path) -> None:
    """The protocol is the same on every port, without an FPU as well."""
    pytest.importorskip("unicorn")
    try:
        firmware = made(read_model(mlperf / f"{MODELS['ad01']}.tflite"), tmp_path, board)
    except EdgekitError as error:
        pytest.fail(str(error))
    found = report_of(
        firmware.elf.parent, "--runs", 1, "--warmups", 0, "--sessions", tmp_path / "sessions"
    )
    assert len(found["windows"]) == 5 and found["throughput_per_s"] > 0


@pytest.mark.parametrize("board", ["nucleo-l4r5zi", "nucleo-g0b1re"])
def test_energy_mode(board: str, mlperf: Path, tmp_path: Path) -> None:
    """9,600 baud, no timestamps as text; a port without a pin says so."""
    pytest.importorskip("unicorn")
    model = read_model(mlperf / f"{MODELS['kws01']}.tflite")
    firmware = made(model, tmp_path, board, energy=True)
    target = load_target(board)
    slow = replace(target, link={**target.link, "baud": 9600})
    with Dut(open_link("virtual", slow, firmware), infer_timeout_s=300) as dut:
        profile = dut.identify()
        assert (profile.name, profile.model) == ("edgekit test", "kws01")
        dut.load(bytes(490))
        inference = dut.infer(1, 0)
    assert inference.elapsed_us is None and len(inference.results) == 12
    if board == "nucleo-l4r5zi":
        with pytest.raises(EdgekitError, match="no timing pin"):
            made(model, tmp_path / "other", "mps2-an386", energy=True)


def test_what_makes_no_sense(ad_folder: Path, mlperf: Path, tmp_path: Path) -> None:
    sessions = ("--sessions", tmp_path / "sessions")

    def refused(call: Callable[[], object]) -> EdgekitError:
        with pytest.raises(EdgekitError) as caught:
            call()
        return caught.value

    no_data = refused(lambda: run(ad_folder, "--mode", "accuracy", *sessions))
    assert no_data.exit_code == 2 and "needs data" in no_data.what
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 640), np.int8))
    wrong = refused(lambda: run(ad_folder, "--data", tmp_path / "x.npz", *sessions))
    assert wrong.exit_code == 3 and "640 values of float32" in wrong.what
    assert run("--mode", "accuracy").exit_code == 2
    gone = refused(lambda: run("--protocol", "mlperf-tiny", "--port", "command:true", *sessions))
    assert gone.exit_code == 6
    # a model that is none of the benchmark's
    target = load_target(BOARD)
    artifact = engines.load("aot").compile(
        read_model(mlperf / f"{MODELS['kws01']}.tflite"), target, tmp_path / "a", command="test",
        options={},
    )  # fmt: skip
    other = refused(lambda: choose(artifact, "ic01", "edgekit"))
    assert other.exit_code == 3 and "no model for ic01" in other.what
    assert refused(lambda: choose(artifact, None, "a]b")).exit_code == 2
