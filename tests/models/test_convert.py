"""Conversion of real models with TensorFlow, in this process so that it is loaded once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.convert import metadata, normalization, pipeline, sources, verify
from edgekit.convert.calibration import Reading
from edgekit.convert.pipeline import Report, Request
from edgekit.errors import ModelError, UsageError
from edgekit.graph import Model, read_model

pytest.importorskip("tensorflow_lite_support")
pytestmark = pytest.mark.tensorflow

DIGITS = Path(pipeline.__file__).parents[1] / "examples" / "digits"
KERAS = DIGITS / "digits.keras"
CALIBRATION = DIGITS / "digits_calibration.npz"
TEST = DIGITS / "digits_test.npz"

Convert = Callable[..., tuple[Report, Model]]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Converts in this process; targets have tests of their own and take time."""
    monkeypatch.setattr(verify, "on_targets", lambda model: {})

    def run(source: Path, **changes: Any) -> tuple[Report, Model]:
        request = replace(Request(source, tmp_path / "out.tflite"), **changes)
        report = pipeline.convert(request, isolated=False)
        return report, read_model(request.output)

    return run


def test_digits_are_reproduced(convert: Convert) -> None:
    report, model = convert(
        KERAS, calibration_data=CALIBRATION, validation_data=TEST, verification_samples=360
    )
    assert report.full_integer
    _, again = convert(KERAS, calibration_data=CALIBRATION, validation_data=TEST)
    assert again.raw == model.raw
    # Another processor may add the calibration's float sums in another order.
    committed = read_model(DIGITS / "digits_int8.tflite")
    assert model.ops == committed.ops
    for ours, theirs in zip(model.tensors, committed.tensors, strict=True):
        assert (ours.name, ours.shape, ours.dtype) == (theirs.name, theirs.shape, theirs.dtype)
        if ours.quantization is not None and theirs.quantization is not None:
            assert ours.quantization.scales == pytest.approx(theirs.quantization.scales, rel=1e-4)
        if ours.dtype == "int8" and ours.is_constant:
            difference = ours.data().astype(int) - theirs.data().astype(int)
            assert np.abs(difference).max() <= 1
    quality = report.quality
    assert quality is not None
    assert quality.accuracy_float == pytest.approx(356 / 360)
    assert quality.accuracy_integer == pytest.approx(356 / 360)
    assert quality.runtime.startswith("TFLM")


def test_every_kind_of_quantisation(convert: Convert) -> None:
    types = {
        ("int8", "uint8"): ("uint8", True),
        ("int8", "float32"): ("float32", False),
        ("int16x8", "int16"): ("int16", True),
        ("float16", "float32"): ("float32", False),
        ("dynamic", "float32"): ("float32", False),
    }
    for (mode, io), (dtype, full_integer) in types.items():
        report, model = convert(
            KERAS, quantize=mode, io=io, calibration_data=CALIBRATION, verification_samples=20
        )
        ports = (*model.input_tensors, *model.output_tensors)
        assert {t.dtype for t in ports} == {dtype}, mode
        assert report.full_integer == full_integer, mode
        assert report.quality is not None
        assert report.quality.top1_agreement == 1.0, mode
        assert report.quality.sqnr_db is not None
        assert report.quality.sqnr_db > 30, mode
        assert all(t.shape[0] == 1 for t in ports)
    inside = [p for p in report.non_integer if p.dtype == "float32"]
    assert inside


def test_dense_weights_have_one_scale_or_one_per_output(convert: Convert) -> None:
    for per_tensor in (False, True):
        _, model = convert(
            KERAS, calibration_data="random", per_tensor_dense=per_tensor, verification_samples=0
        )
        scales = {
            op.kind: len(model.tensors[op.inputs[1]].quantization.scales)  # type: ignore[union-attr]
            for op in model.ops
            if op.kind in ("CONV_2D", "FULLY_CONNECTED")
        }
        assert scales["FULLY_CONNECTED"] == (1 if per_tensor else 10)
        assert scales["CONV_2D"] > 1


def test_random_calibration_is_marked_everywhere(convert: Convert, tmp_path: Path) -> None:
    report, model = convert(KERAS, calibration_data="random")
    assert report.uncalibrated
    assert report.calibration["kind"] == "random"
    assert any("uncalibrated" in warning for warning in report.warnings)
    assert "UNCALIBRATED" in model.description
    provenance = metadata.read_provenance(model)
    assert provenance is not None
    assert provenance.uncalibrated
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["uncalibrated"] is True
    again = pipeline.convert(Request(tmp_path / "out.tflite", tmp_path / "again.tflite"))
    assert again.uncalibrated


def _rest(report: Report) -> tuple[float, float]:
    quality = report.quality
    assert quality is not None
    assert quality.data == "held out"
    assert quality.samples == 500
    assert quality.accuracy_float is not None
    assert quality.accuracy_integer is not None
    return quality.accuracy_float, quality.accuracy_integer


def test_vww_and_kws_lose_at_most_a_point(convert: Convert, shared: Path, mlperf: Path) -> None:
    cases = {
        "vww_mobilenet.h5": ("vww01.npz", "0..1"),
        "kws_dscnn_savedmodel": ("kws01.npz", "scale=0.5847029,zero_point=83"),
    }
    for name, (data, normalize) in cases.items():
        report, model = convert(
            mlperf / name,
            calibration_data=shared / "data" / data,
            reading=Reading(normalization.parse(normalize)),
            verification_samples=500,
        )
        assert report.full_integer, name
        assert report.non_integer == ()
        assert model.input_tensors[0].dtype == model.output_tensors[0].dtype == "int8"
        accuracy_float, accuracy_integer = _rest(report)
        assert accuracy_integer >= accuracy_float - 0.01, name


def test_resnet_and_autoencoder(convert: Convert, shared: Path, mlperf: Path) -> None:
    report, _ = convert(
        mlperf / "ic_resnet.h5",
        calibration_data=shared / "data" / "ic01_calibration.npz",
        verification_samples=50,
    )
    assert report.full_integer
    assert report.quality is not None
    assert report.quality.top1_agreement is not None
    assert report.quality.top1_agreement >= 0.9
    report, _ = convert(mlperf / "ad_autoencoder.h5", calibration_data="random")
    assert report.full_integer
    assert report.quality is not None
    assert report.quality.top1_agreement is None


def test_labels_and_metadata(convert: Convert) -> None:
    labels = tuple("zero one two three four five six seven eight nine".split())
    description = metadata.Description(labels, {"name": "Digits"}, normalization.parse("0..1"))
    report, model = convert(
        KERAS, calibration_data="random", description=description, verification_samples=0
    )
    assert report.metadata == metadata.read_metadata(model)
    assert report.metadata is not None
    assert report.metadata.outputs[0].labels == labels
    assert report.metadata.inputs[0].std == (255.0,)


OBJECTS = """
import keras
@keras.saving.register_keras_serializable(package="mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return x * 2
"""


def test_code_and_custom_objects_only_when_allowed(convert: Convert, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    import runpy

    (tmp_path / "objects.py").write_text(OBJECTS)
    twice = runpy.run_path(str(tmp_path / "objects.py"))["Twice"]
    image = keras.Input((4,))
    dense = keras.layers.Dense(2)
    keras.Model(image, dense(twice()(image))).save(tmp_path / "custom.keras")
    doubled = keras.layers.Lambda(lambda x: x * 2)(image)
    keras.Model(image, dense(doubled)).save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match="custom objects"):
        convert(tmp_path / "custom.keras", calibration_data="random")
    report, _ = convert(
        tmp_path / "custom.keras",
        calibration_data="random",
        custom_objects=tmp_path / "objects.py",
    )
    assert report.full_integer
    with pytest.raises(ModelError, match="Lambda"):
        convert(tmp_path / "lambda.keras", calibration_data="random")
    report, _ = convert(
        tmp_path / "lambda.keras", calibration_data="random", allow_custom_code=True
    )
    assert report.full_integer


def test_quantisation_aware_and_pruned_models(convert: Convert, tmp_path: Path) -> None:
    toolkit = pytest.importorskip("tensorflow_model_optimization")
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [layers.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten()]
    )
    aware = toolkit.quantization.keras.quantize_model(model)
    aware.compile("adam", "mse")
    stream = np.random.RandomState(0)
    aware.fit(stream.rand(64, 8, 8, 1), stream.rand(64, 144), verbose=0)
    aware.save(tmp_path / "aware.h5")
    report, converted = convert(tmp_path / "aware.h5")
    assert report.full_integer
    assert report.calibration == {"kind": "trained", "samples": 0}
    assert not report.uncalibrated
    assert converted.input_tensors[0].dtype == "int8"
    toolkit.sparsity.keras.prune_low_magnitude(model).save(tmp_path / "pruned.h5")
    report, _ = convert(tmp_path / "pruned.h5", calibration_data="random")
    assert report.full_integer
    assert set(report.ops) == {"CONV_2D", "RESHAPE"}
    with pytest.raises(UsageError, match="needs samples"):
        convert(tmp_path / "pruned.h5")


def test_two_inputs_and_open_shapes(convert: Convert, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    first, second = keras.Input((4,), name="zeta"), keras.Input((6,), name="alpha")
    joined = layers.Concatenate()([layers.Dense(4)(first), layers.Dense(5)(second)])
    model = keras.Model([first, second], layers.Dense(3, name="result")(joined))
    model.save(tmp_path / "two.keras")
    stream = np.random.RandomState(0)
    np.savez(tmp_path / "two.npz", zeta=stream.rand(150, 4), alpha=stream.rand(150, 6) * 9)
    report, converted = convert(tmp_path / "two.keras", calibration_data=tmp_path / "two.npz")
    assert report.full_integer
    assert report.quality is not None
    assert report.quality.sqnr_db is not None
    # Inputs that were swapped would give noise.
    assert report.quality.sqnr_db > 25
    assert {t.name for t in converted.input_tensors} == {"zeta", "alpha"}

    image = keras.Input((None, None, 3), name="image")
    output = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    keras.Model(image, output).save(tmp_path / "open.keras")
    with pytest.raises(ModelError, match="open dimensions"):
        convert(tmp_path / "open.keras", calibration_data="random")
    with pytest.raises(UsageError, match="does not fit"):
        convert(tmp_path / "open.keras", calibration_data="random", input_shapes={"": (16, 16, 4)})
    with pytest.raises(UsageError, match="no input 'other'"):
        convert(
            tmp_path / "open.keras",
            calibration_data="random",
            input_shapes={"": (16, 16, 3), "other": (1,)},
        )
    _, converted = convert(
        tmp_path / "open.keras", calibration_data="random", input_shapes={"image": (16, 12, 3)}
    )
    assert converted.input_tensors[0].shape == (1, 16, 12, 3)


def test_operators_without_a_form_are_named(convert: Convert, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    image = keras.Input((8,))
    keras.Model(image, keras.ops.fft((image, image))[0]).save(tmp_path / "fft.keras")
    with pytest.raises(ModelError, match="no operator for .*FFT"):
        convert(tmp_path / "fft.keras", calibration_data="random")
    assert not (tmp_path / "out.tflite").exists()


def test_damaged_models_are_model_errors(convert: Convert, mlperf: Path, tmp_path: Path) -> None:
    content = (mlperf / "ic_resnet.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    content = KERAS.read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x0a\x03abc")
    for name in ("cut.h5", "cut.keras", "saved"):
        with pytest.raises(ModelError):
            convert(tmp_path / name, calibration_data="random")


def test_names_do_not_decide(convert: Convert, mlperf: Path, tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes((mlperf / "ad_autoencoder.h5").read_bytes())
    assert sources.identify(tmp_path / "model.keras").format == "h5"
    report, _ = convert(tmp_path / "model.keras", calibration_data="random", verification_samples=0)
    assert report.full_integer


def _edgekit(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgekit", "convert", *arguments]


def test_command_line(tmp_path: Path) -> None:
    output = tmp_path / "out.tflite"
    done = subprocess.run(
        _edgekit(str(KERAS), "-o", str(output), "--calibration-data", str(CALIBRATION), "--json"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["full_integer"] is True
    assert report["calibration"] == {"kind": "npz", "samples": 160}
    assert report["quality"]["data"] == "held out"
    assert report["targets"]
    # TensorFlow's own messages stay away.
    assert "tensorflow" not in done.stderr.lower()
    assert "W0000" not in done.stderr
    assert done.stderr.splitlines()[0] == "loading digits.keras"


def test_a_crash_of_the_converter_is_a_sentence(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    # TensorFlow 2.19 crashes when it calibrates an LSTM's loop.
    keras.Sequential([layers.Input((20, 8)), layers.LSTM(8)]).save(tmp_path / "lstm.keras")
    done = subprocess.run(
        _edgekit(
            str(tmp_path / "lstm.keras"),
            *("-o", str(tmp_path / "out.tflite"), "--calibration", "random"),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "error: TensorFlow's converter" in done.stderr
    assert not (tmp_path / "out.tflite").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupting_leaves_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen(
        _edgekit(str(KERAS), "-o", str(tmp_path / "out.tflite"), "--calibration", "random"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert child.stderr.readline().startswith("loading")
    child.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, rest = child.communicate(timeout=60)
    assert child.returncode == 130
    assert rest.strip().endswith("interrupted")
    assert time.monotonic() - start < 30
    assert list(tmp_path.iterdir()) == []
