"""The firmware's side of the wire as a shared object."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Harness, Line

from edgekit.resources import firmware_dir

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler for the host")
    output = tmp_path_factory.mktemp("wire") / "harness.so"
    root = firmware_dir()
    sources = [root / "runtime" / "wire.c", HERE / "toy.c", HERE / "harness.c"]
    command = [compiler, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    # undefined behaviour ends the process: no frame may cause it
    command += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    command += [f"-I{root / 'include'}", *map(str, sources), "-o", str(output)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(output))


@pytest.fixture
def harness(library: ctypes.CDLL) -> Harness:
    return Harness(library)


@pytest.fixture
def lossless(harness: Harness) -> Iterator[Line]:
    yield Line(harness)
