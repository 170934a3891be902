"""The exported ESP-IDF project: its sources, compiled and run on the host against stand-ins.

ESP-IDF itself is in no package registry. What is shown here: the C compiles against ESP-IDF's
declarations (of ``tests/device/esp_idf``, with the signatures of its documentation), for a 32-bit
RISC-V core as well, and the port, the runtime and the model together answer the host's verbs.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit import bench
from edgekit.build import build, load_artifact, load_firmware
from edgekit.cli import cli
from edgekit.engines import aot
from edgekit.errors import UsageError
from edgekit.flashing import order_of
from edgekit.graph import read_model
from edgekit.records import Firmware
from edgekit.resources import firmware_dir
from edgekit.targets import load_target

STAND_IN = Path(__file__).parent / "esp_idf"
DIGITS = Path(__file__).resolve().parents[2] / "edgekit" / "examples" / "digits"
CHIPS = {"esp32-s3": ("esp32s3", 240), "esp32-c3": ("esp32c3", 160)}


def export(
    folder: Path, target: str, model: Path = DIGITS / "digits_int8.tflite", **more: str
) -> Path:
    options = {"project": "esp-idf", **more}
    aot.compile(read_model(model), load_target(target), folder, command="test", options=options)
    return folder


def units(folder: Path, line: str) -> list[tuple[Path, list[str]]]:
    """What the project's CMake files and settings say: sources with their flags."""
    text = (folder / "main" / "CMakeLists.txt").read_text()
    defines = [f"-D{d}" for d in re.findall(r"\bEK_\w+=\w+", text)]
    assert len(defines) == 2
    own = dict(
        re.findall(r"set_source_files_properties\((\S+) .*COMPILE_DEFINITIONS (\S+)\)", text)
    )
    settings = (folder / "sdkconfig.defaults").read_text()
    mhz = re.findall(r"^CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ_(\d+)=y$", settings, re.MULTILINE)
    assert f"config EK_LINE_{line}" in (folder / "main" / "Kconfig.projbuild").read_text()
    (folder / "sdkconfig.h").write_text(
        f"#define CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ {mhz[0]}\n#define CONFIG_EK_LINE_{line} 1\n"
    )
    found = []
    for place in (folder / "main", *(folder / "components").iterdir()):
        register = (place / "CMakeLists.txt").read_text()
        names = re.search(r"idf_component_register\(SRCS ([^)]*?) INCLUDE_DIRS \"\.\"\)", register)
        assert names is not None
        for name in names.group(1).split():
            flags = [f"-I{place}", *(f"-I{p}" for p in (folder / "components").iterdir())]
            if place.name == "main":
                flags += [*defines, f"-I{STAND_IN}", f"-I{folder}"]
                flags += [f"-D{own[name]}"] if name in own else []
            found.append((place / name, flags))
    return found


def program(folder: Path, line: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler for the host")
    strict = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]
    strict += ["-fsanitize=address,undefined", "-fno-sanitize-recover"]
    objects = []
    sources = [*units(folder, line), (STAND_IN / "stand_in.c", [f"-I{STAND_IN}"])]
    for source, flags in sources:
        objects.append(str(folder / f"{source.stem}.o"))
        subprocess.run([*strict, *flags, "-c", str(source), "-o", objects[-1]], check=True)
    subprocess.run([*strict, *objects, "-o", str(folder / line)], check=True)
    return folder / line


@pytest.mark.parametrize(
    ("line", "where"), [("UART", "arena"), ("USB", "arena"), ("UART", "apart"), ("USB", "rows")]
)
def test_the_project_runs_and_equals_tflm(tmp_path: Path, line: str, where: str) -> None:
    folder = export(tmp_path / "idf", "esp32-s3", input=where)
    runs = program(folder, line)
    firmware, target = load_firmware(folder), load_target("esp32-s3")
    assert firmware.plan is not None
    model = read_model(DIGITS / "digits_int8.tflite")
    examples = bench.random_examples(firmware.plan, 5, 1)
    found = bench.bench_firmware(
        firmware, target, f"command:{runs}", model=model, examples=examples, warmups=0, runs=2
    )
    assert found.outputs is not None and found.outputs.match is True
    assert found.outputs.compared == 5 and len(found.steps) == len(firmware.plan.steps)
    assert found.memory["stack_bytes"] == 8192 - 5000
    # what ESP-IDF will link is not known here
    assert found.memory["flash_bytes"] is None and found.memory["ram_bytes"] is None
    assert found.memory["weights_bytes"] == firmware.weights_bytes > 9000


def test_it_starts_again_on_request(tmp_path: Path) -> None:
    folder = export(tmp_path / "idf", "esp32-s3")
    runs = program(folder, "UART")
    firmware, target = load_firmware(folder), load_target("esp32-s3")
    with bench.connected(f"command:{runs}", target, firmware) as device:
        assert device.identity.target == "esp32-s3"
        assert device.identity.clock_hz == device.identity.tick_hz == 240_000_000
        first = device.infer([bytes(64)])
        device.reset()
        assert device.infer([bytes(64)]) == first


@pytest.mark.parametrize("line", ["UART", "USB"])
@pytest.mark.parametrize("target", CHIPS)
def test_every_source_compiles_for_a_32_bit_core(tmp_path: Path, target: str, line: str) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    folder = export(tmp_path / "idf", target)
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "riscv32-freestanding-none"]
    zig += ["-mcpu=generic_rv32+m+c", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    zig += ["-isystem", str(firmware_dir() / "runtime" / "libc")]
    for source, flags in units(folder, line):
        subprocess.run([*zig, *flags, "-c", str(source), "-o", str(folder / "o")], check=True)


@pytest.mark.parametrize("target", CHIPS)
def test_what_the_project_says(tmp_path: Path, target: str) -> None:
    chip, mhz = CHIPS[target]
    folder = export(tmp_path / "idf", target)
    settings = (folder / "sdkconfig.defaults").read_text()
    assert f'CONFIG_IDF_TARGET="{chip}"' in settings
    assert f"CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ_{mhz}=y" in settings
    flash = load_target(target).flash_bytes >> 20
    assert f"CONFIG_ESPTOOLPY_FLASHSIZE_{flash}MB=y" in settings
    assert f"EK_CLOCK_HZ={mhz}000000u" in (folder / "main" / "CMakeLists.txt").read_text()
    firmware = load_firmware(folder)
    assert isinstance(firmware, Firmware) and firmware.target == target
    assert firmware.elf == folder / "build" / "digits_int8.elf"
    image = (folder / "main" / "ek_image.c").read_text()
    build_id = re.search(r"\.build_id = \{(.*)\}", image)
    assert build_id is not None
    assert bytes(int(b, 16) for b in build_id.group(1).split(", ")).hex() == firmware.build_id
    assert "section(" not in image  # its memory is ESP-IDF's to place
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["artifact"]["options"]["project"] == "esp-idf"
    for name in manifest["artifact"]["files"]:
        assert (folder / name).is_file()
    # the model's sources are those of any other target
    plain = aot.compile(
        read_model(DIGITS / "digits_int8.tflite"), load_target(target), tmp_path / "plain",
        command="test", options={},
    )  # fmt: skip
    for name in plain.files:
        if name not in ("manifest.json", "CMakeLists.txt"):
            mine = folder / "components" / "model_digits_int8" / name
            assert mine.read_bytes() == (plain.folder / name).read_bytes()


def test_a_wrong_clock_does_not_compile(tmp_path: Path) -> None:
    folder = export(tmp_path / "idf", "esp32-s3")
    settings = folder / "sdkconfig.defaults"
    settings.write_text(settings.read_text().replace("MHZ_240", "MHZ_160"))
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler for the host")
    source, flags = next(unit for unit in units(folder, "UART") if unit[0].name == "port.c")
    done = subprocess.run(
        [compiler, *flags, "-fsyntax-only", str(source)], capture_output=True, text=True
    )
    assert done.returncode != 0 and "not the one that this project was made for" in done.stderr


def test_what_esp_idf_built_is_flashed_and_asked_for_its_build_id(tmp_path: Path) -> None:
    folder, target = export(tmp_path / "idf", "esp32-s3"), load_target("esp32-s3")
    firmware = load_firmware(folder)
    with pytest.raises(UsageError, match="ESP-IDF has not built this project") as caught:
        order_of(firmware, target)
    assert caught.value.fix == "idf.py build"
    made = folder / "build"
    made.mkdir()
    for name in ("boot.bin", "digits_int8.bin"):
        (made / name).write_bytes(b"\xe9" + bytes(99))
    files = {"0x0": "boot.bin", "0x10000": "digits_int8.bin"}
    given = {"flash_files": files, "extra_esptool_args": {"chip": "esp32s3"}}
    (made / "flasher_args.json").write_text(json.dumps(given))
    order = order_of(firmware, target, port="serial:/dev/ttyUSB0")
    assert order.firmware == firmware and order.port == "serial:/dev/ttyUSB0"
    assert [piece.address for piece in order.pieces] == [0, 0x10000]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = str(DIGITS / "digits_int8.tflite")

    def error(*words: str) -> str:
        result = CliRunner().invoke(cli, ["compile", model, "-o", str(tmp_path / "x"), *words])
        assert isinstance(result.exception, UsageError) and not (tmp_path / "x").exists()
        return str(result.exception)

    assert "pico is no target of ESP-IDF" in error("--target", "pico", "--project", "esp-idf")
    said = error("--target", "esp32-s3", "--engine", "aot", "--project", "zephyr")
    assert "the engine aot has no project for 'zephyr'" in said
    artifact = load_artifact(export(tmp_path / "idf", "esp32-s3"))
    with pytest.raises(UsageError, match="esp32-s3: it has no port") as caught:
        build(artifact, load_target("esp32-s3"), tmp_path / "firmware")
    assert "--project esp-idf" in str(caught.value.fix)
