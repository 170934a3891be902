"""What Thumb instructions are and need: the static features of a block of code.

The features are those of the timing models (:mod:`edgekit.sim.timing`); each is a count per
execution of the block. Instructions are decoded by capstone, once for each encoding.

Where a feature's name leaves room: ``ld_run_ends`` and ``ld_then_ld`` are about single loads;
``ld_then_use`` counts a single or double load (not a multiple one: the models weigh its registers)
whose next instruction in the block reads a register that it writes, ``mul_then_use`` the same of
a multiplication; ``div`` is one of both divisions; ``fp_div`` and ``fp_sqrt`` count two for a
double; a skipped instruction of an IT block counts like an executed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: Static features in the order of a block's vector.
FEATURES = (
    "instructions",
    "n16",
    "n32",
    "mac_simd",
    "mul",
    "mla_mls",
    "mul_long",
    "dsp_other",
    "alu",
    "shift",
    "it",
    "ld_word",
    "ld_half",
    "ld_byte",
    "ld_double",
    "ld_literal",
    "st_word",
    "st_half",
    "st_byte",
    "st_double",
    "ldm_n",
    "ldm_regs",
    "stm_n",
    "stm_regs",
    "vldr",
    "vstr",
    "vldm_regs",
    "vstm_regs",
    "br_cond",
    "br_uncond",
    "call",
    "ret_or_indirect",
    "div",
    "fp_mac",
    "fp_div",
    "fp_sqrt",
    "fp_cvt",
    "ld_then_ld",
    "ld_then_use",
    "ld_run_ends",
    "mul_then_use",
    "n32_unaligned",
    "n32_cross16",
    "m7_static_dual_issue_cycles",
)
_INDEX = {name: index for index, name in enumerate(FEATURES)}

_MAC_SIMD = ("smlad", "smlsd", "smuad", "smusd", "smlald", "smlsld")
_MUL_LONG = ("smull", "umull", "smlal", "umlal", "umaal", "smmul", "smmla", "smmls")
_DSP_OTHER = (
    "sxtab16", "uxtab16", "sxtb16", "uxtb16", "pkhbt", "pkhtb", "ssat16", "usat16", "sel",
    "qadd", "qsub", "qdadd", "qdsub", "qasx", "qsax", "sadd", "ssub", "uadd", "usub", "sasx",
    "ssax", "uasx", "usax", "shadd", "shsub", "uhadd", "uhsub", "shasx", "shsax", "uhasx",
    "uhsax", "uqadd", "uqsub", "uqasx", "uqsax", "usad",
)  # fmt: skip
_DSP_EXTEND_ADD = ("sxtab", "uxtab", "sxtah", "uxtah")
_SMUL_HALF = ("smulbb", "smulbt", "smultb", "smultt", "smulwb", "smulwt")
_SMLA_HALF = ("smlabb", "smlabt", "smlatb", "smlatt", "smlawb", "smlawt", "smlalb", "smlalt")
_SHIFT = ("lsl", "lsr", "asr", "ror", "rrx")
_BRANCH_COND = ("cbz", "cbnz")

#: Classes of which the Cortex-M7 model issues one per cycle
_UNIT_BY_KIND = {
    "mac": "mac", "div": "mac", "store": "store", "dsp": "dsp", "fp": "fp", "branch": "branch",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One encoding, apart from its address."""

    nbytes: int
    text: str
    #: names of the features that it counts for, with amounts
    features: tuple[tuple[str, int], ...]
    #: "load" (single), "mac", "div", "dsp", "store", "fp", "branch", "it", "other"
    kind: str
    reads: frozenset[str]
    writes: frozenset[str]
    #: bytes by which it lowers the stack pointer
    stack_bytes: int
    #: number of instructions that it makes conditional
    it_length: int
    is_fp: bool
    #: what it needs beyond the base instruction set: "dsp", "fp", "mve", or nothing
    extension: str | None


@dataclass(frozen=True)
class Block:
    """A straight piece of code, as it is executed."""

    instructions: tuple[Instruction, ...]
    #: one count for each of FEATURES
    features: tuple[int, ...]
    stack_bytes: int
    is_fp: bool

    def feature(self, name: str) -> int:
        return self.features[_INDEX[name]]


@lru_cache(maxsize=1)
def _decoder() -> Any:
    from edgekit.errors import missing_extra

    try:
        import capstone
    except ImportError:
        raise missing_extra("capstone", "sim", "profiling a virtual board") from None
    decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    decoder.detail = True
    return decoder


def is_wide(halfword: int) -> bool:
    """Whether a first halfword starts a 32-bit encoding (ARMv7-M ARM, A5.1)."""
    return halfword >> 11 in (0b11101, 0b11110, 0b11111)


def instruction_count(code: bytes) -> int:
    """The number of Thumb instructions in ``code``; one that is cut at the end counts."""
    offset = count = 0
    while offset + 1 < len(code):
        offset += 4 if is_wide(code[offset] | code[offset + 1] << 8) else 2
        count += 1
    return count


def split(code: bytes) -> list[bytes]:
    """The encodings in ``code``."""
    pieces = []
    offset = 0
    while offset + 1 < len(code):
        nbytes = 4 if is_wide(code[offset] | code[offset + 1] << 8) else 2
        pieces.append(code[offset : offset + nbytes])
        offset += nbytes
    return pieces


def _it_length(halfword: int) -> int:
    """How many instructions an IT makes conditional: 4 less the mask's trailing zeros."""
    if halfword & 0xFF00 != 0xBF00 or not halfword & 0xF:
        return 0
    mask = halfword & 0xF
    return 4 - ((mask & -mask).bit_length() - 1)


@lru_cache(maxsize=65536)
def decode(encoding: bytes, conditional: bool = False) -> Instruction:
    """One instruction, given as 2 or 4 bytes; ``conditional``: it stands in an IT block."""
    first = int.from_bytes(encoding[:2], "little")
    it_length = _it_length(first)
    if it_length:
        return Instruction(
            2, f"it {first & 0xFF:#04x}", (("it", 1),), "it",
            frozenset(), frozenset(), 0, it_length, False, None,
        )  # fmt: skip
    second = int.from_bytes(encoding[2:4], "little") if len(encoding) == 4 else 0
    # Coprocessors 10 and 11 are the FPU; 0xEF and 0xFF in the first byte are MVE's vectors.
    is_fp = len(encoding) == 4 and first & 0xEC00 == 0xEC00 and (second >> 8) & 0xF in (10, 11)
    is_mve = len(encoding) == 4 and first & 0xEF00 == 0xEF00
    insn = next(_decoder().disasm(encoding, 0x1000, 1), None)
    if insn is None:
        return Instruction(
            len(encoding), f"undefined {encoding.hex()}", (), "other", frozenset(), frozenset(),
            0, 0, is_fp, "mve" if is_mve else "fp" if is_fp else None,
        )  # fmt: skip
    mnemonic = insn.mnemonic.split(".")[0]
    suffix = insn.mnemonic[len(mnemonic) :]
    reads_ids, writes_ids = insn.regs_access()
    reads = {_register(insn, number) for number in reads_ids} - {"pc", ""}
    writes = {_register(insn, number) for number in writes_ids} - {"pc", ""}
    operands = insn.operands
    name = mnemonic
    features: list[tuple[str, int]] = []
    kind = "other"
    stack = 0
    extension: str | None = "mve" if is_mve else "fp" if is_fp else None
    load, store = name.startswith("ldr"), name.startswith("str")
    if is_fp or (name.startswith("v") and len(encoding) == 4):
        kind = "fp"
        registers = sum(1 for operand in operands if operand.type == 1)
        is_double = ".f64" in suffix
        if name == "vldr":
            features.append(("vldr", 1))
        elif name == "vstr":
            features.append(("vstr", 1))
        elif name.startswith(("vldm", "vpop")):
            features.append(("vldm_regs", registers - (0 if name == "vpop" else 1)))
        elif name.startswith(("vstm", "vpush")):
            features.append(("vstm_regs", registers - (0 if name == "vpush" else 1)))
            stack = (second & 0xFF) * 4 if name == "vpush" else 0
        elif name.startswith(("vmla", "vmls", "vnmla", "vnmls", "vfma", "vfms", "vfnma", "vfnms")):
            features.append(("fp_mac", 1))
        elif name.startswith("vdiv"):
            features.append(("fp_div", 2 if is_double else 1))
        elif name.startswith("vsqrt"):
            features.append(("fp_sqrt", 2 if is_double else 1))
        elif name.startswith("vcvt"):
            features.append(("fp_cvt", 1))
    elif name in ("push", "stmdb", "stm", "stmia"):
        count = _listed(encoding, first, second)
        kind = "store"
        features += [("stm_n", 1), ("stm_regs", count)]
        if name == "push" or (name == "stmdb" and first == 0xE92D):
            stack = 4 * count
    elif name in ("pop", "ldmdb", "ldm", "ldmia"):
        count = _listed(encoding, first, second)
        features += [("ldm_n", 1), ("ldm_regs", count)]
        kind = "multiple load"
        if _loads_pc(encoding, first, second):
            features.append(("ret_or_indirect", 1))
            kind = "branch"
    elif name.startswith(("ldrex", "ldaex", "lda")) and name != "ldrexd":
        kind = "load"
        features.append(("ld_word", 1))
    elif load:
        kind = "load"
        literal = _is_literal(encoding, first)
        if name == "ldrd":
            features.append(("ld_double", 1))
            kind = "double load"
        elif literal:
            features.append(("ld_literal", 1))
        elif name.startswith(("ldrb", "ldrsb")):
            features.append(("ld_byte", 1))
        elif name.startswith(("ldrh", "ldrsh")):
            features.append(("ld_half", 1))
        else:
            features.append(("ld_word", 1))
        if len(encoding) == 4 and second >> 12 == 15 and name == "ldr":
            features.append(("ret_or_indirect", 1))
            kind = "branch"
    elif store or name.startswith(("stl", "strex")):
        kind = "store"
        if name == "strd":
            features.append(("st_double", 1))
        elif name.startswith("strb"):
            features.append(("st_byte", 1))
        elif name.startswith("strh"):
            features.append(("st_half", 1))
        else:
            features.append(("st_word", 1))
        if name.startswith("str") and insn.writeback and "sp" in writes:
            stack = 8 if name == "strd" else 4
    elif name in ("sdiv", "udiv"):
        kind = "div"
        features.append(("div", 1))
    elif name.startswith(_MAC_SIMD):
        kind, extension = "mac", "dsp"
        features.append(("mac_simd", 1))
    elif name in _SMUL_HALF or name in _SMLA_HALF:
        kind, extension = "mac", "dsp"
        features.append(("mla_mls" if name in _SMLA_HALF else "mul", 1))
    elif name.startswith(_MUL_LONG):
        kind = "mac"
        features.append(("mul_long", 1))
        if name.startswith(("smm", "umaal")):
            extension = "dsp"
    elif name in ("mla", "mls"):
        kind = "mac"
        features.append(("mla_mls", 1))
    elif name in ("mul", "muls"):
        kind = "mac"
        features.append(("mul", 1))
    elif name.startswith(_DSP_OTHER) or name in _DSP_EXTEND_ADD:
        kind, extension = "dsp", "dsp"
        features.append(("dsp_other", 1))
    elif name in ("bl", "blx"):
        kind = "branch"
        features.append(("call", 1))
    elif name in ("bx", "tbb", "tbh", "bxns"):
        kind = "branch"
        features.append(("ret_or_indirect", 1))
    elif name in _BRANCH_COND:
        kind = "branch"
        features.append(("br_cond", 1))
    elif name.startswith("b") and _is_branch(encoding, first, second):
        kind = "branch"
        always = conditional is False and name == "b"
        features.append(("br_uncond" if always else "br_cond", 1))
    elif name.rstrip("s") in _SHIFT or name in _SHIFT:
        features.append(("shift", 1))
        kind = "other"
    else:
        features.append(("alu", 1))
        if name.startswith("sub") and _lowers_sp(operands, insn):
            stack = int(operands[-1].imm)
        if "pc" in {_register(insn, number) for number in writes_ids}:
            features.append(("ret_or_indirect", 1))
            kind = "branch"
    features.append(("n32" if len(encoding) == 4 else "n16", 1))
    return Instruction(
        len(encoding), f"{insn.mnemonic} {insn.op_str}".strip(), tuple(features), kind,
        frozenset(reads), frozenset(writes), stack, 0, is_fp, extension,
    )  # fmt: skip


def _register(insn: Any, number: int) -> str:
    """A register's name; flags are left out: the features are about results in registers."""
    name = str(insn.reg_name(number) or "")
    return "" if name in ("apsr", "cpsr", "apsr_nzcv", "fpscr_nzcv", "itstate") else name


def _listed(encoding: bytes, first: int, second: int) -> int:
    """Number of registers of a load or store multiple."""
    if len(encoding) == 4:
        return bin(second).count("1")
    if first & 0xF600 == 0xB400:  # PUSH, POP: bit 8 is LR or PC
        return bin(first & 0x1FF).count("1")
    return bin(first & 0xFF).count("1")


def _loads_pc(encoding: bytes, first: int, second: int) -> bool:
    if len(encoding) == 4:
        return bool(second & 0x8000)
    return first & 0xFF00 == 0xBD00


def _is_literal(encoding: bytes, first: int) -> bool:
    if len(encoding) == 2:
        return first & 0xF800 == 0x4800
    # single loads (0xF8xx, 0xF9xx) and LDRD with PC as their base
    return first & 0xF == 15 and (first & 0xFE00 == 0xF800 or first & 0xFE00 == 0xE800)


def _is_branch(encoding: bytes, first: int, second: int) -> bool:
    if len(encoding) == 2:
        return first & 0xF000 == 0xD000 or first & 0xF800 == 0xE000
    return first & 0xF800 == 0xF000 and second & 0x8000 != 0


def _lowers_sp(operands: Any, insn: Any) -> bool:
    return (
        len(operands) >= 2
        and operands[0].type == 1
        and insn.reg_name(operands[0].reg) == "sp"
        and operands[-1].type == 2
        and (len(operands) == 2 or insn.reg_name(operands[1].reg) == "sp")
    )


def analyse(code: bytes, address: int) -> Block:
    """The features of the code at ``address``; an IT that starts in it applies to the end."""
    instructions = []
    pending = 0
    for encoding in split(code):
        instruction = decode(encoding, pending > 0)
        pending = instruction.it_length or max(0, pending - 1)
        instructions.append(instruction)
    counts = [0] * len(FEATURES)
    counts[_INDEX["instructions"]] = len(instructions)
    position = address
    for index, instruction in enumerate(instructions):
        for name, amount in instruction.features:
            counts[_INDEX[name]] += amount
        if instruction.nbytes == 4:
            counts[_INDEX["n32_unaligned"]] += position % 4 == 2
            counts[_INDEX["n32_cross16"]] += position % 16 == 14
        if instruction.kind == "it":
            counts[_INDEX["n16"]] += 1
        following = instructions[index + 1] if index + 1 < len(instructions) else None
        uses_next = following is not None and bool(instruction.writes & following.reads)
        if instruction.kind == "load":
            is_run = following is not None and following.kind == "load"
            counts[_INDEX["ld_then_ld"]] += is_run
            counts[_INDEX["ld_run_ends"]] += not is_run
        if instruction.kind in ("load", "double load"):
            counts[_INDEX["ld_then_use"]] += uses_next
        if instruction.kind == "mac":
            counts[_INDEX["mul_then_use"]] += uses_next
        position += instruction.nbytes
    counts[_INDEX["m7_static_dual_issue_cycles"]] = _dual_issue_cycles(instructions)
    return Block(
        tuple(instructions),
        tuple(counts),
        sum(instruction.stack_bytes for instruction in instructions),
        any(instruction.is_fp for instruction in instructions),
    )


def _dual_issue_cycles(instructions: list[Instruction]) -> int:
    """Cycles of a block on a two-wide in-order machine with unit latencies.

    Two neighbours go together unless the second needs a register that the first makes, or both
    need the same one of the units multiply, store, DSP, floating point, branch. Flags do not
    keep a branch from going with the comparison before it.
    """
    index = cycles = 0
    while index < len(instructions):
        cycles += 1
        if index + 1 < len(instructions):
            first, second = instructions[index], instructions[index + 1]
            unit = _UNIT_BY_KIND.get(first.kind)
            shared = unit is not None and unit == _UNIT_BY_KIND.get(second.kind)
            if not shared and not first.writes & second.reads:
                index += 1
        index += 1
    return cycles
