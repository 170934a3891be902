"""The engine tflm: operators, sources, projects, errors, and the verb compile."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgekit import engines
from edgekit.engines import tflm
from edgekit.engines.tflm import operators
from edgekit.engines.tflm.carray import array_lines
from edgekit.errors import FitError, ModelError, UsageError
from edgekit.graph import Model, read_model
from edgekit.targets import Target, load_target
from tests.tflite_builder import TfliteBuilder

STUBS = Path(__file__).parents[1] / "golden" / "tflm" / "include"
PROJECTS = ("cmake", "platformio", "arduino", "esp-idf", "zephyr")
BOARD = {"platform": "nordicnrf52", "board": "nano33ble"}


def dense_model(dtype: str = "int8", kind: str = "LOGISTIC") -> bytes:
    """Fully connected 4 -> 3, then an operator without options."""
    builder = TfliteBuilder()
    data = builder.tensor((1, 4), dtype=dtype, scale=0.5, zero_point=-3, name="data */ ??/")
    weights = builder.constant(
        np.arange(12).reshape(3, 4).astype(dtype), scale=0.1, zero_point=0, name="weights"
    )
    bias = builder.constant(np.arange(3, dtype=np.int32), scale=0.05, name="bias")
    middle = builder.tensor((1, 3), dtype=dtype, scale=0.7, zero_point=4)
    output = builder.tensor((1, 3), dtype=dtype, scale=1 / 256, zero_point=-128, name="out")
    builder.op("FULLY_CONNECTED", [data, weights, bias], [middle])
    builder.op(kind, [middle], [output])
    return builder.build([data], [output])


@pytest.fixture
def model() -> Model:
    return read_model(dense_model(), "Dense net/1")


@pytest.fixture
def target() -> Target:
    return load_target("nucleo-l4r5zi")


def make(model: Model, target: Target, out: Path, **options: Any) -> Any:
    return tflm.compile(model, target, out, command="edgekit compile", options=options)


# --- operators


def test_operators_are_those_that_tflm_registers(shared: Path) -> None:
    text = (shared / "reference" / "tflm_operators.md").read_text()
    builtin, custom = _listed(text)
    assert set(operators.BUILTINS.values()) == builtin
    assert set(operators.CUSTOMS.values()) == custom


def _listed(text: str) -> tuple[set[str], set[str]]:
    lists = re.findall(r"\(\d+\):\*\* (.*)", text)
    first, second = (set(re.findall(r"\w+", line)) for line in lists)
    return first, second


def test_int8_registrations_only_where_everything_is_int8(model: Model) -> None:
    assert operators.registration(model, "FULLY_CONNECTED") == (
        "AddFullyConnected(tflite::Register_FULLY_CONNECTED_INT8())"
    )
    assert operators.registration(model, "LOGISTIC") == "AddLogistic()"


def test_missing_operator_is_named_with_its_place(tmp_path: Path, target: Target) -> None:
    model = read_model(dense_model(kind="RANK"), "ranked")
    with pytest.raises(ModelError, match="TFLM has no operator RANK") as caught:
        make(model, target, tmp_path / "out")
    assert caught.value.where == "op 1 RANK 'out'"
    assert not list(tmp_path.iterdir())
    assert tflm.supports(model, None).missing == ("TFLM has no operator RANK (at op 1 RANK 'out')",)


def test_uint8_models_are_refused_before_tflm_does(tmp_path: Path, target: Target) -> None:
    model = read_model(dense_model(dtype="uint8"), "old")
    with pytest.raises(ModelError, match="does not take uint8"):
        make(model, target, tmp_path / "out")


def test_what_tflm_itself_refuses_writes_nothing(tmp_path: Path, target: Target) -> None:
    builder = TfliteBuilder()
    # TFLM's LOGISTIC requires the scale 1/256 for int8.
    data = builder.tensor((1, 4), scale=0.5)
    output = builder.tensor((1, 4), scale=0.5)
    builder.op("LOGISTIC", [data], [output])
    model = read_model(builder.build([data], [output]), "odd")
    with pytest.raises(ModelError) as caught:
        make(model, target, tmp_path / "out")
    assert "LOGISTIC" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_models_of_control_flow_and_customs(target: Target) -> None:
    builder = TfliteBuilder()
    data = builder.tensor((1, 4), scale=0.5)
    output = builder.tensor((1, 4), scale=0.5)
    builder.op("MAXIMUM", [data, data], [output])
    raw = builder.build([data], [output])
    assert tflm.supports(read_model(raw), target).ok
    edge = load_target("coral-usb")
    assert not tflm.supports(read_model(raw), edge).ok


# --- the array


@pytest.mark.parametrize("size", [0, 1, 23, 24, 25, 48, 24 * 8192 - 1, 24 * 8192 + 25])
def test_array_holds_the_bytes(size: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(size)
    text = b"".join(array_lines(data)).decode()
    assert bytes(int(word) for word in text.replace("\n", "").split(",") if word) == data
    assert all(len(line) <= 96 for line in text.splitlines())


# --- sources and projects


def test_sources_run_with_the_stand_in(tmp_path: Path, model: Model, target: Target) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    artifact = make(model, target, tmp_path / "out", project="cmake")
    source = artifact.folder / "src"
    program = tmp_path / "program"
    objects = tmp_path / "data.o"
    flags = ["-Wall", "-Wextra", "-Werror"]
    c_compiler = compiler.replace("g++", "gcc") if compiler.endswith("g++") else "clang"
    run([c_compiler, *flags, "-std=c11", "-c", str(source / "dense_net_1_model_data.c"),
         "-o", str(objects)])  # fmt: skip
    run([compiler, *flags, "-std=c++17", f"-I{STUBS}", f"-I{source}", "-DSTUB_INPUT_BYTES=4",
         "-DSTUB_OUTPUT_BYTES=3", str(source / "dense_net_1.cpp"), str(source / "main.cpp"),
         str(objects), "-o", str(program)])  # fmt: skip
    printed = run([str(program)])
    # zeros are -3; the stand-in adds one: (-2 + 128) / 256
    assert "output 0[2] = 492187 / 1000000" in printed
    assert f"of {artifact.arena_bytes}" in printed


def test_quantize_input_rounds_and_saturates(tmp_path: Path, model: Model, target: Target) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    make(model, target, tmp_path / "out")
    (tmp_path / "main.cpp").write_text(
        '#include <cstdio>\n#include <cmath>\n#include "dense_net_1.h"\n'
        "#include <initializer_list>\n"
        "int main() { for (float v : {0.0f, 0.24f, 0.25f, -0.25f, -0.26f, 1e9f, -1e9f, NAN})\n"
        '  std::printf("%d ", dense_net_1::quantize_input(v)); }\n'
    )
    source, program = tmp_path / "out", tmp_path / "program"
    run([compiler, "-std=c++17", f"-I{STUBS}", f"-I{source}", str(tmp_path / "main.cpp"),
         str(source / "dense_net_1.cpp"), str(source / "dense_net_1_model_data.c"),
         "-o", str(program)])  # fmt: skip
    assert run([str(program)]).split() == ["-3", "-3", "-3", "-4", "-4", "127", "-128", "-128"]


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("project", PROJECTS)
def test_projects_compile_against_the_stand_in(
    tmp_path: Path, model: Model, target: Target, project: str
) -> None:
    # arm-none-eabi-g++ of Debian has no C++ library: the host's compiler, with Arm's enumerations
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    artifact = make_project(model, target, tmp_path / "out", project)
    folder = tmp_path / "out"
    strict = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-fshort-enums"]
    include = [f"-I{STUBS}", f"-I{folder / artifact.include_dirs[0]}"]
    for path in artifact.files:
        if path.endswith((".cpp", ".ino")):
            dialect = ["-std=c++17", "-fno-rtti", "-fno-exceptions", "-x", "c++"]
            run([compiler, *strict, *include, *dialect, str(folder / path)])
        elif path.endswith(".c"):
            run([compiler, *strict, "-std=c11", "-x", "c", str(folder / path)])


def make_project(model: Model, target: Target, out: Path, project: str) -> Any:
    if project == "platformio":
        return make(model, target, out, project=project, **BOARD)
    if project == "esp-idf":
        return make(model, load_target("esp32-s3"), out, project=project)
    return make(model, target, out, project=project)


@pytest.mark.parametrize("project", PROJECTS)
def test_every_file_that_a_project_names_exists(
    tmp_path: Path, model: Model, target: Target, project: str
) -> None:
    artifact = make_project(model, target, tmp_path / "out", project)
    folder = tmp_path / "out"
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert written == set(artifact.files)
    assert set(artifact.sources) <= written
    named = set()
    for path in artifact.files:
        text = (folder / path).read_text()
        if path.endswith("CMakeLists.txt"):
            for word in re.findall(r"[\w./-]+\.(?:cpp|c)\b", text):
                named.add(str(Path(path).parent / word))
        for word in re.findall(r'#include "(dense\w+\.h)"', text):
            named.add(str(Path(artifact.include_dirs[0]) / word))
    assert named <= written, named - written


def test_platformio_settings(tmp_path: Path, model: Model, target: Target) -> None:
    make_project(model, target, tmp_path / "out", "platformio")
    settings = configparser.ConfigParser()
    settings.read(tmp_path / "out" / "platformio.ini")
    section = settings["env:nano33ble"]
    assert section["platform"] == "nordicnrf52"
    assert section["framework"] == "arduino"
    assert section["lib_deps"].startswith("spaziochirale/Chirale_TensorFLowLite@")
    bare = Target("x", "X", "mcu", core="cortex-m4")
    with pytest.raises(UsageError, match="platform and board of x"):
        make(model, bare, tmp_path / "no", project="platformio")


def test_arduino_library(tmp_path: Path, model: Model, target: Target) -> None:
    make_project(model, target, tmp_path / "out", "arduino")
    lines = (tmp_path / "out" / "library.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    # the keys that the specification of Arduino libraries requires
    required = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category"}
    assert required | {"url", "architectures", "includes", "depends"} == set(properties)
    assert re.fullmatch(r"[A-Za-z0-9][\w. -]{0,62}", properties["name"])
    assert properties["depends"] == "Chirale_TensorFLowLite"


def test_esp_idf_and_zephyr_descriptions(tmp_path: Path, model: Model, target: Target) -> None:
    make_project(model, target, tmp_path / "idf", "esp-idf")
    component = yaml.safe_load((tmp_path / "idf" / "main" / "idf_component.yml").read_text())
    assert "espressif/esp-tflite-micro" in component["dependencies"]
    assert 'CONFIG_IDF_TARGET="esp32s3"' in (tmp_path / "idf" / "sdkconfig.defaults").read_text()
    with pytest.raises(UsageError, match="no target of ESP-IDF"):
        make(model, target, tmp_path / "no", project="esp-idf")
    make_project(model, target, tmp_path / "zephyr", "zephyr")
    manifest = yaml.safe_load((tmp_path / "zephyr" / "west.yml").read_text())["manifest"]
    assert manifest["group-filter"] == ["+optional"]
    assert manifest["projects"][0]["remote"] == manifest["remotes"][0]["name"]
    settings = (tmp_path / "zephyr" / "prj.conf").read_text().splitlines()
    assert all(re.fullmatch(r"CONFIG_\w+=(y|\d+)", line) for line in settings)
    assert "CONFIG_TENSORFLOW_LITE_MICRO=y" in settings


def test_cmake_configures_with_a_tree_and_says_what_is_missing(
    tmp_path: Path, model: Model, target: Target
) -> None:
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("cmake or g++ is not installed")
    make_project(model, target, tmp_path / "out", "cmake")
    tree = tmp_path / "tflm"
    shutil.copytree(STUBS, tree)
    command = ["cmake", "-S", str(tmp_path / "out"), "-B", str(tmp_path / "build")]
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "TFLM_DIR must name" in bad.stderr
    library = tree / "gen" / "host_default" / "lib"
    library.mkdir(parents=True)
    run(["ar", "rcs", str(library / "libtensorflow-microlite.a")])
    run([*command, f"-DTFLM_DIR={tree}"])
    run(["cmake", "--build", str(tmp_path / "build")])
    # The stand-in's tensors are empty, which the wrapper notices.
    demo = subprocess.run(
        [str(tmp_path / "build" / "dense_net_1_demo")], capture_output=True, text=True, check=False
    )
    assert demo.returncode == 1
    assert "init failed" in demo.stdout


# --- the artifact


def test_manifest_and_record(tmp_path: Path, model: Model, target: Target) -> None:
    artifact = make(model, target, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["stage"] == "compile"
    assert manifest["model"]["sha256"] == model.sha256
    assert manifest["artifact"]["folder"] == "."
    arena = manifest["artifact"]["options"]["arena"]
    assert arena["kind"] == "estimated"
    assert arena["used_bytes"] <= arena["minimum_bytes"] <= arena["recommended_bytes"]
    assert arena["host_recorded_bytes"] == arena["host_predicted_bytes"]
    assert artifact.arena_bytes == arena["recommended_bytes"]
    assert str(tmp_path) not in json.dumps(manifest)
    header = (tmp_path / "out" / "dense_net_1.h").read_text()
    assert f"kArenaBytes = {artifact.arena_bytes};" in header


def test_same_input_same_bytes(tmp_path: Path, model: Model, target: Target) -> None:
    texts = []
    for name in ("a", "b"):
        artifact = make(model, target, tmp_path / name, project="cmake")
        texts.append({file: (tmp_path / name / file).read_bytes() for file in artifact.files})
    assert texts[0] == texts[1]


def test_what_does_not_fit_is_refused_unless_told(tmp_path: Path, model: Model) -> None:
    from edgekit.targets import Region

    tiny = Target(
        "tiny", "Tiny", "mcu", core="cortex-m0plus", isa=("thumb",),
        memory=(Region("FLASH", "flash", 0, 512), Region("RAM", "ram", 0x20000000, 1024)),
    )  # fmt: skip
    with pytest.raises(FitError, match="RAM in one piece"):
        make(model, tiny, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    artifact = make(model, tiny, tmp_path / "out", fit="warn")
    assert len(artifact.warnings) == 2
    verdict = engines._verdict(model, tiny, engines.load("tflm"))
    assert verdict.verdict == "does not fit"
    assert verdict.ram_bytes is not None and verdict.ram_bytes > 1024


def test_unknown_options_are_refused(tmp_path: Path, model: Model, target: Target) -> None:
    for options in ({"kernel": "reference"}, {"kernels": "cmsis"}, {"project": "keil"}):
        with pytest.raises(UsageError):
            make(model, target, tmp_path / "out", **options)


def test_engines_are_found_by_name() -> None:
    assert "tflm" in engines.names()
    assert engines.load("tflm").TITLE == "TensorFlow Lite Micro"
    with pytest.raises(UsageError, match="no engine 'tflmm'") as caught:
        engines.load("tflmm")
    assert caught.value.fix == "--engine tflm"


def test_every_target_gives_a_verdict(model: Model) -> None:
    rows = engines.support_table(model)
    assert {row.verdict for row in rows} <= {"runs", "unsupported", "does not fit"}
    of_tflm = {row.target: row for row in rows if row.engine == "tflm"}
    assert of_tflm["nucleo-l4r5zi"].verdict == "runs"
    assert of_tflm["nucleo-l4r5zi"].ram_bytes is not None


# --- the verb


def edgekit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments], capture_output=True, text=True, check=False
    )


def test_compile_prints_one_document(tmp_path: Path) -> None:
    path = tmp_path / "dense.tflite"
    path.write_bytes(dense_model())
    done = edgekit(
        "compile", str(path), "--target", "nucleo-l4r5zi", "--engine", "tflm", "-o",
        str(tmp_path / "out"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["document"] == "compile"
    assert document["arena"]["kind"] == "estimated"
    assert {o["kind"] for o in document["operators"]} == {"FULLY_CONNECTED", "LOGISTIC"}
    assert {f["path"] for f in document["files"]} == set(document["artifact"]["files"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert str(tmp_path) not in manifest["command"]


def test_compile_reports_a_missing_operator_with_exit_code_3(tmp_path: Path) -> None:
    path = tmp_path / "ranked.tflite"
    path.write_bytes(dense_model(kind="RANK"))
    done = edgekit(
        "compile", str(path), "--target", "nucleo-l4r5zi", "--engine", "tflm", "-o",
        str(tmp_path / "out"),
    )  # fmt: skip
    assert done.returncode == 3
    assert "error: TFLM has no operator RANK\n  at: op 1 RANK 'out'" in done.stderr
    assert not (tmp_path / "out").exists()
