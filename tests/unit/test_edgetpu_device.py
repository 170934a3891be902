"""flash and bench for Edge TPUs: with nothing, with failing tools, with a stand-in library."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit.cli import cli
from edgekit.engines.edgetpu.measure import compared
from edgekit.errors import DeviceError, EdgekitError, MissingDependency, ModelError, UsageError
from edgekit.installers import flashtool, mdt
from edgekit.runtimes import edgetpu as runtime

MODEL = "mobilenet_v1_0.25_128_quant"
STAND_IN = Path(__file__).resolve().parents[1] / "edgetpu_stand_in.c"
LIBRARY_MISSING = (
    "running on an Edge TPU needs libedgetpu.so.1, which is not installed\n"
    "  try: install Google's libedgetpu1-std (coral.ai/docs/accelerator/get-started), or set "
    "EDGEKIT_LIBEDGETPU to a build that matches your TensorFlow Lite"
)

NO_COMPILER = (
    "compiling for the Edge TPU needs edgetpu_compiler, which is not on PATH\n"
    "  try: install Google's Debian package edgetpu-compiler (x86-64 Linux only; "
    "coral.ai/docs/edgetpu/compiler tells how, and how on other systems), or --predict for an "
    "estimate without it"
)


@pytest.fixture
def models(shared: Path) -> Path:
    return shared / "models" / "edgetpu"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer without library, tools and compiler."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(runtime.LIBRARY_VARIABLE, raising=False)
    if runtime._probe_here("libedgetpu.so.1").get("error") is None:
        pytest.skip("this computer has libedgetpu")
    return tools


def tool(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(0o755)


def edgekit(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def failed(done: Result) -> EdgekitError:
    assert isinstance(done.exception, EdgekitError), (done.output, done.exception)
    return done.exception


# -- nothing is there -------------------------------------------------------------------------


def test_flash_without_the_library(bare: Path, models: Path, tmp_path: Path) -> None:
    error = failed(edgekit("flash", models / f"{MODEL}_edgetpu.tflite", "--target", "coral"))
    assert (error.exit_code, str(error)) == (5, LIBRARY_MISSING)
    assert not (tmp_path / "data").exists()


def test_flash_to_a_devboard_without_mdt(bare: Path, models: Path) -> None:
    path = models / f"{MODEL}_edgetpu.tflite"
    error = failed(edgekit("flash", path, "--target", "coral-devboard"))
    assert error.exit_code == 5
    assert str(error) == (
        "mdt is not installed\n  at: find the board\n"
        "  try: pip install mendel-development-tool, or --port ssh:mendel@ADDRESS"
    )


def test_flash_to_a_micro_without_an_application(bare: Path, models: Path) -> None:
    path = models / f"{MODEL}_edgetpu.tflite"
    error = failed(edgekit("flash", path, "--target", "coral-micro"))
    assert error.exit_code == 2
    assert "needs --set coralmicro=…" in str(error)
    error = failed(
        edgekit(
            "flash", path, "--target", "coral-micro", "--set", f"coralmicro={bare}",
            "--set", f"elf={bare}/app",
        )
    )  # fmt: skip
    assert error.exit_code == 5
    assert "no scripts/flashtool.py" in str(error)


def test_bench_without_the_library_estimates(bare: Path, models: Path) -> None:
    done = edgekit("bench", models / f"{MODEL}_edgetpu.tflite", "--target", "coral", "--json")
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["kind"] == "estimated"
    assert document["latency_error"] == {"mean": 0.065, "largest": 0.22}
    assert document["latency_us"]["p50"] == pytest.approx(1017.4, abs=0.1)
    assert "libedgetpu.so.1, which is not installed" in document["not_measured"]["reason"]


def test_bench_without_the_library_refuses_where_no_estimate_holds(
    bare: Path, models: Path
) -> None:
    path = models / "deeplabv3_mnv2_dm05_pascal_quant_edgetpu.tflite"
    error = failed(edgekit("bench", path, "--target", "coral"))
    assert error.exit_code == 5
    assert error.what == (
        "running on an Edge TPU needs libedgetpu.so.1, which is not installed; no latency is "
        "estimated: 8 operators stay on the CPU, where the fit does not hold"
    )


def test_bench_on_a_devboard_without_mdt(bare: Path, models: Path) -> None:
    path = models / "split_concat_edgetpu.tflite"
    error = failed(edgekit("bench", path, "--target", "coral-devboard"))
    assert error.exit_code == 5
    assert error.what.startswith("mdt is not installed; no latency is estimated")


def test_bench_on_a_micro_is_refused(bare: Path, models: Path) -> None:
    path = models / f"{MODEL}_edgetpu.tflite"
    error = failed(edgekit("bench", path, "--target", "coral-micro"))
    assert (error.exit_code, type(error)) == (2, UsageError)


def test_a_model_that_was_not_compiled(bare: Path, models: Path) -> None:
    error = failed(edgekit("flash", models / f"{MODEL}.tflite", "--target", "coral"))
    assert (error.exit_code, type(error)) == (3, ModelError)
    assert "edgekit compile" in str(error.fix)


TERMINAL = {
    "compile": (5, f"error: {NO_COMPILER}\n"),
    "flash": (5, f"error: {LIBRARY_MISSING}\n"),
    "bench": (
        5,
        "error: "
        + LIBRARY_MISSING.replace(
            "not installed\n",
            "not installed; no latency is estimated: the model before the compiler is not at hand "
            "(--model)\n",
        )
        + "\n",
    ),
}


@pytest.mark.parametrize("verb", sorted(TERMINAL))
def test_what_a_terminal_shows(verb: str, bare: Path, models: Path, tmp_path: Path) -> None:
    name = f"{MODEL}.tflite" if verb == "compile" else "model_edgetpu.tflite"
    shutil.copyfile(models / f"{MODEL}_edgetpu.tflite", tmp_path / "model_edgetpu.tflite")
    path = models / name if verb == "compile" else tmp_path / name
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", verb, str(path), "--target", "coral"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    code, text = TERMINAL[verb]
    assert (done.returncode, done.stderr, done.stdout) == (code, text, "")


DRY_RUNS = {
    "coral": (
        "load libedgetpu.so.1",
        "find a Python package",
        "runtime version is 12 or newer",
        "find an Edge TPU (usb)",
        "udev rule",
        f"copy {MODEL}_edgetpu.tflite, a manifest.json to",
        "run one inference",
    ),
    "coral-devboard": ("$ mdt devices", "$ mdt exec 'mkdir -p", "$ mdt push", "remote_runner.py"),
    "coral-micro": ("1fc9:013d", "--build_dir", "--elf_path", "Flashing to flash storage complete"),
}


@pytest.mark.parametrize("target", sorted(DRY_RUNS))
def test_a_dry_run_shows_every_step_and_needs_nothing(
    target: str, bare: Path, models: Path, tmp_path: Path
) -> None:
    words = ["flash", models / f"{MODEL}_edgetpu.tflite", "--target", target, "--dry-run"]
    done = edgekit(*words)
    assert done.exit_code == 0, done.output
    at = 0
    for step in DRY_RUNS[target]:
        assert step in done.stdout[at:], (step, done.stdout)
        at = done.stdout.index(step, at)
    document = json.loads(edgekit(*words, "--json").stdout)
    assert document["dry_run"] is True
    assert len(document["steps"]) >= 4
    assert not (tmp_path / "data").exists()


def test_dry_run_by_ssh(bare: Path, models: Path) -> None:
    path = models / f"{MODEL}_edgetpu.tflite"
    words = ["flash", path, "--target", "coral-devboard", "--port", "ssh:mendel@192.168.100.2"]
    text = edgekit(*words, "--dry-run").stdout
    assert "$ ssh -o BatchMode=yes -o ConnectTimeout=10 mendel@192.168.100.2 'mkdir -p" in text
    assert "$ scp" in text and "mdt" not in text


# -- tools that answer ------------------------------------------------------------------------


def test_mdt_that_finds_no_board_exits_with_0(bare: Path, models: Path) -> None:
    tool(bare, "mdt", "print('No devices found')")
    path = models / f"{MODEL}_edgetpu.tflite"
    error = failed(edgekit("flash", path, "--target", "coral-devboard"))
    assert (error.exit_code, error.what) == (6, "mdt finds no Dev Board")


def test_a_devboard_that_answers(bare: Path, models: Path) -> None:
    answer = {"library": "x", "first_us": 12900.0, "latencies_us": [960.0] * 3, "outputs": None}
    tool(
        bare,
        "mdt",
        "if sys.argv[1] == 'devices': print('green-mint (192.168.100.2)')\n"
        f"if sys.argv[-1].startswith('python3 '): print('noise'); print({json.dumps(answer)!r})",
    )
    path = models / f"{MODEL}_edgetpu.tflite"
    done = edgekit("flash", path, "--target", "coral-devboard", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert (document["first_inference_us"], document["kind"]) == (12900.0, "measured")
    assert [step["name"] for step in document["steps"]] == [
        "devices", "folder", "push", "inference",
    ]  # fmt: skip
    done = edgekit("bench", path, "--target", "coral-devboard", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert (document["kind"], document["latency_us"]["p50"]) == ("measured", 960.0)
    assert document["outputs"]["match"] is None
    assert any("too large" in note for note in document["notes"])


def test_a_board_that_fails_is_no_reason_for_an_estimate(bare: Path, models: Path) -> None:
    answer = json.dumps({"error": "Failed to load delegate", "kind": "ValueError"})
    tool(
        bare,
        "mdt",
        "if sys.argv[1] == 'devices': print('green-mint (192.168.100.2)')\n"
        f"if sys.argv[-1].startswith('python3 '): print({answer!r})",
    )
    path = models / f"{MODEL}_edgetpu.tflite"
    error = failed(edgekit("bench", path, "--target", "coral-devboard"))
    assert error.exit_code == 6
    assert "no Edge TPU answers" in error.what


@pytest.mark.parametrize(
    ("kind", "text", "error", "words"),
    [
        ("OSError", "libedgetpu.so.1: cannot open shared object file", MissingDependency, "needs"),
        ("ValueError", "Failed to load delegate from libedgetpu.so.1", DeviceError, "no Edge TPU"),
        ("ImportError", "No module named numpy", MissingDependency, "numpy"),
    ],
)
def test_what_goes_wrong_on_the_board(
    kind: str, text: str, error: type[EdgekitError], words: str
) -> None:
    from edgekit.installers import Step

    with pytest.raises(error, match=words):
        mdt._answer(json.dumps({"error": text, "kind": kind}), Step("inference", "run"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("No Dev Board Micro devices detected!", "finds no Dev Board Micro"),
        ("Encountered an error during flashing", "met an error"),
        ("build/x does not exist", "misses a file"),
        ("Resetting device", "ended without 'Flashing to flash storage complete'"),
        ("", "it printed nothing"),
    ],
)
def test_flashtool_is_judged_by_its_output(text: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        flashtool.judge(text)


def test_flashtool_that_succeeds(bare: Path, models: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "coralmicro"
    (checkout / "scripts").mkdir(parents=True)
    script = checkout / "scripts" / "flashtool.py"
    script.write_text("print('Flashing to flash storage complete')\n")
    path = models / f"{MODEL}_edgetpu.tflite"
    elf = tmp_path / "app"
    elf.write_bytes(b"ELF" + path.read_bytes())
    words = [
        "flash", path, "--target", "coral-micro", "--json",
        "--set", f"coralmicro={checkout}", "--set", f"elf={elf}",
    ]  # fmt: skip
    done = edgekit(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert document["flashed"] is True
    results = {step["name"]: step["result"] for step in document["steps"]}
    assert results["model"] == "yes, inside the ELF file"
    script.write_text("print('No Dev Board Micro devices detected!')\n")
    assert failed(edgekit(*words)).exit_code == 6


# -- the sentences of the runtime -------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "log", "kind", "words"),
    [
        (
            OSError("libedgetpu.so.1: cannot open shared object file: No such file or directory"),
            "",
            MissingDependency,
            "which is not installed",
        ),
        (
            ValueError("Failed to load delegate from libedgetpu.so.1\n"),
            "",
            DeviceError,
            "is there, but no Edge TPU answers",
        ),
        (
            RuntimeError("Encountered unresolved custom op: edgetpu-custom-op."),
            "",
            DeviceError,
            "without its Edge TPU delegate",
        ),
        (
            RuntimeError("Encountered unresolved custom op: PosenetDecoderOp."),
            "",
            ModelError,
            "no kernel for the custom operator PosenetDecoderOp",
        ),
        (
            RuntimeError("Node number 0 (EdgeTpuDelegateForCustomOp) failed to prepare."),
            "Package requires runtime version (14), which is newer than this runtime version (13).",
            MissingDependency,
            "runtime version 14, newer than libedgetpu.so.1's 13",
        ),
    ],
)
def test_errors_that_were_really_seen(
    error: Exception, log: str, kind: type[EdgekitError], words: str
) -> None:
    found = runtime.explain(error, log, "libedgetpu.so.1", "ai-edge-litert")
    assert isinstance(found, kind)
    assert words in found.what
    assert found.fix


def test_pycoral_of_pypi_is_not_taken_for_googles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pycoral").mkdir()
    (tmp_path / "pycoral" / "__init__.py").write_text("raise RuntimeError('a coral reef')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(runtime, "PACKAGES", ())
    with pytest.raises(MissingDependency, match="Google's pycoral"):
        runtime.find_package()
    (tmp_path / "pycoral" / "utils").mkdir()
    (tmp_path / "pycoral" / "utils" / "edgetpu.py").write_text("")
    assert runtime.find_package() == ("pycoral.utils.edgetpu", "pycoral")


def test_outputs_are_compared_in_steps() -> None:
    one = [[np.array([[1, 2, 250]], np.uint8)]]
    two = [[np.array([[1, 4, 250]], np.uint8)]]
    same = compared("CPU", one, one)
    near = compared("CPU", one, two)
    assert (same.equal_elements, same.largest_difference, same.close) == (3, 0.0, True)
    assert (near.equal_elements, near.largest_difference, near.close) == (2, 2.0, True)
    far = compared("CPU", one, [[np.array([[90, 2, 250]], np.uint8)]])
    assert not far.close
    assert not compared("CPU", one, [[np.array([[1, 2]], np.uint8)]]).close


# -- a stand-in for the library ---------------------------------------------------------------


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the stand-in for libedgetpu is built with a C compiler, on Linux")
    path = tmp_path_factory.mktemp("stand-in") / "libedgetpu.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(path), str(STAND_IN)],
        check=True,
    )
    return path


@pytest.fixture
def with_library(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, str(stand_in))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("STAND_IN_DEVICES", "1")


def test_the_library_is_asked(with_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = runtime.probe()
    assert (found.runtime_version, len(found.devices)) == (14, 1)
    assert runtime.require_device(found, "usb:0").path == "/sys/bus/usb/devices/4-1"
    with pytest.raises(DeviceError, match="finds no PCI Edge TPU"):
        runtime.require_device(found, "pci")
    monkeypatch.setenv("STAND_IN_DEVICES", "0")
    with pytest.raises(DeviceError, match="finds no Edge TPU"):
        runtime.require_device(runtime.probe())


def test_flash_with_a_library_but_no_device(
    with_library: None, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DEVICES", "0")
    error = failed(edgekit("flash", models / f"{MODEL}_edgetpu.tflite", "--target", "coral"))
    assert (error.exit_code, error.what) == (
        6,
        "libedgetpu.so.1 finds no USB Edge TPU on this computer",
    )
    assert not (tmp_path / "data").exists()


def test_flash_with_an_old_runtime(
    with_library: None, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_RUNTIME", "11")
    error = failed(edgekit("flash", models / f"{MODEL}_edgetpu.tflite", "--target", "coral"))
    assert error.exit_code == 5
    assert "needs Edge TPU runtime version 12; libedgetpu.so.1 has 11" in error.what
    assert "min-runtime=11" in str(error.fix)


@pytest.mark.tensorflow
def test_flash_and_bench_with_the_stand_in(
    with_library: None, models: Path, tmp_path: Path
) -> None:
    path = models / f"{MODEL}_edgetpu.tflite"
    done = edgekit("flash", path, "--target", "coral", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert document["kind"] == "measured" and document["first_inference_us"] > 0
    assert document["output_bytes"] == 1001
    folder = tmp_path / "data" / "edgekit" / "coral" / MODEL
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", path.name]
    # a partly mapped model: what is left runs on the CPU, and is timed by itself
    path = tmp_path / "deeplab_edgetpu.tflite"
    shutil.copyfile(models / "deeplabv3_mnv2_dm05_pascal_quant_edgetpu.tflite", path)
    words = ["--runs", "2", "--warmups", "1", "--inputs", "1", "--json"]
    done = edgekit("bench", path, "--target", "coral", *words)
    document = json.loads(done.stdout)
    assert document["kind"] == "measured"
    assert document["runs"] == 2
    assert 0 < document["shares"]["cpu"] <= 1
    assert document["shares"]["edge"] == pytest.approx(1 - document["shares"]["cpu"])
    assert document["outputs"]["match"] is None
    assert any("--model" in note for note in document["notes"])
    assert done.exit_code == 0
    # the stand-in computes nothing: the difference is found, and decides the exit code
    path = models / f"{MODEL}_edgetpu.tflite"
    done = edgekit("bench", path, "--target", "coral", *words)
    outputs = json.loads(done.stdout)["outputs"]
    assert (outputs["elements"], outputs["inputs"]) == (1001, 1)
    assert outputs["largest_difference"] > 0
    assert outputs["match"] is (outputs["largest_share"] <= 0.1)
    assert done.exit_code == (7 if outputs["largest_share"] > 0.1 else 0)


BOARD_MDT = """
import os, shutil, subprocess
board = {board!r}
if sys.argv[1] == "devices":
    print("green-mint\\t\\t(192.168.100.2)")
elif sys.argv[1] == "push":
    for path in sys.argv[2:-1]:
        shutil.copy(path, os.path.join(board, sys.argv[-1]))
else:
    environment = {{**os.environ, "PATH": {path!r}, "LD_LIBRARY_PATH": {library!r},
                   "PYTHONPATH": {packages!r}}}
    sys.exit(subprocess.run(sys.argv[-1], shell=True, cwd=board, env=environment).returncode)
"""
BOARD_RUNTIME = """
import numpy
def load_delegate(library): return library
class Interpreter:
    def __init__(self, model_path, experimental_delegates):
        assert open(model_path, "rb").read(8)[4:] == b"TFL3"
        self.data = None
    def allocate_tensors(self): pass
    def get_input_details(self):
        return [{"index": 0, "shape": [1, 128, 128, 3], "dtype": numpy.uint8}]
    def get_output_details(self): return [{"index": 1}]
    def set_tensor(self, index, data): self.data = data
    def invoke(self): assert self.data is not None
    def get_tensor(self, index): return numpy.full((1, 1001), self.data.ravel()[0], numpy.uint8)
"""


def test_the_runner_on_the_board(bare: Path, stand_in: Path, models: Path, tmp_path: Path) -> None:
    board, packages = tmp_path / "board", tmp_path / "packages"
    board.mkdir()
    (packages / "tflite_runtime").mkdir(parents=True)
    (packages / "tflite_runtime" / "__init__.py").write_text("")
    (packages / "tflite_runtime" / "interpreter.py").write_text(BOARD_RUNTIME)
    folders = [str(Path(sys.executable).parent), "/usr/bin", "/bin"]
    body = BOARD_MDT.format(
        board=str(board), path=":".join(folders), library=str(stand_in.parent),
        packages=str(packages),
    )  # fmt: skip
    tool(bare, "mdt", body)
    path = tmp_path / f"{MODEL}_edgetpu.tflite"
    shutil.copyfile(models / path.name, path)
    words = ["--runs", "3", "--warmups", "1", "--json"]
    done = edgekit("bench", path, "--target", "coral-devboard", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert document["library"] == "BuildLabel(stand-in), RuntimeVersion(14)"
    assert (document["runs"], document["warmups"], document["kind"]) == (3, 1, "measured")
    assert document["latency_us"]["p50"] > 0
    installed = sorted(p.name for p in (board / "edgekit" / MODEL).iterdir())
    assert installed == ["inputs.bin", path.name, "remote_runner.py"]
    # without the library on the board its exception comes back as our sentence
    tool(bare, "mdt", body.replace(str(stand_in.parent), "/nowhere"))
    error = failed(edgekit("flash", path, "--target", "coral-devboard"))
    assert (error.exit_code, error.where) == (5, "run one inference on the board")
    assert "needs libedgetpu.so.1, which is not installed" in error.what
    assert "on the board: sudo apt" in str(error.fix)
