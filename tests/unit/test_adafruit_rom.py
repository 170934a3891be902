"""Adafruit's boot loader for nRF52: packets by hand, damaged ones, and what it starts."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.sim.rom import RESET, start_rom, wants_rom
from edgekit.sim.rom.adafruit import SerialLoader, crc16
from edgekit.sim.rom.memory import FlashMemory
from edgekit.targets import load_target

TARGET = load_target("feather-nrf52840")
ORIGIN = TARGET.memory[0].origin
START, INIT, DATA, STOP = 3, 1, 4, 5
Pair = tuple[SerialLoader, FlashMemory]


@pytest.fixture
def loader(tmp_path: Path) -> Pair:
    flash = FlashMemory(TARGET, tmp_path)
    rom = start_rom(TARGET, flash, tmp_path)
    assert isinstance(rom, SerialLoader)
    return rom, flash


def frame(number: int, payload: bytes, *, spoil: int | None = None) -> bytes:
    """A packet as adafruit-nrfutil sends it: reliable, vendor specific, with a CRC, in SLIP."""
    head = bytes([number | ((number + 1) % 8) << 3 | 0xC0, 14 | (len(payload) & 0xF) << 4])
    head += bytes([len(payload) >> 4])
    head += bytes([-sum(head) & 0xFF])
    packet = bytearray(head + payload)
    packet += crc16(bytes(packet)).to_bytes(2, "little")
    if spoil is not None:
        packet[spoil % len(packet)] ^= 0x10
    content = bytes(packet).replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + content + b"\xc0"


def acknowledged(answer: bytes) -> int | None:
    """The number of the packet that is wanted next."""
    return answer[1] >> 3 & 7 if len(answer) == 6 else None


class Host:
    def __init__(self, rom: SerialLoader) -> None:
        self._rom = rom
        self._number = 0

    def send(self, *words: int, data: bytes = b"") -> bool:
        """Whether the packet was acknowledged."""
        self._number = (self._number + 1) & 7
        payload = struct.pack(f"<{len(words)}I", *words) + data
        answer = acknowledged(self._rom.step(frame(self._number, payload)))
        return answer == (self._number + 1) & 7

    def program(self, image: bytes, crc: int | None = None, kind: int = 0x52) -> None:
        assert self.send(START, 4, 0, 0, len(image))
        crc = crc16(image) if crc is None else crc
        init = struct.pack("<HHIHHHH", kind, 0xFFFF, 0xFFFFFFFF, 1, 0xFFFE, crc, 0)
        assert self.send(INIT, data=init)
        for start in range(0, len(image), 512):
            assert self.send(DATA, data=image[start : start + 512])
        assert self.send(STOP)


def image(nbytes: int = 10000) -> bytes:
    content = random.Random(nbytes).randbytes(nbytes)
    return struct.pack("<II", 0x20040000, ORIGIN + 0x101) + content[8:]


def test_an_application_is_written_and_started(loader: Pair) -> None:
    rom, flash = loader
    assert wants_rom(TARGET, flash)
    Host(rom).program(image())
    assert rom.leaves_to == RESET
    assert flash.read(ORIGIN, 10000) == image()
    assert flash.read(ORIGIN + 10000, 2000) == b"\xff" * 2000
    assert not wants_rom(TARGET, flash)


@pytest.mark.parametrize("spoiled", ("crc", "device", "size", "order"))
def test_what_is_wrong_is_not_started(spoiled: str, loader: Pair) -> None:
    rom, flash = loader
    host = Host(rom)
    if spoiled == "crc":
        host.program(image(), crc=1)
    elif spoiled == "device":
        host.program(image(), kind=0x51)
    elif spoiled == "size":
        assert host.send(START, 4, 0, 0, 10001)  # no whole words
        assert host.send(STOP)
    else:
        assert host.send(DATA, data=image()[:512])
        assert host.send(STOP)
    assert rom.leaves_to is None
    assert wants_rom(TARGET, flash)
    # and it can be done right afterwards, as adafruit-nrfutil counts: from one again
    again = start_rom(TARGET, flash, flash.folder)
    assert isinstance(again, SerialLoader)
    Host(again).program(image(4096))
    assert again.leaves_to == RESET and not wants_rom(TARGET, flash)


def test_what_was_there_is_not_started_once_a_transfer_began(loader: Pair) -> None:
    rom, flash = loader
    Host(rom).program(image())
    second = start_rom(TARGET, flash, flash.folder)
    assert isinstance(second, SerialLoader)
    assert Host(second).send(START, 4, 0, 0, 4096)
    assert wants_rom(TARGET, flash)


def test_damaged_and_doubled_packets(loader: Pair, seed: int) -> None:
    rom, flash = loader
    generator = random.Random(seed)
    content = image(3000)
    packets = [struct.pack("<5I", START, 4, 0, 0, len(content))]
    packets.append(
        struct.pack("<IHHIHHHH", INIT, 0x52, 0xFFFF, 0xFFFFFFFF, 1, 0xB6, crc16(content), 0)
    )
    packets += [struct.pack("<I", DATA) + content[i : i + 512] for i in range(0, 3000, 512)]
    packets.append(struct.pack("<I", STOP))
    number = 0
    for payload in packets:
        number = (number + 1) & 7
        for _ in range(generator.randrange(3)):
            spoiled = frame(number, payload, spoil=generator.randrange(10000))
            assert acknowledged(rom.step(spoiled)) in (None, number)
        assert acknowledged(rom.step(frame(number, payload))) == (number + 1) & 7
        if generator.randrange(2) and payload[:1] != bytes([STOP]):
            # its acknowledgement was lost: sent again, taken once
            assert acknowledged(rom.step(frame(number, payload))) == (number + 1) & 7
    assert rom.leaves_to == RESET
    assert flash.read(ORIGIN, 3000) == content


_FIXTURE = HealthCheck.function_scoped_fixture


@settings(deadline=None, max_examples=50, suppress_health_check=[_FIXTURE])
@given(st.lists(st.one_of(st.binary(max_size=40), st.binary(min_size=4, max_size=40)), max_size=8))
def test_any_bytes(tmp_path: Path, parts: list[bytes]) -> None:
    flash = FlashMemory(TARGET, tmp_path)
    rom = start_rom(TARGET, flash, tmp_path)
    for index, part in enumerate(parts):
        rom.step(part if index % 2 else frame(index // 2 + 1 & 7, part))
    assert rom.leaves_to is None
