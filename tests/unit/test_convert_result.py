"""The converted file: packing, metadata and the proofs about it. No TensorFlow here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.convert import metadata, normalization, packing, pipeline, verify
from edgekit.convert.metadata import Description
from edgekit.errors import ModelError, UsageError
from edgekit.graph import read_model

DIGITS = Path(packing.__file__).parents[1] / "examples" / "digits"
INT8 = DIGITS / "digits_int8.tflite"
LABELS = tuple(f"digit {i}" for i in range(10))


def _unaligned(raw: bytes) -> int:
    return sum(raw.find(t.raw) % 16 != 0 for t in read_model(raw).tensors if t.raw)


def test_digits_is_full_integer_and_aligned() -> None:
    model = read_model(INT8)
    assert verify.non_integer_tensors(model) == ()
    assert verify.is_quantized(model)
    assert _unaligned(model.raw) == 0
    assert [t.name for t in (*model.input_tensors, *model.output_tensors)] == ["image", "digit"]
    provenance = metadata.read_provenance(model)
    assert provenance is not None
    assert (provenance.calibration, provenance.samples) == ("npz", 200)
    assert not provenance.uncalibrated


def test_repacking_changes_nothing_but_what_is_asked(mlperf: Path) -> None:
    for path in sorted(mlperf.glob("*.tflite")):
        before = read_model(path)
        raw = packing.repack(before.raw, entries={"mine": b"12345"}, description="hello")
        after = read_model(raw)
        assert _unaligned(raw) == 0
        assert after.ops == before.ops
        assert [t.raw for t in after.tensors] == [t.raw for t in before.tensors]
        assert [(t.shape, t.dtype, t.quantization) for t in after.tensors] == [
            (t.shape, t.dtype, t.quantization) for t in before.tensors
        ]
        assert after.description == "hello"
        assert after.metadata == {**before.metadata, "mine": b"12345"}
        assert packing.repack(raw, entries={"mine": b"12345"}) == packing.repack(raw)


def test_metadata_round_trip() -> None:
    pytest.importorskip("tensorflow_lite_support")
    description = Description(
        LABELS,
        {"name": "Digits", "description": "what it is", "author": "me", "input": "a grey image"},
        normalization.parse("mean=1/2,std=3/4"),
    )
    raw = metadata.write_metadata(INT8.read_bytes(), description, "digits")
    assert raw == metadata.write_metadata(INT8.read_bytes(), description, "digits")
    model = read_model(raw)
    assert _unaligned(raw) == 0
    found = metadata.read_metadata(model)
    assert found is not None
    assert (found.name, found.description, found.author) == ("Digits", "what it is", "me")
    assert found.inputs[0].description == "a grey image"
    assert (found.inputs[0].mean, found.inputs[0].std) == ((1.0, 2.0), (3.0, 4.0))
    assert found.outputs[0].labels == LABELS
    assert found.files == ("labels.txt",)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
    # The model itself is what it was.
    assert model.ops == read_model(INT8).ops
    assert metadata.read_provenance(model) == metadata.read_provenance(read_model(INT8))


def test_number_of_labels_must_be_that_of_the_classes() -> None:
    with pytest.raises(ModelError, match="3 labels for an output of 10 classes"):
        metadata.write_metadata(INT8.read_bytes(), Description(LABELS[:3]), "digits")


def test_models_without_metadata() -> None:
    model = read_model(INT8)
    assert metadata.read_metadata(model) is None


def test_damaged_metadata_are_none(seed: int) -> None:
    pytest.importorskip("tensorflow_lite_support")
    raw = metadata.write_metadata(INT8.read_bytes(), Description(LABELS), "digits")
    model = read_model(raw)
    content = bytearray(model.metadata["TFLITE_METADATA"])
    stream = np.random.RandomState(seed)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[stream.randint(8, len(damaged))] = stream.randint(256)
        entries = {"TFLITE_METADATA": bytes(damaged), "edgekit": bytes(damaged)}
        hostile = type(model)("m", "", model.graphs, raw, metadata=entries)
        metadata.read_metadata(hostile)
        assert metadata.read_provenance(hostile) is None


def test_label_and_description_files(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n\n")
    assert metadata.read_labels(tmp_path / "labels.txt") == ("cat", "dog")
    for content in ("", "cat\n\ndog\n"):
        (tmp_path / "labels.txt").write_text(content)
        with pytest.raises(UsageError):
            metadata.read_labels(tmp_path / "labels.txt")
    (tmp_path / "m.yaml").write_text("name: A\nversion: 2\n")
    assert metadata.read_description(tmp_path / "m.yaml") == {"name": "A", "version": "2"}
    for content, says in (
        ("nam: A", "unknown key 'nam'"),
        ("- 1", "no keys"),
        ("name: [1]", "must be a text"),
        ("{", "neither YAML nor JSON"),
    ):
        (tmp_path / "m.yaml").write_text(content)
        with pytest.raises(UsageError, match=says):
            metadata.read_description(tmp_path / "m.yaml")


def test_float_tensors_are_located(mlperf: Path) -> None:
    found = verify.non_integer_tensors(read_model(mlperf / "kws_dscnn_float.tflite"))
    assert found
    assert found[0].op == 0
    assert not verify.is_quantized(read_model(mlperf / "kws_dscnn_float.tflite"))
    for path in mlperf.glob("*_int8.tflite"):
        assert verify.non_integer_tensors(read_model(path)) == ()


def test_figures_of_merit() -> None:
    floats = [[np.array([[1.0, 0.0]])], [np.array([[0.0, 2.0]])]]
    integers = [[np.array([[1.0, 0.1]])], [np.array([[2.0, 0.0]])]]
    quality = verify.compare(
        floats, integers, labels=np.array([0, 1]), data="held out", runtime="r"
    )
    # Signal 1 + 4, error 0.01 + 8.
    assert quality.sqnr_db == pytest.approx(10 * np.log10(5 / 8.01))
    assert quality.cosine == pytest.approx((1 / np.sqrt(1.01) + 0) / 2)
    assert quality.top1_agreement == 0.5
    assert (quality.accuracy_float, quality.accuracy_integer) == (1.0, 0.5)
    same = verify.compare(floats, floats, labels=None, data="", runtime="", output_is_input=True)
    assert same.sqnr_db is None
    assert same.cosine == pytest.approx(1.0)
    assert same.top1_agreement is None


def test_quantising_arrays() -> None:
    tensor = read_model(INT8).input_tensors[0]
    values = np.array([0.0, 1.0, 99.0, -99.0])
    integers = verify.quantize_array(values, tensor)
    assert integers.tolist() == [-128, 127, 127, -128]
    assert np.allclose(verify.dequantize_array(integers, tensor)[:2], [0, 1], atol=0.005)


def test_a_quantised_tflite_passes_through_without_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
        "from edgekit.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", str(INT8), "-o", str(tmp_path / "o.tflite"),
         "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["full_integer"] is True
    assert report["format"] == "tflite"
    assert report["calibration"] == {"kind": "npz", "samples": 200}
    assert report["size_before_bytes"] == report["size_after_bytes"] == INT8.stat().st_size
    assert report["ops"]["DEPTHWISE_CONV_2D"] == 3
    assert report["targets"]
    assert (tmp_path / "o.tflite").read_bytes() == INT8.read_bytes()
    manifest = json.loads((tmp_path / "o.manifest.json").read_text())
    assert manifest["stage"] == "convert"
    assert manifest["model"]["sha256"] == read_model(INT8).sha256


def test_missing_tensorflow_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from edgekit.convert import frameworks\n"
        "from edgekit.errors import MissingDependency\n"
        "try: frameworks.tensorflow()\n"
        "except MissingDependency as error: print(error.exit_code, error.fix)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "5 pip install 'edgekit[convert]'"


def test_wrong_requests_leave_nothing(tmp_path: Path, mlperf: Path) -> None:
    output = tmp_path / "o.tflite"
    cases: list[tuple[pipeline.Request, type[Exception], str]] = [
        (
            pipeline.Request(mlperf / "kws_dscnn_float.tflite", output),
            UsageError,
            "needs samples",
        ),
        (
            pipeline.Request(
                mlperf / "kws_dscnn_float.tflite",
                output,
                calibration_data="random",
                quantize="float16",
            ),
            UsageError,
            "leaves activations float",
        ),
        (pipeline.Request(DIGITS / "digits.keras", output), UsageError, "needs samples"),
        (
            pipeline.Request(DIGITS / "digits.keras", output, quantize="int16x8", io="uint8"),
            UsageError,
            "does not go",
        ),
        (pipeline.Request(INT8, output, calibration_data="random"), UsageError, "already"),
        (pipeline.Request(INT8, tmp_path / "no" / "o.tflite"), UsageError, "folder"),
    ]
    for request, kind, says in cases:
        with pytest.raises(kind, match=says):
            pipeline.convert(request)
    assert list(tmp_path.iterdir()) == []
    copy = tmp_path / "m.tflite"
    copy.write_bytes(INT8.read_bytes())
    with pytest.raises(UsageError, match="replace the source"):
        pipeline.convert(pipeline.Request(copy, copy))
