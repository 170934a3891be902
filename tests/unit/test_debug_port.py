"""The debug port: its pins bit by bit, its registers, and what a debugger does to a CPU."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from debug_hosts import (
    CSW,
    CTRL_STAT,
    DPIDR,
    DRW,
    FAULT,
    KEY,
    OK,
    PC,
    RDBUFF,
    SELECT,
    TAR,
    XPSR,
    Cpu,
    Jtag,
    Memory,
    Swd,
    start,
    symbols,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_programs import assemble, build

from edgekit.sim.debug.bitbang import Bitbang
from edgekit.sim.debug.remote import RemoteProbe
from edgekit.sim.debug.runner import DebugRunner
from edgekit.sim.debug.stlink import Stlink

FLASH, RAM = 0x08000000, 0x20000000
Start = Callable[..., DebugRunner]

_PROGRAM = """
volatile uint32_t seen, other;
__attribute__((noinline)) uint32_t work(uint32_t n) {
    uint32_t s = 0;
    for (uint32_t i = 0; i < n; i++) { s += i * i ^ n; __asm volatile("" : "+r"(s)); }
    return s; }
__attribute__((noinline)) void done(void) { __asm volatile(""); }
void program(void) {
    for (uint32_t i = 0; i < 40; i++) { seen += work(i); if (i == 7) { other = seen; } }
    done();
}
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Start]:
    """Starts boards that end with the test."""
    runners: list[DebugRunner] = []

    def make(target: str = "nucleo-l4r5zi", source: str = _PROGRAM, **more: object) -> DebugRunner:
        core = "cortex-m0plus" if target == "nucleo-g0b1re" else "cortex-m4"
        flash = 0 if target == "nrf52840dk" else FLASH
        elf = build(tmp_path, source, core=core, flash=flash) if source else None
        runners.append(start(target, elf, **more))  # type: ignore[arg-type]
        runners[-1].elf = elf  # type: ignore[attr-defined]
        return runners[-1]

    yield make
    for runner in runners:
        runner.stop()


# the pins


@pytest.mark.parametrize("host", (Swd, Jtag))
def test_memory_through_the_pins(host: type[Swd | Jtag], board: Start, seed: int) -> None:
    pins = host(board())
    if isinstance(pins, Swd):
        assert pins.to_swd() == 0x2BA01477
    memory = Memory(pins)
    assert pins.read(False, SELECT) in (0, 0x2BA01477)  # write only
    pins.write(False, SELECT, 0xF0)
    assert pins.read(True, 0xC) == 0x24770011
    assert pins.read(True, 0x8) == 0xE00FF003
    pins.write(False, SELECT, 0)
    # the table that this points to begins with the system control space
    assert memory.read(0xE00FF000) + 0xE00FF000 & 0xFFFFF000 == 0xE000E000
    assert memory.read(0xE000ED00) == 0x410FC241
    generator = random.Random(seed)
    words = [generator.getrandbits(32) for _ in range(8)]
    pins.write(True, TAR, RAM + 0x8000)
    for word in words:
        pins.write(True, DRW, word)
    assert [memory.read(RAM + 0x8000 + 4 * i) for i in range(8)] == words
    # bytes and halves travel in their lanes
    content = b"".join(word.to_bytes(4, "little") for word in words)
    memory.csw(0)
    pins.write(True, TAR, RAM + 0x8001)
    for offset in range(1, 6):
        assert pins.read(True, DRW) >> 8 * (offset & 3) & 0xFF == content[offset]
    pins.write(True, TAR, RAM + 0x8003)
    pins.write(True, DRW, 0xAB << 24)
    memory.csw(1)
    pins.write(True, TAR, RAM + 0x8006)
    assert pins.read(True, DRW) >> 16 == int.from_bytes(content[6:8], "little")
    memory.csw(2)
    assert memory.read(RAM + 0x8000) == words[0] & 0xFFFFFF | 0xAB << 24
    # without increment the address stays; with it, it wraps where its counter ends
    memory.csw(2, increment=0)
    assert memory.read(RAM + 0x8004) == words[1]
    assert pins.read(True, TAR) == RAM + 0x8004
    memory.csw(2)
    memory.read(RAM + 0x8FFC)
    assert pins.read(True, TAR) == RAM + 0x8000


def test_reads_of_access_ports_are_posted(board: Start) -> None:
    pins = Swd(board())
    pins.to_swd()
    memory = Memory(pins)
    for index in range(3):
        memory.write(RAM + 0x8000 + 4 * index, 0x11111111 * (index + 1))
    pins.write(True, TAR, RAM + 0x8000)
    found = [pins.transfer(ap=True, read=True, register=DRW)[1] for _ in range(3)][1:]
    found.append(pins.transfer(ap=False, read=True, register=RDBUFF)[1])
    assert found == [0x11111111, 0x22222222, 0x33333333]


def test_a_failed_access_is_told_until_it_is_cleared(board: Start) -> None:
    pins = Swd(board())
    pins.to_swd()
    memory = Memory(pins)
    pins.write(True, TAR, 0x60000000)  # nothing is there
    assert pins.transfer(ap=True, read=True, register=DRW)[0] == OK
    assert pins.transfer(ap=False, read=True, register=RDBUFF)[0] == FAULT
    assert pins.transfer(ap=True, read=False, register=TAR, value=RAM)[0] == FAULT
    assert pins.read(False, CTRL_STAT) & 1 << 5
    pins.write(False, DPIDR, 1 << 2)  # ABORT.STKERRCLR
    assert not pins.read(False, CTRL_STAT) & 1 << 5
    memory.write(RAM + 0x8000, 5)
    assert memory.read(RAM + 0x8000) == 5
    # what is misaligned, and what is flash without its controller's leave, fails, too
    for address, size in ((RAM + 0x8002, 2), (RAM + 0x8001, 1)):
        memory.csw(size)
        pins.write(True, TAR, address)
        pins.write(True, DRW, 0)
        assert pins.transfer(ap=False, read=True, register=RDBUFF)[0] == FAULT
        pins.write(False, DPIDR, 1 << 2)
    # with overrun detection data follows every acknowledgement
    pins.write(False, CTRL_STAT, 0x50000001)
    pins.overrun = True
    pins.write(True, TAR, 0x60000000)
    pins.transfer(ap=True, read=True, register=DRW)
    assert pins.transfer(ap=True, read=True, register=DRW)[0] == FAULT
    assert pins.transfer(ap=True, read=False, register=DRW)[0] == FAULT
    pins.write(False, DPIDR, 1 << 2)
    pins.write(False, CTRL_STAT, 0x50000000)
    pins.overrun = False
    # and no transfer is made of data whose parity is wrong
    memory.csw(2)
    pins.write(True, TAR, RAM + 0x8000)
    pins.transfer(ap=True, read=False, register=DRW, value=7, parity=0)
    assert memory.read(RAM + 0x8000) == 5


def test_jtag_clears_its_flags_by_writing_them(board: Start) -> None:
    pins = Jtag(board())
    memory = Memory(pins)
    memory.read(0x60000000)
    assert pins.read(False, CTRL_STAT) & 1 << 5
    pins.write(False, CTRL_STAT, 0x50000020)
    assert not pins.read(False, CTRL_STAT) & 1 << 5
    assert memory.read(0xE000ED00) == 0x410FC241


def test_the_chain_of_ports(board: Start) -> None:
    runner = board()
    pins = Jtag(runner)
    assert pins.ir(Jtag.IDCODE) & 0xF == 1  # what is captured begins with 01
    assert pins.dr(32, 0) == 0x4BA00477
    pins.tms(0b11111, 5)  # out of reset all have their ids selected
    pins.tms(0, 1)
    assert [pins.dr(63, 0) & 0xFFFFFFFF, runner.port.wiring.taps[1].idcode] == [
        0x4BA00477,
        0x06470041,
    ]
    pins.ir(Jtag.DPACC)
    # a port in BYPASS is one bit long
    assert pins.dr(40, 1 << 39) >> 36 == 0


def test_what_is_no_request_is_not_answered(board: Start) -> None:
    pins = Swd(board())
    assert pins.transfer(ap=False, read=True, register=DPIDR)[0] == 7  # nobody drives: pulled up
    assert pins.to_swd()
    for spoil in (0b010000, 0b100000, 0b1000000):  # parity, stop, park
        assert pins.request(ap=False, read=True, register=DPIDR, spoil=spoil) == 7
        assert pins.request(ap=False, read=True, register=DPIDR) == 7
        pins.line_reset()
        assert pins.transfer(ap=False, read=True, register=DPIDR) == (OK, 0x2BA01477)
    # behind a reset of the line DPIDR is read first (B4.3.3)
    pins.line_reset()
    assert pins.request(ap=False, read=True, register=CTRL_STAT) == 7


def test_chips_that_share_their_pins(board: Start) -> None:
    """Multi-drop: dormant out of reset is not assumed, silent until it is called by its id."""
    runner = board(pins=lambda found: replace(found, dpidr=0x0BC12477, targetid=0x01002927))
    pins = Swd(runner)

    def call(targetid: int) -> None:
        """TARGETSEL, whose acknowledgement nobody drives (B4.3.4)."""
        pins.line_reset()
        pins.bits(8, 1 | (0b0001100 | 1 << 6) << 1)
        pins.bits(5, 0)
        pins.bits(32, targetid)
        pins.bits(1, targetid.bit_count() & 1)

    assert pins.to_swd() == 0
    call(0x11002927)
    assert pins.request(ap=False, read=True, register=DPIDR) == 7
    call(0x01002927)
    assert pins.transfer(ap=False, read=True, register=DPIDR) == (OK, 0x0BC12477)
    pins.write(False, SELECT, 2)
    assert pins.read(False, CTRL_STAT) == 0x01002927
    # put to sleep, it hears nothing but the alert
    pins.bits(56, (1 << 56) - 1)
    pins.bits(16, 0xE3BC)
    call(0x01002927)
    assert pins.request(ap=False, read=True, register=DPIDR) == 7
    pins.bits(8, 0xFF)
    pins.bits(128, 0x19BC0EA2E3DDAFE986852D956209F392)
    pins.bits(4, 0)
    pins.bits(8, 0x1A)
    call(0x01002927)
    assert pins.transfer(ap=False, read=True, register=DPIDR) == (OK, 0x0BC12477)


# the CPU


@pytest.mark.parametrize("target", ("nucleo-l4r5zi", "nucleo-g0b1re"))
def test_halt_registers_step_and_go_on(target: str, board: Start) -> None:
    runner = board(target)
    where = symbols(runner.elf)  # type: ignore[attr-defined]
    cpu = Cpu(runner)
    cpu.reset_and_halt()
    assert cpu.register(PC) == where["reset"] & ~1
    assert cpu.register(13) == where["__stack_top"]
    assert cpu.register(XPSR) & 0x010001FF == 1 << 24
    for number in (*range(13), 14):
        cpu.set_register(number, 0x01010101 * (number + 1))
    assert [cpu.register(number) for number in range(13)] == [
        0x01010101 * (number + 1) for number in range(13)
    ]
    places = []
    for _ in range(20):
        cpu.step()
        assert cpu.halted
        places.append(cpu.register(PC))
    assert len(set(places)) > 5
    assert cpu.reason() == 1  # HALTED
    cpu.breakpoints(where["done"] & ~1)
    cpu.go()
    cpu.wait()
    assert cpu.register(PC) == where["done"] & ~1
    assert cpu.reason() == 2  # BKPT
    assert cpu.read(where["seen"])
    cpu.go()
    cpu.wait()  # it is still there
    assert cpu.register(PC) == where["done"] & ~1
    # a debugger that leaves lets the CPU run
    cpu.write(0xE000EDF0, KEY)
    time.sleep(0.1)
    assert not cpu.halted


def _count(runner: DebugRunner, *, at: int, meet: Callable[[Cpu], None] | None = None) -> int:
    """Instructions from reset to a place."""
    cpu = Cpu(runner)
    cpu.reset_and_halt()
    before = runner.call(lambda: runner.board.counter.instructions)
    if meet is not None:
        meet(cpu)
    cpu.breakpoints(at)
    cpu.go()
    cpu.wait()
    assert cpu.register(PC) == at
    return runner.call(lambda: runner.board.counter.instructions) - before


def test_counts_are_exact_whatever_a_debugger_does(board: Start, seed: int) -> None:
    runner = board()
    where = symbols(runner.elf)  # type: ignore[attr-defined]
    end = where["done"] & ~1
    plain = _count(runner, at=end)
    assert plain > 3000
    generator = random.Random(seed)

    def meet(cpu: Cpu) -> None:
        for _ in range(30):
            what = generator.randrange(4)
            if what == 0:
                for _ in range(generator.randrange(1, 30)):
                    cpu.step()
            elif what == 1:
                cpu.breakpoints((where["work"] & ~1) + 2 * generator.randrange(3))
                cpu.go()
                cpu.wait()
            elif what == 2:
                cpu.breakpoints()
                cpu.step()
            else:
                # a watchpoint on the sum, which is written once in each round
                cpu.write(0xE0001020, where["seen"])
                cpu.write(0xE0001024, 2)
                cpu.write(0xE0001028, 6)
                cpu.breakpoints(end)
                cpu.go()
                cpu.wait()
                cpu.write(0xE0001028, 0)
            assert cpu.register(PC) != end, "the program is too short for this"

    assert _count(runner, at=end, meet=meet) == plain


@pytest.mark.parametrize(("target", "count"), [("nucleo-l4r5zi", 4), ("nucleo-g0b1re", 2)])
def test_watchpoints(target: str, count: int, board: Start) -> None:
    runner = board(target)
    where = symbols(runner.elf)  # type: ignore[attr-defined]
    cpu = Cpu(runner)
    cpu.reset_and_halt()
    assert cpu.read(0xE0001000) >> 28 == count
    cpu.write(0xE0001020, where["other"])
    cpu.write(0xE0001024, 2)
    cpu.write(0xE0001028, 6)  # writes
    cpu.go()
    cpu.wait()
    assert cpu.reason() == 4  # DWTTRAP
    assert cpu.read(0xE0001028) & 1 << 24 and not cpu.read(0xE0001028) & 1 << 24
    # behind the store: what it wrote is there
    assert cpu.read(where["other"]) == cpu.read(where["seen"]) != 0


def test_interrupts_wait_while_a_debugger_steps(board: Start) -> None:
    source = """
    volatile uint32_t ticks;
    void tick(void) { ticks++; }
    void program(void) { REG(0xE000E014) = 200; REG(0xE000E018) = 0; REG(0xE000E010) = 7;
                         for (;;) { __asm volatile("nop"); } }
    """
    runner = board(source=source)
    where = symbols(runner.elf)  # type: ignore[attr-defined]
    cpu = Cpu(runner)
    cpu.breakpoints(where["tick"] & ~1)
    cpu.wait()
    assert cpu.register(XPSR) & 0x1FF == 15
    cpu.breakpoints()
    before = cpu.read(where["ticks"])
    cpu.write(0xE000EDF0, KEY | 0xB)  # C_MASKINTS, set while halted
    for _ in range(600):
        cpu.write(0xE000EDF0, KEY | 0xD)
    assert cpu.read(where["ticks"]) == before + 1  # the one that was under way
    assert cpu.register(XPSR) & 0x1FF == 0
    cpu.write(0xE000EDF0, KEY | 3)
    for _ in range(600):
        cpu.step()
    assert cpu.read(where["ticks"]) > before + 1


def test_code_in_ram_runs_up_to_its_breakpoint(board: Start, tmp_path: Path) -> None:
    """As flash algorithms do: on a chip that is erased, whose CPU is in lockup."""
    (tmp_path / "state").mkdir()
    runner = board(source="", state=tmp_path / "state")
    cpu = Cpu(runner)
    assert cpu.status & 1 << 19
    cpu.halt()
    assert cpu.register(PC) == 0xFFFFFFFE and not cpu.status & 1 << 19
    code = assemble(
        tmp_path, "loop: ldr r3, [r0], #4\nadds r1, r1, r3\nsubs r2, #1\nbne loop\nbkpt #0"
    )
    for offset, byte in enumerate(code):
        cpu.write(RAM + offset, byte, 1)
    for index in range(10):
        cpu.write(RAM + 0x1000 + 4 * index, index * index)
    for number, value in ((0, RAM + 0x1000), (1, 0), (2, 10), (13, RAM + 0x2000), (PC, RAM)):
        cpu.set_register(number, value)
    cpu.set_register(XPSR, 1 << 24)
    cpu.go()
    cpu.wait()
    assert cpu.register(1) == 285
    assert cpu.register(PC) == RAM + len(code) - 2
    assert cpu.reason() & 2
    # other code in the same place is what runs next
    code = assemble(tmp_path, "movs r1, #7\nbkpt #0")
    for offset, byte in enumerate(code):
        cpu.write(RAM + offset, byte, 1)
    cpu.set_register(PC, RAM)
    cpu.go()
    cpu.wait()
    assert cpu.register(1) == 7


def test_a_debugger_takes_over_after_a_fault(board: Start, tmp_path: Path) -> None:
    """A program that jumped to where no code can be has locked up; other code runs all the same."""
    runner = board(source="void program(void) { ((void (*)(void))0x97b1165fu)(); }")
    cpu = Cpu(runner)
    deadline = time.monotonic() + 20
    while runner.error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "jump to 0x97b1165e" in str(runner.error)
    assert cpu.status & 1 << 19  # S_LOCKUP
    cpu.halt()
    for offset, byte in enumerate(assemble(tmp_path, "movs r1, #7\nbkpt #0")):
        cpu.write(RAM + offset, byte, 1)
    cpu.set_register(PC, RAM)
    cpu.go()
    cpu.wait()
    assert cpu.register(1) == 7


def test_floating_point_registers(board: Start) -> None:
    cpu = Cpu(board())
    cpu.halt()
    cpu.set_register(64 + 5, 0x3F800000)
    cpu.set_register(33, 0x10000000)
    assert (cpu.register(64 + 5), cpu.register(33)) == (0x3F800000, 0x10000000)
    assert cpu.read(0xE000EF40) == 0x10110021
    plain = Cpu(board("nucleo-g0b1re"))
    plain.halt()
    plain.set_register(64 + 5, 0x3F800000)
    assert plain.register(64 + 5) == 0 and plain.read(0xE000EF40) == 0


def test_the_reset_pin(board: Start) -> None:
    runner = board()
    where = symbols(runner.elf)  # type: ignore[attr-defined]
    cpu = Cpu(runner)
    cpu.reset_and_halt()
    cpu.breakpoints(where["done"] & ~1)
    cpu.go()
    cpu.wait()
    runner.call(lambda: runner.drive_reset(True))
    assert runner.in_reset and not cpu.halted
    cpu.write(0xE000EDF0, KEY | 3)  # it is asked to halt while it lasts
    runner.call(lambda: runner.drive_reset(False))
    cpu.wait()
    assert cpu.register(PC) == where["reset"] & ~1


# nothing that comes in harms the board


@pytest.fixture(scope="module")
def sturdy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebugRunner]:
    folder = tmp_path_factory.mktemp("sturdy")
    runner = start("nucleo-l4r5zi", build(folder, _PROGRAM, flash=FLASH))
    yield runner
    runner.stop()


_NUMBER = st.one_of(
    st.integers(-2, 20), st.sampled_from((FLASH, RAM, 0xE000EDF0, 0x40022000)), st.integers()
)
_REQUEST = st.fixed_dictionaries(
    {
        "id": st.integers(0, 9),
        "request": st.sampled_from(
            ("hello", "readprop", "connect", "swj_sequence", "read_dp", "write_dp", "read_ap",
             "write_ap", "read_ap_multiple", "write_ap_multiple", "reset", "assert_reset", "x")
        ),
        "arguments": st.lists(st.one_of(_NUMBER, st.text(), st.none(), st.lists(_NUMBER))),
    }
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), _REQUEST.map(lambda r: json.dumps(r).encode())))
def test_any_line_to_the_probe_server(sturdy: DebugRunner, line: bytes) -> None:
    answer = json.loads(RemoteProbe(sturdy, "virtual").answer(line))
    assert isinstance(answer["status"], int)
    assert sturdy.running


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 7),
    st.integers(0, 1),
    st.sampled_from((0, 1, 4, 64, 5000)),
    st.binary(max_size=64),
    st.sampled_from((None, *range(0x60))),
)
def test_any_command_to_the_stlink(
    sturdy: DebugRunner,
    command: bytes,
    kind: int,
    way: int,
    size: int,
    data: bytes,
    debug: int | None,
) -> None:
    stlink = Stlink(sturdy)
    if debug is not None:
        command = bytes([0xF2, debug]) + command[2:]
    size = len(data) if way == 0 else size
    request = bytes([kind, 0, 0, 0]) + (0x5354).to_bytes(4, "little") + command
    request += bytes([way, 0, 0, 0]) + size.to_bytes(4, "little") + (data if way == 0 else b"")
    length = stlink._wanted(request)
    assert length is not None
    answer = sturdy.call(lambda: stlink.answer(request))
    assert answer and sturdy.running
    if kind == 5 and way == 1:
        assert len(answer) == 4 + size


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bits_on_the_pins(sturdy: DebugRunner, data: bytes) -> None:
    pins = Bitbang(sturdy)
    answer, _ = pins.take(data)
    assert len(answer) <= len(data) and set(answer) <= set(b"01")
    assert sturdy.running
    # and a reset of the line makes sense of it again
    wire = Swd(sturdy)
    wire._target = pins
    assert wire.to_swd() == 0x2BA01477


def test_ports_that_are_not_there(board: Start) -> None:
    pins = Swd(board())
    pins.to_swd()
    Memory(pins)
    pins.write(False, SELECT, 7 << 24 | 0xF0)
    assert pins.read(True, 0xC) == 0
    pins.write(False, SELECT, 0)
    pins.write(True, CSW, 0x23000000 | 3)  # 64 bits at once are not supported
    pins.write(True, TAR, RAM)
    pins.transfer(ap=True, read=True, register=DRW)
    assert pins.transfer(ap=False, read=True, register=RDBUFF)[0] == FAULT
