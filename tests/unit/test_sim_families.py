"""Clock trees: the way a port goes gives the stated clock, and each wrong turn is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_programs import build

from edgekit.sim.board import Board, Fault
from edgekit.sim.device import BoardFault
from edgekit.sim.rp2040 import crc32_boot2
from edgekit.sim.symbols import Image
from edgekit.sim.uart import StmUart
from edgekit.targets import load_target

Write = tuple[int, int]


def _board(folder: Path, name: str) -> Board:
    target = load_target(name)
    flash = next(region for region in target.memory if region.kind == "flash")
    core = str(target.core)
    elf = build(folder, "void program(void) { }", core=core, flash=flash.origin,
                ram=target.memory[1].origin)  # fmt: skip
    return Board(target, elf)


def _do(board: Board, *writes: Write) -> None:
    for address, value in writes:
        if board.bus.write(address, 4, value):
            board.settings += 1
        board.skip(200_000)  # oscillators and PLLs start meanwhile


_L4 = {
    "PWREN": (0x40021058, 1 << 28),
    "boost": (0x40007080, 0),
    "latency": (0x40022000, 0x705),
    "HSI": (0x40021000, 0x163),
    "PLLCFGR": (0x4002100C, 2 | 3 << 4 | 60 << 8 | 1 << 24),
    "PLLON": (0x40021000, 0x1000163),
    "SW": (0x40021008, 3),
}
_G0 = {
    "latency": (0x40022000, 0x40602),
    "PLLCFGR": (0x4002100C, 2 | 0 << 4 | 8 << 8 | 1 << 28 | 1 << 29),
    "PLLON": (0x40021000, 0x1000500),
    "SW": (0x40021008, 2),
}
_U5 = {
    "PWREN": (0x46020C94, 4),
    "latency": (0x40022000, 4),
    "HSI": (0x46020C00, 0x135),
    # HSI16 / 1 = 16 MHz, * 10 = 160 MHz
    "PLL1CFGR": (0x46020C28, 2 | 3 << 2 | 0 << 8 | 1 << 18),
    "PLL1DIVR": (0x46020C34, 9),
    "boost": (0x4602080C, 3 << 16 | 1 << 18),
    "PLLON": (0x46020C00, 0x1000135),
    "SW": (0x46020C1C, 3),
}
_H7 = {
    "supply": (0x5802480C, 0x44),
    "VOS": (0x58024818, 3 << 14),
    "latency": (0x52002000, 0x36),
    # 64 MHz / 16 = 4 MHz, * 140 = 560 MHz, / 2
    "PLLCKSELR": (0x58024428, 16 << 4),
    "PLLCFGR": (0x5802442C, 2 << 2 | 1 << 16),
    "PLL1DIVR": (0x58024430, 139 | 1 << 9),
    "CDCFGR2": (0x5802441C, 4 << 4 | 4 << 8),
    "PLLON": (0x58024400, 0x1000025),
    "SW": (0x58024410, 3),
}
_WAYS = {
    "nucleo-l4r5zi": _L4,
    "nucleo-g0b1re": _G0,
    "nucleo-u575zi-q": _U5,
    "nucleo-h7a3zi-q": _H7,
}
_RESET_HZ = {
    "nucleo-l4r5zi": 4e6,
    "nucleo-g0b1re": 16e6,
    "nucleo-u575zi-q": 4e6,
    "nucleo-h7a3zi-q": 64e6,
}


@pytest.mark.parametrize("name", _WAYS)
def test_the_registers_give_the_stated_clock(tmp_path: Path, name: str) -> None:
    board = _board(tmp_path, name)
    assert board.cpu_hz() == _RESET_HZ[name]
    _do(board, *_WAYS[name].values())
    assert board.cpu_hz() == pytest.approx(board.target.clock_hz)


@pytest.mark.parametrize(
    ("name", "without", "message"),
    [
        ("nucleo-l4r5zi", "PWREN", "has no clock"),
        ("nucleo-l4r5zi", "boost", "beyond the 80 MHz of voltage range 1 normal mode"),
        ("nucleo-l4r5zi", "latency", "need 5 flash wait states in voltage range 1 boost mode"),
        ("nucleo-l4r5zi", "PLLCFGR", "it has no source"),
        ("nucleo-l4r5zi", "PLLON", "PLL, which is not ready"),
        ("nucleo-g0b1re", "latency", "need 2 flash wait states"),
        ("nucleo-g0b1re", "PLLCFGR", "it has no source"),
        ("nucleo-g0b1re", "PLLON", "not ready"),
        ("nucleo-u575zi-q", "PWREN", "has no clock"),
        ("nucleo-u575zi-q", "boost", "beyond the 25 MHz of voltage range 4"),
        ("nucleo-u575zi-q", "latency", "wait states"),
        ("nucleo-u575zi-q", "PLL1CFGR", "has no source"),
        ("nucleo-h7a3zi-q", "VOS", "beyond the 88 MHz of voltage scale 3"),
        ("nucleo-h7a3zi-q", "latency", "need 6 flash wait states"),
        ("nucleo-h7a3zi-q", "CDCFGR2", "beyond 140 MHz"),
        ("nucleo-h7a3zi-q", "PLLON", "not ready"),
    ],
)
def test_what_is_left_out_is_told(tmp_path: Path, name: str, without: str, message: str) -> None:
    board = _board(tmp_path, name)
    writes = [write for key, write in _WAYS[name].items() if key != without]
    with pytest.raises(BoardFault, match=message):
        _do(board, *writes)


@pytest.mark.parametrize("name", _WAYS)
def test_the_pll_is_not_ready_at_once(tmp_path: Path, name: str) -> None:
    board = _board(tmp_path, name)
    way = _WAYS[name]
    for key, write in way.items():
        if key not in ("PLLON", "SW"):
            _do(board, write)
    board.bus.write(*_with_size(way["PLLON"]))
    assert not board.bus.read(way["PLLON"][0], 4) >> 25 & 1
    with pytest.raises(BoardFault, match="not ready"):
        board.bus.write(*_with_size(way["SW"]))
    board.skip(10_000)
    assert board.bus.read(way["PLLON"][0], 4) >> 25 & 1


def _with_size(write: Write) -> tuple[int, int, int]:
    return write[0], 4, write[1]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nucleo-l4r5zi", ("PLLCFGR", (0x4002100C, 2 | 3 << 4 | 100 << 8 | 1 << 24)), "outside 64"),
        ("nucleo-l4r5zi", ("PLLCFGR", (0x4002100C, 2 | 15 << 4 | 60 << 8 | 1 << 24)), "its input"),
        ("nucleo-l4r5zi", ("PLLCFGR", (0x4002100C, 2 | 3 << 4 | 60 << 8)), "output R"),
        ("nucleo-l4r5zi", ("PLLON", (0x40021000, 0x1000063)), "source HSI16 does not run"),
        ("nucleo-u575zi-q", ("PLLON", (0x46020C00, 0x1000035)), "source HSI16 does not run"),
        ("nucleo-h7a3zi-q", ("PLLCFGR", (0x5802442C, 0 << 2 | 1 << 16)), "its input is 4 MHz"),
        ("nucleo-u575zi-q", ("boost", (0x4602080C, 3 << 16)), "EPOD booster"),
    ],
)
def test_what_is_set_wrongly_is_told(
    tmp_path: Path, name: str, change: tuple[str, Write], message: str
) -> None:
    board = _board(tmp_path, name)
    with pytest.raises(BoardFault, match=message):
        _do(board, *(_WAYS[name] | dict([change])).values())


def test_settings_of_a_running_pll_may_not_change(tmp_path: Path) -> None:
    board = _board(tmp_path, "nucleo-l4r5zi")
    _do(board, *_L4.values())
    with pytest.raises(BoardFault, match="while the PLL is on"):
        _do(board, (0x4002100C, 2 | 3 << 4 | 40 << 8 | 1 << 24))
    with pytest.raises(BoardFault, match="while the CPU runs on it"):
        _do(board, (0x40021000, 0x163))


def test_the_console_needs_its_clock_and_its_pin(tmp_path: Path) -> None:
    board = _board(tmp_path, "nucleo-l4r5zi")
    _do(board, *_L4.values())
    uart = 0x40008000
    with pytest.raises(BoardFault, match="LPUART1 has no clock"):
        _do(board, (uart + 0x0C, 266667))
    _do(board, (0x4002105C, 1), (uart + 0x0C, 266667), (uart, 1 << 3 | 1 << 2 | 1))
    with pytest.raises(BoardFault, match="PG7 is not the UART's tx"):
        _do(board, (uart + 0x28, 65))
    _do(board, (0x4002104C, 1 << 6), (0x48001800, 0xFFFEBFFF), (0x48001820, 8 << 28))
    with pytest.raises(BoardFault, match="no supply"):
        _do(board, (uart + 0x28, 65))
    _do(board, (0x40007004, 1 << 9))
    with pytest.raises(BoardFault, match="PG8 is not the UART's rx"):
        _do(board, (uart + 0x28, 65))
    _do(board, (0x48001824, 8), (0x40007004, 0))
    with pytest.raises(BoardFault, match="no supply"):
        _do(board, (uart + 0x28, 65))
    _do(board, (0x40007004, 1 << 9), (uart + 0x28, 65))
    assert board.reports == []


def test_an_unset_clock_is_reported_when_the_firmware_speaks(tmp_path: Path) -> None:
    board = _board(tmp_path, "nucleo-g0b1re")
    uart = 0x40004400
    _do(board, (0x4002103C, 1 << 17), (0x40021034, 1), (0x50000000, 0xEBFFFFAF),
        (0x50000020, 1 << 8 | 1 << 12), (uart + 0x0C, 139), (uart, 1 << 3 | 1 << 2 | 1),
        (uart + 0x28, 65))  # fmt: skip
    assert board.reports == ["the clock registers give 16,000,000 Hz; nucleo-g0b1re states "
                             "64,000,000 Hz"]  # fmt: skip


@pytest.mark.parametrize(
    ("brr", "rate"), [(1042, 115163), (0x300, 156250)]
)  # fmt: skip
def test_baud_rates(tmp_path: Path, brr: int, rate: int) -> None:
    board = _board(tmp_path, "nucleo-l4r5zi")
    _do(board, *_L4.values(), (0x4002105C, 1))
    device = board.bus.find(0x40008000)
    assert device is not None
    # LPUART: 256 * 120 MHz / BRR
    _do(board, (0x4000800C, brr * 256), (0x40008000, 0xD))
    assert isinstance(device, StmUart)
    assert device.rate() == pytest.approx(120e6 / brr, rel=1e-6)
    assert rate == pytest.approx(120e6 / brr, rel=1e-3)


def test_the_crc_of_the_second_stage() -> None:
    # the check value of this CRC (CRC-32/MPEG-2)
    assert crc32_boot2(b"123456789") == 0x0376E6E7


def test_a_second_stage_without_its_crc_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="second boot stage's CRC"):
        _board(tmp_path, "pico")


def _started_pico(folder: Path) -> Board:
    """A Pico whose flash starts with 256 bytes that carry the right CRC."""
    elf = build(
        folder,
        '__attribute__((section(".vectors"), used)) const uint32_t filler[64] = { 1 };'
        "void program(void) { }",
        core="cortex-m0plus",
        flash=0x10000000,
    )
    first = next(item for item in Image(elf).segments if item.address == 0x10000000)
    data = bytearray(elf.read_bytes())
    at = data.index(first.data[:64])
    data[at + 252 : at + 256] = crc32_boot2(bytes(data[at : at + 252])).to_bytes(4, "little")
    elf.write_bytes(data)
    return Board(load_target("pico"), elf)


_CLOCKS, _RESETS, _XOSC, _PLL = 0x40008000, 0x4000C000, 0x40024000, 0x40028000
_CLEAR, _SET = 0x3000, 0x2000
_PICO_WAY = {
    "XOSC": (_XOSC, 0xFABAA0),
    "released": (_RESETS + _CLEAR, 1 << 12 | 1 << 22 | 1 << 5 | 1 << 8),
    "REFDIV": (_PLL, 1),
    "FBDIV": (_PLL + 8, 125),
    "power": (_PLL + 4 + _CLEAR, 1 | 1 << 5),
    "PRIM": (_PLL + 12, 6 << 16 | 2 << 12),
    "dividers": (_PLL + 4 + _CLEAR, 1 << 3),
    "ref": (_CLOCKS + 0x30, 2),
    "sys": (_CLOCKS + 0x3C + _SET, 1),
}


def test_the_pico_s_clock(tmp_path: Path) -> None:
    board = _started_pico(tmp_path)
    assert board.cpu_hz() == 6.5e6
    _do(board, *_PICO_WAY.values())
    assert board.cpu_hz() == 125e6
    assert board.bus.read(_CLOCKS + 0x44, 4) == 2


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("XOSC", "before the crystal is stable"),
        ("released", "held in reset"),
        ("power", "PLL_SYS is not locked"),
        ("dividers", "post dividers are off"),
        ("FBDIV", "FBDIV is 0"),
    ],
)
def test_what_is_left_out_on_the_pico_is_told(tmp_path: Path, without: str, message: str) -> None:
    board = _started_pico(tmp_path)
    with pytest.raises(BoardFault, match=message):
        _do(board, *(write for key, write in _PICO_WAY.items() if key != without))


def test_too_fast_a_clock_is_told_on_the_pico(tmp_path: Path) -> None:
    board = _started_pico(tmp_path)
    with pytest.raises(BoardFault, match="beyond 133 MHz"):
        _do(board, *(_PICO_WAY | {"PRIM": (_PLL + 12, 5 << 16 | 2 << 12)}).values())


@pytest.mark.parametrize(
    ("signed", "dividend", "divisor"), [(0, 100, 7), (0, 0xFFFFFFFF, 3), (1, -100, 7), (1, 9, -2)]
)
def test_the_pico_s_divider(tmp_path: Path, signed: int, dividend: int, divisor: int) -> None:
    board = _started_pico(tmp_path)
    first = 0xD0000000 + (0x68 if signed else 0x60)
    _do(board, (first, dividend & 0xFFFFFFFF), (first + 4, divisor & 0xFFFFFFFF))
    quotient = int(dividend / divisor)
    assert board.bus.read(0xD0000070, 4) == quotient & 0xFFFFFFFF
    assert board.bus.read(0xD0000074, 4) == (dividend - quotient * divisor) & 0xFFFFFFFF


def test_the_second_stage_talks_to_the_flash(tmp_path: Path) -> None:
    board = _started_pico(tmp_path)
    data, status = 0x18000060, 0x18000028

    def exchange(*sent: int) -> list[int]:
        for byte in sent:
            board.bus.write(data, 4, byte)
        assert board.bus.read(status, 4) & 4
        return [board.bus.read(data, 4) for _ in sent]

    assert exchange(0x35, 0)[1] == 0
    exchange(0x31, 2)
    assert exchange(0x35, 0)[1] == 0, "a write needs to be enabled"
    exchange(0x06)
    exchange(0x31, 2)
    assert exchange(0x35, 0)[1] == 2
    assert exchange(0x05, 0)[1] == 0


def test_interrupt_driven_uarts_are_told(tmp_path: Path) -> None:
    board = _board(tmp_path, "nucleo-l4r5zi")
    _do(board, *_L4.values(), (0x4002105C, 1))
    with pytest.raises(BoardFault, match="not simulated"):
        _do(board, (0x40008000, 1 << 5))
