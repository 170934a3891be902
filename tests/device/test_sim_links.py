"""Virtual boards and QEMU behind their links: the same firmware, the same bytes and counts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sim_programs import MPS2_UART, build

from edgekit.build import build as build_firmware
from edgekit.device import Device
from edgekit.errors import DeviceError, UsageError
from edgekit.links import open_link
from edgekit.links.qemu import QemuLink
from edgekit.links.virtual import VirtualLink
from edgekit.records import Firmware
from edgekit.targets import load_target
from edgekit.wire import Mode

_VIRTUAL = (
    "mps2-an386",
    "mps2-an500",
    "nucleo-l4r5zi",
    "nucleo-h7a3zi-q",
    "nucleo-u575zi-q",
    "nucleo-g0b1re",
    "pico",
)
_QEMU = ("mps2-an386", "mps2-an500", "corstone-300")


def _toy() -> ModuleType:
    path = Path(__file__).parents[1] / "wire" / "toy.py"
    spec = importlib.util.spec_from_file_location("toy_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def firmwares(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Firmware]:
    """The real firmware around a toy model, built when a test first asks for its target."""
    toy = _toy()
    folder = tmp_path_factory.mktemp("firmware")

    class Firmwares(dict[str, Firmware]):
        def __missing__(self, name: str) -> Firmware:
            artifact = toy.artifact(name, folder / f"{name}-source")
            self[name] = build_firmware(artifact, load_target(name), folder / name)
            return self[name]

    return Firmwares()


def _answers(firmware: Firmware, port: str, seed: int) -> tuple[list[bytes], tuple[int, ...]]:
    """Outputs and step CRCs for three inputs."""
    random = np.random.default_rng(seed)
    toy = _toy()
    outputs: list[bytes] = []
    crcs: tuple[int, ...] = ()
    with Device(open_link(port, load_target(firmware.target), firmware)) as device:
        device.connect(firmware.build_id)
        for _ in range(3):
            values = random.integers(-128, 128, 300, dtype=np.int8)
            outputs += device.infer([values.tobytes()])
            assert outputs[-1] == toy.steps(values)[-1].tobytes()
        device.write_input(0, values.tobytes())
        device.run(Mode.STEPS)
        crcs = device.step_crcs()
        if isinstance(device.link, VirtualLink):
            assert device.link.state()["reports"] == []
    return outputs, crcs


@pytest.mark.parametrize("name", _VIRTUAL)
def test_the_real_firmware_on_a_virtual_board(
    firmwares: dict[str, Firmware], name: str, seed: int
) -> None:
    import zlib

    firmware = firmwares[name]
    _, crcs = _answers(firmware, "virtual", seed)
    values = list(np.random.default_rng(seed).integers(-128, 128, (3, 300), dtype=np.int8))
    assert crcs == tuple(zlib.crc32(step.tobytes()) for step in _toy().steps(values[-1]))


@pytest.mark.parametrize("name", _QEMU)
def test_the_same_firmware_under_qemu(firmwares: dict[str, Firmware], name: str, seed: int) -> None:
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    firmware = firmwares[name]
    answers = _answers(firmware, "qemu", seed)
    if name in _VIRTUAL:
        assert answers == _answers(firmware, "virtual", seed)


@pytest.mark.parametrize("name", ("mps2-an386", "mps2-an500"))
def test_qemu_executes_as_many_instructions(firmwares: dict[str, Firmware], name: str) -> None:
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    target, firmware = load_target(name), firmwares[name]
    with Device(open_link("qemu:shift=10", target, firmware)) as device:
        identity = device.connect(firmware.build_id)
        device.write_input(0, bytes(300))
        ticks = device.run()[0]
        assert isinstance(device.link, QemuLink)
        measured = device.link.instructions(ticks, identity.tick_hz)
    with Device(open_link("virtual", target, firmware)) as device:
        device.connect(firmware.build_id)
        device.write_input(0, bytes(300))
        (unprofiled,) = device.run()
        assert isinstance(device.link, VirtualLink)
        counted = device.link.counters().total.instructions
    # the ticks are read around the call: a few instructions of the runtime
    assert 0 <= measured - counted <= 16
    assert 0 <= unprofiled - counted <= 24


_SPANS = """
static void send(uint32_t v) { for (int i = 0; i < 4; i++) put((uint8_t)(v >> 8 * i)); }
__attribute__((noinline)) uint32_t spin(uint32_t n) {
    uint32_t t = REG(0x40000004), x = n; while (n--) x = x * 33 + (x >> 7 & 1 ? n : 1);
    __asm volatile("" : : "r"(x)); return t - REG(0x40000004); }
void program(void) {
    uart_start(217); REG(0x40000008) = 0xFFFFFFFF; REG(0x40000000) = 1;
    for (uint32_t n = 0; n < 400; n += 57) send(spin(n));
}"""


def test_spans_are_equal_to_the_instruction(tmp_path: Path) -> None:
    """Differences of spans in QEMU, at 1,024 ns an instruction, are those of our counter."""
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    elf = build(tmp_path, MPS2_UART + _SPANS)
    target = load_target("mps2-an386")
    qemu = QemuLink("mps2-an386", elf, shift=10)
    board = VirtualLink(target, elf)
    try:
        theirs = [qemu.instructions(ticks, 25_000_000) for ticks in _words(qemu, 8)]
        ours = _words(board, 8)
    finally:
        qemu.close()
        board.close()
    assert [value - theirs[0] for value in theirs] == [value - ours[0] for value in ours]


def _words(link: VirtualLink | QemuLink, count: int) -> list[int]:
    data = b""
    deadline = time.monotonic() + 20
    while len(data) < 4 * count and time.monotonic() < deadline:
        data += link.read(4096, 0.5)
    assert len(data) == 4 * count
    return [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(count)]


def test_counters_come_out_of_band(firmwares: dict[str, Firmware]) -> None:
    target = load_target("nucleo-l4r5zi")
    firmware = firmwares["nucleo-l4r5zi"]
    seen = []
    for port in ("virtual", "virtual:profile", "virtual:profile,python"):
        with Device(open_link(port, target, firmware)) as device:
            device.connect(firmware.build_id)
            device.write_input(0, bytes(300))
            ticks = device.run(count=2)
            assert isinstance(device.link, VirtualLink)
            seen.append(device.link.counters("toy"))
            with pytest.raises(UsageError, match="no model 'other'"):
                device.link.counters("other")
        if "profile" in port:
            cycles = seen[-1].total.cycles
            assert cycles is not None
            assert cycles.error == 0.035
            assert ticks[1] == pytest.approx(cycles.value, abs=60)
    plain, profiled, slowly = seen
    assert plain.functions == profiled.functions
    assert profiled == slowly
    assert len(plain.steps) == 3
    assert plain.clock_hz == 120_000_000
    assert plain.total.cycles is None


_ECHO = MPS2_UART + "void program(void) { uart_start(217); for (;;) put((uint8_t)(get() + 1)); }"
_CRASH = MPS2_UART + (
    "__attribute__((noinline)) void guilty(void) { REG(0x70000000) = 1; }\n"
    "void program(void) { uart_start(217); put(get()); guilty(); }"
)


def test_any_serial_program_can_talk_to_a_board(tmp_path: Path) -> None:
    import serial

    link = VirtualLink(load_target("mps2-an386"), build(tmp_path, _ECHO), connect=False)
    try:
        with serial.Serial(link.port, 115200, timeout=5) as port:
            port.write(b"HAL")
            assert port.read(3) == b"IBM"
        # a second program later finds the board as it was
        with serial.Serial(link.port, 115200, timeout=5) as port:
            port.write(b"a")
            assert port.read(1) == b"b"
    finally:
        link.close()


def test_a_board_on_a_tcp_port(tmp_path: Path) -> None:
    link = VirtualLink(load_target("mps2-an386"), build(tmp_path, _ECHO), tcp=0)
    try:
        host, port = link.port.split(":")
        for _ in range(2):
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(b"HAL")
                data = b""
                while len(data) < 3:
                    data += connection.recv(3)
                assert data == b"IBM"
    finally:
        link.close()


def test_a_fault_reaches_the_reader_with_its_line(tmp_path: Path) -> None:
    link = VirtualLink(load_target("mps2-an386"), build(tmp_path, _CRASH))
    try:
        link.write(b"x")
        with pytest.raises(DeviceError, match="write of 4 bytes at 0x70000000") as caught:
            for _ in range(20):
                link.read(10, 0.5)
        assert "guilty" in str(caught.value.where)
        assert "program.c:" in str(caught.value.where)
        # the button brings it back
        link.reset()
        link.write(b"y")
        assert link.read(1, 5) == b"y"
    finally:
        link.close()


def test_waiting_for_input_does_not_burn_the_host(tmp_path: Path) -> None:
    link = VirtualLink(load_target("mps2-an386"), build(tmp_path, _ECHO))
    try:
        link.write(b"a")
        assert link.read(1, 5) == b"b"
        before = _cpu_seconds(link.pid)
        time.sleep(1.0)
        assert _cpu_seconds(link.pid) - before < 0.5
    finally:
        link.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not _alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("ending", (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
def test_no_process_stays_behind(tmp_path: Path, ending: signal.Signals) -> None:
    """The command line ends, however it does, and so does the board that it started."""
    elf = build(tmp_path, _ECHO)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "sim", "mps2-an386", str(elf)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    assert "at /dev/pts/" in process.stderr.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.send_signal(ending)
    process.wait(15)
    process.stderr.close()
    assert _gone(int(children[0]))


def test_qemu_ends_with_its_link(tmp_path: Path) -> None:
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    link = QemuLink("mps2-an386", build(tmp_path, _ECHO))
    link.write(b"HAL")
    data = b""
    while len(data) < 3:
        data += link.read(3, 5)
    assert data == b"IBM"
    pid = link.pid
    link.close()
    assert _gone(pid)


def test_qemu_says_why_it_ended(tmp_path: Path) -> None:
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    link = QemuLink("no-such-machine", build(tmp_path, _ECHO))
    try:
        with pytest.raises(DeviceError, match="unsupported machine type"):
            for _ in range(20):
                link.read(1, 0.5)
    finally:
        link.close()


def test_what_a_port_needs(firmwares: dict[str, Firmware]) -> None:
    for kind in ("virtual", "qemu"):
        with pytest.raises(UsageError, match="needs a target and a firmware"):
            open_link(kind, None)
    firmware = firmwares["nucleo-l4r5zi"]
    with pytest.raises(UsageError, match="no machine for nucleo-l4r5zi"):
        open_link("qemu", load_target("nucleo-l4r5zi"), firmware)
    with pytest.raises(UsageError, match="no option 'fast'"):
        open_link("virtual:fast", load_target("nucleo-l4r5zi"), firmware)
    with pytest.raises(UsageError, match="no option"):
        open_link("qemu:shift=11", load_target("mps2-an386"), firmware)
    with pytest.raises(UsageError, match="Unicorn has no cortex-m55"):
        open_link("virtual", load_target("corstone-300"), firmware)
