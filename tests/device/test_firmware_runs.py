"""The firmware on virtual boards and in QEMU: the same port code that a real board runs."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgekit import bench
from edgekit.bench import Example, connected
from edgekit.build import build
from edgekit.device import Device
from edgekit.errors import DeviceError
from edgekit.flashing import flash
from edgekit.links import open_link
from edgekit.records import Firmware
from edgekit.report.figures import percentile, report_json
from edgekit.report.text import head, tail
from edgekit.targets import load_target
from edgekit.wire import Mode

Make = Callable[[str, str], Firmware]
VIRTUAL = [
    ("nucleo-l4r5zi", "gcc"),
    ("nucleo-h7a3zi-q", "gcc"),
    ("nucleo-u575zi-q", "gcc"),
    ("nucleo-g0b1re", "gcc"),
    ("pico", "gcc"),
    ("nucleo-f446re", "gcc"),
    ("nano33ble", "gcc"),
    ("nrf52840dk", "gcc"),
    ("pico2", "gcc"),
    ("esp32-c3", "gcc"),
    ("nucleo-l4r5zi", "zig"),
    ("nucleo-g0b1re", "zig"),
    ("nucleo-f446re", "zig"),
    ("nano33ble", "zig"),
    ("pico2", "zig"),
    ("esp32-c3", "zig"),
]
QEMU = [("mps2-an386", "gcc"), ("mps2-an500", "zig"), ("corstone-300", "gcc")]
ALL = [("virtual", *row) for row in VIRTUAL] + [("qemu", *row) for row in QEMU]


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (1, 300)).astype(np.int8)


def require(port: str) -> None:
    if port == "qemu" and shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    if port == "virtual":
        pytest.importorskip("unicorn")


def reference(toy: ModuleType) -> Callable[[Example], tuple[tuple[bytes, ...], tuple[bytes, ...]]]:
    def run(example: Example) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        steps = tuple(s.tobytes() for s in toy.steps(example.arrays[0].reshape(-1)))
        return steps, steps[-1:]

    return run


@pytest.mark.parametrize(("port", "board", "compiler"), ALL)
def test_every_port(
    toy: ModuleType, toy_firmware: Make, port: str, board: str, compiler: str
) -> None:
    require(port)
    firmware, target = toy_firmware(board, compiler), load_target(board)
    with connected(port, target, firmware) as device:
        identity = device.identity
        assert identity.target == board and identity.clock_hz == target.clock_hz
        assert identity.fault is None
        x = values(5)
        expected = toy.steps(x.reshape(-1))
        assert device.infer([x.tobytes()]) == [expected[2].tobytes()]
        assert len(device.run(count=4)) == 4  # from staging
        assert device.read_output(0) == expected[2].tobytes()
        device.run(Mode.STEPS, 0)
        assert device.step_crcs() == tuple(zlib.crc32(s.tobytes()) for s in expected)
        assert all(ticks > 0 for ticks in device.step_ticks())
        size, used = device.stack()
        assert firmware.stack_bound_bytes is not None
        assert 0 < used <= firmware.stack_bound_bytes < size
        device.reset()
        assert device.infer([x.tobytes()]) == [expected[2].tobytes()]


@pytest.mark.parametrize(("board", "compiler"), VIRTUAL)
def test_the_registers_give_the_clock_that_the_target_states(
    toy_firmware: Make, board: str, compiler: str
) -> None:
    require("virtual")
    from edgekit.sim import board_class
    from edgekit.sim.line import MemoryLine

    target, line = load_target(board), MemoryLine()
    virtual = board_class(target)(target, toy_firmware(board, compiler).elf, line=line)
    # IDENTIFY, from docs/wire.md
    line.feed(bytes.fromhex("00 04 01 01 01 09 78 56 34 12 28 5f 8a 4a 00"))
    for _ in range(20):
        virtual.run(timeout_s=0.1)
        if len(line.sent) > 100 and line.sent.endswith(b"\0"):
            break
    assert board.encode() in line.sent
    assert virtual.cpu_hz() == pytest.approx(target.clock_hz, abs=0.5)
    assert virtual.reports == []
    virtual.close()


@pytest.mark.parametrize(("port", "board"), [("virtual", "nucleo-l4r5zi"), ("qemu", "mps2-an386")])
def test_measure(toy: ModuleType, toy_firmware: Make, port: str, board: str) -> None:
    require(port)
    firmware, target = toy_firmware(board, "gcc"), load_target(board)
    examples = bench.random_examples(toy.PLAN, 3, seed=1)
    full = "virtual:profile" if port == "virtual" else port
    with connected(full, target, firmware) as device:
        result = bench.measure(
            device, firmware, target, examples, port=port, reference=reference(toy)
        )
    assert result.kind == "simulated"
    assert result.outputs is not None and result.outputs.match and result.outputs.compared == 3
    assert result.instructions is not None and result.instructions > 3000
    assert [step.index for step in result.steps] == [0, 1, 2]
    counted = [step.instructions or 0 for step in result.steps]
    assert 0 < sum(counted) <= 1.05 * result.instructions
    report = report_json(result)
    assert report["memory"]["arena_bytes"] == 616
    assert report["outputs"]["match"] is True
    if port == "virtual":
        assert result.cycles is not None and result.cycles_error
        assert report["latency_us"]["p50"] == pytest.approx(1e6 * result.cycles / 120e6, rel=0.01)
        assert "simulated ±" in "\n".join(head(result))
    else:
        assert result.cycles is None and report["latency_us"] is None
    assert "equal to tflm's for 3 inputs" in "\n".join(tail(result))


def test_instructions_agree_between_simulators(toy: ModuleType, toy_firmware: Make) -> None:
    """Unicorn's exact count and QEMU's time in instructions, of the same ELF file."""
    require("qemu")
    require("virtual")
    firmware, target = toy_firmware("mps2-an386", "gcc"), load_target("mps2-an386")
    examples = bench.random_examples(toy.PLAN, 1, seed=1)
    counts = []
    for port in ("virtual:profile", "qemu"):
        with connected(port, target, firmware) as device:
            result = bench.measure(device, firmware, target, examples, port=port)
        counts.append(result.instructions)
    # the timer's reading counts the call and the reading itself, too
    assert counts[0] is not None and counts[1] is not None
    assert 0 <= counts[1] - counts[0] < 40


def test_a_difference_is_found_at_its_step(toy: ModuleType, toy_firmware: Make) -> None:
    require("virtual")
    firmware, target = toy_firmware("nucleo-l4r5zi", "gcc"), load_target("nucleo-l4r5zi")

    def wrong(example: Example) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        steps, outputs = reference(toy)(example)
        changed = bytearray(steps[1])
        changed[7] ^= 2
        return (steps[0], bytes(changed), steps[2]), outputs

    examples = bench.random_examples(toy.PLAN, 2, seed=1)
    with connected("virtual", target, firmware) as device:
        result = bench.measure(device, firmware, target, examples, port="virtual", reference=wrong)
    check = result.outputs
    assert check is not None and check.match is False and check.first_mismatch is not None
    first = check.first_mismatch
    assert (first["example"], first["step"], first["name"]) == (0, 1, "flip")
    assert (first["element"], first["position"], first["differing"]) == (7, [0, 7], 1)
    assert first["device"] == first["host"] ^ 2
    text = bench.mismatch_text(result)
    assert text is not None and "step 1 XOR 'flip', 1 of 300 elements differ" in text


def test_another_build_is_refused(toy: ModuleType, toy_firmware: Make, tmp_path: Path) -> None:
    require("virtual")
    target = load_target("nucleo-l4r5zi")
    firmware = toy_firmware("nucleo-l4r5zi", "gcc")
    artifact = toy.artifact(target.name, tmp_path / "artifact")
    source = tmp_path / "artifact" / "toy.c"
    source.write_text(source.read_text().replace("0x55", "0x56"))
    other = build(artifact, target, tmp_path / "firmware", compiler="gcc")
    device = Device(open_link("virtual", target, other))
    try:
        with pytest.raises(DeviceError) as caught:
            device.connect(firmware.build_id)
    finally:
        device.close()
    assert firmware.build_id in caught.value.what and other.build_id in caught.value.what
    assert flash(other, target, "virtual").build_id == other.build_id


def test_a_fault_is_told_after_the_reset(toy: ModuleType, tmp_path: Path) -> None:
    """The handler keeps where it happened, resets, and the host says so."""
    require("qemu")
    target = load_target("mps2-an386")
    artifact = toy.artifact(target.name, tmp_path / "artifact")
    source = tmp_path / "artifact" / "toy.c"
    text = source.read_text().replace(
        "    memcpy(arena, arena + 304, N);",
        "    *(volatile int *)0x30000000 = 1;\n    memcpy(arena, arena + 304, N);",
    )
    source.write_text(text)
    firmware = build(artifact, target, tmp_path / "firmware", compiler="gcc")
    with (
        connected("qemu", target, firmware) as device,
        pytest.raises(DeviceError, match="was reset 4 times") as caught,
    ):
        device.infer([values(1).tobytes()])
    symbol = next(s for s in firmware.symbols if s.name == "toy_s1")
    pc = int(caught.value.what.split("pc ")[1][:10], 16)
    assert symbol.address & ~1 <= pc < symbol.address + symbol.nbytes


def test_without_staging_inputs_are_sent_again(toy: ModuleType, tmp_path: Path) -> None:
    require("virtual")
    target = load_target("nucleo-g0b1re")
    artifact = toy.artifact(target.name, tmp_path / "artifact")
    firmware = build(artifact, target, tmp_path / "firmware", staging="off")
    examples = bench.random_examples(toy.PLAN, 1, seed=3)
    with connected("virtual", target, firmware) as device:
        assert not device.identity.input_staged and not device.identity.input_kept
        result = bench.measure(
            device, firmware, target, examples, port="virtual", runs=3, reference=reference(toy)
        )
    assert result.outputs is not None and result.outputs.match
    assert result.memory["staging_bytes"] == 0


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(i) for i in range(1, 101)], 0.95) == 95.0
    assert percentile([7.0], 0.95) == 7.0
