"""``edgekit.yaml``: found where it should be, strict, and overridden by flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest

from edgekit.config import Config, find_config, load_config
from edgekit.errors import UsageError


@click.command()
@click.option("--target")
@click.option("--calibration-data", type=click.Path())
@click.option("--runs", type=int)
@click.option("--io", type=click.Choice(["int8", "float32"]))
@click.option("--set", "settings", multiple=True)
@click.option("--fast/--slow", default=False)
@click.option("--verbose", "-v", count=True)
@click.option("--json", "as_json", is_flag=True)
def convert(**given: Any) -> None:
    click.echo(repr(given))


@click.command()
@click.argument("target")
@click.option("--port", multiple=True)
def sim(**given: Any) -> None:
    click.echo(repr(given))


COMMANDS = {"convert": convert, "sim": sim}


def load(tmp_path: Path, text: str, verb: str | None = "convert") -> Config:
    path = tmp_path / "edgekit.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, list(COMMANDS), COMMANDS.get, verb)


def run(config: Config, *arguments: str) -> dict[str, Any]:
    group = click.Group(commands=dict(COMMANDS))
    from click.testing import CliRunner

    outcome = CliRunner().invoke(group, arguments, default_map=config.defaults)
    assert outcome.exit_code == 0, outcome.output
    given: dict[str, Any] = eval(outcome.stdout)  # our own repr, a few lines above
    return given


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n").defaults == {}


def test_values_arrive_and_flags_win(tmp_path: Path) -> None:
    text = """\
target: pico
convert:
  calibration-data: data/sample.npz
  runs: 7
  io: float32
  fast: yes
  set: {a: 1, b: two}
"""
    config = load(tmp_path, text)
    given = run(config, "convert")
    assert given["target"] == "pico"
    assert given["calibration_data"] == str(tmp_path / "data" / "sample.npz")
    assert (given["runs"], given["io"], given["fast"]) == (7, "float32", True)
    assert given["settings"] == ("a=1", "b=two")
    given = run(config, "convert", "--runs", "3", "--slow", "--target", "host", "--set", "c=3")
    assert (given["runs"], given["fast"], given["target"]) == (3, False, "host")
    assert given["settings"] == ("c=3",)


def test_a_verbs_own_section_wins_over_the_shared_keys(tmp_path: Path) -> None:
    config = load(tmp_path, "target: pico\nconvert: {target: host}\n")
    assert run(config, "convert")["target"] == "host"


def test_shared_keys_reach_arguments_and_repeatable_options(tmp_path: Path) -> None:
    config = load(tmp_path, "target: pico\nport: virtual\nengine: aot\n", verb="sim")
    assert run(config, "sim") == {"target": "pico", "port": ("virtual",)}


def test_folders_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(tmp_path, "cache: my/cache\ntargets-path: [a, b]\n")
    monkeypatch.setenv("EDGEKIT_CACHE", "mine")
    monkeypatch.delenv("EDGEKIT_TARGETS_PATH", raising=False)
    config.apply_environment()
    assert os.environ["EDGEKIT_CACHE"] == "mine", "the environment wins"
    folders = os.environ.pop("EDGEKIT_TARGETS_PATH").split(os.pathsep)
    assert folders == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize(
    ("text", "line", "reason", "fix"),
    [
        ("tarqet: pico\n", 1, "unknown key 'tarqet' in edgekit.yaml", "did you mean 'target'?"),
        ("convrt: {}\n", 1, "unknown key 'convrt'", "did you mean 'convert'?"),
        (
            "convert:\n  calibration_data: x\n",
            2,
            "unknown key 'calibration_data' in 'convert'",
            "did you mean 'calibration-data'?",
        ),
        ("convert:\n  runs: many\n", 2, "'many' is not a valid integer", None),
        ("convert:\n\n  io: int9\n", 3, "'int9' is not one of", None),
        ("convert:\n  runs: [1]\n", 2, "must be a single value, not a list", None),
        ("convert:\n  runs: {a: 1}\n", 2, "must be a single value, not a mapping", None),
        ("convert:\n  runs:\n", 2, "has no value", None),
        ("convert:\n  runs: yes\n", 2, "takes a value, not yes or no", None),
        ("convert:\n  fast: 3\n", 2, "must be yes or no, not '3'", None),
        ("convert: [runs]\n", 1, "'convert' must be a mapping", None),
        ("convert:\n  json: yes\n", 2, "unknown key 'json'", None),
        ("sim: {target: pico}\n", 1, "unknown key 'target' in 'sim'", None),
        ("target: [a]\n", 1, "'target' must be text, not a list", None),
        ("targets-path: here\n", 1, "'targets-path' must be a list", None),
        ("target: a\ntarget: b\n", 2, "'target' occurs twice", None),
        ("target: a\n target: b\n", 2, "not valid YAML", None),
        ("just words\n", 1, "edgekit.yaml must be a mapping", None),
    ],
)
def test_a_mistake_names_line_reason_and_remedy(
    tmp_path: Path, text: str, line: int, reason: str, fix: str | None
) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert reason in caught.value.what
    assert caught.value.where == f"{tmp_path / 'edgekit.yaml'}:{line}"
    if fix:
        assert caught.value.fix == fix


def test_it_is_found_up_to_the_root_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEKIT_CONFIG", raising=False)
    (tmp_path / "edgekit.yaml").touch()
    repository = tmp_path / "repository"
    deep = repository / "a" / "b"
    deep.mkdir(parents=True)
    assert find_config(deep) is None, "outside a repository only the folder itself counts"
    assert find_config(tmp_path) == tmp_path / "edgekit.yaml"
    (repository / ".git").mkdir()
    assert find_config(deep) is None, "what lies above the repository does not count"
    (repository / "edgekit.yaml").touch()
    assert find_config(deep) == repository / "edgekit.yaml"
    (repository / "a" / "edgekit.yaml").touch()
    assert find_config(deep) == repository / "a" / "edgekit.yaml"


def test_the_environment_names_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "other.yaml"
    monkeypatch.setenv("EDGEKIT_CONFIG", str(own))
    with pytest.raises(UsageError, match="does not exist"):
        find_config(tmp_path)
    own.touch()
    assert find_config(tmp_path) == own
    (tmp_path / "edgekit.yaml").touch()
    monkeypatch.setenv("EDGEKIT_CONFIG", "")
    assert find_config(tmp_path) is None, "empty: no settings file at all"
