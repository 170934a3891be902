"""``edgekit eval``: data through several boards, kills, resumption, differences."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit.build import build
from edgekit.commands import eval as eval_command
from edgekit.errors import EdgekitError, UsageError
from edgekit.evaluation.results import ResultsFile
from edgekit.records import Firmware
from edgekit.targets import load_target

BOARD = "nucleo-l4r5zi"


@pytest.fixture(scope="session")
def ad_firmware(mlperf: Path, tmp_path_factory: pytest.TempPathFactory) -> Firmware:
    """A firmware with its model beside it, as ``edgekit run`` leaves it."""
    from edgekit import engines
    from edgekit.graph.reader import read_model

    pytest.importorskip("unicorn")
    folder = tmp_path_factory.mktemp("eval")
    path, target = mlperf / "ad_autoencoder_int8.tflite", load_target(BOARD)
    model = read_model(path)
    artifact = engines.load("aot").compile(
        model, target, folder / "artifact", command="test", options={}
    )
    firmware = build(artifact, target, folder / "firmware")
    (folder / "firmware" / path.name).write_bytes(path.read_bytes())
    return firmware


@pytest.fixture
def data(tmp_path: Path, seed: int) -> Callable[[int], Path]:
    def make(count: int) -> Path:
        generator = np.random.default_rng(seed)
        x = generator.integers(-128, 128, (count, 640), dtype=np.int8)
        np.savez(tmp_path / f"d{count}.npz", x=x, y=np.arange(count) % 2)
        return tmp_path / f"d{count}.npz"

    return make


def run(*arguments: object) -> Result:
    return CliRunner().invoke(
        eval_command.command, [str(a) for a in arguments], catch_exceptions=False
    )


def lines_of(results: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in results.read_text().splitlines()[1:]]


def start(firmware: Firmware, data: Path, results: Path, boards: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgekit", "eval", str(firmware.elf.parent)]
    command += ["--data", str(data), "--results", str(results), "--json"]
    command += ["--port", "virtual"] * boards
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_results(process: subprocess.Popen[str], results: Path, count: int) -> None:
    """Returns as soon as so many results are in the file; fails if the command ends before."""
    deadline = time.monotonic() + 120
    while not results.exists() or results.read_bytes().count(b"\n") <= count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no results in two minutes"
        time.sleep(0.01)


def boards_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes of the command's virtual boards."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            int(stat.rpartition(")")[2].split()[1]) == process.pid
            and b"edgekit.sim.server" in words
        ):
            found.append(int(entry.name))
    return found


def test_four_boards_one_of_them_killed(
    ad_firmware: Firmware, data: Callable[[int], Path], tmp_path: Path
) -> None:
    """All inputs are answered, each once, and right."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("finding the boards' processes takes /proc")
    count, results = 300, tmp_path / "results.jsonl"
    process = start(ad_firmware, data(count), results, 4)
    try:
        wait_for_results(process, results, 40)
        boards = boards_of(process)
        assert len(boards) == 4
        os.kill(boards[1], signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["inputs"] == report["equal_to_tflm"] == count
    assert sum(report["answered"].values()) == count
    assert len(report["lost"]) == 1 and report["lost"][0]["final"]
    # each of the boards took its share, the dead one up to its death
    assert len(report["answered"]) == 4
    assert sorted(int(str(line["index"])) for line in lines_of(results)) == list(range(count))
    assert "is gone" in err


def test_killed_and_resumed(
    ad_firmware: Firmware, data: Callable[[int], Path], tmp_path: Path
) -> None:
    """Every result that was taken is kept, byte for byte; the rest is done."""
    count, results = 80, tmp_path / "results.jsonl"
    process = start(ad_firmware, data(count), results, 1)
    try:
        wait_for_results(process, results, 15)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    with open(results, "ab") as file:
        file.write(b'{"index": 7')  # half a line, as a power failure leaves it
    before = results.read_bytes().rpartition(b"\n")[0] + b"\n"
    taken = before.count(b"\n") - 1
    assert 15 <= taken < count
    arguments = (ad_firmware.elf.parent, "--data", data(count), "--results", results, "--json")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["resumed"] == taken
    assert report["equal_to_tflm"] == count and report["accuracy"]["metric"] == "auc"
    assert results.read_bytes().startswith(before)
    assert sorted(int(str(line["index"])) for line in lines_of(results)) == list(range(count))
    # nothing is left to do: no board is started
    again = json.loads(run(*arguments, "--port", "serial:/dev/no-such-port").stdout)
    assert again["resumed"] == count and again["accuracy"] == report["accuracy"]


def test_real_data(mlperf: Path, shared: Path, tmp_path: Path, sample: float) -> None:
    """From a model, on a board that profiles: accuracy and latency with its label."""
    count = max(10, int(30 * sample))
    result = run(
        mlperf / "kws_dscnn_int8.tflite", "--target", BOARD, "--data",
        shared / "data" / "kws01.npz", "--count", count, "--port", "virtual:profile",
        "--results", tmp_path / "r.jsonl", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["equal_to_tflm"] == count and report["kind"] == "simulated"
    assert report["accuracy"]["metric"] == "top1" and report["accuracy"]["value"] >= 0.8
    latency = report["latency_us"]
    assert 10_000 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"] < 200_000


def test_a_different_output_is_listed(
    ad_firmware: Firmware, data: Callable[[int], Path], tmp_path: Path
) -> None:
    """One byte of the results turned: found at its input, exit code 7 for the command."""
    results, path = tmp_path / "r.jsonl", data(6)
    assert run(ad_firmware.elf.parent, "--data", path, "--results", results).exit_code == 0
    head, *lines = results.read_text().splitlines()
    position = next(i for i, line in enumerate(lines) if json.loads(line)["index"] == 4)
    entry = json.loads(lines[position])
    raw = bytearray.fromhex(entry["outputs"][0])
    raw[9] ^= 1
    lines[position] = json.dumps({**entry, "outputs": [raw.hex()]})
    results.write_text("\n".join([head, *lines]) + "\n")
    result = run(ad_firmware.elf.parent, "--data", path, "--results", results, "--json")
    assert result.exit_code == 7
    report = json.loads(result.stdout)
    assert report["equal_to_tflm"] == 5
    [difference] = report["different"]
    assert (difference["index"], difference["output"], difference["elements"]) == (4, 0, 1)
    assert "1 of 6 inputs differ" in result.stderr


def test_mistreated_boards(
    ad_firmware: Firmware, data: Callable[[int], Path], tmp_path: Path
) -> None:
    """A link that loses, delays and breaks costs time, never a result."""
    report = json.loads(
        run(
            ad_firmware.elf.parent, "--data", data(12), "--results", tmp_path / "r.jsonl",
            "--port", "mistreated:0.001,delay=0.1,cut=9000:virtual", "--json",
        ).stdout
    )  # fmt: skip
    assert report["equal_to_tflm"] == 12
    assert report["lost"] and not any(lost["final"] for lost in report["lost"])


def test_what_makes_no_sense(
    ad_firmware: Firmware, data: Callable[[int], Path], tmp_path: Path, mlperf: Path
) -> None:
    folder, path = ad_firmware.elf.parent, data(3)

    def refused(*arguments: object) -> EdgekitError:
        with pytest.raises(EdgekitError) as caught:
            run(*arguments)
        return caught.value

    twice = refused(folder, "--data", path, "--port", "tcp:h:1", "--port", "tcp:h:1")
    assert twice.what == "'tcp:h:1' is given 2 times, and is one board" and twice.exit_code == 2
    results = tmp_path / "r.jsonl"
    assert run(folder, "--data", path, "--results", results).exit_code == 0
    other = refused(folder, "--data", data(4), "--results", results)
    assert "results of something else" in other.what and other.exit_code == 2
    gone = refused(
        folder, "--data", path, "--results", tmp_path / "g.jsonl", "--port", "serial:/dev/no-such"
    )
    assert gone.exit_code == 6 and "3 inputs left" in gone.what
    model = mlperf / "kws_dscnn_int8.tflite"
    assert refused(folder, "--data", path, "--model", model).exit_code in (3, 6)
    assert "--target" in run(model, "--data", path).stderr


def test_one_evaluation_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultsFile(path, {"inputs": 1}), pytest.raises(UsageError, match="another evaluation"):
        ResultsFile(path, {"inputs": 1})
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(UsageError, match="no line of an evaluation") as caught:
        ResultsFile(path, {"inputs": 1})
    assert caught.value.where is not None and caught.value.where.endswith(":2")
