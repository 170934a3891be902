"""The toy model of tests/wire as firmware for real targets."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgekit.build import build
from edgekit.records import Firmware
from edgekit.targets import load_target

_TOY = Path(__file__).parents[1] / "wire" / "toy.py"


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module ``tests/wire/toy.py``: an artifact, and what it computes."""
    spec = importlib.util.spec_from_file_location("toy_model", _TOY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def require_compiler() -> Callable[[str], None]:
    """Skips a test when a compiler is not installed."""
    return _require_compiler


def _require_compiler(name: str) -> None:
    if name == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    if name == "zig" and importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")


@pytest.fixture(scope="session")
def toy_firmware(
    toy: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Firmware]:
    """Builds the toy for a target with a compiler, once each."""
    built: dict[tuple[str, str], Firmware] = {}

    def make(target: str, compiler: str) -> Firmware:
        _require_compiler(compiler)
        if (target, compiler) not in built:
            folder = tmp_path_factory.mktemp(f"{target}-{compiler}")
            artifact = toy.artifact(target, folder / "artifact")
            built[target, compiler] = build(
                artifact, load_target(target), folder / "firmware", compiler=compiler
            )
        return built[target, compiler]

    return make
