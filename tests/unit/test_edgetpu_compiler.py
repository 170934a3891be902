"""The compiler's process: real outputs and logs replayed by a real subprocess."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgetpu_recorded import Recorded, Recording, real_outputs, success  # noqa: E402

from edgekit.cli import cli  # noqa: E402
from edgekit.engines import edgetpu  # noqa: E402
from edgekit.engines.edgetpu import compiler  # noqa: E402
from edgekit.errors import (  # noqa: E402
    EdgekitError,
    FitError,
    MissingDependency,
    ModelError,
    UsageError,
)
from edgekit.graph import Model, read_model  # noqa: E402
from edgekit.records import Artifact  # noqa: E402
from edgekit.targets import load_target  # noqa: E402

MAPPED = "Mapped to Edge TPU"
SPLIT_CONCAT = (("CONCATENATION", 2, MAPPED), ("SPLIT", 1, MAPPED))


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(tmp_path / "bin", monkeypatch)


@pytest.fixture
def models(shared: Path) -> Path:
    return shared / "models" / "edgetpu"


def compiled(models: Path, out: Path, *names: str, **options: str) -> Artifact:
    read: list[Model] = [read_model(models / f"{name}.tflite") for name in names]
    return edgetpu.compile_models(
        read, load_target("coral"), out, command="edgekit compile", options=options
    )


def files_of(models: Path, name: str, log: Path | None = None) -> dict[str, Path]:
    files = {f"{name}_edgetpu.tflite": models / f"{name}_edgetpu.tflite"}
    if log is not None:
        files[f"{name}_edgetpu.log"] = log
    return files


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log in the compiler's format for split_concat."""
    path = tmp_path / "split_concat_edgetpu.log"
    rows = "".join(f"{op:<30} {count:<10} {status}\n" for op, count, status in SPLIT_CONCAT)
    path.write_text(
        "Edge TPU Compiler version 16.0.384591198\nInput: split_concat.tflite\n"
        "Output: split_concat_edgetpu.tflite\n\n"
        f"Operator                       Count      Status\n\n{rows}"
    )
    return path


#: The real outputs by number: exit code of the recorded run, error, words of its sentence, runs.
FAILURES: dict[int, tuple[int, type[EdgekitError], str, int]] = {
    3: (0, MissingDependency, "stopped before it said that the compilation succeeded", 3),
    4: (1, ModelError, "not quantised", 1),
    5: (1, ModelError, "does not know version 4 of TRANSPOSE_CONV", 1),
    6: (1, FitError, "activations of the model do not fit", 1),
    7: (1, ModelError, "sizes are not fixed", 1),
    8: (139, MissingDependency, "edgetpu_compiler crashed, 3 times in a row", 3),
    9: (1, MissingDependency, "stopped with an internal error, 3 times in a row", 3),
    10: (1, FitError, "activations of the model do not fit", 1),
    11: (0, ModelError, "mapped no operator", 1),
    12: (1, ModelError, "cannot run the custom operator Atan", 1),
}


@pytest.mark.parametrize("number", sorted(FAILURES))
def test_a_real_failure_becomes_its_error(
    number: int, shared: Path, models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    code, error, words, runs = FAILURES[number]
    recorded.plays(Recording(real_outputs(shared)[number], code))
    with pytest.raises(error, match=words) as caught:
        compiled(models, tmp_path / "out", "split_concat")
    assert caught.value.fix
    assert len(recorded.calls) == runs
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", sorted(FAILURES))
def test_a_failure_that_exits_with_0_is_a_failure(
    number: int, shared: Path, models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    _, error, words, _ = FAILURES[number]
    recorded.plays(Recording(real_outputs(shared)[number], 0))
    with pytest.raises(error, match=words.partition(",")[0]):
        compiled(models, tmp_path / "out", "split_concat", retries="0")


def test_a_real_success_is_read_from_a_real_process(
    shared: Path, models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    recorded.plays(Recording(real_outputs(shared)[1]))
    out = tmp_path / "out"
    out.mkdir()
    run = compiler.run_compiler([models / "split_concat.tflite"], out)
    (report,) = run.output.models
    assert run.output.version == "16.0.384591198"
    assert (run.output.succeeded, run.output.elapsed_ms, run.attempts) == (True, 3173, 1)
    assert (report.subgraphs, report.ops_total) == (2, 294)
    assert (report.ops_mapped, report.ops_cpu) == (289, 5)
    assert report.cached_bytes == round(6.08 * 2**20)
    assert report.remaining_bytes == 0
    assert report.streamed_bytes == round(1.70 * 2**20)
    assert sum(row.count for row in report.rows) == 294
    assert sum(row.count for row in report.rows if row.status == MAPPED) == 289
    concatenations = [(r.count, r.status) for r in report.rows if r.operator == "CONCATENATION"]
    assert [count for count, _ in concatenations] == [1, 17]
    arguments = recorded.calls[0]
    assert arguments[:3] == ["-s", "-o", str(out)]
    assert arguments[-3:] == ["-t", "180", str(models / "split_concat.tflite")]


def test_a_success_without_a_table(shared: Path, recorded: Recorded, tmp_path: Path) -> None:
    recorded.plays(Recording(real_outputs(shared)[2]))
    run = compiler.run_compiler([tmp_path / "quantized_model.tflite"], tmp_path)
    (report,) = run.output.models
    assert (report.cached_bytes, report.remaining_bytes) == (619_008, 523_776)
    assert (report.subgraphs, report.ops_total, report.ops_mapped) == (1, 50, None)


def test_co_compiled_models_are_told_apart(shared: Path) -> None:
    output = compiler.parse_output(real_outputs(shared)[3])
    assert [report.input for report in output.models] == [
        "temp_models/1.tflite",
        "temp_models/2.tflite",
    ]
    assert output.models[0].remaining_bytes == round(1.07 * 2**20)
    assert output.elapsed_ms == 524


LOGS = {
    "coco_ssd_mobilenet_v1_1.0_quant_2018_06_29_edgetpu.log": ("1.0.249710469", 64, 63),
    "face_detection_front_128_full_integer_quant_edgetpu.log": ("15.0.340273435", 78, 75),
    "quantized_model_edgetpu.log": ("16.0.384591198", 6, 6),
    "yolov8n_full_integer_quant_edgetpu_160.log": ("16.0.384591198", 257, 257),
}


@pytest.mark.parametrize("name", sorted(LOGS))
def test_real_logs(name: str, shared: Path) -> None:
    version, total, mapped = LOGS[name]
    read = compiler.parse_log((shared / "reference" / "edgetpu_logs" / name).read_text())
    assert read.version == version
    assert read.input is not None and read.input.endswith(".tflite")
    assert sum(row.count for row in read.rows) == total
    assert sum(row.count for row in read.rows if row.status == MAPPED) == mapped


def test_compile_end_to_end(
    models: Path, recorded: Recorded, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded.plays(
        Recording(
            success("split_concat", SPLIT_CONCAT), files=files_of(models, "split_concat", log)
        )
    )
    command = ["compile", str(models / "split_concat.tflite"), "--target", "coral", "--json"]
    done = CliRunner().invoke(cli, [*command, "-o", "out"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["predicted"] is False
    assert (document["ops_total"], document["ops_mapped"], document["ops_cpu"]) == (3, 3, [])
    assert (document["cached_bytes"], document["streamed_bytes"]) == (192, 0)
    assert document["warnings"] == []
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "split_concat.tflite",
        "split_concat_edgetpu.log",
        "split_concat_edgetpu.tflite",
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["engine"] == "edgetpu"
    assert manifest["model"]["sha256"] == read_model(models / "split_concat.tflite").sha256
    assert str(tmp_path) not in (folder / "manifest.json").read_text()


def test_an_intermittent_failure_is_tried_again(
    shared: Path, models: Path, recorded: Recorded, log: Path, tmp_path: Path
) -> None:
    stub = tmp_path / "stub"
    stub.write_bytes(b"x" * 1024)
    crash = Recording(real_outputs(shared)[8], 139, {"split_concat_edgetpu.tflite": stub})
    fine = Recording(
        success("split_concat", SPLIT_CONCAT), files=files_of(models, "split_concat", log)
    )
    recorded.plays(crash, crash, fine)
    artifact = compiled(models, tmp_path / "out", "split_concat")
    assert artifact.options["attempts"] == 3
    assert len(recorded.calls) == 3


def test_a_killed_process_is_a_crash(models: Path, recorded: Recorded, tmp_path: Path) -> None:
    version = "Edge TPU Compiler version 16.0.384591198\n"
    recorded.plays(Recording(version, signal=signal.SIGSEGV))
    with pytest.raises(MissingDependency, match=r"crashed \(exit code -11\), 2 times in a row"):
        compiled(models, tmp_path / "out", "split_concat", retries="1")
    assert len(recorded.calls) == 2


def test_a_process_that_hangs_is_ended(
    models: Path, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "_GRACE_S", 0.0)
    recorded.plays(Recording("", seconds=60.0))
    with pytest.raises(MissingDependency, match="did not finish within 1 s and was ended"):
        compiled(models, tmp_path / "out", "split_concat", timeout="1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no model"),
        (b"x" * 1000, "is no model"),
        (None, "there is no split_concat_edgetpu.tflite"),
        ("cpu", "mapped no operator"),
    ],
)
def test_a_success_with_a_stub_is_a_failure(
    content: bytes | str | None,
    words: str,
    models: Path,
    recorded: Recorded,
    tmp_path: Path,
) -> None:
    files = {}
    if content is not None:
        stub = tmp_path / "stub"
        if isinstance(content, bytes):
            stub.write_bytes(content)
        else:
            shutil.copyfile(models / "mobilenet_v1_0.25_128_quant.tflite", stub)
        files["split_concat_edgetpu.tflite"] = stub
    recorded.plays(Recording(success("split_concat", SPLIT_CONCAT), files=files))
    with pytest.raises(ModelError, match=words):
        compiled(models, tmp_path / "out", "split_concat")
    assert not (tmp_path / "out").exists()


def test_a_compiled_file_of_another_model_is_refused(
    models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    other = models / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    recorded.plays(
        Recording(
            success("split_concat", SPLIT_CONCAT), files={"split_concat_edgetpu.tflite": other}
        )
    )
    with pytest.raises(ModelError, match="the compiled model's inputs are"):
        compiled(models, tmp_path / "out", "split_concat")


def test_figures_that_disagree_with_the_file_are_told(
    models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    text = success("split_concat", SPLIT_CONCAT[:1], cached="2.00MiB")
    recorded.plays(Recording(text, files=files_of(models, "split_concat")))
    warnings = compiled(models, tmp_path / "out", "split_concat").warnings
    assert any("printed 2,097,152 cached bytes, the file holds 192" in w for w in warnings)
    assert any("left no split_concat_edgetpu.log" in w for w in warnings)
    assert any("counted 2 operators in split_concat, the file has 3" in w for w in warnings)


def test_several_models_are_compiled_together(
    models: Path, recorded: Recorded, log: Path, tmp_path: Path
) -> None:
    names = ("split_concat", "mobilenet_v1_0.25_128_quant")
    one = success(names[0], SPLIT_CONCAT).split("Compilation child")[0]
    two = success(names[1], (("CONV_2D", 31, MAPPED),), cached="553.62KiB").partition("\n\n")[2]
    text = one.replace("Model compiled", "Models compiled") + two.partition("\n\n")[2]
    files = {**files_of(models, names[0], log), **files_of(models, names[1])}
    recorded.plays(Recording(text, files=files))
    artifact = compiled(models, tmp_path / "out", *names)
    first, second = artifact.options["models"]
    assert [part["compiled"][0]["ops_mapped"] for part in (first, second)] == [3, 31]
    assert second["compiled"][0]["cached_bytes"] == 566_912
    assert "mobilenet_v1_0.25_128_quant_labels.txt" in artifact.files
    assert [Path(word).name for word in recorded.calls[0][-2:]] == [f"{n}.tflite" for n in names]


def test_segments(models: Path, recorded: Recorded, tmp_path: Path) -> None:
    name = "split_concat"
    parts = [success(f"{name}_segment_{i}_of_2", SPLIT_CONCAT) for i in range(2)]
    source = models / f"{name}_edgetpu.tflite"
    files = {f"{name}_segment_{i}_of_2_edgetpu.tflite": source for i in range(2)}
    recorded.plays(Recording(parts[0] + parts[1].partition("\n\n")[2], files=files))
    artifact = compiled(models, tmp_path / "out", name, segments="2")
    assert recorded.calls[0][3:5] == ["-n", "2"]
    assert [part["file"] for part in artifact.options["models"][0]["compiled"]] == list(files)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"segmants": "2"}, "no option 'segmants'"),
        ({"segments": "0"}, "segments must be 1 to 16"),
        ({"min-runtime": "9"}, "min-runtime must be 10 to 14"),
        ({"retries": "x"}, "retries must be 0 to 20"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, str], words: str, models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    recorded.plays(Recording(""))
    with pytest.raises(UsageError, match=words):
        compiled(models, tmp_path / "out", "split_concat", **options)
    assert recorded.calls == []


def test_options_reach_the_compiler(
    models: Path, recorded: Recorded, log: Path, tmp_path: Path
) -> None:
    recorded.plays(
        Recording(
            success("split_concat", SPLIT_CONCAT), files=files_of(models, "split_concat", log)
        )
    )
    options = {
        "min-runtime": "13",
        "search": "1",
        "search-step": "4",
        "intermediate": "a,b",
        "multiple-subgraphs": "1",
        "timeout": "60",
    }
    compiled(models, tmp_path / "out", "split_concat", **options)
    words = recorded.calls[0][3:-1]
    assert words == ["-m", "13", "-d", "-k", "4", "-i", "a,b", "-a", "-t", "60"]


def test_without_the_compiler(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = ["compile", str(models / "split_concat.tflite"), "--target", "coral"]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, MissingDependency)
    assert done.exception.exit_code == 5
    assert str(done.exception) == (
        "compiling for the Edge TPU needs edgetpu_compiler, which is not on PATH\n"
        f"  try: {compiler.INSTALL}"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_helps_is_told_for_what_stayed_on_the_cpu(
    models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    name = "deeplabv3_mnv2_dm05_pascal_quant"
    limited = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
    rows = (
        ("CONV_2D", 64, MAPPED),
        ("RESIZE_BILINEAR", 3, limited),
        ("ARG_MAX", 1, "Operation is working on an unsupported data type"),
        ("CONV_2D", 4, "More than one subgraph is not supported"),
    )
    text = success(name, rows, cached="748.75KiB")
    recorded.plays(Recording(text, files=files_of(models, name)))
    (detail,) = compiled(models, tmp_path / "out", name).options["models"][0]["compiled"]
    assert (detail["ops_total"], detail["ops_mapped"]) == (72, 64)
    assert [op["count"] for op in detail["ops_cpu"]] == [3, 1, 4]
    resize, arg_max, conv = (op["advice"] for op in detail["ops_cpu"])
    assert "in steps of 2" in resize
    assert "numpy.argmax" in arg_max
    assert "operator 64 RESIZE_BILINEAR" in conv


def test_without_table_and_log_the_file_tells_what_is_left(
    models: Path, recorded: Recorded, tmp_path: Path
) -> None:
    name = "deeplabv3_mnv2_dm05_pascal_quant"
    text = success(name, (("CONV_2D", 72, MAPPED),)).partition("Number of operations that")[0]
    recorded.plays(Recording(text + "Compilation succeeded!\n", files=files_of(models, name)))
    (detail,) = compiled(models, tmp_path / "out", name).options["models"][0]["compiled"]
    assert (detail["ops_total"], detail["ops_mapped"]) == (72, 64)
    assert sum(op["count"] for op in detail["ops_cpu"]) == 8
