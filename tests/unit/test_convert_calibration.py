"""Samples: every kind of file, the checks, the choice of samples, and normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.convert import calibration, normalization
from edgekit.convert.calibration import Reading, read_samples
from edgekit.convert.sources import Port
from edgekit.errors import ModelError, UsageError

IMAGE = Port("image", (1, 4, 6, 3), "float32")
VECTOR = Port("vector", (1, 5), "float32")


def _npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("form", "stored", "wanted"),
    [
        ("0..1", [0, 255], [0, 1]),
        ("-1..1", [0, 255], [-1, 1]),
        ("mean=10,std=5", [10, 20], [0, 2]),
        ("std=4", [8, 2], [2, 0.5]),
        ("scale=0.5,offset=-1", [0, 4], [-1, 1]),
        ("scale=0.25,zero_point=83", [83, -128], [0, -52.75]),
    ],
)
def test_normalization_forms(form: str, stored: list[int], wanted: list[float]) -> None:
    normal = normalization.parse(form)
    assert normal is not None
    assert np.allclose(normal.apply(np.array(stored, np.int16)), wanted, atol=1e-6)


def test_normalization_per_channel() -> None:
    normal = normalization.parse("mean=1/2/3,std=1/2/4")
    assert normal is not None
    assert normal.apply(np.full((2, 2, 3), 5.0)).tolist()[0][0] == [4.0, 1.5, 0.5]
    assert normalization.parse("none") is None


@pytest.mark.parametrize(
    "form",
    ["", "half", "mean", "std=0", "mean=x,std=1", "scale=0", "mean=1/2,std=1/2/3", "std=inf"],
)
def test_bad_normalization_is_a_usage_error(form: str) -> None:
    with pytest.raises(UsageError):
        normalization.parse(form)


def test_npz_by_name_with_labels(tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(7, 5).astype(np.float32)
    for name in ("x", "vector", "whatever"):
        samples = read_samples(_npz(tmp_path / "d.npz", **{name: x, "y": np.arange(7)}), [VECTOR])
        assert samples.kind == "npz"
        assert np.array_equal(samples.inputs[0], x)
        assert samples.labels is not None
        assert samples.labels.tolist() == list(range(7))
        assert samples.sample(3)[0].shape == (1, 5)


def test_npz_for_two_inputs_needs_their_names(tmp_path: Path) -> None:
    other = Port("other", (1, 2), "float32")
    x, z = np.random.RandomState(0).rand(3, 5), np.random.RandomState(1).rand(3, 2)
    samples = read_samples(_npz(tmp_path / "d.npz", other=z, vector=x), [VECTOR, other])
    assert [array.shape for array in samples.inputs] == [(3, 5), (3, 2)]
    with pytest.raises(ModelError, match="other"):
        read_samples(_npz(tmp_path / "e.npz", vector=x), [VECTOR, other])


def test_limit_takes_evenly_spaced_samples(tmp_path: Path) -> None:
    x = np.arange(100, dtype=np.float32)[:, None].repeat(5, 1)
    np.save(tmp_path / "d.npy", x)
    samples = read_samples(tmp_path / "d.npy", [VECTOR], Reading(limit=4))
    assert samples.inputs[0][:, 0].tolist() == [0, 25, 50, 75]


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((9, 4, 6, 3), True), ((9, 1, 4, 6, 3), True), ((9, 6, 4, 3), False), ((9, 72), False)],
)
def test_shapes(tmp_path: Path, shape: tuple[int, ...], fits: bool) -> None:
    x = np.random.RandomState(0).rand(*shape)
    path = _npz(tmp_path / "d.npz", x=x)
    if fits:
        assert read_samples(path, [IMAGE]).inputs[0].shape == (9, 4, 6, 3)
    else:
        with pytest.raises(ModelError, match=r"the model takes \[N, 4, 6, 3\]"):
            read_samples(path, [IMAGE])


def test_grey_images_need_no_channel_axis(tmp_path: Path) -> None:
    port = Port("image", (1, 8, 8, 1), "float32")
    x = np.random.RandomState(0).rand(3, 8, 8)
    assert read_samples(_npz(tmp_path / "d.npz", x=x), [port]).inputs[0].shape == (3, 8, 8, 1)


def test_nan_is_located(tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(6, 5)
    x[4, 2] = np.nan
    with pytest.raises(ModelError, match="1 of 6 samples .* the first is sample 4"):
        read_samples(_npz(tmp_path / "d.npz", x=x), [VECTOR])


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((3, 5)),
        np.zeros((0, 5)),
        np.full((3, 5), "a"),
        np.zeros((3, 5), np.complex64),
    ],
)
def test_useless_samples_are_refused(tmp_path: Path, x: Any) -> None:
    with pytest.raises(ModelError):
        read_samples(_npz(tmp_path / "d.npz", x=x), [VECTOR])


def test_warnings_of_raw_bytes_and_outliers(tmp_path: Path) -> None:
    stream = np.random.RandomState(0)
    raw = stream.randint(0, 256, (20, 5)).astype(np.uint8)
    samples = read_samples(_npz(tmp_path / "d.npz", x=raw), [VECTOR])
    assert "--normalize" in samples.warnings[0]
    assert not read_samples(
        tmp_path / "d.npz", [VECTOR], Reading(normalization.parse("0..1"))
    ).warnings
    values = stream.randn(900, 5)
    values[17, 0] = 1e6
    assert "outliers" in read_samples(_npz(tmp_path / "e.npz", x=values), [VECTOR]).warnings[0]


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ModelError):
        read_samples(tmp_path / "d.npz", [VECTOR])


@pytest.mark.parametrize("name", ["d.npz", "d.npy", "d.csv"])
def test_damaged_or_foreign_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00garbage")
    with pytest.raises((ModelError, UsageError)):
        read_samples(tmp_path / name, [VECTOR])
    with pytest.raises(ModelError, match="no such file"):
        read_samples(tmp_path / "missing.npz", [VECTOR])


def test_python_file(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    path.write_text(
        "import numpy as np\n"
        "def get_calibration_data():\n"
        "    for i in range(1000):\n"
        "        yield [np.full((1, 5), i + np.arange(5.0))]\n"
    )
    samples = read_samples(path, [VECTOR], Reading(limit=10))
    assert samples.kind == "python"
    assert samples.inputs[0].shape == (10, 5)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def get_calibration_data():\n    return 1 / 0\n", "2"),
        ("import nothing_of_that_name\n", "1"),
        ("def other():\n    pass\n", None),
        ("def get_calibration_data(:\n", "1"),
    ],
)
def test_failing_python_file_names_its_line(tmp_path: Path, text: str, line: str | None) -> None:
    path = tmp_path / "data.py"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_samples(path, [VECTOR])
    assert caught.value.where is not None
    if line:
        assert caught.value.where.endswith(f"data.py:{line}")


def test_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for k in range(2):
            pixels = np.full((10, 20, 3), 50 * i + k, np.uint8)
            pixels[:, :5] = 255
            image.fromarray(pixels).save(tmp_path / name / f"{k}.png")
    samples = read_samples(tmp_path, [IMAGE], Reading(normalization.parse("0..1")))
    assert samples.inputs[0].shape == (4, 4, 6, 3)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 0, 1, 1]
    assert samples.inputs[0].max() == 1.0
    cropped = read_samples(tmp_path, [IMAGE], Reading(None, None, "crop"))
    # The middle 15 of 20 columns: the bright ones of the left edge are mostly cut.
    assert cropped.inputs[0][:, :, 3:].max() < 255
    with pytest.raises(UsageError, match="4x6"):
        read_samples(tmp_path, [IMAGE], Reading(None, (96, 96)))
    with pytest.raises(ModelError, match="images need"):
        read_samples(tmp_path, [VECTOR])
    (tmp_path / "dog" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ModelError, match="cannot be read"):
        read_samples(tmp_path, [IMAGE])


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no images"):
        read_samples(tmp_path, [IMAGE])


def test_integer_inputs_take_no_fractions(tmp_path: Path) -> None:
    port = Port("ids", (1, 5), "int32")
    x = np.arange(15.0).reshape(3, 5)
    assert read_samples(_npz(tmp_path / "d.npz", x=x), [port]).inputs[0].dtype == np.int32
    with pytest.raises(ModelError, match="fractions"):
        read_samples(_npz(tmp_path / "e.npz", x=x + 0.5), [port])


@pytest.mark.parametrize(
    ("total", "calibrate", "used", "rest"),
    [(700, 200, 200, 500), (200, 200, 160, 40), (125, 200, 100, 25), (120, 200, 120, 0)],
)
def test_one_set_is_divided(total: int, calibrate: int, used: int, rest: int) -> None:
    samples = calibration.Samples("npz", (np.arange(total)[:, None],), np.arange(total))
    first, second = calibration.split(samples, calibrate)
    assert len(first) == used
    assert (0 if second is None else len(second)) == rest
    if second is not None:
        both = np.concatenate([first.inputs[0], second.inputs[0]]).ravel()
        assert sorted(both.tolist()) == list(range(total))
        assert second.labels is not None
        assert np.array_equal(second.labels, second.inputs[0][:, 0])


def test_random_samples_are_the_same_each_time() -> None:
    ports = [VECTOR, Port("ids", (1, 3), "int32")]
    first, second = calibration.random_samples(ports), calibration.random_samples(ports)
    assert first.kind == "random"
    for a, b in zip(first.inputs, second.inputs, strict=True):
        assert np.array_equal(a, b)
    assert -1 <= first.inputs[0].min() < 0 < first.inputs[0].max() <= 1


def test_few_samples_warn() -> None:
    assert calibration.few_samples_warning(100) is None
    assert "12" in (calibration.few_samples_warning(12) or "")
