"""The command line as a whole: help, exit codes, the words of errors, JSON and its silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import errors

VERBS = sorted(
    path.stem.replace("_", "-")
    for path in (Path(errors.__file__).parent / "commands").glob("*.py")
    if not path.stem.startswith("_")
)
#: What must not be loaded before a verb is known: each of them costs more than --help may take.
HEAVY = (
    "numpy yaml rich jinja2 serial flatbuffers tflite_micro tensorflow keras tf_keras unicorn"
    " capstone elftools PIL ziglang importlib.metadata concurrent.futures"
).split()


def edgekit(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def loaded_modules(arguments: list[str], cwd: Path) -> set[str]:
    code = (
        "import sys\nfrom edgekit.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_modules(["--help"], tmp_path)
    assert "edgekit.cli" in loaded
    assert not loaded.intersection(HEAVY)
    assert not {name for name in loaded if name.startswith("edgekit.commands.")}


def test_the_help_of_every_verb_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, click\nfrom edgekit.cli import cli\n"
        "for verb in sys.argv[1:]:\n"
        "    try:\n        cli.main([verb, '--help'], standalone_mode=False)\n"
        "    except SystemExit:\n        pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *VERBS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not set(done.stderr.split()).intersection(HEAVY)


def test_help_lists_every_verb_with_a_sentence(tmp_path: Path) -> None:
    text = edgekit("--help", cwd=tmp_path).stdout
    assert text.startswith("Usage: edgekit [OPTIONS] COMMAND [ARGS]...")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line[:2] == "  "}
    for verb in VERBS:
        assert rows[verb], f"{verb} has no summary"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself_with_an_example(verb: str) -> None:
    from click.testing import CliRunner

    from edgekit.cli import cli

    done = CliRunner().invoke(cli, [verb, "--help"])
    assert done.exit_code == 0
    usage, _, rest = done.stdout.partition("\n")
    assert usage.startswith(f"Usage: cli {verb}")
    assert f"edgekit {verb}" in rest, "no example"


@pytest.mark.parametrize("arguments", [["--version"], ["targets", "--help"], ["-h"]])
def test_what_ends_well(arguments: list[str], tmp_path: Path) -> None:
    done = edgekit(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


# arguments, exit code, standard error
GOLDEN = [
    (
        ["targts"],
        2,
        "Usage: edgekit [OPTIONS] COMMAND [ARGS]...\n"
        "Try 'edgekit --help' for help.\n\n"
        "Error: No such command 'targts'. Did you mean 'targets'?\n",
    ),
    (
        ["targets", "--min-ram", "much"],
        2,
        "Usage: edgekit targets [OPTIONS] [NAME]\n"
        "Try 'edgekit targets --help' for help.\n\n"
        "Error: Invalid value for --min-ram: 'much' is no size such as 128K or 2M\n",
    ),
    (
        ["targets", "picco"],
        2,
        "error: there is no target 'picco'\n  try: pico, pico2, or edgekit targets (lists all N)\n",
    ),
    (
        ["targets", "--engine", "edgtpu"],
        2,
        "error: no target has the engine 'edgtpu'\n  try: --engine edgetpu\n",
    ),
    (
        ["targets", "broken.yaml"],
        2,
        "error: regions A and B overlap by 4,096 B at 0x00001000\n  at: broken.yaml:6\n",
    ),
    (
        ["-c", "wrong.yaml", "targets"],
        2,
        "error: unknown key 'tarqet' in edgekit.yaml\n  at: wrong.yaml:2\n"
        "  try: did you mean 'target'?\n",
    ),
    (
        ["doctor", "--require", "convrt"],
        2,
        "error: doctor knows nothing called 'convrt'\n  at: --require\n  try: --require convert\n",
    ),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "wrong.yaml").write_text("# settings\ntarqet: pico\n")
    (tmp_path / "broken.yaml").write_text(
        "name: broken\ntitle: B\nkind: mcu\nmemory:\n"
        "  - {name: A, kind: flash, origin: 0, nbytes: 8K}\n"
        "  - {name: B, kind: ram, origin: 0x1000, nbytes: 8K}\n"
    )
    return tmp_path


@pytest.mark.parametrize(("arguments", "code", "words"), GOLDEN, ids=lambda v: str(v)[:40])
def test_errors_word_for_word(arguments: list[str], code: int, words: str, place: Path) -> None:
    from edgekit.targets import list_targets

    done = edgekit(*arguments, cwd=place)
    assert done.returncode == code
    assert done.stderr == words.replace("all N", f"all {len(list_targets())}")
    assert done.stdout == ""


@pytest.mark.parametrize(("arguments", "code", "words"), GOLDEN, ids=lambda v: str(v)[:40])
def test_errors_as_json(arguments: list[str], code: int, words: str, place: Path) -> None:
    done = edgekit(*arguments, "--json", cwd=place)
    assert done.returncode == code
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert document["document"] == "error"
    assert document["error"]["exit_code"] == code
    assert document["error"]["what"]
    assert "Traceback" not in done.stderr


def test_exit_codes_are_the_documented_ones() -> None:
    documented = {
        errors.UsageError: 2,
        errors.ModelError: 3,
        errors.FitError: 4,
        errors.MissingDependency: 5,
        errors.DeviceError: 6,
        errors.LimitError: 7,
    }
    for kind, code in documented.items():
        assert kind("what").exit_code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("UsageError('w', 'a', 'f')", 2),
        ("ModelError('w', 'a', 'f')", 3),
        ("FitError('w', 'a', 'f')", 4),
        ("MissingDependency('w', 'a', 'f')", 5),
        ("DeviceError('w', 'a', 'f')", 6),
        ("LimitError('w', 'a', 'f')", 7),
    ],
)
def test_every_error_has_its_code_place_and_remedy(error: str, code: int, tmp_path: Path) -> None:
    script = (
        "import sys, edgekit.errors, edgekit.cache\nfrom edgekit.cli import main\n"
        "def fail(): raise eval('edgekit.errors.' + sys.argv[1])\n"
        "edgekit.cache.cache_dir = fail\nmain(['cache'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, error],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "error: w\n  at: a\n  try: f\n"


@pytest.mark.parametrize("verb", ["targets", "doctor", "cache"])
def test_json_is_one_document_and_nothing_else(verb: str, tmp_path: Path) -> None:
    done = edgekit(verb, "--json", cwd=tmp_path, EDGEKIT_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert done.stderr == ""


def test_the_settings_file_of_the_repository_counts(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "edgekit.yaml").write_text("cache: kept\ntargets:\n  core: cortex-m33\n")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    done = edgekit("cache", "path", cwd=deep)
    assert done.stdout == f"{tmp_path / 'kept'}\n"
    document = json.loads(edgekit("targets", "--json", cwd=deep).stdout)
    assert {row["core"] for row in document["targets"]} == {"cortex-m33"}
    done = edgekit("targets", "--core", "cortex-m7", "--kind", "mcu", "--json", cwd=deep)
    assert {row["core"] for row in json.loads(done.stdout)["targets"]} == {"cortex-m7"}


def test_the_example_of_the_manual_is_taken(tmp_path: Path) -> None:
    manual = Path(__file__).parents[2] / "docs" / "settings.md"
    text = manual.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "edgekit.yaml").write_text(text, encoding="utf-8")
    done = edgekit("cache", "path", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'build' / 'cache'}\n", "")
    (tmp_path / "edgekit.yaml").write_text(text.replace("calibration-data", "calibration_data"))
    done = edgekit("cache", cwd=tmp_path)
    assert done.stderr.splitlines()[1:] == [
        "  at: edgekit.yaml:5",
        "  try: did you mean 'calibration-data'?",
    ]


def test_a_broken_settings_file_does_not_keep_help_away(tmp_path: Path) -> None:
    (tmp_path / "edgekit.yaml").write_text("nonsense: [\n")
    assert edgekit("--help", cwd=tmp_path).returncode == 0
    assert edgekit("targets", "--help", cwd=tmp_path).returncode == 0
    assert edgekit("targets", cwd=tmp_path).returncode == 2


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
@pytest.mark.parametrize("arguments", ["targets", "targets --json", "targets pico", "doctor"])
def test_a_reader_that_leaves_is_no_error(arguments: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments.split()],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


DIGITS = Path(errors.__file__).parent / "examples" / "digits"


@pytest.mark.parametrize(
    "arguments",
    [
        "inspect NONE",
        "validate NONE --data NONE",
        "validate MODEL --data NONE",
        "convert NONE -o out.tflite",
        "convert KERAS -o out.tflite --calibration-data NONE",
        "compile NONE --target pico -o out",
        "run NONE --target pico",
        "run MODEL --target pico --data NONE",
        "eval NONE.tflite --target pico --data NONE",
        "eval MODEL --target pico --data NONE --port virtual",
        "bench NONE.tflite --target host",
        "compress NONE --data NONE -o out --technique finetune",
        "compress KERAS --data NONE -o out --technique finetune",
    ],
)
def test_a_model_or_data_that_is_not_there_is_code_3(arguments: str, tmp_path: Path) -> None:
    """In every verb, in a sentence that names it, before any work is done."""
    known = {"MODEL": "digits_int8.tflite", "KERAS": "digits.keras"}
    words = [str(DIGITS / known[w]) if w in known else w for w in arguments.split()]
    done = edgekit(*words, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout == "" and "at: NONE" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")  # nothing was compiled or loaded before
    assert not list(tmp_path.iterdir())
