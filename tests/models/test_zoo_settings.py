"""The zoo's architectures at random settings: saved and loaded, counted, full integer, equal on a
virtual board."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit import zoo
from edgekit.graph.macs import model_cost
from edgekit.zoo import _costs

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow_lite_support")

from zoo_models import check_on_board, convert, random_subjects  # noqa: E402

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
    ),
]


@pytest.mark.parametrize("name", zoo.names())
def test_random_settings(
    name: str, tmp_path: Path, sample: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, subject in enumerate(random_subjects(name, sample, seed)):
        print(subject)
        folder = tmp_path / str(number)
        folder.mkdir()
        model, data, path = subject.make(folder)
        loaded = keras.models.load_model(path)
        assert np.array_equal(loaded(data[:2]), model(data[:2]))
        report, integer = convert(path, data, monkeypatch)
        assert report.full_integer, report.non_integer
        costs = _costs.costs(model)
        assert costs.parameters == model.count_params()
        assert costs.macs == model_cost(integer).macs
        off = costs.int8_bytes / len(integer.raw) - 1
        assert abs(off) < _costs.ERROR, f"the estimated size is off by {off:+.1%}"
        check_on_board(integer, name, folder, seed)
