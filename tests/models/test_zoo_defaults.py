"""The zoo's architectures at their default settings: full integer, and equal on a virtual board."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit import zoo
from edgekit.graph.macs import model_cost

pytest.importorskip("tensorflow_lite_support")

from zoo_models import Subject, check_on_board, convert  # noqa: E402

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
    ),
]


@pytest.mark.parametrize("name", zoo.names())
def test_default(name: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, path = Subject(name).make(tmp_path)
    report, integer = convert(path, data, monkeypatch)
    assert report.full_integer, report.non_integer
    architecture = zoo.find(name)
    assert architecture.parameters_count == model.count_params()
    assert architecture.macs == model_cost(integer).macs
    check_on_board(integer, name, tmp_path, seed)
