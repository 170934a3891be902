"""What a model file is, and what is refused before anything is loaded. No TensorFlow here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgekit.convert import custom_code, quantize, sources
from edgekit.errors import ModelError, UsageError

DIGITS = Path(sources.__file__).parents[1] / "examples" / "digits"


def _layer(kind: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "module": module, "config": config}


def test_formats_are_found_in_the_file(tmp_path: Path) -> None:
    assert sources.identify(DIGITS / "digits.keras").format == "keras"
    assert sources.identify(DIGITS / "digits.keras").keras_version.startswith("3")  # type: ignore[union-attr]
    assert sources.identify(DIGITS / "digits_int8.tflite").format == "tflite"
    renamed = tmp_path / "model.bin"
    renamed.write_bytes((DIGITS / "digits.keras").read_bytes())
    assert sources.identify(renamed).format == "keras"


def test_real_models(mlperf: Path) -> None:
    pytest.importorskip("h5py")
    for name in ("ad_autoencoder", "ic_resnet", "vww_mobilenet"):
        source = sources.identify(mlperf / f"{name}.h5")
        assert (source.format, source.keras_version) == ("h5", "2.4.0")
    folder = sources.identify(mlperf / "kws_dscnn_savedmodel")
    assert folder.format == "savedmodel"
    assert folder.nbytes == sum(
        p.stat().st_size for p in (mlperf / "kws_dscnn_savedmodel").rglob("*") if p.is_file()
    )
    assert folder.sha256 == sources.identify(mlperf / "kws_dscnn_savedmodel").sha256


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.onnx", b"\x08\x07\x12\x07pytorch", "ONNX"),
        ("m.bin", b"\x08\x09\x12\x04onnx\x00\x00", "ONNX"),
        ("m.pt", b"\x80\x02}q", "PyTorch"),
        ("m.safetensors", b"\x10\x00\x00\x00", "PyTorch"),
        ("m.pb", b"\x0a\x01", "single .pb"),
        ("m.txt", b"hello, I am text", "no model"),
        ("m.keras", b"", "empty"),
        ("m.keras", b"PK\x03\x04 and then nothing", "damaged"),
        ("m.h5", b"\x89HDF\r\n\x1a\n broken", "damaged"),
    ],
)
def test_others_are_refused_with_the_way(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    if name.endswith(".h5"):
        pytest.importorskip("h5py")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        sources.identify(path)
    if says in ("ONNX", "PyTorch"):
        assert "onnx2tf" in (caught.value.fix or "")


def test_torch_archive_and_empty_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("model/data.pkl", b"")
    with pytest.raises(ModelError, match="PyTorch"):
        sources.identify(tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"saved_model\.pb"):
        sources.identify(tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        sources.identify(tmp_path / "nothing")


def test_weights_without_a_model(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        file["kernel"] = [1.0]
    with pytest.raises(ModelError, match="weights but no model"):
        sources.identify(tmp_path / "w.weights.h5")


def test_keras_own_layers_are_no_findings() -> None:
    with zipfile.ZipFile(DIGITS / "digits.keras") as archive:
        config = json.loads(archive.read("config.json"))
    assert custom_code.findings(config) == ((), ())


@pytest.mark.parametrize(
    "layer",
    [
        _layer("Lambda", name="twice"),
        _layer("Lambda", None, name="twice"),
        _layer("Dense", activation={"class_name": "__lambda__", "config": {"value": "4wEA"}}),
    ],
)
def test_code_in_a_file_is_found_wherever_it_is(layer: dict[str, Any]) -> None:
    config = _layer("Functional", layers=[_layer("Sequential", layers=[layer])])
    lambdas, _ = custom_code.findings(config)
    assert lambdas
    with pytest.raises(ModelError, match="Lambda") as caught:
        custom_code.check(
            config, allow_custom_code=False, has_custom_objects=False, place="m.keras"
        )
    assert "--allow-custom-code" in (caught.value.fix or "")
    custom_code.check(config, allow_custom_code=True, has_custom_objects=True, place="m.keras")


@pytest.mark.parametrize(
    "layer",
    [
        _layer("Popen", "subprocess"),
        _layer("Attack", "keras_evil"),
        _layer("Twice", "my_package.layers"),
        _layer("Twice", None, name="t") | {"registered_name": "mine>Twice"},
        _layer("mine>Twice", None),
        {"class_name": "function", "module": "builtins", "config": "my_activation"},
        _layer("eval", "builtins"),
    ],
)
def test_foreign_objects_are_refused(layer: dict[str, Any]) -> None:
    config = _layer("Functional", layers=[layer])
    with pytest.raises(ModelError, match="custom objects") as caught:
        custom_code.check(config, allow_custom_code=True, has_custom_objects=False, place="m")
    assert "--custom-objects" in (caught.value.fix or "")


def test_custom_objects_file(tmp_path: Path) -> None:
    path = tmp_path / "objects.py"
    path.write_text("class Twice: pass\ndef act(x): return x\n_hidden = 1\nvalue = 2\n")
    assert set(custom_code.load_custom_objects(path)) == {"Twice", "act"}
    path.write_text("raise SystemExit(3)\n")
    with pytest.raises(UsageError, match="SystemExit"):
        custom_code.load_custom_objects(path)


def test_io_types() -> None:
    assert quantize.io_type("int8", None) == "int8"
    assert quantize.io_type("int16x8", None) == "int16"
    assert quantize.io_type("int8", "uint8") == "uint8"
    with pytest.raises(UsageError, match="int16x8"):
        quantize.io_type("int16x8", "int8")


def test_converter_messages_become_sentences() -> None:
    explain = quantize._explain
    foreign = explain(RuntimeError("x\nTF Select ops: Complex, FFT\nDetails:"), "int8", "")
    assert "no operator for Complex, FFT" in foreign.what
    single = explain(
        RuntimeError("loc(\"a/b\"): error: 'tf.Foo' op is neither a custom op nor a flex op"),
        "int8",
        "",
    )
    assert "Foo" in single.what
    assert single.where == "operator 'a/b'"
    other = explain(ValueError("something   went\nwrong"), "int8", "I0000 noise\nkept")
    assert other.what == "the converter failed: something went wrong"
    assert other.log == "kept"
