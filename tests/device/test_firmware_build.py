"""Building firmware: deterministic, measured, refused when it does not fit."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from edgekit.build import (
    boot2_checksum,
    build,
    flat_image,
    inputs_kept,
    load_firmware,
    peak_description,
)
from edgekit.errors import FitError, MissingDependency, ModelError, UsageError
from edgekit.records import Buffer, Firmware
from edgekit.resources import firmware_dir
from edgekit.targets import Target, load_target
from edgekit.toolchain import find_toolchain

Make = Callable[[str, str], Firmware]
COMPILERS = ["gcc", "zig"]
BOARDS = [
    "nucleo-l4r5zi",
    "nucleo-h7a3zi-q",
    "nucleo-u575zi-q",
    "nucleo-g0b1re",
    "pico",
    "nucleo-f446re",
    "nano33ble",
    "pico2",
    "mps2-an386",
    "corstone-300",
]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_same_input_gives_the_same_bytes_anywhere(
    toy: ModuleType, tmp_path: Path, compiler: str, require_compiler: Callable[[str], None]
) -> None:
    require_compiler(compiler)
    target = load_target("nucleo-l4r5zi")
    images, ids = [], []
    for name in ("here", "a longer place/there"):
        artifact = toy.artifact(target.name, tmp_path / name / "artifact")
        firmware = build(artifact, target, tmp_path / name / "firmware", compiler=compiler)
        images.append(firmware.elf.read_bytes())
        ids.append(firmware.build_id)
    assert ids[0] == ids[1]
    assert images[0] == images[1]
    for trace in (bytes(tmp_path), bytes(firmware_dir()), bytes(Path.home() / ".cache")):
        assert trace not in images[0]
    assert bytes.fromhex(ids[0]) in images[0]


def test_the_build_id_follows_the_sources(toy: ModuleType, tmp_path: Path) -> None:
    target = load_target("mps2-an386")
    artifact = toy.artifact(target.name, tmp_path / "artifact")
    first = build(artifact, target, tmp_path / "one").build_id
    source = tmp_path / "artifact" / "toy.c"
    source.write_text(source.read_text().replace("0x55", "0x56"))
    assert build(artifact, target, tmp_path / "two").build_id != first


@pytest.mark.parametrize(
    ("board", "compiler"),
    [*((b, "gcc") for b in BOARDS), ("nucleo-l4r5zi", "zig"), ("pico", "zig")],
)
def test_what_is_where(toy_firmware: Make, board: str, compiler: str) -> None:
    firmware, target = toy_firmware(board, compiler), load_target(board)
    regions = {r.name: r for r in target.memory}
    sections = {s.name: s for s in firmware.sections}
    for section in firmware.sections:
        region = regions[section.region]
        assert region.origin <= section.address
        assert section.address + section.nbytes <= region.origin + region.nbytes
        wanted = ("flash",) if section.name in (".text", ".weights", ".vectors") else None
        assert wanted is None or region.kind in wanted
    # the stack is at the bottom of its memory: what overflows it leaves the memory
    stack = sections[".stack"]
    assert stack.address == regions[stack.region].origin
    assert firmware.stack_bound_bytes is not None
    assert firmware.stack_bound_bytes < stack.nbytes < firmware.stack_bound_bytes + 256
    assert sections[".arena"].nbytes >= 616
    assert firmware.flash_bytes < 8192
    assert any(symbol.name == "toy_s1" for symbol in firmware.symbols)
    again = load_firmware(firmware.elf.parent)
    assert again.build_id == firmware.build_id and again.elf == firmware.elf
    manifest = json.loads((firmware.elf.parent / "manifest.json").read_text())
    assert manifest["stage"] == "build" and manifest["target"] == board


def test_the_binary_is_what_the_elf_loads(toy_firmware: Make) -> None:
    firmware = toy_firmware("nucleo-g0b1re", "gcc")
    start, content = flat_image(firmware.elf)
    assert start == 0x08000000
    assert firmware.images["bin"].read_bytes() == content
    stack_top, reset = struct.unpack_from("<II", content)
    assert 0x20000000 < stack_top < 0x20000000 + 144 * 1024
    assert reset & 1 and start < reset < start + len(content)


def _crc32_bit_by_bit(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
            value &= 0xFFFFFFFF
    return value


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_second_boot_stage_has_its_checksum(toy_firmware: Make, compiler: str) -> None:
    firmware = toy_firmware("pico", compiler)
    stage = firmware.images["bin"].read_bytes()[:256]
    assert int.from_bytes(stage[252:], "little") == _crc32_bit_by_bit(stage[:252])
    # CRC-32/MPEG-2 is this very checksum; its catalogue gives this value
    assert boot2_checksum(b"123456789") == 0x0376E6E7


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_image_definition_is_where_the_boot_rom_looks(
    toy_firmware: Make, compiler: str
) -> None:
    firmware = toy_firmware("pico2", compiler)
    image = firmware.images["bin"].read_bytes()
    # RP2350 datasheet 5.9.5.1, word by word, behind the vector table
    block = struct.pack("<5I", 0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB123579)
    assert image.count(block) == 1 and 64 <= image.index(block) < 4096 - len(block)
    assert image.index(block) % 4 == 0
    start, content = flat_image(firmware.elf)
    assert start == 0x10000000 and content == image
    # no VECTOR_TABLE item: the image starts with its vectors
    assert struct.unpack_from("<I", image, 4)[0] & 1


@pytest.mark.parametrize(("board", "wanted"), [("pico", 0xE48BFF56), ("pico2", 0xE48BFF59)])
def test_uf2(toy_firmware: Make, board: str, wanted: int) -> None:
    firmware = toy_firmware(board, "gcc")
    blocks, image = firmware.images["uf2"].read_bytes(), firmware.images["bin"].read_bytes()
    assert len(blocks) == 512 * -(-len(image) // 256)
    content = b""
    for index in range(len(blocks) // 512):
        block = blocks[512 * index : 512 * (index + 1)]
        magic, second, flags, address, size, number, count, family = struct.unpack_from(
            "<8I", block
        )
        assert (magic, second, flags) == (0x0A324655, 0x9E5D5157, 0x2000)
        assert block[-4:] == struct.pack("<I", 0x0AB16F30)
        assert (address, size) == (0x10000000 + 256 * index, 256)
        assert (number, count, family) == (index, len(blocks) // 512, wanted)
        content += block[32 : 32 + 256]
    assert content.rstrip(b"\0") == image.rstrip(b"\0")


def _shrunk(target: Target, kind: str, nbytes: int) -> Target:
    memory = tuple(replace(r, nbytes=nbytes) if r.kind == kind else r for r in target.memory)
    return replace(target, memory=memory)


def test_too_little_ram_is_refused_with_the_numbers(toy: ModuleType, tmp_path: Path) -> None:
    target = _shrunk(load_target("nucleo-l4r5zi"), "ram", 2816)
    artifact = toy.artifact(target.name, tmp_path / "artifact")
    with pytest.raises(FitError, match=r"needs 624 B of RAM; nucleo-l4r5zi has \d+ B free") as e:
        build(artifact, target, tmp_path / "firmware")
    assert e.value.exit_code == 4
    assert "step 0 MUL 'scale'; live: in 300 B, scaled 300 B" in str(e.value)
    assert "edgekit targets --min-ram 4K" in str(e.value)
    assert not (tmp_path / "firmware").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact"]


def test_too_little_flash_is_refused_with_the_numbers(toy: ModuleType, tmp_path: Path) -> None:
    target = _shrunk(load_target("nucleo-l4r5zi"), "flash", 2048)
    artifact = toy.artifact(target.name, tmp_path / "artifact")
    with pytest.raises(FitError, match=r"needs [\d,]+ B of flash; nucleo-l4r5zi has 2,048 B"):
        build(artifact, target, tmp_path / "firmware")


def test_staging_gives_way_when_ram_is_short(toy: ModuleType, tmp_path: Path) -> None:
    board = load_target("nucleo-l4r5zi")
    artifact = toy.artifact(board.name, tmp_path / "artifact")
    full = build(artifact, board, tmp_path / "full")
    assert any(s.name == ".staging" and s.nbytes == 300 for s in full.sections)
    tight = build(artifact, _shrunk(board, "ram", full.ram_bytes - 100), tmp_path / "tight")
    assert not any(s.name == ".staging" for s in tight.sections)
    with pytest.raises(FitError):
        build(
            artifact,
            _shrunk(board, "ram", full.ram_bytes - 100),
            tmp_path / "insisted",
            staging="on",
        )


def test_kept_inputs_need_no_staging(toy: ModuleType) -> None:
    assert not inputs_kept(toy.PLAN)
    steps = tuple(replace(s, offset=608 if s.index == 1 else s.offset) for s in toy.PLAN.steps)
    buffers = tuple(b for b in toy.PLAN.buffers if b.name != "flipped")
    assert inputs_kept(replace(toy.PLAN, steps=steps, buffers=buffers))
    overlapping = (*buffers, Buffer("scratch", "scratch", 299, 1, 2, 2))
    assert not inputs_kept(replace(toy.PLAN, steps=steps, buffers=overlapping))
    assert peak_description(None) is None


def test_missing_compilers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for choice in (None, "gcc", "zig"):
        with pytest.raises(MissingDependency) as caught:
            find_toolchain(choice)
        assert caught.value.exit_code == 5 and caught.value.fix and "install" in caught.value.fix
    with pytest.raises(UsageError, match="no compiler is called 'iar'"):
        find_toolchain("iar")


def test_broken_code_shows_what_the_compiler_said(toy: ModuleType, tmp_path: Path) -> None:
    artifact = toy.artifact("mps2-an386", tmp_path / "artifact")
    (tmp_path / "artifact" / "toy.c").write_text("int x = ;\n")
    with pytest.raises(MissingDependency, match=r"toy\.c:[\s\S]*expected expression"):
        build(artifact, load_target("mps2-an386"), tmp_path / "firmware")


def test_an_artifact_without_sources_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    artifact = replace(toy.artifact("mps2-an386", tmp_path / "artifact"), sources=())
    with pytest.raises(ModelError, match="makes no plain C"):
        build(artifact, load_target("mps2-an386"), tmp_path / "firmware")
    with pytest.raises(UsageError, match="not a folder that build wrote"):
        load_firmware(tmp_path)
