"""The zoo without TensorFlow: what is there, what can be asked for, and what is refused how."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgekit import zoo
from edgekit.commands.zoo import command
from edgekit.errors import UsageError
from edgekit.zoo import _layers
from edgekit.zoo._parameters import Choice, Flag, Number, Parameter, Size, Whole

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", "zoo", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_the_architectures_that_were_promised() -> None:
    assert {
        "ds_cnn", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "mcunet", "cnn_1d",
        "autoencoder", "gru", "lstm", "transformer", "text_projection",
    } <= set(zoo.names())  # fmt: skip


@pytest.mark.parametrize("name", zoo.names())
def test_an_architecture_explains_itself(name: str) -> None:
    found = zoo.find(name)
    assert found.title and not found.title.endswith(".")
    assert "On a microcontroller" in found.description
    assert "`" not in found.description
    assert found.papers
    assert all(re.search(r"(19|20)\d\d$", paper) for paper in found.papers)
    for item in found.parameters:
        assert item.parameter.help and item.parameter.values
        # A default is a value like any other, also as the command line writes it.
        assert item.read(item.default, name) == item.default
        assert item.read(zoo.text(item.default), name) == item.default


@pytest.mark.parametrize(
    ("parameter", "value", "expected"),
    [
        (Number("", 0.1, 2), "0.25", 0.25),
        (Number("", 0.1, 2), 1, 1.0),
        (Whole("", 4, 64, 4), "16", 16),
        (Size("", 8, 96), "96x64", (96, 64)),
        (Size("", 8, 96), "96X64", (96, 64)),
        (Size("", 8, 96), 32, (32, 32)),
        (Size("", 8, 96), [9, 10], (9, 10)),
        (Choice("", ("small", "large")), "large", "large"),
        (Flag(""), "Yes", True),
        (Flag(""), "false", False),
        (Flag(""), True, True),
    ],
)
def test_parameters_read(parameter: Parameter, value: object, expected: object) -> None:
    found = parameter.read(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Number("", 0.1, 2), "nan"),
        (Number("", 0.1, 2), "inf"),
        (Number("", 0.1, 2), 2.01),
        (Number("", 0.1, 2), True),
        (Number("", 0.1, 2), None),
        (Number("", 0.1, 2), "wide"),
        (Whole("", 4, 64, 4), 18),
        (Whole("", 4, 64, 4), "16.0"),
        (Whole("", 4, 64, 4), "-16"),
        (Whole("", 4, 64, 4), "٤"),
        (Whole("", 4, 64, 4), 16.0),
        (Whole("", 4, 64, 4), True),
        (Size("", 8, 96), "96x96x3"),
        (Size("", 8, 96), "x"),
        (Size("", 8, 96), ""),
        (Size("", 8, 96), (96, 7)),
        (Size("", 8, 96), 9.5),
        (Choice("", ("small", "large")), "smal"),
        (Choice("", ("small", "large")), 1),
        (Flag(""), "maybe"),
        (Flag(""), 1),
    ],
)
def test_parameters_refuse(parameter: Parameter, value: object) -> None:
    with pytest.raises(ValueError):
        parameter.read(value)


def test_channels_are_rounded_as_the_authors_do() -> None:
    # Expected values: _make_divisible of the authors' MobileNet code at these widths.
    assert [_layers.divisible(c * 0.35) for c in (16, 24, 32, 64, 96, 160, 320)] == [
        8, 8, 16, 24, 32, 56, 112,
    ]  # fmt: skip
    assert _layers.divisible(1) == 8
    assert _layers.divisible(172, 4) == 172
    # 11 would lose more than a tenth at 8
    assert _layers.divisible(11) == 16


# arguments after "edgekit zoo", standard error
REFUSED = [
    (
        ["show", "mobilnet_v1"],
        "error: the zoo has no architecture 'mobilnet_v1'\n"
        "  try: mobilenet_v1, mobilenet_v3, mobilenet_v2, or edgekit zoo (lists all)\n",
    ),
    (
        ["build", "ds-cnn", "--width", "9", "-o", "m.keras"],
        "error: width cannot be 9: it is a number from 0.1 to 4.5\n  at: zoo model ds_cnn\n",
    ),
    (
        ["build", "lstm", "--set", "unit=8", "-o", "m.keras"],
        "error: lstm has no parameter 'unit'\n  at: zoo model lstm\n  try: did you mean 'units'?\n",
    ),
    (
        ["build", "gru", "--resolution", "8", "-o", "m.keras"],
        "error: gru has no parameter 'resolution'\n  at: zoo model gru\n"
        "  try: it has steps, features, units, depth, classes, dropout\n",
    ),
    (
        ["build", "ds_cnn", "--set", "blocks", "-o", "m.keras"],
        "error: --set blocks is no KEY=VALUE\n  try: --set blocks=3\n",
    ),
    (
        ["build", "ds_cnn", "--classes", "3", "--set", "classes=4", "-o", "m.keras"],
        "error: classes is given twice\n",
    ),
    (
        ["build", "ds_cnn", "-o", "m.h5"],
        "error: Keras saves models in files that end in .keras\n  at: m.h5\n",
    ),
    (
        ["build", "ds_cnn", "-o", "nowhere/m.keras"],
        "error: the output's folder does not exist\n  at: nowhere\n",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=lambda v: str(v)[:40])
def test_refusals_word_for_word(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.returncode, done.stderr, done.stdout) == (2, words, "")
    assert not list(tmp_path.iterdir())


def test_listing_and_showing_load_no_tensorflow() -> None:
    code = (
        "import sys\nfrom edgekit.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    for arguments in ([], ["--help"], ["show", "lstm"], ["build", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "zoo", *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout
        assert not {"tensorflow", "keras", "tf_keras"}.intersection(done.stderr.split())


def test_list_and_show() -> None:
    listed = invoke()
    assert listed.exit_code == 0
    for name in zoo.names():
        assert name in listed.stdout
    document = json.loads(invoke("--json").stdout)
    assert document["document"] == "zoo"
    assert [item["name"] for item in document["architectures"]] == list(zoo.names())
    shown = invoke("show", "transformer")
    assert "arXiv:1706.03762" in shown.stdout
    assert "layer or batch" in shown.stdout
    one = json.loads(invoke("show", "ds-cnn", "--json").stdout)
    assert one["parameters"][0] == {
        "name": "width",
        "default": "1",
        "values": "a number from 0.1 to 4.5",
        "help": "multiplies the 64 channels",
    }


def test_settings_are_checked_before_anything_is_built() -> None:
    for settings in ({"width": -1}, {"blocks": 2.5}, {"classses": 3}):
        with pytest.raises(UsageError):
            zoo.build("ds_cnn", **settings)


def test_defaults_cost_what_mlperf_tiny_says(mlperf: Path) -> None:
    from edgekit.graph import read_model
    from edgekit.graph.macs import model_cost

    files = {
        "ds_cnn": "kws_dscnn_int8.tflite",
        "mobilenet_v1": "vww_mobilenet_int8.tflite",
        "resnet": "ic_resnet_int8.tflite",
        "autoencoder": "ad_autoencoder_int8.tflite",
    }
    for name, file in files.items():
        assert zoo.find(name).macs == model_cost(read_model(mlperf / file)).macs, name


def test_the_documented_table_has_these_models() -> None:
    text = (ROOT / "docs/zoo.md").read_text(encoding="utf-8")
    rows: dict[str, list[Any]] = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 10
    }
    for name in zoo.names():
        found = zoo.find(name)
        counted = [f"{found.parameters_count:,}", f"{found.macs:,}"]
        assert rows[name][1:3] == counted, name
        assert rows[name][-1] == "yes"
