"""The cache folder: where it is, what it weighs, and that clearing spares what is not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cache import cache_dir, cache_folder, cache_sizes, clear_cache
from edgekit.cli import cli
from edgekit.errors import UsageError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("EDGEKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "edgekit"


def test_making_weighing_and_clearing(root: Path) -> None:
    assert cache_sizes() == {}
    assert clear_cache() == 0
    assert not root.exists(), "asking must not make it"
    folder = cache_folder("environments")
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_bytes(b"x" * 1000)
    assert (
        (root / "CACHEDIR.TAG")
        .read_text()
        .startswith("Signature: 8a477f597d28d172789f06886806bc55")
    )
    assert cache_sizes() == {"environments": 1000}
    assert cache_folder("environments") == folder, "again, with its content"
    assert clear_cache() == 1000
    assert cache_sizes() == {}


def test_a_link_is_removed_and_not_followed(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep me")
    cache_folder("a")
    (root / "link").symlink_to(precious)
    clear_cache()
    assert (precious / "file").exists()
    assert not (root / "link").exists()


def test_a_folder_of_somebody_else_is_left_alone(root: Path) -> None:
    root.mkdir()
    (root / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="was not made by edgekit"):
        clear_cache()
    with pytest.raises(UsageError, match="was not made by edgekit"):
        cache_folder("a")
    assert (root / "thesis.tex").exists()


def test_a_cache_that_cannot_be_written(root: Path) -> None:
    root.write_text("a file is in the way")
    with pytest.raises(UsageError, match="the cache cannot be written"):
        cache_folder("a")


def test_no_way_out_of_the_cache(root: Path) -> None:
    with pytest.raises(ValueError, match="not a name"):
        cache_folder("../elsewhere")


def test_the_command(root: Path) -> None:
    (cache_folder("builds") / "file").write_bytes(b"x" * 2048)
    run = CliRunner().invoke
    assert run(cli, ["cache", "path"]).stdout == f"{root}\n"
    assert json.loads(run(cli, ["cache", "--json"]).stdout)["entries"] == {"builds": 2048}
    assert "2,048 B" in run(cli, ["cache", "size"]).stdout
    assert json.loads(run(cli, ["cache", "clear", "--json"]).stdout)["freed_bytes"] == 2048
    assert "0 B freed" in run(cli, ["cache", "clear"]).stdout
