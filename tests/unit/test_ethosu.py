"""The engine ethosu: Vela as a process, its CSV files, operators on the CPU, and its refusals."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.engines import ethosu
from edgekit.engines.ethosu import vela
from edgekit.errors import EdgekitError, FitError, MissingDependency, ModelError, UsageError
from edgekit.graph import read_model
from edgekit.targets import load_target

MODELS = ("kws_dscnn", "ic_resnet", "vww_mobilenet", "ad_autoencoder")


@pytest.fixture(scope="module")
def kws(mlperf: Path) -> Path:
    return mlperf / "kws_dscnn_int8.tflite"


def compile_(model: Path, out: Path, **options: str):
    target = load_target("corstone-300")
    return ethosu.compile(read_model(model), target, out, command="test", options=options)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_against_csv(folder: Path, report: dict) -> None:
    (summary,) = rows_of(next(folder.glob("*_summary_*.csv")))
    rows = rows_of(next(folder.glob("*_per-layer.csv")))
    assert report["summary"] == summary
    assert report["cycles"] == int(float(summary["cycles_total"]))
    assert report["time_us"] == float(summary["inference_time"]) * 1e6
    assert report["sram_bytes"] == float(summary["sram_memory_used"]) * 1024
    assert report["dram_bytes"] == float(summary["dram_memory_used"]) * 1024
    flash = ("on_chip_flash_memory_used", "off_chip_flash_memory_used")
    assert report["flash_bytes"] == sum(float(summary[key]) for key in flash) * 1024
    assert report["macs"] == int(float(summary["nn_macs"]))
    # every row belongs to exactly one operator, in Vela's order
    at = 0
    for op in report["operators"]:
        group = rows[at : at + op["rows"]]
        at += op["rows"]
        assert op["cycles"] == sum(int(row["Op Cycles"]) for row in group)
        assert op["macs"] == sum(int(row["MAC Count"]) for row in group)
        assert op["staging_bytes"] == max(int(row["Staging Usage"]) for row in group)
        assert {row["Target"] for row in group} == {op["runs_on"]}
        assert {row["Original Operator"] for row in group} == {op["kind"]}
    assert at == len(rows)


@pytest.mark.parametrize("name", MODELS)
def test_the_report_of_the_mlperf_models_equals_velas_own_files(
    mlperf: Path, tmp_path: Path, name: str
) -> None:
    source = mlperf / f"{name}_int8.tflite"
    artifact = compile_(source, tmp_path / "out")
    report = artifact.options["vela"]
    check_against_csv(tmp_path / "out", report)
    assert report["accelerator"] == "Ethos_U55_128"
    assert report["kind"] == "estimated"
    assert report["cpu"] == []
    # all the operators that Vela names are the model's, each once and in order
    model = read_model(source)
    found = [op["op"] for op in report["operators"]]
    assert None not in found
    assert found == sorted(set(found))
    assert {op.kind for op in model.ops if op.index not in found} <= {"RESHAPE"}
    compiled = read_model(tmp_path / "out" / f"{name}_int8_vela.tflite")
    assert [op.kind for op in compiled.ops] == [ethosu.NPU_OPERATOR]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["artifact"]["options"]["vela"]["compiled_sha256"] == compiled.sha256
    assert str(tmp_path) not in json.dumps(manifest)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == list(artifact.files)


@pytest.mark.parametrize(
    ("settings", "system", "memory"),
    [
        (
            {"accelerator": "ethos-u55-32", "system_config": "Ethos_U55_Deep_Embedded"},
            "Ethos_U55_Deep_Embedded",
            "Shared_Sram",
        ),
        ({"accelerator": "ethos-u55-256", "memory_mode": "Sram_Only"}, None, "Sram_Only"),
        (
            {
                "accelerator": "ethos-u65-512",
                "system_config": "Ethos_U65_High_End",
                "memory_mode": "Dedicated_Sram",
            },
            "Ethos_U65_High_End",
            "Dedicated_Sram",
        ),
        ({"accelerator": "ethos-u85-256"}, None, None),
    ],
)
def test_configurations_and_memory_modes(
    kws: Path, tmp_path: Path, settings: dict[str, str], system: str | None, memory: str | None
) -> None:
    report = compile_(kws, tmp_path / "out", **settings).options["vela"]
    check_against_csv(tmp_path / "out", report)
    assert report["accelerator"].lower().replace("_", "-") == settings["accelerator"]
    assert system in (None, report["system_config"])
    assert memory in (None, report["memory_mode"])


def test_a_configuration_file_of_ones_own(kws: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.ini"
    own.write_text(
        "[System_Config.Mine]\ncore_clock=250e6\naxi0_port=Sram\naxi1_port=OffChipFlash\n"
        "Sram_clock_scale=1.0\nOffChipFlash_clock_scale=0.125\n"
        "[Memory_Mode.Mine]\nconst_mem_area=Axi1\narena_mem_area=Axi0\ncache_mem_area=Axi0\n"
    )
    artifact = compile_(
        kws, tmp_path / "out", config=str(own), system_config="Mine", memory_mode="Mine"
    )
    report = artifact.options["vela"]
    check_against_csv(tmp_path / "out", report)
    assert report["clock_hz"] == 250_000_000
    assert artifact.options["settings"]["config"] == "own.ini"
    assert str(tmp_path) not in (tmp_path / "out/manifest.json").read_text()


def test_operators_on_the_cpu_carry_the_cost_of_our_kernels(kws: Path, tmp_path: Path) -> None:
    artifact = compile_(kws, tmp_path / "out", ignore_ops="SOFTMAX,average_pool_2d")
    report = artifact.options["vela"]
    check_against_csv(tmp_path / "out", report)
    assert [(op["op"], op["kind"]) for op in report["cpu"]] == [
        (9, "AVERAGE_POOL_2D"),
        (12, "SOFTMAX"),
    ]
    for op in report["cpu"]:
        assert op["core"] == "cortex-m55"
        assert op["instructions"] > 0
        assert op["reason"] == "kept from the NPU by ignore_ops"
    assert [op["op"] for op in report["operators"] if op["runs_on"] == "CPU"] == [9, 12]
    assert any("2 operators stay on the CPU" in text for text in artifact.warnings)


def test_velas_reason_and_an_unknown_cost_are_told(shared: Path, tmp_path: Path) -> None:
    source = shared / "models/edgetpu/posenet_mobilenet_v1_075_353_481_16_quant_decoder.tflite"
    artifact = compile_(source, tmp_path / "out")
    (op,) = artifact.options["vela"]["cpu"]
    assert op["kind"].startswith("CUSTOM:")
    assert op["reason"] == "Unsupported opType"
    assert op["instructions"] is None
    assert op["cost_basis"]
    assert any("no known cost" in text for text in artifact.warnings)
    check_against_csv(tmp_path / "out", artifact.options["vela"])


def test_a_float_model_maps_to_nothing(mlperf: Path, tmp_path: Path) -> None:
    source = mlperf / "kws_dscnn_float.tflite"
    assert not ethosu.supports(read_model(source), load_target("corstone-300")).ok
    with pytest.raises(ModelError, match="maps none of the 13 operators"):
        compile_(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sram_that_the_target_does_not_have(mlperf: Path, tmp_path: Path) -> None:
    board = load_target("corstone-300")
    regions = tuple(dataclasses.replace(r, nbytes=min(r.nbytes, 32 << 10)) for r in board.memory)
    small = dataclasses.replace(board, memory=regions)
    model = read_model(mlperf / "ic_resnet_int8.tflite")
    with pytest.raises(FitError, match="51,840 B of SRAM; corstone-300 has 32,768 B"):
        ethosu.compile(model, small, tmp_path / "out", command="test", options={})
    artifact = ethosu.compile(
        model, small, tmp_path / "out", command="test", options={"fit": "warn"}
    )
    assert any("51,840 B of SRAM" in text for text in artifact.warnings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"accelerator": "ethos-u55-100"}, "there is no accelerator"),
        ({"acelerator": "ethos-u55-128"}, "no option 'acelerator'"),
        ({"memory_mode": "Nope"}, "Memory_Mode.Nope not found"),
        ({"ignore_ops": "FOO"}, "Unrecognised ignore_ops value 'FOO'"),
        ({"arena_cache_size": "abc"}, "invalid int value: 'abc'"),
        ({"optimise": "Foo"}, "optimise cannot be 'Foo'"),
        ({"config": "own.ini"}, "needs system_config and memory_mode"),
        ({"fit": "maybe"}, "fit cannot be"),
    ],
)
def test_settings_that_make_no_sense(
    kws: Path, tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compile_(kws, tmp_path / "out", **settings)
    assert says in str(caught.value)
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


def test_a_crash_of_vela_is_an_error_of_the_model(kws: Path, tmp_path: Path) -> None:
    model = read_model(kws)
    cut = dataclasses.replace(model, raw=model.raw[:1000])
    with pytest.raises(EdgekitError) as caught:
        ethosu.compile(
            cut, load_target("corstone-300"), tmp_path / "out", command="test", options={}
        )
    assert isinstance(caught.value, ModelError)
    assert "Vela" in caught.value.what
    assert not (tmp_path / "out").exists()


def test_without_vela(kws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency) as caught:
        compile_(kws, tmp_path / "out")
    assert caught.value.exit_code == 5
    assert "edgekit[ethosu]" in (caught.value.fix or "")


def test_a_vela_that_hangs_or_writes_nothing(
    kws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "vela"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo 9.9; exit; }\nexec sleep 30\n')
    program.chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    model = read_model(kws)
    settings = {"accelerator": "ethos-u55-128"}
    with pytest.raises(MissingDependency, match="did not end within 0.2 s"):
        vela.run(model, "kws", tmp_path, settings, timeout_s=0.2)
    program.write_text("#!/bin/sh\necho 4.5.0\n")
    with pytest.raises(MissingDependency, match="Vela 4.5.0 is too old"):
        vela.run(model, "kws", tmp_path, settings)
    program.write_text("#!/bin/sh\necho 9.9\n")
    with pytest.raises(MissingDependency, match="Vela 9.9 did not write"):
        vela.run(model, "kws", tmp_path, settings)


def test_the_command_prints_the_report(kws: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "compile", str(kws), "--target", "corstone-300"]
    command += ["--engine", "ethosu", "-o", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "estimated (Vela" in ended.stdout
    assert "DepthwiseConv2D" in ended.stdout
    ended = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=False, timeout=60
    )
    document = json.loads(ended.stdout)
    check_against_csv(tmp_path / "out", document["artifact"]["options"]["vela"])
