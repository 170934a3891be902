"""Models of the zoo learn: the example of docs/zoo.md, and lines of text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import zoo
from edgekit.convert import pipeline, verify
from edgekit.convert.pipeline import Request
from edgekit.features import text

keras = pytest.importorskip("keras")
pytest.importorskip("sklearn")
pytest.importorskip("tensorflow_lite_support")
pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?fit\(.*?)```", (ROOT / "docs/zoo.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/zoo.md", "exec"), names)
    assert names["accuracy"] > 0.95
    monkeypatch.setattr(verify, "on_targets", lambda model: {})
    report = pipeline.convert(
        Request(
            Path("digits.keras"),
            Path("digits.tflite"),
            calibration_data=Path("calibration.npz"),
            validation_data=Path("test.npz"),
            verification_samples=360,
        ),
        isolated=False,
    )
    assert report.full_integer
    assert report.quality is not None
    assert report.quality.accuracy_integer is not None
    assert report.quality.accuracy_integer > 0.95


def lines(paths: list[Path]) -> list[str]:
    return [
        line.strip()
        for path in paths
        for line in path.read_text().splitlines()
        if len(line.split()) > 2
    ]


def test_text_projection_tells_what_a_line_is_written_in() -> None:
    """C, Python and English: this project's own lines, tested on files that training never saw."""
    kinds = [
        sorted((ROOT / "firmware").rglob("*.[ch]")),
        sorted((ROOT / "edgekit").rglob("*.py")),
        sorted((ROOT / "docs").glob("*.md")),
    ]
    rng = np.random.default_rng(0)
    train: list[tuple[str, int]] = []
    held_back: list[tuple[str, int]] = []
    for kind, paths in enumerate(kinds):
        for chosen, count, into in (
            ([path for i, path in enumerate(paths) if i % 4], 400, train),
            (paths[::4], 100, held_back),
        ):
            into += [(str(line), kind) for line in rng.permutation(lines(chosen))[:count]]
    keras.utils.set_random_seed(0)
    model = zoo.build("text_projection", tokens=16, features=64, bottleneck=16, units=16, classes=3)
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )

    def arrays(pairs: list[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
        return text.batch([line for line, _ in pairs], 16, 64), np.array([k for _, k in pairs])

    model.fit(*arrays(train), batch_size=32, epochs=6, verbose=0)
    _, accuracy = model.evaluate(*arrays(held_back), verbose=0)
    # a third is chance; comments are English in all of them
    assert accuracy > 0.75
