"""Clock trees: the way a port goes gives the stated clock, and each wrong turn is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_programs import build

from edgekit.sim.board import Board, Fault
from edgekit.sim.device import BoardFault
from edgekit.sim.line import MemoryLine
from edgekit.sim.rp2040 import crc32_boot2
from edgekit.sim.rp2350 import find_block
from edgekit.sim.symbols import Image
from edgekit.sim.uart import StmUart, StmUartV1
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
_F4 = {
    "PWREN": (0x40023840, 1 << 28),
    "VOS": (0x40007000, 0xC000),
    # HSI 16 MHz / 8 = 2 MHz, * 180 = 360 MHz, / 2
    "PLLCFGR": (0x40023804, 8 | 180 << 6 | 8 << 24 | 2 << 28),
    "ODEN": (0x40007000, 0xC000 | 1 << 16),
    "ODSWEN": (0x40007000, 0xC000 | 1 << 16 | 1 << 17),
    "latency": (0x40023C00, 0x705),
    "dividers": (0x40023808, 5 << 10 | 4 << 13),
    "PLLON": (0x40023800, 0x1000081),
    "SW": (0x40023808, 5 << 10 | 4 << 13 | 2),
}
_WAYS = {
    "nucleo-f446re": _F4,
    "nucleo-l4r5zi": _L4,
    "nucleo-g0b1re": _G0,
    "nucleo-u575zi-q": _U5,
    "nucleo-h7a3zi-q": _H7,
}
_RESET_HZ = {
    "nucleo-f446re": 16e6,
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
        ("nucleo-f446re", "PWREN", "PWR has no clock"),
        ("nucleo-f446re", "ODSWEN", "beyond the 168 MHz of voltage scale 1 without over-drive"),
        ("nucleo-f446re", "latency", "need 5 flash wait states in 2.7 to 3.6 V"),
        ("nucleo-f446re", "PLLON", "PLL, which is not ready"),
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
        ("nucleo-f446re", ("PLLCFGR", (0x40023804, 4 | 90 << 6 | 2 << 28)), "its input is 4 MHz"),
        ("nucleo-f446re", ("PLLCFGR", (0x40023804, 8 | 220 << 6 | 2 << 28)), "at 440 MHz"),
        ("nucleo-f446re", ("PLLCFGR", (0x40023804, 1 << 22 | 8 | 180 << 6)), "HSE does not run"),
        ("nucleo-f446re", ("SW", (0x40023808, 4 << 13 | 2)), "pclk1 would be 180 MHz, beyond 45"),
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


def test_the_over_drive_has_an_order(tmp_path: Path) -> None:
    board = _board(tmp_path, "nucleo-f446re")
    _do(board, _F4["PWREN"], _F4["VOS"], _F4["PLLCFGR"])
    power = 0x40007000
    board.bus.write(power, 4, 0xC000 | 1 << 16)
    assert not board.bus.read(power + 4, 4) >> 16 & 1
    with pytest.raises(BoardFault, match="switched to before it is ready"):
        board.bus.write(power, 4, 0xC000 | 3 << 16)
    board.skip(1000)
    assert board.bus.read(power + 4, 4) >> 16 & 3 == 1
    _do(board, (power, 0xC000 | 3 << 16))
    assert board.bus.read(power + 4, 4) >> 16 & 3 == 3
    _do(board, _F4["PLLON"])
    with pytest.raises(BoardFault, match="VOS changed while the PLL is on"):
        _do(board, (power, 0x8000 | 3 << 16))


def _f4_console(folder: Path) -> Board:
    board = _board(folder, "nucleo-f446re")
    _do(board, *_F4.values(), (0x40023840, 1 << 28 | 1 << 17), (0x40023830, 1),
        (0x40020000, 0xA80000A0), (0x40020020, 7 << 8 | 7 << 12))  # fmt: skip
    return board


@pytest.mark.parametrize(
    ("brr", "over8", "rate"),
    # RM0390, baud rates with 45 MHz: 390.625 and 195.3125 are what 16 and 8 times need
    [(391, 0, 115089.5), (0x187, 0, 115089.5), (48 << 4 | 6, 1, 45e6 / 390), (20, 0, 2.25e6)],
)
def test_baud_rates_of_the_older_usart(tmp_path: Path, brr: int, over8: int, rate: float) -> None:
    board = _f4_console(tmp_path)
    _do(board, (0x40004408, brr), (0x4000440C, 1 << 13 | 3 << 2 | over8 << 15))
    device = board.bus.find(0x40004400)
    assert isinstance(device, StmUartV1)
    assert device.rate() == pytest.approx(rate, rel=1e-6)


def test_the_older_usart_receives_sends_and_overruns(tmp_path: Path) -> None:
    board = _f4_console(tmp_path)
    status, data, control = 0x40004400, 0x40004404, 0x4000440C
    with pytest.raises(BoardFault, match="transmitter is off"):
        _do(board, (data, 65))
    _do(board, (0x40004408, 391), (control, 1 << 13 | 3 << 2))
    with pytest.raises(BoardFault, match="not simulated"):
        _do(board, (control, 1 << 13 | 3 << 2 | 1 << 5))
    assert board.bus.read(status, 4) == 0xC0  # TXE, TC
    board.bus.write(data, 4, 65)
    board.bus.write(data, 4, 66)
    assert board.bus.read(status, 4) & 0xC0 == 0
    line = board.line
    assert isinstance(line, MemoryLine)
    line.feed(b"xyz")
    assert not board.bus.read(status, 4) & 0x28
    board.skip(17_000)
    assert board.bus.read(status, 4) & 0x20
    board.skip(100_000)  # all three have come; there is room for one
    assert board.bus.read(data, 4) == ord("x")
    assert board.bus.read(status, 4) & 1 << 3
    board.bus.read(data, 4)
    assert not board.bus.read(status, 4) & 1 << 3
    assert any("overran: 2 bytes" in report for report in board.reports)
    board.flush()
    assert bytes(line.sent) == b"AB"


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


_PICO2_WAY = {
    "XOSC": (0x40048000, 0xFABAA0),
    "released": (0x40020000 + _CLEAR, 1 << 14 | 1 << 26 | 1 << 6 | 1 << 9),
    "REFDIV": (0x40050000, 1),
    "FBDIV": (0x40050008, 125),
    "power": (0x40050004 + _CLEAR, 1 | 1 << 5),
    "PRIM": (0x4005000C, 5 << 16 | 2 << 12),
    "dividers": (0x40050004 + _CLEAR, 1 << 3),
    "ref": (0x40010030, 2),
    "sys": (0x4001003C + _SET, 1),
}
_IMAGE_DEF = (0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB123579)


def _started_pico2(folder: Path, image_def: tuple[int, ...] = _IMAGE_DEF) -> Board:
    words = ", ".join(f"{word:#x}u" for word in image_def)
    elf = build(
        folder,
        '__attribute__((section(".vectors"), used)) const uint32_t block[] = { ' + words + " };"
        "void program(void) { }",
        core="cortex-m33",
        flash=0x10000000,
    )
    return Board(load_target("pico2"), elf)


def test_the_pico_2_s_clock(tmp_path: Path) -> None:
    board = _started_pico2(tmp_path)
    assert board.cpu_hz() == 11e6
    _do(board, *_PICO2_WAY.values())
    assert board.cpu_hz() == 150e6
    _do(board, (0x40010040, 1 << 16 | 1 << 15))  # / 1.5
    assert board.cpu_hz() == pytest.approx(100e6)
    with pytest.raises(BoardFault, match="beyond 150 MHz"):
        _do(board, (0x40010040, 1 << 16), (0x4005000C, 4 << 16 | 2 << 12), (0x40010030, 2))


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("XOSC", "before the crystal is stable"),
        ("released", "held in reset"),
        ("power", "PLL_SYS is not locked"),
        ("dividers", "post dividers are off"),
    ],
)
def test_what_is_left_out_on_the_pico_2_is_told(tmp_path: Path, without: str, message: str) -> None:
    board = _started_pico2(tmp_path)
    with pytest.raises(BoardFault, match=message):
        _do(board, *(write for key, write in _PICO2_WAY.items() if key != without))


def test_isolated_pads_of_the_pico_2_are_told(tmp_path: Path) -> None:
    board = _started_pico2(tmp_path)
    io, pads, uart = 0x40028000, 0x40038000, 0x40070000
    start = ((uart + 0x24, 81), (uart + 0x2C, 0x70), (uart + 0x30, 0x301))
    _do(board, *_PICO2_WAY.values(), (0x40010048, 1 << 11), *start)
    for message, *writes in (
        ("its function is 31", (io + 4, 2)),
        ("its pad is isolated", (pads + 4, 0x56)),
        ("its function is 31", (io + 12, 2), (pads + 8, 0x16)),
        ("its input is off", (pads + 8, 0x5A)),
    ):
        with pytest.raises(BoardFault, match=message):
            _do(board, (uart, 65))
        _do(board, *writes)
    _do(board, (uart, 65))


def test_timers_of_the_pico_2_count_their_ticks(tmp_path: Path) -> None:
    board = _started_pico2(tmp_path)
    _do(board, *_PICO2_WAY.values(), (0x40020000 + _CLEAR, 1 << 23))
    raw = 0x400B0028
    board.skip(150_000)
    assert board.bus.read(raw, 4) == 0
    _do(board, (0x4010801C, 12), (0x40108018, 1))
    before = board.bus.read(raw, 4)
    board.skip(150_000)
    assert board.bus.read(raw, 4) - before == pytest.approx(1000, abs=1)
    assert board.bus.read(0x40108018, 4) == 3


@pytest.mark.parametrize(
    ("image_def", "message"),
    [
        ((0, 0, 0, 0, 0), "no loop of valid blocks"),
        ((0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB12357A), "no loop of valid blocks"),
        ((0xFFFFDED3, 0x10210142, 0x000002FF, 0, 0xAB123579), "no loop of valid blocks"),
        ((0xFFFFDED3, 0x10210142, 0x000001FF, 8, 0xAB123579), "no loop of valid blocks"),
        ((0xFFFFDED3, 0x10210102, 0x000001FF, 0, 0xAB123579), "no image definition"),
        ((0xFFFFDED3, 0x10200142, 0x000001FF, 0, 0xAB123579), "does not say 'executable'"),
        ((0xFFFFDED3, 0x10110142, 0x000001FF, 0, 0xAB123579), "does not say 'secure'"),
        ((0xFFFFDED3, 0x11210142, 0x000001FF, 0, 0xAB123579), "does not say 'Arm'"),
        ((0xFFFFDED3, 0x00210142, 0x000001FF, 0, 0xAB123579), "does not say 'RP2350'"),
    ],
)
def test_what_the_boot_rom_of_the_pico_2_refuses(
    tmp_path: Path, image_def: tuple[int, ...], message: str
) -> None:
    with pytest.raises(Fault, match=message):
        _started_pico2(tmp_path, image_def)


def test_block_loops() -> None:
    def flash(*pieces: tuple[int, tuple[int, ...]]) -> bytes:
        data = bytearray(b"\xff" * 8192)
        for offset, words in pieces:
            data[offset : offset + 4 * len(words)] = b"".join(
                w.to_bytes(4, "little") for w in words
            )
        return bytes(data)

    first, last = (0xFFFFDED3, 0x10210142, 0x000001FF), 0xAB123579
    assert find_block(flash((64, (*first, 0, last)))) is not None
    # beyond the first 4 kB nobody looks, but a loop may reach there
    assert find_block(flash((4096, (*first, 0, last)))) is None
    back = (-4096) & 0xFFFFFFFF
    there = find_block(flash((64, (*first, 4096, last)), (4160, (*first, back, last))))
    assert there is not None and there.next_offset == 4096
    # the second does not lead back to the first
    assert find_block(flash((64, (*first, 4096, last)), (4160, (*first, 0, last)))) is None
    # a vector table in front of the last item, and an item of unknown kind
    longer = (0xFFFFDED3, 0x10210142, 0x00000203, 0x10000100, 0x00000144, 0x000004FF, 0, last)
    block = find_block(flash((0, longer)))
    assert block is not None
    assert block.items[1] == (3, (0x203, 0x10000100)) and len(block.items) == 3
    # cut off by the end of the flash
    assert find_block(flash((64, first))[: 64 + 12]) is None


def _nano(folder: Path) -> Board:
    return _board(folder, "nano33ble")


_NRF_UART, _NRF_P1 = 0x40002000, 0x50000800
_NRF_WAY = {
    "crystal": (0x40000000, 1),
    "tx": (_NRF_P1 + 0x200 + 4 * 3, 3),
    "rx": (_NRF_P1 + 0x200 + 4 * 10, 0xC),
    "TXD": (_NRF_UART + 0x50C, 35),
    "RXD": (_NRF_UART + 0x514, 42),
    "baud": (_NRF_UART + 0x524, 0x01D7E000),
    "enable": (_NRF_UART + 0x500, 4),
    "STARTRX": (_NRF_UART, 1),
    "STARTTX": (_NRF_UART + 8, 1),
}


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("tx", "P1.03 is not the UART's tx: PIN_CNF is 0x2: its direction"),
        ("rx", "P1.10 is not the UART's rx: PIN_CNF is 0x2: its input"),
        ("TXD", "P1.03 is not the UART's tx: PSEL is 0xffffffff, not 0x23"),
        ("RXD", "P1.10 is not the UART's rx: PSEL"),
        ("enable", "started while it is off"),
        ("STARTTX", "before the transmitter was started"),
    ],
)
def test_what_is_left_out_on_the_nano_is_told(tmp_path: Path, without: str, message: str) -> None:
    board = _nano(tmp_path)
    with pytest.raises(BoardFault, match=message):
        _do(board, *(write for key, write in _NRF_WAY.items() if key != without),
            (_NRF_UART + 0x51C, 65))  # fmt: skip


def test_the_nano_s_oscillator(tmp_path: Path) -> None:
    board = _nano(tmp_path)
    assert board.cpu_hz() == 64e6
    assert board.bus.read(0x4000040C, 4) == 1 << 16
    board.bus.write(0x40000000, 4, 1)
    assert board.bus.read(0x40000100, 4) == 0
    board.skip(30_000)
    assert board.bus.read(0x40000100, 4) == 1 and board.bus.read(0x4000040C, 4) == 1 << 16 | 1
    _do(board, (0x40000004, 1))
    _do(board, *(write for key, write in _NRF_WAY.items() if key != "crystal"))
    _do(board, (_NRF_UART + 0x51C, 65))
    assert any("internal oscillator" in report for report in board.reports)


@pytest.mark.parametrize(
    ("value", "rate"),
    # the actual rates that the product specification states (6.33, BAUDRATE)
    [(0x00275000, 9598), (0x01D7E000, 115942), (0x03AFB000, 231884), (0x075F7000, 470588),
     (0x0EBED000, 941176), (0x10000000, 1000000)],
)  # fmt: skip
def test_baud_rates_of_the_nano(tmp_path: Path, value: int, rate: int) -> None:
    board = _nano(tmp_path)
    _do(board, *(_NRF_WAY | {"baud": (_NRF_UART + 0x524, value)}).values())
    device = board.bus.find(_NRF_UART)
    assert device is not None
    assert device.rate() == pytest.approx(rate, abs=1)  # type: ignore[attr-defined]


def test_events_of_the_nano_s_uart(tmp_path: Path) -> None:
    board = _nano(tmp_path)
    _do(board, *_NRF_WAY.values())
    line = board.line
    assert isinstance(line, MemoryLine)
    received, sent, rxd, txd = (_NRF_UART + at for at in (0x108, 0x11C, 0x518, 0x51C))
    line.feed(b"xy")
    assert board.bus.read(received, 4) == 0
    board.skip(12_000)
    assert board.bus.read(received, 4) == 1
    board.bus.write(received, 4, 0)
    assert board.bus.read(received, 4) == 0, "the second byte waits until the first was read"
    assert board.bus.read(rxd, 4) == ord("x")
    assert board.bus.read(received, 4) == 1
    board.bus.write(received, 4, 0)
    assert board.bus.read(rxd, 4) == ord("y")
    assert board.bus.read(sent, 4) == 0
    board.bus.write(txd, 4, 65)
    assert board.bus.read(sent, 4) == 0
    board.bus.write(txd, 4, 66)
    assert any("before TXDRDY" in report for report in board.reports)
    board.skip(6_000)
    assert board.bus.read(sent, 4) == 1
    board.flush()
    assert bytes(line.sent) == b"A"
    with pytest.raises(BoardFault, match="only be written while it is off"):
        _do(board, (_NRF_UART + 0x50C, 1))
    with pytest.raises(BoardFault, match="EasyDMA is not simulated"):
        _do(board, (_NRF_UART + 0x500, 0), (_NRF_UART + 0x500, 8))
