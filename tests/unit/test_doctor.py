"""doctor: versions, programs, conflicts and permissions, on made-up computers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit import doctor
from edgekit.cli import cli
from edgekit.doctor import Check, Tool
from edgekit.errors import UsageError


@pytest.mark.parametrize(
    ("version", "wanted", "fine"),
    [
        ("2.19.1", "==2.19.*", True),
        ("2.20.0", "==2.19.*", False),
        ("3.5", ">=3.5", True),
        ("3.4.9", ">=3.5", False),
        ("2.1.3", "<2.2,>=1.26", True),
        ("2.2.0", "<2.2,>=1.26", False),
        ("1.25.9", "<2.2,>=1.26", False),
        ("5", "<6,>=5", True),
        ("6.0.0rc1", "<6", False),
        ("0.dev20261023182759", "==0.dev20261023182759", True),
        ("0.dev20250101000000", "==0.dev20261023182759", False),
        ("3.0", "", True),
    ],
)
def test_versions(version: str, wanted: str, fine: bool) -> None:
    assert doctor.satisfies(version, wanted) is fine


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def tool(name: str, **changes: object) -> Tool:
    fields = {
        "name": name,
        "programs": (name,),
        "version": ("--version",),
        "needed_for": "a verb",
        "without": "the others",
        "install": "apt",
        **changes,
    }
    return Tool(**fields)  # type: ignore[arg-type]


@pytest.mark.skipif(os.name != "posix", reason="shell scripts stand for the programs")
def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "_VERSION_TIMEOUT_S", 0.5)
    program(tmp_path, "ek-gcc", "echo 'ek-gcc (15:12.2.rel1-1) 12.2.1 20221205'")
    program(tmp_path, "ek-ssh", "echo 'OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19 27 Jan' >&2")
    program(tmp_path, "ek-old", "echo 'Open On-Chip Debugger 0.12.0-01004'")
    program(tmp_path, "ek-mute", "echo hello")
    program(tmp_path, "ek-hang", "sleep 30")
    program(tmp_path, "ek-crash", "exit 127")
    names = ("ek-gcc", "ek-ssh", "ek-old", "ek-mute", "ek-hang", "ek-crash", "ek-none")
    found = {check.name: check for check in doctor.check_tools([tool(name) for name in names])}
    assert (found["ek-gcc"].status, found["ek-gcc"].version) == ("ok", "12.2.1")
    assert found["ek-ssh"].version == "9.2p1"
    assert found["ek-old"].version == "0.12.0-01004"
    assert (found["ek-mute"].status, found["ek-mute"].version) == ("ok", None)
    assert found["ek-hang"].status == "broken" and "no answer" in found["ek-hang"].note
    assert found["ek-crash"].status == "broken"
    assert found["ek-none"].status == "missing"


def test_a_program_of_another_platform() -> None:
    (check,) = doctor.check_tools([tool("ek-none", platforms=("amiga-m68k",))])
    assert "exists for amiga-m68k only" in check.note


def test_packages_come_from_our_own_metadata() -> None:
    checks = {check.name: check for check in doctor.check_packages()}
    assert checks["click"].group == "base" and checks["click"].status == "ok"
    assert checks["tensorflow"].group == "convert"
    assert checks["unicorn"].group == "sim"
    assert "pip install 'edgekit[ethosu]'" in checks["ethos-u-vela"].install
    assert "pytest" not in checks


def test_a_missing_and_a_wrong_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["click>=99", 'ek-nothing==1.*; extra == "sim"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    click_, nothing = doctor.check_packages()
    assert click_.status == "wrong version" and ">=99 is wanted" in click_.note
    assert nothing.status == "missing" and nothing.version is None
    (group,) = [g for g in doctor.group_missing([click_, nothing]) if "click" in g.names]
    assert group.install == "pip install edgekit"


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], files: dict) -> list[str]:
    monkeypatch.setattr(doctor, "_package_version", versions.get)
    monkeypatch.setattr(doctor, "_distribution_files", files.get)
    return [finding.name for finding in doctor.find_conflicts()]


def test_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    reef = {"pycoral": ["pycoral/__init__.py", "pycoral/reef.py"]}
    google = {"pycoral": ["pycoral/utils/edgetpu.py"]}
    assert installed(monkeypatch, {}, {}) == []
    assert installed(monkeypatch, {}, reef) == ["pycoral"]
    assert installed(monkeypatch, {}, google) == []
    assert installed(monkeypatch, {"tensorflow": "2.20.0"}, {}) == ["tensorflow"]
    both = {"tensorflow": "2.19.1", "tflite-support": "0.4.4", "protobuf": "3.20.3"}
    assert installed(monkeypatch, both, {}) == ["tflite-support"]
    assert "protobuf" in installed(monkeypatch, {**both, "protobuf": "5.0"}, {})
    assert installed(monkeypatch, {"ai-edge-litert": "1.2.0"}, {}) == []
    assert installed(monkeypatch, {"ai-edge-litert": "1.4.0"}, {}) == ["ai-edge-litert"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="groups and udev are Linux's")
def test_permissions(tmp_path: Path) -> None:
    def names(groups: list[str]) -> list[str]:
        return [item.name for item in doctor.find_permissions([str(tmp_path)], groups)]

    assert names(["users"]) == ["serial ports", "udev 0483", "udev 2e8a", "udev 1a6e"]
    assert "serial ports" not in names(["dialout"])
    assert "serial ports" not in names(["uucp"])
    (tmp_path / "60-probes.rules").write_text('ATTRS{idVendor}=="0483"\nATTR{idVendor}=="2E8A"\n')
    assert names(["dialout"]) == ["udev 1a6e"]


def check(name: str, group: str, status: doctor.Status) -> Check:
    return Check(name, group, status, None, "", "", f"install {name}")


def test_requirements() -> None:
    checks = [
        check("unicorn", "sim", "ok"),
        check("capstone", "sim", "missing"),
        check("adb", "tool", "missing"),
    ]
    assert doctor.unmet_requirements(checks, ["unicorn"]) == []
    assert [c.name for c in doctor.unmet_requirements(checks, ["sim", "adb"])] == [
        "capstone",
        "adb",
    ]
    with pytest.raises(UsageError, match="nothing called 'unicron'") as caught:
        doctor.unmet_requirements(checks, ["unicron"])
    assert caught.value.fix == "--require unicorn"


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TOOLS", ())
    monkeypatch.setattr(doctor, "check_tools", lambda: [check("a-tool", "tool", "missing")])
    monkeypatch.setattr(doctor, "check_packs", list)
    run = CliRunner().invoke
    text = run(cli, ["doctor"])
    assert text.exit_code == 0
    assert "install     install a-tool" in text.stdout
    document = json.loads(run(cli, ["doctor", "--json", "--require", "click"]).stdout)
    assert document["platform"]["pseudo-terminals"].startswith(
        "yes" if os.name == "posix" else "no"
    )
    assert document["unmet"] == []
    assert {"name", "status", "install", "without"} <= set(document["checks"][0])
    failed = run(cli, ["doctor", "--json", "--require", "a-tool"])
    assert failed.exit_code == 5
    assert json.loads(failed.stdout)["unmet"] == ["a-tool"]
    assert "required, but not there: a-tool" in failed.stderr
