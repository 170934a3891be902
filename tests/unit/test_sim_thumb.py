"""Static features of hand-written pieces of code."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_programs import assemble

from edgekit.sim import thumb


def _features(folder: Path, source: str, address: int = 0, extra: str = "") -> dict[str, int]:
    block = thumb.analyse(assemble(folder, source, extra=extra), address)
    return dict(zip(thumb.FEATURES, block.features, strict=True))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("ldr r0, [r1]\n ldr r2, [r1, #4]\n adds r2, #1", {
            "instructions": 3, "ld_word": 2, "ld_then_ld": 1, "ld_run_ends": 1, "ld_then_use": 1}),
        ("ldrb r0, [r1]\n nop\n ldrsb.w r0, [r1, #1]\n add.w r3, r0, r0", {
            "ld_byte": 2, "ld_run_ends": 2, "ld_then_use": 1, "n16": 2, "n32": 2}),
        ("ldrsh r0, [r1, r2]\n strh r0, [r1]", {"ld_half": 1, "st_half": 1, "ld_then_use": 1}),
        ("ldr r0, [pc, #4]\n bx lr", {"ld_literal": 1, "ld_word": 0, "ret_or_indirect": 1}),
        ("ldr.w r0, [pc, #4]", {"ld_literal": 1, "ld_run_ends": 1}),
        ("push {r4, r5, lr}\n pop {r4, r5, pc}", {
            "stm_n": 1, "stm_regs": 3, "ldm_n": 1, "ldm_regs": 3, "ret_or_indirect": 1}),
        ("ldmia r0!, {r1-r4}\n stmia r5!, {r1-r4}", {"ldm_regs": 4, "stm_regs": 4}),
        ("ldmia.w r0, {r1-r8}\n mov r9, r8", {"ldm_regs": 8, "ld_then_use": 0}),
        ("ldrd r0, r1, [r2]\n strd r0, r1, [r3]", {
            "ld_double": 1, "st_double": 1, "ld_then_use": 1, "ld_run_ends": 0}),
        ("smlad r0, r1, r2, r0\n smlad r0, r3, r4, r0", {"mac_simd": 2, "mul_then_use": 1}),
        ("smull r0, r1, r2, r3\n adds r0, #1", {"mul_long": 1, "mul_then_use": 1}),
        ("mla r0, r1, r2, r3\n mul r4, r5, r6\n muls r4, r5, r4", {
            "mla_mls": 1, "mul": 2, "mul_then_use": 1}),
        ("sxtb16 r0, r1\n sxtb16 r2, r1, ror #8\n pkhbt r3, r0, r2, lsl #16", {"dsp_other": 3}),
        ("ssat r0, #8, r0\n sxtb r1, r0\n usat r2, #3, r0", {"alu": 3, "dsp_other": 0}),
        ("sdiv r0, r1, r2\n udiv r0, r1, r2", {"div": 2}),
        ("lsls r0, r1, #3\n asr.w r2, r3, r4", {"shift": 2}),
        ("cmp r0, r1\n ite gt\n movgt r0, #1\n movle r0, #2", {
            "it": 1, "instructions": 4, "alu": 3, "n16": 4}),
        ("1: subs r0, #1\n bne 1b", {"br_cond": 1, "br_uncond": 0, "alu": 1}),
        ("1: b 1b", {"br_uncond": 1}),
        ("1: b.w 1b", {"br_uncond": 1, "n32": 1}),
        ("1: beq.w 1b", {"br_cond": 1}),
        ("1: bl 1b", {"call": 1}),
        ("blx r3", {"call": 1}),
        ("cbz r0, 1f\n nop\n nop\n 1:", {"br_cond": 1}),
        ("tbb [pc, r0]", {"ret_or_indirect": 1}),
        ("bfi r0, r1, #1, #2\n bics r0, r1\n bkpt 0", {"br_cond": 0, "br_uncond": 0, "alu": 3}),
    ],
)  # fmt: skip
def test_features(tmp_path: Path, source: str, expected: dict[str, int]) -> None:
    features = _features(tmp_path, source)
    assert {name: features[name] for name in expected} == expected
    assert features["n16"] + features["n32"] == features["instructions"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("vldr s0, [r0]\n vstr s0, [r1]", {"vldr": 1, "vstr": 1}),
        ("vpush {s0-s3}\n vpop {s0-s3}", {"vstm_regs": 4, "vldm_regs": 4}),
        ("vldmia r0!, {s4-s9}", {"vldm_regs": 6}),
        ("vmla.f32 s0, s1, s2\n vfma.f32 s0, s1, s2", {"fp_mac": 2}),
        ("vdiv.f32 s0, s1, s2\n vsqrt.f32 s0, s1", {"fp_div": 1, "fp_sqrt": 1}),
        ("vcvt.s32.f32 s0, s1", {"fp_cvt": 1}),
    ],
)
def test_floating_point_features(tmp_path: Path, source: str, expected: dict[str, int]) -> None:
    prefix = ".fpu fpv4-sp-d16\n"
    features = _features(tmp_path, prefix + source)
    assert {name: features[name] for name in expected} == expected


def test_alignment_depends_on_the_address(tmp_path: Path) -> None:
    code = assemble(tmp_path, "nop\n add.w r0, r1, r2\n add.w r3, r1, r2")
    at_zero = thumb.analyse(code, 0)
    assert at_zero.feature("n32_unaligned") == 2
    assert thumb.analyse(code, 2).feature("n32_unaligned") == 0
    assert thumb.analyse(code, 12).feature("n32_cross16") == 1


@pytest.mark.parametrize(
    ("source", "cycles"),
    [
        # independent neighbours go together
        ("adds r0, #1\n adds r1, #1", 1),
        # the second needs the first's result
        ("adds r0, #1\n adds r0, #1", 2),
        # a branch goes with its comparison
        ("1: cmp r0, r1\n beq 1b", 1),
        # one store, one multiply, one branch in a cycle
        ("str r0, [r1]\n str r2, [r3]", 2),
        ("smlad r0, r1, r2, r0\n smlad r3, r1, r2, r3", 2),
        ("smlad r0, r1, r2, r0\n ldr r3, [r4], #4", 1),
        # two loads may go together
        ("ldr r0, [r1]\n ldr r2, [r3]", 1),
        # a written-back base is a result
        ("ldr r0, [r1], #4\n ldr r2, [r1], #4", 2),
        ("adds r0, #1\n adds r1, #1\n adds r2, #1", 2),
    ],
)
def test_dual_issue(tmp_path: Path, source: str, cycles: int) -> None:
    assert _features(tmp_path, source)["m7_static_dual_issue_cycles"] == cycles


def test_what_lowers_the_stack_pointer(tmp_path: Path) -> None:
    source = "push {r4-r7, lr}\n sub sp, #24\n str r0, [sp, #-4]!\n stmdb sp!, {r8, r9}"
    assert thumb.analyse(assemble(tmp_path, source), 0).stack_bytes == 20 + 24 + 4 + 8
    source = "sub.w sp, sp, #1024\n add sp, #16\n ldr r0, [sp], #4"
    assert thumb.analyse(assemble(tmp_path, source), 0).stack_bytes == 1024


def test_extensions_are_recognised(tmp_path: Path) -> None:
    code = assemble(tmp_path, ".fpu fpv4-sp-d16\n smlad r0, r1, r2, r3\n vmov s0, r0\n add r0, r1")
    found = [instruction.extension for instruction in thumb.analyse(code, 0).instructions]
    assert found == ["dsp", "fp", None]


def test_counting_by_lengths_agrees_with_decoding(tmp_path: Path) -> None:
    code = assemble(tmp_path, "nop\n add.w r0, r1, r2\n 2: bl 2b\n it eq\n moveq r0, r1")
    assert thumb.instruction_count(code) == len(thumb.analyse(code, 0).instructions) == 5
