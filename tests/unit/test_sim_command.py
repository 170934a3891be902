"""`edgekit sim` from the outside: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sim_programs import MPS2_UART, build

_MODEL = """
__attribute__((noinline)) void net_s0(int8_t *p) {
    for (int i = 0; i < 9; i++) { p[i] = (int8_t)i; __asm volatile("" ::: "memory"); } }
__attribute__((noinline)) void net_invoke(int8_t *p) { net_s0(p); __asm volatile(""); }
static int8_t arena[100];
"""
_RUNS = MPS2_UART + _MODEL + "void program(void) { net_invoke(arena); uart_start(200); put(1); }"
_CRASHES = _MODEL + "void program(void) { net_invoke(arena); REG(0x70000000) = 1; }"


def _sim(*arguments: str, interrupt: bool = False) -> tuple[int, str, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "sim", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    if interrupt:
        assert "Ctrl-C ends it" in first
        # the program is through by then: it has some hundred instructions
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, first + err


def test_a_board_runs_until_ctrl_c_and_tells_what_it_executed(tmp_path: Path) -> None:
    elf = build(tmp_path, _RUNS)
    code, out, err = _sim(
        "mps2-an386", str(elf), "--tcp", "0", "--json", "--profile", interrupt=True
    )
    assert code == 0
    document = json.loads(out)
    assert document["document"] == "sim"
    assert document["kind"] == "simulated"
    assert document["port"].startswith("127.0.0.1:")
    inference = document["inference"]
    assert inference["model"] == "net"
    assert inference["instructions"] == sum(inference["functions"].values())
    assert inference["cycles"] > inference["instructions"]
    assert inference["cycles_error"] == 0.035
    assert "none of its own" in inference["cycles_basis"]
    assert any("bytes are garbled" in report for report in document["reports"])
    assert "bytes are garbled" in err


def test_a_fault_ends_it_with_its_place(tmp_path: Path) -> None:
    code, out, err = _sim("mps2-an386", str(build(tmp_path, _CRASHES)))
    assert code == 6
    assert "write of 4 bytes at 0x70000000" in err
    assert "in program" in err
    assert "program.c:" in err
    # the inference before the fault is shown
    assert "net_s0" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no-such-board", "x.elf"), 2, "no-such-board"),
        (("mps2-an386", "nothing.elf"), 2, "no such firmware"),
        (("mps2-an386", __file__), 2, "not an ELF file"),
        (("corstone-300", __file__), 2, "Unicorn has no cortex-m55"),
    ],
)
def test_errors(arguments: tuple[str, ...], code: int, message: str) -> None:
    returned, out, err = _sim(*arguments)
    assert returned == code
    assert out == ""
    assert message in err
