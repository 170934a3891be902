"""What ``edgekit compress`` says when it is asked for what cannot be, word for word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit import examples

DIGITS = Path(examples.__file__).parent / "digits" / "digits.keras"
BASE = ["--data", "data.npz", "-o", "out"]
ONE = [*BASE, "--technique", "finetune"]

# arguments, exit code, standard error; MODEL is the digits model
QUICK = [
    (
        ["MODEL", *BASE],
        2,
        "error: give either --recipe or --technique\n"
        "  try: edgekit compress --list shows all techniques\n",
    ),
    (
        ["MODEL", *BASE, "--technique", "prnue"],
        2,
        "error: there is no technique 'prnue'\n  at: --technique:1\n  try: did you mean 'prune'?\n",
    ),
    (
        ["MODEL", *BASE, "--technique", "prune", "--set", "sparsity=120%"],
        2,
        "error: prune.sparsity must be a number, not '120%'\n  at: --set:1\n",
    ),
    (
        ["MODEL", *BASE, "--recipe", "channels-31"],
        2,
        "error: there is no recipe 'channels-31'\n  try: did you mean 'channels-30'?\n",
    ),
    (
        ["MODEL", *BASE, "--recipe", "mine.yaml"],
        2,
        "error: the file cannot be read: No such file or directory\n  at: mine.yaml\n",
    ),
    (
        ["MODEL", *BASE, "--recipe", "channels-30", "--set", "share=0.2"],
        2,
        "error: unknown key 'share' in settings for a recipe\n  at: --set:1\n"
        "  try: one of: training\n",
    ),
    (
        ["MODEL", *ONE, "--max-ram", "32K"],
        2,
        "error: no step of the recipe can keep to a budget\n  at: finetune\n"
        "  try: --technique prune-channels\n",
    ),
    (
        ["MODEL", *ONE, "--target", "picco"],
        2,
        "error: there is no target 'picco'\n  try: pico, pico2, or edgekit targets (lists all N)\n",
    ),
    (
        ["missing.keras", *ONE],
        3,
        "error: there is no such file or folder\n  at: missing.keras\n",
    ),
    (
        ["MODEL", "--data", "none.npz", "-o", "out", "--technique", "finetune"],
        3,
        "error: there is no such file or folder\n  at: none.npz\n",
    ),
    (
        ["MODEL", "--data", "data.npz", "-o", "full", "--technique", "finetune"],
        2,
        "error: the output folder exists and was not made by edgekit; nothing was written\n"
        "  at: full\n  try: another folder with -o, or remove this one\n",
    ),
    (
        ["MODEL", "--data", "data.npz", "-o", "no/where", "--technique", "finetune"],
        2,
        "error: the output's folder does not exist\n  at: no\n",
    ),
]
SLOW = [
    (
        ["MODEL", "--data", "classes.npz", "-o", "out", "--technique", "finetune"],
        3,
        "loading digits.keras\nerror: 'y' has classes from 0 to 11, the model has 10\n",
    ),
    (
        ["MODEL", "--data", "shape.npz", "-o", "out", "--technique", "finetune"],
        3,
        "loading digits.keras\n"
        "error: the samples of 'image' have the shape [20, 7, 8, 1]; the model takes "
        "[N, 8, 8, 1]\n  at: shape.npz\n",
    ),
    (
        ["MODEL", *ONE, "--held-out", "20"],
        2,
        "loading digits.keras\n"
        "error: holding out 20 of 20 samples leaves nothing to train on\n"
        "  try: --held-out 0.2, or a file of its own with --held-out-data\n",
    ),
    (
        ["MODEL", *BASE, "--technique", "prune-channels", "--max-latency", "1ms"],
        2,
        "loading digits.keras\n"
        "error: a budget needs a target to be kept on\n  at: step 1 (prune-channels): "
        "prune-channels\n  try: --target NAME\n",
    ),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    x, y = np.random.RandomState(0).rand(20, 8, 8, 1), np.arange(20) % 10
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.savez(tmp_path / "classes.npz", x=x, y=np.arange(20) % 12)
    np.savez(tmp_path / "shape.npz", x=x[:, :7], y=y)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    return tmp_path


def check(arguments: list[str], code: int, words: str, place: Path) -> None:
    from edgekit.targets import list_targets

    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "compress",
         *(str(DIGITS) if a == "MODEL" else a for a in arguments)],
        cwd=place, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr == words.replace("all N", f"all {len(list_targets())}")
    assert (done.returncode, done.stdout) == (code, "")
    assert sorted(p.name for p in place.iterdir()) == [
        "classes.npz",
        "data.npz",
        "full",
        "shape.npz",
    ]


@pytest.mark.parametrize(("arguments", "code", "words"), QUICK, ids=lambda v: str(v)[:50])
def test_quick_refusals(arguments: list[str], code: int, words: str, place: Path) -> None:
    check(arguments, code, words, place)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("arguments", "code", "words"), SLOW, ids=lambda v: str(v)[:50])
def test_refusals_of_data(arguments: list[str], code: int, words: str, place: Path) -> None:
    pytest.importorskip("tensorflow")
    check(arguments, code, words, place)


def test_the_list_names_techniques_and_recipes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "compress", "--list"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "prune-channels" in done.stdout and "channels-50" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "compress", "--explain", "rigl"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "Evci et al." in done.stdout and "distribution" in done.stdout
