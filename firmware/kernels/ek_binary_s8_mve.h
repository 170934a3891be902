/* ADD, SUB and MUL, int8, of two inputs of the output's shape, with MVE, eight elements at a time.
 *
 * The output may start at or below an input, or be it.
 */
#ifndef EK_BINARY_S8_MVE_H
#define EK_BINARY_S8_MVE_H

#include "ek_dot_s8_mve.h"

#define EK_BINARY_MVE_CLAMP \
    ".if %c[clamp]\n" \
    "vmax.s8 q1, q1, q6\n" \
    "vmin.s8 q1, q1, q7\n" \
    ".endif\n"

/* All blocks of eight, then what is left under a predicate. LOAD and STORE with a suffix for it. */
#define EK_BINARY_MVE_LOOP(LOAD, BODY) \
    ".if %c[clamp]\n" \
    "vdup.8 q6, %[low]\n" \
    "vdup.8 q7, %[high]\n" \
    ".endif\n" \
    ".if %c[blocks]\n" \
    "dls lr, %[loops]\n" \
    "1:\n" \
    LOAD("", "#8") \
    BODY \
    "vstrb.16 q1, [%[out]], #8\n" \
    "le lr, 1b\n" \
    ".endif\n" \
    ".if %c[rest]\n" \
    "mov lr, #%c[rest]\n" \
    "vctp.16 lr\n" \
    "vpstt\n" \
    LOAD("t", "#0") \
    BODY \
    "vpst\n" \
    "vstrbt.16 q1, [%[out]]\n" \
    ".endif\n"

#define EK_BINARY_MVE_LOAD(t, step) \
    "vldrb" t ".s16 q0, [%[a]], " step "\n" \
    "vldrb" t ".s16 q1, [%[b]], " step "\n"

#define EK_ADD_MVE_LINEAR \
    "vmovlb.s16 q2, q1\n" \
    "vmovlt.s16 q3, q1\n" \
    "vmlas.s32 q2, q5, %[add]\n" \
    "vmlas.s32 q3, q5, %[add]\n" \
    "vmovlb.s16 q4, q0\n" \
    "vmla.s32 q2, q4, %[factor_a]\n" \
    "vmovlt.s16 q4, q0\n" \
    "vmla.s32 q3, q4, %[factor_a]\n" \
    "vqrshrnb.s32 q1, q2, #16\n" \
    "vqrshrnt.s32 q1, q3, #16\n" \
    "vqrshrnb.s16 q1, q1, #%c[less]\n" \
    EK_BINARY_MVE_CLAMP

/* out = clamp((a * factor_a + b * factor_b + add + half) >> (16 + less)), where the host has proven
 * that this equals TensorFlow Lite's result for every pair. half = 2^15 + 2^(15 + less) is what
 * two rounding shifts add (binutils 2.40 encodes VQSHRN, which would not round, as VQRSHRN).
 * less: 1 .. 8; literal are count, less and clamp. */
EK_KERNEL void
ek_add_linear_s8_mve(const int8_t *a, const int8_t *b, const int32_t count, int32_t factor_a,
                     int32_t factor_b, int32_t add, const int32_t less, const int32_t clamp,
                     int32_t low, int32_t high, int8_t *out)
{
    __asm__ volatile(
        EK_MVE_ASM
        "vdup.32 q5, %[factor_b]\n"
        EK_BINARY_MVE_LOOP(EK_BINARY_MVE_LOAD, EK_ADD_MVE_LINEAR)
        : [a] "+&l"(a), [b] "+&l"(b), [out] "+&l"(out)
        : [factor_a] "r"(factor_a), [factor_b] "r"(factor_b), [add] "r"(add), [low] "r"(low),
          [high] "r"(high), [loops] "r"(count / 8), [blocks] "i"(count / 8),
          [rest] "i"(count % 8), [less] "i"(less), [clamp] "i"(clamp)
        : "lr", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory", "cc");
}

/* v to the common scale, or the sum to the output's: a doubling high multiply, then a shift whose
 * halves go away from zero; q5 is free. */
#define EK_ADD_MVE_SCALE(v, multiplier, shift) \
    "vqrdmulh.s32 " v ", " v ", " multiplier "\n" \
    ".if " shift "\n" \
    EK_MVE_FIX_DOWN(v, "q5") \
    "vrshr.s32 " v ", " v ", #" shift "\n" \
    ".endif\n"

/* 16 bits of a difference of at most 9 become 32, moved up by 20 in all */
#define EK_ADD_MVE_EXACT \
    "vsub.i16 q0, q0, %[zero_a]\n" \
    "vsub.i16 q1, q1, %[zero_b]\n" \
    "vshl.i16 q0, q0, #4\n" \
    "vshl.i16 q1, q1, #4\n" \
    "vshllb.s16 q2, q0, #16\n" \
    "vshllt.s16 q3, q0, #16\n" \
    "vshllb.s16 q4, q1, #16\n" \
    "vshllt.s16 q1, q1, #16\n" \
    EK_ADD_MVE_SCALE("q2", "%[multiplier_a]", "%c[shift_a]") \
    EK_ADD_MVE_SCALE("q3", "%[multiplier_a]", "%c[shift_a]") \
    EK_ADD_MVE_SCALE("q4", "%[multiplier_b]", "%c[shift_b]") \
    EK_ADD_MVE_SCALE("q1", "%[multiplier_b]", "%c[shift_b]") \
    ".if %c[sign] > 0\n" \
    "vadd.i32 q2, q2, q4\n" \
    "vadd.i32 q3, q3, q1\n" \
    ".else\n" \
    "vsub.i32 q2, q2, q4\n" \
    "vsub.i32 q3, q3, q1\n" \
    ".endif\n" \
    EK_ADD_MVE_SCALE("q2", "%[multiplier]", "%c[shift]") \
    EK_ADD_MVE_SCALE("q3", "%[multiplier]", "%c[shift]") \
    "vqmovnb.s32 q1, q2\n" \
    "vqmovnt.s32 q1, q3\n" \
    "vqadd.s16 q1, q1, %[zero]\n" \
    "vqmovnb.s16 q1, q1\n" \
    EK_BINARY_MVE_CLAMP

/* As TensorFlow Lite computes it. Shifts are to the right, 0 .. 31; literal are count, sign (1 or
 * -1), the shifts and clamp. */
EK_KERNEL void
ek_add_s8_mve(const int8_t *a, const int8_t *b, const int32_t count, const int32_t sign,
              int32_t zero_a, int32_t multiplier_a, const int32_t shift_a, int32_t zero_b,
              int32_t multiplier_b, const int32_t shift_b, int32_t multiplier,
              const int32_t shift, int32_t zero, const int32_t clamp, int32_t low, int32_t high,
              int8_t *out)
{
    __asm__ volatile(
        EK_MVE_ASM
        EK_BINARY_MVE_LOOP(EK_BINARY_MVE_LOAD, EK_ADD_MVE_EXACT)
        : [a] "+&l"(a), [b] "+&l"(b), [out] "+&l"(out)
        : [zero_a] "r"(zero_a), [multiplier_a] "r"(multiplier_a), [zero_b] "r"(zero_b),
          [multiplier_b] "r"(multiplier_b), [multiplier] "r"(multiplier), [zero] "r"(zero),
          /* the bounds and the count are in registers only until the loop begins */
          [low] "r"(low), [high] "r"(high), [loops] "r"(count / 8), [blocks] "i"(count / 8),
          [rest] "i"(count % 8), [sign] "i"(sign), [shift_a] "i"(shift_a),
          [shift_b] "i"(shift_b), [shift] "i"(shift), [clamp] "i"(clamp)
        : "lr", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory", "cc");
}

/* Products to the output's scale: to the left before the high multiply, or to the right after. */
#define EK_MUL_MVE_SCALE(v) \
    ".if %c[left]\n" \
    "vshl.i32 " v ", " v ", #%c[left]\n" \
    ".endif\n" \
    EK_ADD_MVE_SCALE(v, "%[multiplier]", "%c[right]")

#define EK_MUL_MVE \
    "vsub.i16 q0, q0, %[zero_a]\n" \
    "vsub.i16 q1, q1, %[zero_b]\n" \
    "vmullb.s16 q2, q0, q1\n" \
    "vmullt.s16 q3, q0, q1\n" \
    EK_MUL_MVE_SCALE("q2") EK_MUL_MVE_SCALE("q3") \
    "vqmovnb.s32 q1, q2\n" \
    "vqmovnt.s32 q1, q3\n" \
    "vqadd.s16 q1, q1, %[zero]\n" \
    "vqmovnb.s16 q1, q1\n" \
    EK_BINARY_MVE_CLAMP

/* left: 0 .. 15, or right: 0 .. 31; literal are count, the shifts and clamp. */
EK_KERNEL void
ek_mul_s8_mve(const int8_t *a, const int8_t *b, const int32_t count, int32_t zero_a,
              int32_t zero_b, int32_t multiplier, const int32_t left, const int32_t right,
              int32_t zero, const int32_t clamp, int32_t low, int32_t high, int8_t *out)
{
    __asm__ volatile(
        EK_MVE_ASM
        EK_BINARY_MVE_LOOP(EK_BINARY_MVE_LOAD, EK_MUL_MVE)
        : [a] "+&l"(a), [b] "+&l"(b), [out] "+&l"(out)
        : [zero_a] "r"(zero_a), [zero_b] "r"(zero_b), [multiplier] "r"(multiplier),
          [zero] "r"(zero), [low] "r"(low), [high] "r"(high), [loops] "r"(count / 8),
          [blocks] "i"(count / 8), [rest] "i"(count % 8), [left] "i"(left), [right] "i"(right),
          [clamp] "i"(clamp)
        : "lr", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory", "cc");
}

#endif
