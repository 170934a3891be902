"""Addresses, failures and options of ssh; the engine litert; nothing here needs a server."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.engines import litert
from edgekit.errors import DeviceError, MissingDependency, ModelError, UsageError
from edgekit.graph import read_model
from edgekit.remote import device, linux
from edgekit.remote.ssh import SshHost
from edgekit.targets import load_target


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("pi@raspberrypi.local", "pi", "raspberrypi.local", None),
        ("board:2222", "", "board", 2222),
        ("me@[fe80::1]:22", "me", "fe80::1", 22),
        ("10.0.0.2", "", "10.0.0.2", None),
    ],
)
def test_addresses(text: str, user: str, host: str, port: int | None) -> None:
    assert SshHost.parse(text) == SshHost(host, user, port)


@pytest.mark.parametrize(
    "text", ["", "@host", "host:", "host:99999", "host:0", "-oProxyCommand=true", "a@-b", "a b"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        SshHost.parse(text)


@pytest.mark.parametrize(
    ("printed", "says", "fix"),
    [
        ("me@b: Permission denied (publickey).", "login is refused", "ssh-copy-id -p 22 me@b"),
        ("ssh: Could not resolve hostname b: Name or service not known", "no computer", "address"),
        ("ssh: connect to host b port 22: Connection timed out", "does not answer", "switched on"),
        ("Connection to b closed by remote host.", "was cut", "again"),
        ("something else", "something else", "ssh -p 22 me@b true"),
    ],
)
def test_what_ssh_prints(printed: str, says: str, fix: str) -> None:
    error = SshHost("b", "me", 22).failure(printed)
    assert isinstance(error, DeviceError)
    assert says in error.what
    assert fix in (error.fix or "")


def test_the_runner_needs_nothing_of_edgekit_and_an_old_python() -> None:
    text = Path(device.__file__).read_text()
    tree = ast.parse(text, feature_version=(3, 7))
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert modules - set(sys.stdlib_module_names) == {"numpy"}
    assert ".removeprefix(" not in text


@pytest.mark.parametrize(
    ("told", "own", "found"),
    [
        ("system-Linux python3-3.11", None, "python3"),
        ("a.tflite system-Linux python3-3.7", "/opt/python", "python3"),
        ("system-Linux python3-3.6", "python3.9", "python3.9"),
        ("system-Linux python3-none", "python3.9", "python3.9"),
    ],
)
def test_which_python_supervises(told: str, own: str | None, found: str) -> None:
    assert linux._supervisor(SshHost("b"), told.split(), own) == found


@pytest.mark.parametrize(
    ("told", "kind", "says"),
    [
        ("system-Darwin python3-3.11", DeviceError, "b runs Darwin, not Linux"),
        ("system-Linux python3-none", MissingDependency, "b has no python3"),
        ("system-Linux python3-3.6", MissingDependency, "b has Python 3.6; 3.7 is the oldest"),
    ],
)
def test_systems_that_cannot_measure(told: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        linux._supervisor(SshHost("b"), told.split(), None)


def test_numbers_of_threads() -> None:
    assert device.steps_to(1) == [1]
    assert device.steps_to(4) == [1, 2, 3, 4]
    assert device.steps_to(6) == [1, 2, 3, 4, 6]
    assert device.steps_to(16) == [1, 2, 3, 4, 8, 16]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_options_that_make_no_sense(mlperf: Path) -> None:
    model = str(mlperf / "kws_dscnn_int8.tflite")
    ended = bench(model, "--target", "linux")
    assert ended.returncode == 2
    assert "--port ssh:USER@HOST" in ended.stderr
    ended = bench(model, "--target", "linux", "--port", "ssh:a b")
    assert ended.returncode == 2
    ended = bench(model, "--target", "linux", "--port", "ssh:b", "--cores", "3-1")
    assert ended.returncode == 2
    assert "names no cores" in ended.stderr


def test_without_ssh(mlperf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    model = str(mlperf / "kws_dscnn_int8.tflite")
    ended = bench(model, "--target", "linux", "--port", "ssh:b")
    assert ended.returncode == 5
    assert "openssh-client" in ended.stderr


def test_the_engine_writes_the_model_as_it_is(mlperf: Path, tmp_path: Path) -> None:
    model = read_model(mlperf / "kws_dscnn_float.tflite")
    board = load_target("linux")
    assert litert.supports(model, board).ok
    assert not litert.supports(model, load_target("nucleo-l4r5zi")).ok
    artifact = litert.compile(model, board, tmp_path / "out", command="test", options={})
    path = litert.model_in(tmp_path / "out")
    assert path.read_bytes() == model.raw
    assert artifact.model_sha256 == model.sha256
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["engine"] == "litert"
    with pytest.raises(UsageError):
        litert.compile(model, board, tmp_path / "b", command="test", options={"threads": "2"})
    with pytest.raises(UsageError):
        litert.model_in(tmp_path)


def test_models_for_other_runtimes_are_refused(shared: Path, tmp_path: Path) -> None:
    path = shared / "models/edgetpu/split_concat_edgetpu.tflite"
    with pytest.raises(ModelError, match="compiled for the Edge TPU"):
        litert.compile(
            read_model(path), load_target("linux"), tmp_path / "o", command="test", options={}
        )
