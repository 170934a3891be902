"""Whole models on every kind of board: outputs and the CRC of every step equal TFLM's.

Each board is a process behind a real pseudo-terminal; on the MPS boards QEMU executes the same
kind of ELF file, as a second opinion.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit import bench
from edgekit.build import build
from edgekit.engines import aot
from edgekit.graph import read_model
from edgekit.targets import load_target

MODELS = {
    "kws": "kws_dscnn_int8.tflite",
    "ic": "ic_resnet_int8.tflite",
    "vww": "vww_mobilenet_int8.tflite",
    "ad": "ad_autoencoder_int8.tflite",
    "digits": None,
}
REAL = {"kws": "kws01.npz", "vww": "vww01.npz"}
BOARDS = (
    "nucleo-l4r5zi",
    "nucleo-h7a3zi-q",
    "nucleo-u575zi-q",
    "nucleo-g0b1re",
    "pico",
    "nucleo-f446re",
    "nano33ble",
    "pico2",
    "esp32-c3",
)
QEMU = ("mps2-an386", "corstone-300")
DIGITS = Path(__file__).resolve().parents[2] / "edgekit" / "examples" / "digits"


def check(
    shared: Path, folder: Path, name: str, board: str, port: str, count: int, seed: int
) -> None:
    file = MODELS[name]
    path = shared / "models" / "mlperf_tiny" / file if file else DIGITS / "digits_int8.tflite"
    model, target = read_model(path), load_target(board)
    artifact = aot.compile(model, target, folder / "artifact", command="test", options={})
    firmware = build(artifact, target, folder / "firmware", command="test")
    assert firmware.plan is not None
    examples = bench.random_examples(firmware.plan, count, seed)
    if name in REAL:
        examples += bench.load_examples(shared / "data" / REAL[name], model, count)
    elif name == "digits":
        examples += bench.load_examples(DIGITS / "digits_test.npz", model, count)
    found = bench.bench_firmware(
        firmware, target, port, model=model, examples=examples, warmups=0, runs=1
    )
    assert found.outputs is not None
    assert found.outputs.match is True, found.outputs.first_mismatch
    assert found.outputs.compared == len(examples)
    assert len(found.steps) == len(firmware.plan.steps)
    assert found.instructions is not None
    assert np.all([step.instructions for step in found.steps])


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", list(MODELS))
def test_virtual(
    shared: Path, tmp_path: Path, name: str, board: str, sample: float, seed: int
) -> None:
    check(shared, tmp_path, name, board, "virtual", max(2, int(10 * sample)), seed)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="QEMU is not installed")
@pytest.mark.parametrize("board", QEMU)
@pytest.mark.parametrize("name", list(MODELS))
def test_qemu(
    shared: Path, tmp_path: Path, name: str, board: str, sample: float, seed: int
) -> None:
    check(shared, tmp_path, name, board, "qemu", max(2, int(10 * sample)), seed)
