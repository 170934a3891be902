"""What a wheel holds: everything that the checkout holds and that runs without it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of the files that git knows, built without network in a copy of the checkout."""
    pytest.importorskip("setuptools")
    pytest.importorskip("wheel")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--", "edgekit", "targets", "firmware", "*.cfg",
         "*.toml", "setup.py", "LICENSE", "README.md"],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    copy = folder / "checkout"
    for name in filter(None, names.split("\0")):
        source = ROOT / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(folder)],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def shipped(folder: str, patterns: tuple[str, ...]) -> set[str]:
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--", folder],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    return {name for name in names if name.endswith(patterns)}


def test_every_module_is_in_it(wheel: zipfile.ZipFile) -> None:
    assert shipped("edgekit", (".py",)) <= set(wheel.namelist())


def test_every_file_beside_the_modules_is_in_it(wheel: zipfile.ZipFile) -> None:
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--", "edgekit"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    assert set(names) <= set(wheel.namelist())


def test_targets_and_firmware_travel_inside(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    for outer, inner in (("targets", "edgekit/_targets"), ("firmware", "edgekit/_firmware")):
        names = shipped(outer, (".yaml", ".c", ".h", ".S", ".s", ".ld"))
        assert names, outer
        assert {name.replace(outer, inner, 1) for name in names} <= inside


def test_nothing_else_is_in_it(wheel: zipfile.ZipFile) -> None:
    for name in wheel.namelist():
        assert name.startswith(("edgekit/", "edgekit-")), name
        assert not {"__pycache__", ".mypy_cache", "tests"}.intersection(Path(name).parts), name


def test_it_works_outside_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    script = (
        "import sys\nsys.path.insert(0, sys.argv.pop(1))\nimport edgekit\n"
        "from edgekit.resources import firmware_dir, targets_dir\n"
        "assert edgekit.__file__.startswith(sys.path[0])\n"
        "assert (firmware_dir() / 'include' / 'ek_model.h').is_file()\n"
        "assert str(targets_dir()).startswith(sys.path[0])\n"
        "from edgekit.cli import main\nmain(['targets', 'pico'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pico: Raspberry Pi Pico")
