"""``edgekit validate --target``: a board runs the data, and every output is TFLM's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.commands import validate


@pytest.mark.slow
def test_real_data_on_a_virtual_board(mlperf: Path, shared: Path, sample: float) -> None:
    count = max(20, int(700 * sample))
    arguments = [
        str(mlperf / "kws_dscnn_int8.tflite"), "--data", str(shared / "data" / "kws01.npz"),
        "--metric", "top1", "--count", str(count), "--target", "nucleo-l4r5zi", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(validate.command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["device"]["equal_to_tflm"] == report["device"]["compared"] == count
    assert report["accuracy"]["kind"] == "simulated"
    if count == 700:
        assert report["accuracy"]["right"] == 629


def test_a_board_needs_data(mlperf: Path) -> None:
    from edgekit.errors import UsageError

    arguments = [str(mlperf / "kws_dscnn_int8.tflite"), "--target", "nucleo-l4r5zi"]
    with pytest.raises(UsageError, match="validated on data"):
        CliRunner().invoke(validate.command, arguments, catch_exceptions=False)


def test_a_wrong_output_is_found(
    tmp_path: Path, mlperf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte turned on its way from the board: reported with the input's index, code 7."""
    from edgekit.device import Device

    genuine, seen = Device.infer, []

    def turned(self: Device, inputs: object) -> list[bytes]:
        outputs = genuine(self, inputs)  # type: ignore[arg-type]
        seen.append(1)
        if len(seen) == 3:
            outputs[0] = bytes([outputs[0][0] ^ 1]) + outputs[0][1:]
        return outputs

    monkeypatch.setattr(Device, "infer", turned)
    generator = np.random.default_rng(1)
    data = tmp_path / "data.npz"
    x = generator.integers(-128, 128, (5, 640), dtype=np.int8)
    np.savez(data, x=x, y=np.zeros((5, 640), np.int8))
    arguments = [
        str(mlperf / "ad_autoencoder_int8.tflite"), "--data", str(data), "--metric", "mse",
        "--input-mode", "quantized", "--target", "nucleo-l4r5zi", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(validate.command, arguments, catch_exceptions=False)
    assert result.exit_code == 7
    report = json.loads(result.stdout)
    assert report["device"]["equal_to_tflm"] == 4
    assert report["device"]["first_different"] == 2
