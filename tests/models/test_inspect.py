"""``edgekit inspect`` on the published models, and on files that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REFERENCE = {
    # macs, live macs, weights, live weights, biases, peak
    "kws_dscnn": (2656768, 2656768, 22016, 22016, 2352, 16000),
    "ic_resnet": (12501632, 12501632, 77360, 77360, 1384, 49152),
    "vww_mobilenet": (7489664, 3727313, 208112, 29066, 10952, 55296),
    "ad_autoencoder": (264192, 264192, 264192, 264192, 6688, 768),
}


def edgekit(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def inspect(path: Path, *more: str) -> dict[str, Any]:
    result = edgekit("inspect", path, "--json", *more)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("name", REFERENCE)
def test_equals_the_reference_table(mlperf: Path, name: str) -> None:
    found = inspect(mlperf / f"{name}_int8.tflite", "--no-targets")
    assert (
        found["macs"],
        found["channels"]["live_macs"],
        found["weights_bytes"],
        found["channels"]["live_weights_bytes"],
        found["bias_bytes"],
        found["peak_activation_bytes"],
    ) == REFERENCE[name]
    assert found["full_integer"] is True
    assert found["best_order"]["proven_optimal"] is True
    assert found["schema_version"] == 1
    assert sum(op["macs"] for op in found["ops"]) == found["macs"]
    assert set(found["engines"]) >= {"tflm"}


def test_float_and_foreign_models(shared: Path, mlperf: Path) -> None:
    assert inspect(mlperf / "ic_resnet_float.tflite", "--no-targets")["full_integer"] is False
    folder = shared / "models" / "edgetpu"
    compiled = inspect(folder / "mobilenet_v1_0.25_128_quant_edgetpu.tflite", "--no-targets")
    assert compiled["ops"][0]["kind"] == "CUSTOM:edgetpu-custom-op"
    assert compiled["engines"]["tflm"]["ok"] is False


def test_text(mlperf: Path) -> None:
    result = edgekit("inspect", mlperf / "vww_mobilenet_int8.tflite", "--no-targets")
    assert result.returncode == 0
    for piece in ("7,489,664", "3,727,313", "55,296 B", "proven the least"):
        assert piece in result.stdout


def test_damaged_file_is_one_sentence(mlperf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tflite"
    cut.write_bytes((mlperf / "kws_dscnn_int8.tflite").read_bytes()[:20_000])
    result = edgekit("inspect", cut, "--json")
    assert result.returncode == 3
    assert json.loads(result.stdout)["error"]["exit_code"] == 3
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: the .tflite file is damaged")


def test_missing_file() -> None:
    assert edgekit("inspect", "no-such-file.tflite").returncode == 3
