"""Target files: ours are sound, and every way to get one wrong is told with its line."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli import cli
from edgekit.errors import UsageError
from edgekit.records import from_json, to_json
from edgekit.resources import targets_dir
from edgekit.targets import Target, filter_targets, list_targets, load_target, read_target

NAMES = (
    "host nucleo-l4r5zi nucleo-f446re nucleo-h7a3zi-q nucleo-u575zi-q nucleo-g0b1re nano33ble pico"
    " pico2 nrf52840dk esp32-s3 esp32-c3 corstone-300 mps2-an386 mps2-an500 coral-usb"
    " coral-devboard coral-micro linux android"
).split()

GOOD = """\
name: board
title: A board
kind: mcu
core: cortex-m4
isa: [thumb, thumb2, dsp]
clock_hz: 80 MHz
memory:
  - {name: FLASH, kind: flash, origin: 0x08000000, nbytes: 1M}
  - {name: SRAM, kind: ram, origin: 0x20000000, nbytes: 96K}
link: {kind: serial, baud: 115200, usb_ids: ["0483:374b"]}
flashers:
  - {name: openocd, target: target/stm32l4x.cfg}
engines: [aot]
timing: {model: cortex-m4, basis: core}
sources:
  - {facts: [core], source: data sheet, verified: no}
"""


@pytest.fixture
def board(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "board.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_target_of_the_first_release_is_there() -> None:
    assert set(NAMES) <= {target.name for target in list_targets()}


@pytest.mark.parametrize("name", NAMES)
def test_our_files_are_complete(name: str) -> None:
    target = load_target(name)
    assert target.engines
    assert target.link.get("kind")
    if target.kind != "mcu":
        return
    assert target.core and target.clock_hz and target.flash_bytes and target.ram_bytes
    assert target.sources, "facts without a source"
    assert all(source["facts"] and source["source"] for source in target.sources)
    if target.core.startswith("cortex-m"):
        assert target.port and target.uart["base"] > 0
        assert target.sim["family"]
        assert "thumb" in target.isa
        assert target.engines[0] == "aot"
    if target.core == "cortex-m0plus":
        assert target.isa == ("thumb",)


def test_a_target_survives_json() -> None:
    for target in list_targets():
        assert from_json(Target, json.loads(json.dumps(to_json(target)))) == target


def test_facts_that_the_brief_of_the_boards_names() -> None:
    l4r5 = load_target("nucleo-l4r5zi")
    assert (l4r5.flash_bytes, l4r5.ram_bytes, l4r5.clock_hz) == (2 << 20, 640 << 10, 120_000_000)
    assert l4r5.timing["constants"]["taken_total"] == 3.1
    h7a3 = load_target("nucleo-h7a3zi-q")
    assert h7a3.largest_ram_bytes == 1 << 20
    assert h7a3.timing["cache"] == {"sets": 128, "ways": 4, "line_bytes": 32}
    assert load_target("pico").timing == {"model": "cortex-m0plus", "basis": "core"}
    assert load_target("coral").link["usb_ids"] == ["1a6e:089a", "18d1:9302"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("coral", "coral-usb"),
        ("mps3-an547", "corstone-300"),
        ("PICO", "pico"),
        ("nucleo_l4r5zi", "nucleo-l4r5zi"),
    ],
)
def test_aliases_and_spelling(given: str, name: str) -> None:
    assert load_target(given).name == name


def test_an_unknown_target_gets_suggestions() -> None:
    with pytest.raises(UsageError) as caught:
        load_target("nucleo-l4r5")
    assert "nucleo-l4r5zi" in str(caught.value.fix)
    with pytest.raises(UsageError, match="there is no target '..'"):
        load_target("..")


def test_filters() -> None:
    targets = list_targets()
    big = filter_targets(targets, min_ram_bytes=512 << 10, engine="aot", core="cortex-m4")
    assert {target.name for target in big} == {"nucleo-l4r5zi", "mps2-an386"}
    with pytest.raises(UsageError, match="no target has the core 'cortex-m5'"):
        filter_targets(targets, core="cortex-m5")


def test_a_good_file_of_ones_own(board, monkeypatch: pytest.MonkeyPatch) -> None:
    path = board(GOOD)
    target = load_target(str(path))
    assert (target.flash_bytes, target.ram_bytes, target.clock_hz) == (
        1 << 20,
        96 << 10,
        80_000_000,
    )
    assert target.unverified_facts == ("core",)
    monkeypatch.setenv("EDGEKIT_TARGETS_PATH", str(path.parent))
    assert load_target("board") == target
    assert target in list_targets()


def test_ones_own_file_comes_before_ours(board, monkeypatch: pytest.MonkeyPatch) -> None:
    path = board(GOOD.replace("name: board", "name: pico"))
    path.rename(path.with_name("pico.yaml"))
    monkeypatch.setenv("EDGEKIT_TARGETS_PATH", str(path.parent))
    assert load_target("pico").title == "A board"
    assert [t.title for t in list_targets() if t.name == "pico"] == ["A board"]


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_TARGETS_PATH", "no/such/folder")
    with pytest.raises(UsageError, match="does not exist: no/such/folder"):
        list_targets()


def test_an_alias_that_is_taken(board, monkeypatch: pytest.MonkeyPatch) -> None:
    path = board(GOOD.replace("kind: mcu", "kind: mcu\naliases: [rp2040]"))
    monkeypatch.setenv("EDGEKIT_TARGETS_PATH", str(path.parent))
    with pytest.raises(UsageError, match="alias 'rp2040' of"):
        list_targets()


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (("core:", "cores:"), 4, "unknown key 'cores'"),
        (("title: A board\n", ""), 1, "the key 'title' is missing"),
        (("title: A board", "title: 7"), 2, "'title' must be text, not '7'"),
        (("title: A board", "title: [A]"), 2, "'title' must be text, not a list"),
        (("title: A board", "title: A\ntitle: B"), 3, "'title' occurs twice"),
        (("kind: mcu", "kind: mcus"), 3, "'mcus' is no kind"),
        (("dsp]", "dps]"), 5, "'dps' is no isa"),
        (("80 MHz", "80 MHzz"), 6, "must be a frequency such as 120 MHz, not '80 MHzz'"),
        (("80 MHz", "0"), 6, "must be a frequency"),
        (("nbytes: 1M", "nbytes: 1Q"), 8, "must be a size such as 640K, 2M or 0x1000, not '1Q'"),
        (("nbytes: 1M", "nbytes: 0"), 8, "must be a size"),
        (("nbytes: 1M", "nbytes: 1.3"), 8, "must be a size"),
        (("nbytes: 1M", "size: 1M"), 8, "unknown key 'size' in a memory region"),
        ((", nbytes: 1M", ""), 8, "the memory region has no 'nbytes'"),
        (("origin: 0x08000000", "origin: here"), 8, "'origin' must be a whole number"),
        (("origin: 0x08000000", "origin: 0xfffffff0"), 8, "32-bit address space"),
        (("0x20000000", "0x08080000"), 9, "regions FLASH and SRAM overlap by 98,304 B"),
        (("name: SRAM", "name: FLASH"), 9, "two memory regions are called FLASH"),
        (("name: SRAM", "name: sram"), 9, "capitals"),
        (("kind: ram", "kind: rom"), 8, "'memory' has no region of kind ram"),
        (("0483:374b", "0483374b"), 10, "a USB id is written vendor:product"),
        (("baud: 115200", "baud: fast"), 10, "'baud' must be a whole number, not 'fast'"),
        (("kind: serial", "kind: seriall"), 10, "'seriall' is no kind"),
        (("baud:", "bauds:"), 10, "unknown key 'bauds' in 'link'"),
        (("{name: openocd, target", "{target"), 12, "the flasher has no 'name'"),
        (("engines: [aot]", "engines: aot"), 13, "'engines' must be a list"),
        (("engines: [aot]\n", ""), 1, "must have the key 'engines'"),
        (("basis: core", "basis: cores"), 14, "'cores' is no basis"),
        (("basis: core", "constants: {a: b}"), 14, "'a' must be a number, not 'b'"),
        (("verified: no", "verified: perhaps"), 16, "'verified' must be yes or no"),
        ((", verified: no", ""), 16, "the source has no 'verified'"),
        (("name: board", "name: bored"), 1, "the file is called board.yaml"),
        (("name: board", "name: 'Bo ard'"), 1, "small letters"),
        (("[aot]", "&a [aot]\naliases: *a"), 13, "anchors and aliases"),
        (("memory:", "memory: {"), None, "not valid YAML"),
        (("title: A board", "title: !!python/object:os.system A"), 2, None),
    ],
)
def test_a_malformed_file_says_line_and_reason(
    board, change: tuple[str, str], line: int | None, reason: str | None
) -> None:
    text = GOOD.replace(*change, 1)
    assert text != GOOD
    path = board(text)
    if reason is None:
        # a foreign tag is not executed: the value is the text that it is
        assert read_target(path).title == "A"
        return
    with pytest.raises(UsageError) as caught:
        read_target(path)
    assert reason in caught.value.what
    assert str(caught.value.where).startswith(str(path) if line is None else f"{path}:{line}")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"- a", b"a: 1\n---\nb: 2\n", b"[" * 5000])
def test_files_that_are_no_target_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_target(path)
    assert str(path) in str(caught.value.where)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_target(str(tmp_path / "nothing.yaml"))


def test_the_command_lists_and_shows() -> None:
    listed = CliRunner().invoke(cli, ["targets", "--json"])
    document = json.loads(listed.stdout)
    assert document["schema_version"] == 1
    assert {row["name"] for row in document["targets"]} >= set(NAMES)
    shown = CliRunner().invoke(cli, ["targets", "nucleo-l4r5zi", "--json"])
    row = json.loads(shown.stdout)["target"]
    assert row["ram_bytes"] == 640 << 10
    assert row["unverified_facts"]
    text = CliRunner().invoke(cli, ["targets", "nucleo-l4r5zi"]).stdout
    assert "0x20000000" in text and "constants of this board" in text and "ST RM0432" in text
    text = CliRunner().invoke(cli, ["targets", "pico"]).stdout
    assert "this board was not measured" in text
    assert "instructions only" in CliRunner().invoke(cli, ["targets", "corstone-300"]).stdout


def test_the_record_has_a_reader_for_every_field() -> None:
    from edgekit import targets

    assert set(targets._FIELDS) == {item.name for item in dataclasses.fields(Target)}


def test_mutated_files_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    """Nothing but a Target or a UsageError, whatever a file holds."""
    rng = random.Random(seed)
    names = ("nucleo-l4r5zi", "pico", "esp32-s3")
    texts = {name: (targets_dir() / f"{name}.yaml").read_bytes() for name in names}
    read = 0
    for _ in range(400):
        name = rng.choice(names)
        data = bytearray(texts[name])
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + rng.randint(1, 30)]
            elif kind == 2:
                data[at:at] = bytes(rng.choices(b"{}[]:,-#&*!|>'\"%@0x9KM \n\t", k=3))
            else:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + rng.randint(1, 40)]
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(bytes(data))
        try:
            target = read_target(path)
        except UsageError as error:
            assert str(path) in str(error.where)
        else:
            read += 1
            json.dumps(to_json(target), allow_nan=False)
    assert read > 20, "the mutations never leave a readable file"


def test_the_example_of_the_manual(tmp_path: Path) -> None:
    manual = Path(__file__).parents[2] / "docs" / "targets.md"
    text = manual.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_target(path).ram_bytes == 640 << 10
    documented = manual.read_text(encoding="utf-8")
    for item in dataclasses.fields(Target):
        assert f"`{item.name}`" in documented, f"{item.name} is not documented"
