"""Limits on the command line: what is written, what is refused and in which words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tflite_builder import TfliteBuilder

TARGET = ("--target", "nucleo-l4r5zi")


def edgekit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions whose images are 1 KB, 8 KB and 1 KB, as ``tower.tflite``."""
    builder = TfliteBuilder()
    first = tensor = builder.tensor((1, 16, 16, 4), scale=0.05, zero_point=-3)
    scale, channels = 0.05, 4
    for after, stride in ((32, 1), (16, 2)):
        weights = np.random.default_rng(after).integers(-127, 128, (after, 3, 3, channels))
        inputs = [
            tensor,
            builder.constant(weights.astype(np.int8), scale=0.01),
            builder.constant(np.zeros(after, np.int32), scale=0.01 * scale),
        ]
        size = 16 // stride
        tensor = builder.tensor((1, size, size, after), scale=0.4, zero_point=5)
        builder.op(
            "CONV_2D", inputs, [tensor], padding="SAME", stride_h=stride, stride_w=stride,
            dilation_h_factor=1, dilation_w_factor=1, fused_activation_function="RELU",
        )  # fmt: skip
        scale, channels = 0.4, after
    path = tmp_path_factory.mktemp("limits")
    (path / "tower.tflite").write_bytes(builder.build([first], [tensor]))
    return path


def test_compile_keeps_to_the_arena(folder: Path) -> None:
    done = edgekit(
        "compile", "tower.tflite", *TARGET, "-o", "a", "--max-ram", "6K", "--json", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["arena"]["used_bytes"] <= 6144
    assert document["estimates"]["kind"] == "estimated"
    assert [stage["macs"] for stage in document["artifact"]["plan"]["stages"]] == [
        document["artifact"]["model_macs"]
    ]


def test_compile_refuses(folder: Path) -> None:
    def refused(*limits: str) -> str:
        done = edgekit("compile", "tower.tflite", *TARGET, "-o", "b", *limits, cwd=folder)
        assert (done.returncode, done.stdout) == (4, "")
        assert not (folder / "b").exists()
        return re.sub(r"[0-9][0-9.,]*", "#", done.stderr)

    assert refused("--max-ram", "1K") == (
        "error: the arena cannot be # B: the smallest plan found takes # B (which is proven for"
        " its kernels and order)\n"
        "  at: step # CONV_#D; live: rows of t# # B and t# # B\n"
        "  try: --max-ram # for # times the instructions (estimated)\n"
    )
    assert refused("--max-latency", "10us") == (
        "error: an inference cannot take #us: the fastest plan that fits takes #ms (estimated,"
        " within #%)\n"
        "  at: # instructions (estimated) on nucleo-l#r#zi, cortex-m# at # MHz\n"
        "  try: --max-latency #ms\n"
    )
    assert refused("--max-flash", "1K") == (
        "error: the model cannot take # B of flash: with shared code it needs about # B"
        " (estimated)\n"
        "  at: weights and tables # B, code about # B (within #%)\n"
        "  try: --max-flash #\n"
    )


def test_values_that_are_no_limits(folder: Path) -> None:
    for limit in (("--max-ram", "much"), ("--max-latency", "10"), ("--max-flash", "0")):
        done = edgekit("compile", "tower.tflite", *TARGET, "-o", "c", *limit, cwd=folder)
        assert done.returncode == 2
        assert limit[0][2:].replace("-", "_") in done.stderr


def test_run_counts_the_whole_firmware(folder: Path) -> None:
    pytest.importorskip("unicorn")
    done = edgekit("run", "tower.tflite", *TARGET, "--max-ram", "10K", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["memory"]["ram_bytes"] <= 10240
    done = edgekit("run", "tower.tflite", *TARGET, "--max-flash", "4K", cwd=folder)
    assert done.returncode == 4
    assert "flash" in done.stderr
