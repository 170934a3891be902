/* FULLY_CONNECTED, int8, with MVE: eight outputs at a time, sixteen products per VMLADAVA.
 *
 * weights: [blocks][groups][8 outputs][16], groups = ceil(depth / 16), zero beyond the depth. The
 * outputs of a block are in the order 0, 2, 4, 6, 1, 3, 5, 7, in which the narrowing of two
 * vectors interleaves them. Where eight do not divide the outputs, the last block holds the last
 * eight, some of them for the second time; fewer than eight are padded with zeros.
 * requant: [blocks][8] biases; per channel [blocks][3][8] with multipliers and negated right
 * shifts, for EK_ANY [blocks][4][8] with left shifts after the biases.
 */
#ifndef EK_FULLY_CONNECTED_S8_MVE_H
#define EK_FULLY_CONNECTED_S8_MVE_H

#include "ek_dot_s8_mve.h"

typedef struct {
    const int32_t *requant;  /* 0: r1 */
    const int8_t *in;        /* 4: r3 */
    int8_t *out;             /* 8: r5 */
    const int8_t *weights;   /* 12: r7 */
    const int8_t *loop_end;  /* 16: r9, of the part of a row that is walked in a loop */
    const int8_t *end;       /* 20: r11, of the whole blocks' weights */
    const int8_t *last_end;  /* 24: of all blocks' weights */
    int32_t left;            /* 28: of all channels, as are */
    int32_t multiplier;      /* 32 */
    int32_t right;           /* 36: negated */
    int32_t zero;            /* 40 */
    int32_t low;             /* 44 */
    int32_t high;            /* 48 */
} ek_fc_mve_job_t;

#define EK_FC_MVE_ROW(sum, weights) \
    "vldrw.u32 " weights ", [r7], #16\n" \
    "vmladava.s8 " sum ", q0, " weights "\n"
#define EK_FC_MVE_MACS \
    EK_FC_MVE_ROW("r0", "q1") EK_FC_MVE_ROW("r2", "q2") EK_FC_MVE_ROW("r4", "q1") \
    EK_FC_MVE_ROW("r6", "q2") EK_FC_MVE_ROW("r8", "q1") EK_FC_MVE_ROW("r10", "q2") \
    EK_FC_MVE_ROW("r12", "q1") EK_FC_MVE_ROW("lr", "q2")

#define EK_FC_MVE_SCALE(v) \
    ".if %c[mode] == 0\n" \
    "vshl.s32 " v ", r4\n" \
    ".endif\n" \
    "vqrdmulh.s32 " v ", " v ", r0\n" \
    ".if %c[mode] == 0\n" \
    "vdup.32 q3, r2\n" \
    EK_MVE_FIX_ANY(v, "q2", "q3") \
    ".endif\n" \
    ".if %c[mode] == 1\n" \
    EK_MVE_FIX_DOWN(v, "q2") \
    ".endif\n" \
    "vrshl.s32 " v ", r2\n"

#define EK_FC_MVE_SCALE_EACH(v, offset) \
    ".if %c[mode] == 0\n" \
    "vldrw.u32 q2, [r1, #(" offset " - 32)]\n" \
    "vshl.s32 " v ", " v ", q2\n" \
    ".endif\n" \
    "vldrw.u32 q2, [r1, #(" offset ")]\n" \
    "vqrdmulh.s32 " v ", " v ", q2\n" \
    "vldrw.u32 q3, [r1, #(" offset " + 32)]\n" \
    ".if %c[mode] == 0\n" \
    EK_MVE_FIX_ANY(v, "q2", "q3") \
    ".endif\n" \
    ".if %c[mode] == 1\n" \
    EK_MVE_FIX_DOWN(v, "q2") \
    ".endif\n" \
    "vrshl.s32 " v ", " v ", q3\n"

/* Frame: 8 sums, +32 job */
#define EK_FC_MVE \
    "mov r0, %[job]\n" \
    "push {r4-r11, lr}\n" \
    "sub sp, #36\n" \
    "str r0, [sp, #32]\n" \
    "ldr r2, [r0, #40]\n" \
    "vdup.16 q6, r2\n" \
    ".if %c[clamp]\n" \
    "ldrd r2, r4, [r0, #44]\n" \
    "vdup.8 q5, r2\n" \
    "vdup.8 q7, r4\n" \
    ".endif\n" \
    ".if %c[some]\n" \
    "movs r2, #%c[some]\n" \
    "vctp.8 r2\n" \
    ".endif\n" \
    "ldmia r0, {r1, r3, r5, r7, r9, r11}\n" \
    "1:\n" \
    "ldmia r1!, {r0, r2, r4, r6, r8, r10, r12, lr}\n" \
    "2:\n" \
    ".rept %c[unroll]\n" \
    "vldrb.8 q0, [r3], #16\n" \
    EK_FC_MVE_MACS \
    ".endr\n" \
    ".if %c[loops] > 1\n" \
    "cmp r3, r9\n" \
    "bne 2b\n" \
    ".endif\n" \
    ".rept %c[rest]\n" \
    "vldrb.8 q0, [r3], #16\n" \
    EK_FC_MVE_MACS \
    ".endr\n" \
    ".if %c[some]\n" \
    "vpst\n" \
    "vldrbt.8 q0, [r3]\n" \
    EK_FC_MVE_MACS \
    ".endif\n" \
    "stmia sp, {r0, r2, r4, r6, r8, r10, r12, lr}\n" \
    ".if 16 * %c[whole] > 4095\n" \
    "movw r0, #(16 * %c[whole])\n" \
    "sub r3, r0\n" \
    ".elseif %c[whole]\n" \
    "subw r3, r3, #(16 * %c[whole])\n" \
    ".endif\n" \
    "vldrw.u32 q1, [sp]\n" \
    "vldrw.u32 q4, [sp, #16]\n" \
    ".if %c[each]\n" \
    ".if %c[mode] == 0\n" \
    "adds r1, #32\n" \
    ".endif\n" \
    EK_FC_MVE_SCALE_EACH("q1", "0") EK_FC_MVE_SCALE_EACH("q4", "16") \
    "adds r1, #64\n" \
    ".else\n" \
    "ldr r6, [sp, #32]\n" \
    ".if %c[mode] == 0\n" \
    "ldr r4, [r6, #28]\n" \
    ".endif\n" \
    "ldrd r0, r2, [r6, #32]\n" \
    EK_FC_MVE_SCALE("q1") EK_FC_MVE_SCALE("q4") \
    ".endif\n" \
    "vqmovnb.s32 q1, q1\n" \
    "vqmovnt.s32 q1, q4\n" \
    "vqadd.s16 q1, q1, q6\n" \
    "vqmovnb.s16 q1, q1\n" \
    ".if %c[clamp]\n" \
    "vmax.s8 q1, q1, q5\n" \
    "vmin.s8 q1, q1, q7\n" \
    ".endif\n" \
    ".if %c[outputs] < 8\n" \
    "movs r0, #%c[outputs]\n" \
    "vctp.16 r0\n" \
    "vpst\n" \
    "vstrbt.16 q1, [r5]\n" \
    ".else\n" \
    "vstrb.16 q1, [r5], #8\n" \
    "cmp r7, r11\n" \
    "bne 1b\n" \
    ".if %c[outputs] %% 8\n" \
    "ldr r0, [sp, #32]\n" \
    "ldr r0, [r0, #24]\n" \
    "cmp r7, r0\n" \
    "beq 3f\n" \
    "mov r11, r0\n" \
    "sub r5, #(8 - %c[outputs] %% 8)\n" \
    "b 1b\n" \
    "3:\n" \
    ".endif\n" \
    ".endif\n" \
    "add sp, #36\n" \
    "pop {r4-r11, lr}\n"

/* in [rows][depth], out [rows][outputs]. each: constants per channel in requant; else left,
 * multiplier and right (negated) are for all. All numbers are literals but for these, the zero
 * point and the clamp. The output must not overlap the input. */
EK_KERNEL void
ek_fully_connected_s8_mve(const int8_t *in, const int8_t *weights, const int32_t *requant,
                          const int32_t rows, const int32_t depth, const int32_t outputs,
                          const int32_t each, int32_t left, int32_t multiplier, int32_t right,
                          const int32_t mode, int32_t zero, const int32_t clamp, int32_t low,
                          int32_t high, int8_t *out)
{
    const int32_t groups = (depth + 15) / 16;
    const int32_t whole = depth / 16;
    const int32_t unroll = whole <= 10 ? whole : 8;
    const int32_t loops = unroll ? whole / unroll : 0;
    ek_fc_mve_job_t job = {
        .requant = requant, .weights = weights,
        .end = weights + (outputs / 8) * 128 * groups,
        .last_end = weights + ((outputs + 7) / 8) * 128 * groups,
        .left = left, .multiplier = multiplier, .right = right, .zero = zero, .low = low,
        .high = high,
    };
    for (int32_t row = 0; row < rows; row++) {
        job.in = in + row * depth;
        job.loop_end = job.in + 16 * loops * unroll;
        job.out = out + row * outputs;
        __asm__ volatile(EK_MVE_ASM EK_LINES_160 EK_LINES_32 EK_FC_MVE
            :
            : [job] "r"(&job), [unroll] "i"(unroll), [loops] "i"(loops),
              [rest] "i"(unroll ? whole % unroll : 0), [some] "i"(depth % 16), [whole] "i"(whole),
              [each] "i"(each), [mode] "i"(mode), [clamp] "i"(clamp), [outputs] "i"(outputs)
            : "r0", "r1", "r2", "r3", "r12", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7",
              "memory", "cc");
    }
}

#endif
