"""Models that nobody tuned for: the default build equals TFLM and beats the portable kernels."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import untuned

#: Instructions of the portable build over those of the default one, at least, for the models of
#: the most operators; ``python benchmarks/untuned.py`` runs all.
FASTER = {
    ("lstm", "cortex-m4"): 1.6,
    ("lstm", "cortex-m0plus"): 1.2,
    ("transformer", "cortex-m4"): 1.6,
    ("transformer", "cortex-m0plus"): 1.3,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("untuned")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
)
@pytest.mark.parametrize("name", sorted({name for name, _ in FASTER}))
def test_untuned(models: Path, name: str) -> None:
    pytest.importorskip("keras")
    path = models / f"{name}.tflite"
    untuned.build(name, path)
    for core in untuned.TARGETS:
        row = untuned.compare(name, path, core, 1)
        assert untuned.broken(row) == []
        default, portable = row["default"], row["portable"]
        assert portable["instructions"] >= FASTER[name, core] * default["instructions"]
