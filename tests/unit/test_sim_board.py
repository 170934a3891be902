"""A board executes programs, counts them to the instruction, and stops what breaks its rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_programs import MPS2_UART, build

from edgekit.errors import UsageError
from edgekit.sim.board import Board, Counters, Fault
from edgekit.sim.line import MemoryLine
from edgekit.targets import Region, Target, load_target


def _mps2(core: str = "cortex-m4", isa: tuple[str, ...] = ("thumb", "thumb2", "dsp")) -> Target:
    return Target(
        name="toy",
        title="Toy",
        kind="mcu",
        core=core,
        isa=isa,
        clock_hz=25_000_000,
        memory=(
            Region("FLASH", "flash", 0, 512 << 10),
            Region("RAM", "ram", 0x20000000, 64 << 10),
        ),
        uart={"base": 0x40004000},
        link={"baud": 115200},
        timing={"model": "cortex-m4"},
        sim={"family": "mps2"},
    )


def _run(board: Board, seconds: float = 5.0) -> None:
    """Runs until the program is through (it then waits for interrupts) or broke a rule."""
    import time

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = board.counter.instructions
        board.run(timeout_s=0.05)
        if board.counter.instructions - before < 100:
            return


_MODEL = """
static volatile int32_t sink;
__attribute__((noinline)) static int32_t shared(int32_t n) {
    int32_t s = 0; for (int32_t i = 0; i < n; i++) { s += i * i; __asm volatile("" : "+r"(s)); }
    return s; }
__attribute__((noinline)) void net_s0(int8_t *arena) { sink += shared(arena[0]); }
__attribute__((noinline)) void net_s1(int8_t *arena) { sink += shared(arena[1]); }
__attribute__((noinline)) void net_invoke(int8_t *arena) { net_s0(arena); net_s1(arena); }
static int8_t arena[8];
"""
_NET = _MODEL + "void program(void) { arena[0] = 10; arena[1] = 20; %s }"


def _counters(folder: Path, body: str, *, profile: bool = False, python: bool = False) -> Counters:
    elf = build(folder, _NET % body)
    board = Board(_mps2(), elf, profile=profile, python_counter=python)
    _run(board)
    counters = board.counters()
    board.close()
    return counters


def test_an_inference_is_counted_step_by_step(tmp_path: Path) -> None:
    counters = _counters(tmp_path, "net_invoke(arena);")
    assert counters.model == "net"
    assert counters.inferences == 1
    assert len(counters.steps) == 2
    # ten more rounds of the loop in the second step
    assert counters.steps[1].instructions > counters.steps[0].instructions + 20
    assert sum(counters.functions.values()) == counters.total.instructions
    assert counters.inference_instructions == (counters.total.instructions,)
    assert {"net_invoke", "net_s0", "net_s1", "shared"} <= set(counters.functions)


def test_the_last_inference_counts_and_every_one_is_logged(tmp_path: Path) -> None:
    once = _counters(tmp_path, "net_invoke(arena);")
    thrice = _counters(
        tmp_path,
        "net_invoke(arena); arena[0] = 3; net_invoke(arena); arena[0] = 10; net_invoke(arena);",
    )
    assert thrice.inferences == 3
    assert thrice.total.instructions == once.total.instructions
    first, second, third = thrice.inference_instructions
    assert first == third == once.total.instructions
    assert second < first


def test_counts_repeat_and_do_not_depend_on_profiling_or_on_who_counts(tmp_path: Path) -> None:
    body = "net_invoke(arena); net_invoke(arena);"
    plain = _counters(tmp_path, body)
    again = _counters(tmp_path, body)
    profiled = _counters(tmp_path, body, profile=True)
    slowly = _counters(tmp_path, body, profile=True, python=True)
    assert plain == again
    assert profiled.functions == plain.functions
    assert slowly == profiled
    assert profiled.total.features["instructions"] == plain.total.instructions
    # a loop of ten and one of twenty rounds, all but the last taken, and calls and returns
    assert profiled.total.features["taken_total"] >= 9 + 19 + 4
    assert profiled.total.cycles is not None
    assert profiled.total.cycles.value > plain.total.instructions


def test_a_step_outside_an_inference_is_counted_on_its_own(tmp_path: Path) -> None:
    whole = _counters(tmp_path, "net_invoke(arena);")
    single = _counters(tmp_path, "net_invoke(arena); net_s1(arena);")
    assert single.steps[1].instructions == whole.steps[1].instructions
    assert single.inferences == 1


def test_several_models_are_counted_apart(tmp_path: Path) -> None:
    source = """
    #define PUT { p[i] = 1; __asm volatile("" ::: "memory"); }
    __attribute__((noinline)) void a_s0(int8_t *p) { for (int i = 0; i < 9; i++) PUT }
    __attribute__((noinline)) void a_invoke(int8_t *p) { a_s0(p); __asm volatile(""); }
    __attribute__((noinline)) void b_s0(int8_t *p) { for (int i = 0; i < 99; i++) PUT }
    __attribute__((noinline)) void b_invoke(int8_t *p) { b_s0(p); __asm volatile(""); }
    static int8_t arena[100];
    void program(void) { a_invoke(arena); b_invoke(arena); a_invoke(arena); }
    """
    for python in (False, True):
        board = Board(_mps2(), build(tmp_path, source), python_counter=python)
        _run(board)
        a, b = board.counters("a"), board.counters("b")
        assert (a.inferences, b.inferences) == (2, 1)
        assert a.inference_instructions == (a.total.instructions,) * 2
        assert b.inference_instructions == (b.total.instructions,)
        assert b.total.instructions > a.total.instructions + 90


def test_an_exact_count(tmp_path: Path) -> None:
    source = """
    __attribute__((naked, noinline)) void net_s0(int8_t *arena) {
        __asm volatile("movs r0, #5\\n 1: subs r0, #1\\n bne 1b\\n cmp r0, #0\\n it ne\\n"
                       "movne r0, #1\\n bx lr"); }
    __attribute__((naked, noinline)) void net_invoke(int8_t *arena) {
        __asm volatile("push {r4, lr}\\n bl net_s0\\n pop {r4, pc}"); }
    void program(void) { net_invoke((int8_t *)0x20000000); }
    """
    board = Board(_mps2(), build(tmp_path, source), profile=True)
    _run(board)
    counters = board.counters()
    # 1 + 5 * 2 + cmp, it, the skipped movne, bx
    assert counters.steps[0].instructions == 15
    assert counters.total.instructions == 15 + 3
    # four rounds, the return; the call and the return of invoke
    assert counters.steps[0].features["taken_total"] == 5
    assert counters.total.features["taken_total"] == 7


def test_flash_reads_are_counted_by_line(tmp_path: Path) -> None:
    source = """
    __attribute__((aligned(32))) const uint32_t table[64] = { 1, 2, 3 };
    static volatile uint32_t sink;
    __attribute__((noinline)) void net_invoke(const volatile uint32_t *t) {
        for (int i = 0; i < 64; i++) sink += t[i]; }
    void program(void) { net_invoke(table); }
    """
    for python in (False, True):
        board = Board(_mps2(), build(tmp_path, source), profile=True, python_counter=python)
        _run(board)
        features = board.counters().total.features
        # 256 bytes; what is beyond is the literal pool
        assert 0 <= features["read_bytes_flash"] - 256 <= 16
        assert 0 <= features["flash_data_lines8"] - 32 <= 2
        assert 0 <= features["flash_data_lines16"] - 16 <= 2
        assert 0 <= features["flash_data_lines32"] - 8 <= 2


def test_cache_misses_of_flash_reads(tmp_path: Path) -> None:
    source = """
    __attribute__((aligned(32))) const uint8_t table[32768] = { 1 };
    static volatile uint32_t sink;
    __attribute__((noinline)) void net_invoke(uint32_t n) {
        for (int round = 0; round < 2; round++)
            for (uint32_t i = 0; i < n; i += 32) sink += ((const volatile uint8_t *)table)[i]; }
    void program(void) { net_invoke(%d); }
    """
    target = load_target("nucleo-h7a3zi-q")
    misses = {}
    for nbytes in (8192, 32768):
        elf = build(tmp_path, source % nbytes, core="cortex-m7", flash=0x08000000, ram=0x24000000)
        board = Board(target, elf, profile=True)
        _run(board)
        misses[nbytes] = board.counters().total.features["flash_cache_misses"]
    # 8 KB stay in 16 KB of cache; 32 KB read in order never do
    assert 256 <= misses[8192] <= 258
    assert 2048 <= misses[32768] <= 2056


@pytest.mark.parametrize(
    ("body", "what", "where"),
    [
        ("*(volatile int *)0x30000000;", "the target has no memory there", "guilty"),
        ("*(volatile int *)0x30000000 = 1;", "write of 4 bytes at 0x30000000", "guilty"),
        ("*(volatile int *)0x100 = 1;", "write of 4 bytes to flash", "guilty"),
        ("REG(0x40010000);", "no peripheral there", "guilty"),
        ("((void (*)(void))0x21000001)();", "jump to 0x21000000", "0x21000000"),
        ("__asm volatile(\"udf #0\");", "does not have this instruction", "guilty"),
        ("__asm volatile(\"bkpt #0\");", "breakpoint", "guilty"),
    ],
)  # fmt: skip
def test_faults_name_function_and_line(tmp_path: Path, body: str, what: str, where: str) -> None:
    source = f"\n__attribute__((noinline)) void guilty(void) {{ {body} }}\n"
    elf = build(tmp_path, source + "void program(void) { guilty(); }")
    board = Board(_mps2(), elf)
    with pytest.raises(Fault) as caught:
        board.run(timeout_s=5)
    assert what in caught.value.what
    assert caught.value.where is not None
    assert where in caught.value.where
    if where == "guilty":
        assert "program.c:" in caught.value.where
    with pytest.raises(Fault):
        board.run()


def test_a_stack_overflow_is_found_at_its_limit(tmp_path: Path) -> None:
    source = """
    __attribute__((noinline)) int deeper(volatile int *p, int n) {
        volatile int local[16]; local[0] = n; return deeper(local, n + 1) + local[0] + *p; }
    void program(void) { int x = 0; deeper(&x, 0); }
    """
    for python in (False, True):
        board = Board(_mps2(), build(tmp_path, source), python_counter=python)
        with pytest.raises(Fault, match="stack overflow") as caught:
            board.run(timeout_s=5)
        assert "deeper" in str(caught.value.where)


def test_floating_point_needs_the_fpu_switched_on(tmp_path: Path) -> None:
    source = """
    /* vadd.f32 s0, s0, s0 */
    __attribute__((noinline)) void use(void) { __asm volatile(".inst.w 0xee300a00"); }
    void program(void) { %s use(); }
    """
    target = _mps2(isa=("thumb", "thumb2", "dsp", "fpv4-sp-d16"))
    with pytest.raises(Fault, match="before the FPU is enabled") as caught:
        Board(target, build(tmp_path, source % "")).run(timeout_s=5)
    assert "use" in str(caught.value.where)
    enabled = build(tmp_path, source % "REG(0xE000ED88) |= 0xF << 20;")
    _run(Board(target, enabled))
    with pytest.raises(Fault, match="does not have this instruction"):
        Board(_mps2(), enabled).run(timeout_s=5)


def test_code_for_another_core_is_refused(tmp_path: Path) -> None:
    source = """__attribute__((noinline)) int mac(int a, int b) {
        int r; __asm volatile("smlad %0, %1, %2, %1" : "=r"(r) : "r"(a), "r"(b)); return r; }
    volatile int sink;
    void program(void) { sink = mac(3, 4); }"""
    elf = build(tmp_path, source)
    _run(Board(_mps2(), elf))
    target = _mps2(core="cortex-m3", isa=("thumb", "thumb2"))
    with pytest.raises(Fault, match="does not have this instruction: smlad"):
        Board(target, elf).run(timeout_s=5)
    small = _mps2(core="cortex-m0plus", isa=("thumb",))
    with pytest.raises(Fault, match="cortex-m0plus"):
        Board(small, elf).run(timeout_s=5)


def test_unaligned_access_faults_on_m0plus_only(tmp_path: Path) -> None:
    source = """volatile int sink;
    void program(void) {
        int r; __asm volatile("ldr %0, [%1]" : "=r"(r) : "r"(0x20000101)); sink = r; }"""
    target = _mps2(core="cortex-m0plus", isa=("thumb",))
    with pytest.raises(Fault, match="unaligned access") as caught:
        Board(target, build(tmp_path, source, core="cortex-m0plus")).run(timeout_s=5)
    assert "program" in str(caught.value.where)
    _run(Board(_mps2(), build(tmp_path, source)))


def test_cycle_counter_and_timer_follow_executed_instructions(tmp_path: Path) -> None:
    source = """
    volatile uint32_t result[4];
    __attribute__((noinline)) void spin(uint32_t n) { while (n--) __asm volatile(""); }
    void program(void) {
        REG(0xE000EDFC) |= 1 << 24; REG(0xE0001004) = 0; REG(0xE0001000) |= 1;
        REG(0x40000008) = 0xFFFFFFFF; REG(0x40000000) = 1;
        REG(0xE000E014) = 0xFFFFFF; REG(0xE000E018) = 0; REG(0xE000E010) = 5;
        uint32_t a = REG(0xE0001004), t = REG(0x40000004), s = REG(0xE000E018);
        spin(1000);
        result[0] = REG(0xE0001004) - a; result[1] = t - REG(0x40000004);
        result[2] = (s - REG(0xE000E018)) & 0xFFFFFF; result[3] = 1;
    }"""
    elf = build(tmp_path, source)
    board = Board(_mps2(), elf)
    _run(board)
    place = board.image.symbols["result"]
    words = [int.from_bytes(board.memory(place + 4 * i, 4), "little") for i in range(4)]
    assert words[3] == 1
    assert 2000 <= words[0] <= 4040
    assert abs(words[1] - words[0]) < 40
    assert abs(words[2] - words[0]) < 60


def test_the_cycle_counter_of_cortex_m7_must_be_unlocked(tmp_path: Path) -> None:
    source = """volatile uint32_t result[2];
    void program(void) { REG(0xE000EDFC) |= 1 << 24; REG(0xE0001000) |= 1;
        result[0] = REG(0xE0001004); REG(0xE0001FB0) = 0xC5ACCE55; REG(0xE0001000) |= 1;
        for (int i = 0; i < 999; i++) __asm volatile("nop"); result[1] = REG(0xE0001004); }"""
    elf = build(tmp_path, source, core="cortex-m7")
    board = Board(_mps2(core="cortex-m7"), elf)
    _run(board)
    place = board.image.symbols["result"]
    assert board.memory(place, 4) == bytes(4)
    assert board.memory(place + 4, 4) != bytes(4)


def test_systick_interrupts_and_wakes(tmp_path: Path) -> None:
    source = """
    volatile uint32_t ticks, kept;
    void tick(void) { ticks++; }
    void program(void) {
        REG(0xE000E014) = 24999; REG(0xE000E018) = 0; REG(0xE000E010) = 7;
        register uint32_t r4 __asm("r4") = 0x1234;
        while (ticks < 5) { __asm volatile("wfi" : "+r"(r4)); }
        while (ticks < 7) { __asm volatile("" : "+r"(r4)); }
        REG(0xE000E010) = 0; kept = r4; }"""
    for profile in (False, True):
        board = Board(_mps2(), build(tmp_path, source), profile=profile)
        _run(board)
        ticks, kept = board.image.symbols["ticks"], board.image.symbols["kept"]
        assert int.from_bytes(board.memory(ticks, 4), "little") == 7
        assert int.from_bytes(board.memory(kept, 4), "little") == 0x1234
        # seven milliseconds of simulated time
        assert board.counter.now / 1000 >= 7 * 25_000


def test_stopping_anywhere_changes_nothing(tmp_path: Path) -> None:
    source = """volatile uint32_t result, done;
    __attribute__((noinline)) uint32_t mix(uint32_t a, uint32_t b) { return a * 33 ^ b >> 3; }
    void program(void) { uint32_t x = 1;
        for (uint32_t i = 0; i < 20000; i++) { x = mix(x, i); if (x & 1) x += i; }
        result = x; done = 1; }"""
    elf = build(tmp_path, source)
    seen = set()
    for every in (0, 997, 10007):
        board = Board(_mps2(), elf)
        place = board.image.symbols
        while not board.memory(place["done"], 1)[0]:
            if every:
                board.attend(board.counter.now + every * 1000)
            board.run(timeout_s=0)
            board.run_once()
        seen.add((board.memory(place["result"], 4), board.counter.instructions // 100))
    assert len(seen) == 1


def test_supervisor_call(tmp_path: Path) -> None:
    source = """volatile uint32_t calls; void exception(void) { calls++; }
    void program(void) { __asm volatile("svc #1\\n svc #2" ::: "memory");
        REG(0xE000ED04) = 1u << 28; __asm volatile("dsb\\n isb\\n nop"); }"""
    board = Board(_mps2(), build(tmp_path, source))
    _run(board)
    assert board.memory(board.image.symbols["calls"], 1) == b"\x03"


def test_a_reset_by_software_starts_again_and_keeps_memory(tmp_path: Path) -> None:
    source = """__attribute__((section(".bss"))) volatile uint32_t starts;
    void program(void) { if (++starts < 3) REG(0xE000ED0C) = 0x05FA0004; }"""
    board = Board(_mps2(), build(tmp_path, source))
    _run(board)
    assert board.memory(board.image.symbols["starts"], 1) == b"\x03"


def _talk(folder: Path, source: str, feed: bytes = b"", seconds: float = 2.0) -> Board:
    line = MemoryLine()
    board = Board(_mps2(), build(folder, MPS2_UART + source), line=line)
    line.feed(feed)
    _run(board, seconds)
    return board


def _sent(board: Board) -> bytes:
    assert isinstance(board.line, MemoryLine)
    return bytes(board.line.sent)


_ECHO = """volatile uint32_t ticks;
void program(void) { uart_start(%d); REG(0x40000008) = 0xFFFFFFFF; REG(0x40000000) = 1;
    for (int i = 0; i < 300; i++) put(get() + 1);
    ticks = 0xFFFFFFFF - REG(0x40000004); }"""


def test_uart_echoes(tmp_path: Path) -> None:
    data = bytes(range(200)) + bytes(100)
    board = _talk(tmp_path, _ECHO % 217, data)
    assert _sent(board) == bytes((byte + 1) & 0xFF for byte in data)
    assert board.reports == []
    # ten bits for each byte at 115,200 baud
    ticks = int.from_bytes(board.memory(board.image.symbols["ticks"], 4), "little")
    assert ticks / 25e6 == pytest.approx(300 * 10 / 115200, rel=0.1)


def test_a_wrong_baud_rate_garbles(tmp_path: Path) -> None:
    board = _talk(tmp_path, "void program(void) { uart_start(240); put(65); }")
    assert _sent(board) != b"A"
    assert "the line at 115,200" in board.reports[0]
    assert _talk(tmp_path, "void program(void) { uart_start(220); put(65); }").reports == []


def test_a_slow_receiver_overruns(tmp_path: Path) -> None:
    slow = """static void wait(void) { for (volatile int i = 0; i < 3000; i++) { } }
    void program(void) { uart_start(217); for (int i = 0; i < 4; i++) { put(get()); wait(); } }"""
    board = _talk(tmp_path, slow, b"abcdefghijklmnop")
    assert "overran" in board.reports[0]
    assert _sent(board)[:1] == b"a"
    assert _sent(board) != b"abcd"


def test_a_transmitter_that_is_off_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="TXEN"):
        _talk(tmp_path, "void program(void) { REG(UART) = 65; }")


def test_what_cannot_be_simulated_is_refused(tmp_path: Path) -> None:
    elf = build(tmp_path, "void program(void) { }")
    with pytest.raises(UsageError, match="has no virtual board"):
        Board(Target("x", "X", "mcu", core="cortex-m4", memory=_mps2().memory), elf)
    with pytest.raises(UsageError, match="Unicorn has no cortex-m55"):
        Board(_mps2(core="cortex-m55"), elf)
    with pytest.raises(UsageError, match="has no memory there"):
        Board(load_target("nucleo-l4r5zi"), elf)
    with pytest.raises(UsageError, match="not an ELF file"):
        Board(_mps2(), tmp_path / "program.c")
    with pytest.raises(UsageError, match="cannot read"):
        Board(_mps2(), tmp_path / "nothing.elf")


def test_erased_flash_does_not_start(tmp_path: Path) -> None:
    board = Board(_mps2(), build(tmp_path, "void program(void) { }"))
    board.write_memory(0, b"\xff" * 4096)
    with pytest.raises(Fault, match="erased"):
        board.reset()


def test_a_conditional_read_of_a_constant_leaves_no_condition_behind(tmp_path: Path) -> None:
    """A profiling board looks at reads from flash, within IT blocks as well."""
    source = """
    static const int table[2] = {7, 9};
    volatile int result[2];
    __attribute__((noinline)) int next(int a) { return a + 1; }
    void program(void) {
        int a = 5, kept;
        __asm volatile(".syntax unified\\n"
                       "cmp %2, #1\\n"
                       "ite eq\\n"
                       "ldreq %0, [%3, #4]\\n"
                       "movne %0, #0\\n"
                       "b 1f\\n"
                       "1: add %1, %1, #1\\n"
                       "add %1, %1, #1\\n"
                       : "=&r"(kept), "+r"(a) : "r"(1), "r"(table) : "cc");
        result[0] = kept; result[1] = next(a); }"""
    elf = build(tmp_path, source)
    for profile in (False, True):
        for python in (False, True):
            board = Board(_mps2(), elf, profile=profile, python_counter=python)
            _run(board)
            place = board.image.symbols["result"]
            words = [int.from_bytes(board.memory(place + 4 * i, 4), "little") for i in (0, 1)]
            assert words == [9, 8], (profile, python)
