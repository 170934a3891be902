"""Models of the zoo on their way to a virtual board, for the tests of default and other settings.

An architecture at some settings is built, made as if it were trained, saved, converted from the
file, and, since the ahead-of-time engine has all of their operators, compiled, built and run with
every output and step compared with TFLM.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import bench, zoo
from edgekit.build import build
from edgekit.convert import pipeline, verify
from edgekit.convert.pipeline import Report, Request
from edgekit.engines import aot
from edgekit.errors import UsageError
from edgekit.graph import Model, read_model
from edgekit.targets import load_target
from edgekit.zoo import _parameters

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import untuned  # noqa: E402

TARGET = "nucleo-l4r5zi"
#: Random windows are short, since every step is a dozen operators to convert and compile.
STEPS = 6
#: Operators that the ahead-of-time engine lacks, by architecture: none.
MISSING: dict[str, tuple[str, ...]] = {}


@dataclass
class Subject:
    """An architecture at some settings, and what became of it."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.name} " + ",".join(
            f"{key}={zoo.text(value)}" for key, value in self.settings.items()
        )

    def make(self, folder: Path) -> tuple[Any, np.ndarray, Path]:
        """The model as if it were trained, samples of its input, and the saved file."""
        rng = np.random.default_rng(self.seed)
        model = zoo.build(self.name, seed=self.seed, **self.settings)
        data = untuned.samples(model.input_shape[1:], rng)[:8]
        untuned.as_trained(model, data, rng)
        path = folder / f"{self.name}.keras"
        zoo.save(model, path)
        return model, data, path


def draw(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Random settings that are not much larger than the default ones."""

    def value(item: _parameters.Declared) -> Any:
        match item.parameter:
            case _parameters.Number(_, low, _):
                return round(float(rng.uniform(low, 1.25 * item.default)), 2)
            case _parameters.Whole(_, low, high, step):
                most = min(high, max(low + step, int(1.25 * item.default)))
                if item.name in ("steps", "tokens") and name != "cnn_1d":
                    most = STEPS
                return int(low + step * rng.integers(0, (most - low) // step + 1))
            case _parameters.Size(_, low, _):
                most = max(low + 1, min(item.default[0], 64))
                return tuple(int(v) for v in rng.integers(low, most, 2))
            case _parameters.Choice(_, options):
                return str(rng.choice(options))
        return bool(rng.integers(0, 2))

    return {item.name: value(item) for item in zoo.find(name).parameters}


def random_subjects(name: str, sample: float, seed: int) -> list[Subject]:
    """The architecture at random settings: two in the full battery, at least one."""
    rng = np.random.default_rng([seed, *name.encode()])
    found: list[Subject] = []
    while len(found) < max(1, round(2 * sample)):
        subject = Subject(name, draw(name, rng), int(rng.integers(0, 1000)))
        try:
            model = zoo.build(name, **subject.settings)
        except UsageError:  # a combination that the architecture says it cannot have
            continue
        if model.count_params() < 60_000:  # the others take their time
            found.append(subject)
    return found


def convert(path: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[Report, Model]:
    """Converts in this process, so that TensorFlow is loaded once."""
    monkeypatch.setattr(verify, "on_targets", lambda model: {})
    samples, output = path.with_suffix(".npz"), path.with_suffix(".tflite")
    np.savez(samples, x=data)
    request = Request(path, output, calibration_data=samples, verification_samples=4)
    report = pipeline.convert(request, isolated=False)
    return report, read_model(output)


def run(model: Model, folder: Path, seed: int) -> bench.Measurement:
    """Compiles, builds and runs on the virtual board; every output and step is compared."""
    target = load_target(TARGET)
    artifact = aot.compile(model, target, folder / "artifact", command="test", options={})
    firmware = build(artifact, target, folder / "firmware", command="test")
    assert firmware.plan is not None
    return bench.bench_firmware(
        firmware,
        target,
        "virtual",
        model=model,
        examples=bench.random_examples(firmware.plan, 1, seed),
        warmups=0,
        runs=1,
    )


def check_on_board(integer: Model, name: str, folder: Path, seed: int) -> None:
    """Outputs and steps equal TFLM's, or the engine lacks exactly what :data:`MISSING` says."""
    support = aot.supports(integer, None)
    assert support.missing == MISSING.get(name, ())
    if support.ok:
        found = run(integer, folder, seed)
        assert found.outputs is not None
        assert found.outputs.match is True, found.outputs.first_mismatch
