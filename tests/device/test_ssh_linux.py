"""``bench --target linux`` over a real OpenSSH server on loopback, also with the connection cut."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ssh_server

from edgekit.engines import litert
from edgekit.errors import DeviceError, MissingDependency, ModelError, UsageError
from edgekit.graph import Model, read_model
from edgekit.quality.synthetic import synthetic_inputs
from edgekit.remote import linux
from edgekit.remote.linux import LinuxBench, Wish, bench_linux, throttled
from edgekit.remote.ssh import CONFIG_VARIABLE, SshHost
from edgekit.targets import PATH_VARIABLE, load_target

TARGET = """\
name: loopback
title: This computer over ssh
kind: linux
link: {{kind: ssh, folder: {folder}}}
engines: [litert]
"""
FLOAT_MODELS = Path(__file__).parent / "float_models"
#: More runs than any test waits for.
ENDLESS = 50_000_000


@dataclass(frozen=True)
class Board:
    """The loopback server as a board, with an environment that is there already."""

    server: ssh_server.SshServer
    folder: Path
    model: Path
    #: ``None``: the environment that edgekit made; else the Python of these tests
    python: str | None
    made: bool | None

    @property
    def host(self) -> SshHost:
        return SshHost.parse(self.server.address.removeprefix("ssh:"))

    def bench(self, model: Model, **wish: Any) -> LinuxBench:
        wanted = {"runs": 5, "warmups": 1, "threads": (1,), "python": self.python, **wish}
        return bench_linux(
            model, self.host, synthetic_inputs(model, 2), Wish(**wanted), folder=str(self.folder)
        )

    def command(self, model: Path, *options: str) -> list[str]:
        command = [sys.executable, "-m", "edgekit", "bench", str(model), "--target", "loopback"]
        command += ["--port", self.server.address, *options]
        return [*command, "--device-python", self.python] if self.python else command


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, mlperf: Path) -> Iterator[Board]:
    folder = tmp_path_factory.mktemp("ssh")
    server = ssh_server.start(folder)
    (folder / "targets").mkdir()
    remote = folder / "remote"
    (folder / "targets/loopback.yaml").write_text(TARGET.format(folder=remote))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_VARIABLE, str(server.config))
        patch.setenv(PATH_VARIABLE, str(folder / "targets"))
        model = mlperf / "kws_dscnn_int8.tflite"
        first = Board(server, remote, model, None, None)
        try:
            made = first.bench(read_model(model)).environment_made
            yield dataclasses.replace(first, made=made)
        except MissingDependency:
            # No package index is reached from here: the tests' own TensorFlow runs the models.
            yield dataclasses.replace(first, python=sys.executable)
        finally:
            server.stop()


@pytest.fixture
def kws(board: Board) -> Model:
    return read_model(board.model)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A sysfs of two cores with governors, a temperature and throttling."""
    for cpu in range(os.cpu_count() or 1):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}"
        (folder / "cpufreq").mkdir(parents=True)
        (folder / "cpufreq/scaling_governor").write_text("powersave\n")
        (folder / "cpufreq/cpuinfo_max_freq").write_text(f"{1_000_000 + cpu * 500_000}\n")
        (folder / "cpufreq/scaling_cur_freq").write_text("1000000\n")
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("51500\n")
    soc = tmp_path / "sys/devices/platform/soc/soc:firmware"
    soc.mkdir(parents=True)
    (soc / "get_throttled").write_text("50000\n")
    return tmp_path / "sys"


def governor(sysfs: Path, cpu: int) -> str:
    path = sysfs / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"
    return path.read_text().strip()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.05)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_environment_is_made_once_and_found_again(board: Board, kws: Model) -> None:
    if board.python is not None:
        pytest.skip("no package index is reached from here")
    assert board.made is True
    assert board.bench(kws).environment_made is False
    assert len(list(board.folder.glob("env-*/ready"))) == 1


def test_the_command_measures_end_to_end(
    board: Board, kws: Model, shared: Path, tmp_path: Path
) -> None:
    data = shared / "data/kws01.npz"
    ended = run(board.command(board.model, "--data", str(data), "--inputs", "60", "--json"))
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["kind"] == "measured"
    assert document["model"]["sha256"] == kws.sha256
    assert document["runs"][0]["threads"] == 1
    for found in document["runs"]:
        times = found["latency_us"]
        assert 0 < times["min"] <= times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
        assert found["peak_bytes"] > found["before_bytes"] > 0
        assert len(found["pinned"]) == found["threads"]
        assert found["runs"] == 50
    outputs = document["outputs"]
    assert outputs["reference"].startswith("TFLM")
    assert outputs["compared"] == 32
    assert outputs["argmax_differing"] <= 2
    assert document["accuracy"]["metric"] == "top1"
    assert document["accuracy"]["samples"] == 60
    assert document["accuracy"]["value"] > 0.8
    assert document["measurements"][0]["kind"] == "measured"
    # a folder that compile wrote is as good as the file
    litert.compile(kws, load_target("linux"), tmp_path / "out", command="test", options={})
    text = run(board.command(tmp_path / "out", "--threads", "1", "--runs", "3"))
    assert text.returncode == 0, text.stderr
    assert "measured" in text.stdout
    assert "p99 µs" in text.stdout


def test_nothing_is_copied_twice(board: Board, kws: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    board.bench(kws)
    monkeypatch.setattr(SshHost, "send", lambda *_, **__: pytest.fail("something was copied"))
    board.bench(kws)
    assert not list(board.folder.glob("*.part"))


@pytest.mark.parametrize(
    ("name", "largest"), [("float32", 1e-5), ("dynamic", 0.05), ("float16", 1e-3)]
)
def test_float_float16_and_dynamic_range_models_with_accuracy(
    board: Board, name: str, largest: float
) -> None:
    options = ["--data", str(FLOAT_MODELS / "data.npz"), "--threads", "1", "--json"]
    ended = run(board.command(FLOAT_MODELS / f"{name}.tflite", *options))
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["accuracy"]["metric"] == "top1"
    assert document["accuracy"]["value"] >= 0.95
    assert document["runs"][0]["latency_us"]["p50"] > 0
    assert document["outputs"]["compared"] == 32
    assert document["outputs"]["largest"] <= largest


def test_governors_cores_and_what_sysfs_tells(board: Board, kws: Model, sysfs: Path) -> None:
    found = board.bench(kws, sysfs=str(sysfs))
    fastest = (os.cpu_count() or 1) - 1
    assert found.cores[0] == fastest
    assert found.runs[0].pinned == (fastest,)
    assert found.governors == {str(fastest): ["powersave", "performance"]}
    assert governor(sysfs, fastest) == "powersave"
    assert found.temperatures_c == {"cpu-thermal": [51.5, 51.5, 51.5]}
    assert found.frequencies_khz[str(fastest)] == [1_000_000, 1_000_000]
    # since boot, not in this run
    assert found.throttling == {"get_throttled": [0x50000, 0x50000]}
    assert throttled(found) == "no"
    now = dataclasses.replace(found, throttling={"get_throttled": [0x50000, 0x50004]})
    assert throttled(now) == "get_throttled is 0x50004"
    kept = board.bench(kws, sysfs=str(sysfs), governor=None, cores=(0,))
    assert kept.governors == {"0": ["powersave", "powersave"]}
    assert kept.cores == (0,)


def test_a_governor_that_may_not_be_set_is_a_note(board: Board, kws: Model, sysfs: Path) -> None:
    path = sysfs / "devices/system/cpu/cpu0/cpufreq/scaling_governor"
    path.unlink()
    # a file that cannot be written, by root either
    path.symlink_to("/proc/sys/kernel/ostype")
    found = board.bench(kws, sysfs=str(sysfs), cores=(0,))
    (note,) = [text for text in found.notes if "stays with the governor" in text]
    assert "core 0" in note
    assert not (board.folder / "restore.json").exists()


def test_a_cut_ends_the_command_and_everything_on_the_device(board: Board) -> None:
    """The command's sentence and code; no process is left; the next run uses what is there."""
    environments = sorted((path, path.stat().st_mtime) for path in board.folder.glob("env-*"))
    command = board.command(board.model, "--runs", str(ENDLESS), "--threads", "1")
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(
            lambda: any(
                "--measure" in line for line in ssh_server.processes_naming(str(board.folder))
            ),
            "the measurement on the device",
        )
        assert board.server.cut() >= 1
        stdout, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 6, stderr
    assert "was cut while measuring with 1 thread" in stderr
    assert "the same command again" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    wait_for(lambda: not ssh_server.processes_naming(str(board.folder)), "the end of all processes")
    again = run(board.command(board.model, "--runs", "3", "--threads", "1", "--json"))
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["environment_made"] in (False, None)
    assert "copying" not in again.stderr
    after = sorted((path, path.stat().st_mtime) for path in board.folder.glob("env-*"))
    assert [path for path, _ in after] == [path for path, _ in environments]


def cut_run(board: Board, kws: Model, sysfs: Path, cut: Callable[[], object]) -> DeviceError:
    """An endless run that something ends once the governor is set."""
    caught: list[BaseException] = []

    def measure() -> None:
        try:
            board.bench(kws, runs=ENDLESS, sysfs=str(sysfs), cores=(0,), silence_s=4.0)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    wait_for(lambda: governor(sysfs, 0) == "performance", "the governor")
    wait_for(
        lambda: any("--measure" in line for line in ssh_server.processes_naming(str(board.folder))),
        "the measurement",
    )
    cut()
    thread.join(60)
    assert not thread.is_alive()
    (error,) = caught
    assert isinstance(error, DeviceError), error
    return error


def test_a_cut_restores_the_governor(board: Board, kws: Model, sysfs: Path) -> None:
    cut_run(board, kws, sysfs, board.server.cut)
    wait_for(lambda: governor(sysfs, 0) == "powersave", "the old governor")
    wait_for(lambda: not (board.folder / "restore.json").exists(), "the end of restoring")


def runner_of(board: Board) -> int:
    """The process that supervises on the device."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                place = os.readlink(folder / "cwd")
            except OSError:
                continue
            if place == str(board.folder) and words[-2:-1] == [b"."]:
                return int(folder.name)
    raise AssertionError("nothing supervises")


def test_a_killed_runner_leaves_no_process_and_the_next_run_restores(
    board: Board, kws: Model, sysfs: Path
) -> None:
    cut_run(board, kws, sysfs, lambda: os.kill(runner_of(board), signal.SIGKILL))
    wait_for(lambda: not ssh_server.processes_naming(str(board.folder)), "the child's end")
    assert governor(sysfs, 0) == "performance"
    board.bench(kws)
    assert governor(sysfs, 0) == "powersave"


def test_a_silent_connection_counts_as_cut(
    board: Board, kws: Model, sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that hangs keeps its connection open, but says nothing any more."""
    import edgekit.remote.ssh as ssh

    monkeypatch.setattr(ssh, "_HEARTBEAT_S", 3600.0)
    error = cut_run(board, kws, sysfs, lambda: None)
    assert "was cut while measuring" in error.what
    wait_for(lambda: governor(sysfs, 0) == "powersave", "the old governor")


def test_a_cut_while_the_environment_is_made(
    board: Board, kws: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip waits for an index that says nothing; the cut ends it, and a rerun begins anew."""
    if board.python is not None:
        pytest.skip("no package index is reached from here")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        index = f"http://127.0.0.1:{mute.getsockname()[1]}/simple"
        packages = (("nothing", f"--index-url={index}", "--timeout=60"),)
        monkeypatch.setattr(linux, "PACKAGES", packages)
        caught: list[BaseException] = []

        def measure() -> None:
            try:
                board.bench(kws)
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=measure)
        thread.start()
        connection, _ = mute.accept()
        board.server.cut()
        thread.join(60)
        connection.close()
    (error,) = caught
    assert isinstance(error, DeviceError)
    assert "was cut while installing nothing on the device" in error.what
    wait_for(lambda: not ssh_server.processes_naming(str(board.folder)), "the end of pip")
    monkeypatch.undo()
    monkeypatch.setenv(CONFIG_VARIABLE, str(board.server.config))
    monkeypatch.setenv(PATH_VARIABLE, str(board.folder.parent / "targets"))
    assert board.bench(kws).environment_made is False


def test_operators_from_the_profiler_that_the_user_brings(
    board: Board, kws: Model, tmp_path: Path
) -> None:
    program = tmp_path / "benchmark_model"
    recorded = (Path(__file__).parents[1] / "unit/recorded/benchmark_model_cpu.txt").read_text()
    program.write_text(
        '#!/bin/sh\ncase "$*" in *--enable_op_profiling=true*) ;; *) exit 1 ;; esac\n'
        f"cat <<'END'\n{recorded}END\n"
    )
    found = board.bench(kws, benchmark_model=program)
    assert [op.kind for op in found.profile][:2] == ["QUANTIZE", "Convolution (NHWC, QC8) IGEMM"]
    program.write_text("#!/bin/sh\necho cannot run\nexit 3\n")
    with pytest.raises(MissingDependency, match="benchmark_model ended with code 3"):
        board.bench(kws, benchmark_model=program)


def test_what_the_device_refuses(board: Board, kws: Model, shared: Path) -> None:
    with pytest.raises(UsageError, match="no usable core 999"):
        board.bench(kws, cores=(999,))
    name = "posenet_mobilenet_v1_075_353_481_16_quant_decoder.tflite"
    with pytest.raises(ModelError, match="refuses the model"):
        board.bench(read_model(shared / "models/edgetpu" / name))
    with pytest.raises(MissingDependency, match="has none of ai-edge-litert"):
        board.bench(kws, python="/bin/true")


def test_a_python_that_is_not_there(board: Board, kws: Model) -> None:
    with pytest.raises(MissingDependency, match="/nowhere/python3 cannot be run"):
        board.bench(kws, python="/nowhere/python3")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("user_key", "other_key"), "the login is refused"),
        (lambda text: text.replace("known_hosts", "nobody"), "host key is not known"),
    ],
)
def test_logins_that_fail(
    board: Board,
    kws: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[str], str],
    says: str,
) -> None:
    config = tmp_path / "config"
    config.write_text(change(board.server.config.read_text()))
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    with pytest.raises(DeviceError, match=says) as caught:
        board.bench(kws)
    assert "ssh" in (caught.value.fix or "")


def test_nobody_listens(board: Board, mlperf: Path) -> None:
    command = board.command(board.model)
    command[command.index("--port") + 1] = "ssh:127.0.0.1:1"
    ended = run(command)
    assert ended.returncode == 6
    assert "nothing listens for ssh there" in ended.stderr
    assert linux.FOLDER == ".cache/edgekit"
