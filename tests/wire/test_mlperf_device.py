"""MLPerf Tiny's protocol on the device, compiled for the host: every line, numbers, nonsense."""

from __future__ import annotations

import ctypes
import random
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import DeviceError
from edgekit.mlperf.dut import Dut
from edgekit.resources import firmware_dir

INT8, UINT8, FLOAT32 = 0, 1, 2
READY = b"m-ready\r\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler for the host")
    output = tmp_path_factory.mktemp("mlperf") / "harness.so"
    root = firmware_dir()
    command = [compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    command += [f"-I{root / 'include'}", f"-I{root / 'runtime' / 'mlperf'}"]
    command += [str(Path(__file__).parent / "mlperf_harness.c"), "-o", str(output)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(output))


class Toy:
    """The device; also a link, over which :class:`Dut` drives it."""

    name = "toy"

    def __init__(self, library: ctypes.CDLL, kind: int, energy: bool = False, start: int = 0):
        self.library = library
        self._buffer = ctypes.create_string_buffer(1 << 18)
        self._out = b""
        library.harness_boot(kind, int(energy), start)
        self.greeting = self.take()

    def take(self) -> bytes:
        count = self.library.harness_take(self._buffer)
        return ctypes.string_at(self._buffer, count)

    def feed(self, data: bytes) -> bytes:
        self.library.harness_feed(data, len(data))
        return self.take()

    def ask(self, command: str) -> list[str]:
        answer = self.feed(command.encode() + b"%")
        assert answer.endswith(READY)
        return answer.removesuffix(READY).decode().split("\r\n")[:-1]

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        data, self._out = self._out[:max_bytes], self._out[max_bytes:]
        return data

    def write(self, data: bytes) -> None:
        self._out += self.feed(data)

    def close(self) -> None:
        pass


def test_greeting_and_names(library: ctypes.CDLL) -> None:
    toy = Toy(library, INT8)
    lines = toy.greeting.split(b"\r\n")
    assert lines[0] == b"m-timestamp-mode-performance"
    assert lines[1].startswith(b"m-lap-us-")
    assert lines[2:] == [b"m-init-done", b"m-ready", b""]
    assert toy.ask("name") == ["m-name-dut-[toys]"]
    profile = "m-profile-[ULPMark for tinyML Firmware V0.0.1]"
    assert toy.ask("profile") == [profile, "m-model-[toy01]"]
    assert toy.ask("help")[0] == profile and len(toy.ask("help")) == 10
    assert toy.ask("\r\nna\0me\n") == ["m-name-dut-[toys]"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("db", "e-[Command 'db' requires a subcommand]"),
        ("db load", "e-[Command 'db load' requires the # of bytes]"),
        ("db load 0", "e-[Command 'db load' must be >0 bytes]"),
        ("db load -4", "e-[Command 'db load' must be >0 bytes]"),
        ("db load x", "e-[Command 'db load' must be >0 bytes]"),
        ("db load 301", "e-[Supplied buffer size 301 exceeds maximum of 300]"),
        ("db load 99999999999", "e-[Supplied buffer size 2147483647 exceeds maximum of 300]"),
        ("db load 300", "m-[Expecting 300 bytes]"),
        ("db abc", "e-[Insufficent number of hex digits]"),
        ("db 0g", "e-[Invalid hex digit '0g']"),
        ("infer 0", "e-[Inference iterations must be >0]"),
        ("infer -1", "e-[Inference iterations must be >0]"),
        ("infer", "e-[Inference iterations must be >0]"),
        ("infer 1 -1", "e-[Inference warmup must be >=0]"),
        ("nonsense", "e-[Unknown command: nonsense]"),
        ("nonsense 1 2", "e-[Unknown command: nonsense]"),
        ("names", "e-[Unknown command: names]"),
        ("\x07%", "e-[Unknown command: ?]"),
        ("y" * 80, "e-[Unknown command: " + "y" * 80 + "]"),
        ("y" * 81, "e-[Command too long]"),
        ("y" * 5000, "e-[Command too long]"),
    ],
)
def test_every_error_line(library: ctypes.CDLL, command: str, said: str) -> None:
    toy = Toy(library, INT8)
    assert toy.ask(command.removesuffix("%")) == [said]
    assert toy.ask("name") == ["m-name-dut-[toys]"]
    assert library.harness_intact()


@pytest.mark.parametrize("kind", [INT8, UINT8])
def test_the_buffer(library: ctypes.CDLL, kind: int) -> None:
    toy = Toy(library, kind)
    assert toy.ask("db load 5") == ["m-[Expecting 5 bytes]"]
    assert toy.ask("db 00FF10") == []
    assert toy.ask("db ab7f") == ["m-load-done"]
    assert toy.ask("db 0102") == []  # nobody waits for these
    assert toy.ask("db print 7") == ["m-buffer-00-ff-10-ab-7f-00-00"]
    assert toy.ask("db print 2 3") == ["m-buffer-ab-7f"]
    assert len(toy.ask("db print")[0]) == len("m-buffer-") + 16 * 3 - 1
    assert toy.ask("db print 99999 299")[0].count("-") == 2
    assert toy.ask("db print 5 300") == toy.ask("db print 0") == ["m-buffer-"]
    assert toy.ask("db print -1 -1") == ["m-buffer-"]


def test_inferences_restore_their_input(library: ctypes.CDLL) -> None:
    toy = Toy(library, UINT8)
    dut = Dut(toy)
    assert dut.identify().model == "toy01"
    x = np.arange(300).astype(np.uint8)
    dut.load(x.tobytes())
    found = dut.infer(3, 2)
    output = np.minimum(x[:8].astype(int) - 128 + 1, 127)
    assert found.results == tuple((output - 3) * 0.5)
    assert library.harness_invocations() == 5
    assert found.elapsed_us is not None and 3000 <= found.elapsed_us <= 3100
    assert toy.ask("infer 1")[:3] == ["m-warmup-start-10", "m-warmup-done", "m-infer-start-1"]
    assert toy.ask("results") == ["m-results-[" + ",".join(f"{v:.3f}" for v in found.results) + "]"]


class Mute:
    """A line with its own time, from which only ``noise`` comes."""

    name = "mute"

    def __init__(self, noise: bytes = b"") -> None:
        self.now = 0.0
        self.noise = noise

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        self.now += max(timeout_s, 0.01)
        return self.noise

    def write(self, data: bytes) -> None:
        self.now += 0.001

    def close(self) -> None:
        self.now = -1.0


@pytest.mark.parametrize("noise", [b"", b"\x00\xffnoise without an end", b"m-ready\r\n"])
def test_who_does_not_answer_is_given_up(noise: bytes) -> None:
    link = Mute(noise)
    with pytest.raises(DeviceError, match="does not answer 'name'") as caught:
        Dut(link, clock=lambda: link.now).identify()
    assert caught.value.exit_code == 6 and link.now < 60
    link = Mute(b"noise" if noise else b"")
    with pytest.raises(DeviceError, match=r"did not answer 'infer 1 0' in 30 s"):
        Dut(link, clock=lambda: link.now).infer(1, 0)
    assert 29 < link.now < 32


def test_reconstruction_error(library: ctypes.CDLL, seed: int) -> None:
    """float32 in, quantised on the device; the error in float32, in this order."""
    generator = np.random.default_rng(seed)
    x = generator.normal(0, 40, 300).astype(np.float32)
    x[:5] = [0.25, -0.25, 1e30, -1e30, 0.75]
    x[2:4] = [500, -500]
    toy = Toy(library, FLOAT32)
    dut = Dut(toy, chunk_bytes=26)
    dut.load(x.astype("<f4").tobytes())
    found = dut.infer(2, 0)
    steps = np.clip(np.trunc(np.abs(x / np.float32(0.5)) + 0.5) * np.sign(x) + 3, -128, 127)
    output = np.minimum(steps + 1, 127)
    error = np.mean(((output - 3) * 0.5 - x.astype(np.float64)) ** 2)
    assert found.results[0] == pytest.approx(error, rel=1e-4)
    # what is no number is answered, too
    dut.load(struct.pack("<f", float("nan")) + struct.pack("<f", float("inf")) * 299)
    assert "m-results-[nan]" in toy.ask("infer 1 0")


def test_time_goes_on_when_the_counter_wraps(library: ctypes.CDLL) -> None:
    toy = Toy(library, INT8, start=0xFFFFFF00)

    def microseconds() -> int:
        return int(toy.ask("timestamp")[0].removeprefix("m-lap-us-"))

    first = microseconds()
    for _ in range(5):
        library.harness_pass(0xC0000000)
    assert microseconds() - first == pytest.approx(5 * 0xC0000000, abs=100)


def test_energy_mode_pulses(library: ctypes.CDLL) -> None:
    toy = Toy(library, INT8, energy=True)
    assert toy.greeting == b"m-timestamp-mode-energy\r\nm-init-done\r\nm-ready\r\n"
    before = library.harness_pulses()
    assert toy.ask("timestamp") == []
    assert not [line for line in toy.ask("infer 2 1") if "lap" in line]
    assert library.harness_pulses() - before == 3
    inference = Dut(toy).infer(1, 0)
    assert inference.elapsed_us is None and len(inference.results) == 8


def test_numbers_are_those_of_printf(library: ctypes.CDLL, seed: int) -> None:
    toy = Toy(library, INT8)
    generator = random.Random(seed)
    patterns = [0, 1 << 31, 1, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x4B800000]
    patterns += [
        struct.unpack("<I", struct.pack("<f", v))[0] for v in (0.0005, 0.0625, 2.5, 999.9995)
    ]
    patterns += [struct.unpack("<I", struct.pack("<f", n / 16000))[0] for n in range(0, 4000, 7)]
    patterns += [generator.getrandbits(32) for _ in range(20_000)]
    buffer = ctypes.create_string_buffer(1 << 18)
    for bits in patterns:
        value = struct.unpack("<f", struct.pack("<I", bits))[0]
        count = toy.library.harness_format(bits, buffer)
        text = ctypes.string_at(buffer, count).decode()
        assert text == f"{value:.3f}", hex(bits)


COMMANDS = st.sampled_from(
    [
        b"db ",
        b"load ",
        b"print ",
        b"infer 1 0",
        b"results",
        b"%",
        b"%",
        b" ",
        b"9",
        b"-",
        b"ff",
        b"\r",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(COMMANDS, st.binary(max_size=100)), max_size=30))
def test_nonsense_does_no_harm(library: ctypes.CDLL, pieces: list[bytes]) -> None:
    toy = Toy(library, INT8)
    for piece in pieces:
        if not (b"infer" in piece and len(piece) > 9):
            toy.feed(piece)
    toy.feed(b"%")
    assert toy.ask("name") == ["m-name-dut-[toys]"]
    assert library.harness_intact()
