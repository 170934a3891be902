"""The whole runtime as a program on this computer: main.c over a pipe."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import toy

from edgekit.device import Device
from edgekit.errors import DeviceError
from edgekit.links import open_link
from edgekit.links.command import CommandLink
from edgekit.resources import firmware_dir

IMAGE = """
#include "ek_image.h"
extern const ek_model_t toy_model;
static int8_t arena[624] __attribute__((aligned(16)));
static uint8_t staging[300];
static uint32_t ticks[3], crcs[3];
const ek_image_t ek_image = {
    .model = &toy_model, .arena = arena, .staging = staging, .staging_bytes = 300, .flags = 2,
    .step_ticks = ticks, .step_crcs = crcs, .step_capacity = 3, .clock_hz = 1,
    .target = "host", .build_id = {0xee}};
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler for the host")
    folder, root = tmp_path_factory.mktemp("host"), firmware_dir()
    (folder / "ek_image.c").write_text(IMAGE)
    sources = [root / "runtime" / "main.c", root / "runtime" / "wire.c", toy.SOURCE]
    sources += [root / "port" / "host" / "port.c", folder / "ek_image.c"]
    command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover"]
    command += [f"-I{root / 'include'}", *map(str, sources), "-o", str(folder / "runtime")]
    subprocess.run(command, check=True)
    return folder / "runtime"


def test_inferences_and_resets(program: Path) -> None:
    link = open_link(f"command:{program}", None)
    assert isinstance(link, CommandLink)
    with Device(link) as device:
        device.connect("ee" + "0" * 30)
        for number in range(20):
            x = np.random.default_rng(number).integers(-128, 128, 300).astype(np.int8)
            assert device.infer([x.tobytes()]) == [toy.steps(x)[2].tobytes()]
            if number % 5 == 0:
                device.reset()
        assert device.stack() == (0, 0)
    assert link._process.returncode is not None


def test_a_program_that_ends_is_told(program: Path) -> None:
    with Device(open_link("command:true", None)) as device, pytest.raises(DeviceError):
        device.connect()
    with pytest.raises(DeviceError, match="does not start"):
        open_link("command:/no/such/program", None)
