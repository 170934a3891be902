/* Sums of products and their requantisation with MVE (Helium), for CONV_2D.
 *
 * Two pixels by four output channels are computed together: VMLADAVA adds sixteen products to one
 * of eight scalar sums (all even registers but SP), so that sixteen inputs of both pixels and
 * sixteen weights of four channels take 6 loads and 8 multiplications for 128 products. The sums
 * go through the stack into two vectors (a lane per channel), are brought to the output's scale
 * there, and one scatter stores all eight bytes.
 *
 * weights: [blocks][groups][4 channels][16], groups = ceil(depth / 16), zero beyond the depth, so
 * that what lies behind a column does not matter. Where four do not divide the channels, the last
 * block holds the last four, some of them for the second time.
 * requant: [blocks][3][4]: biases, multipliers, negated right shifts; for EK_ANY [blocks][4][4]
 * with left shifts after the biases.
 */
#ifndef EK_DOT_S8_MVE_H
#define EK_DOT_S8_MVE_H

#include <stdint.h>

#include "ek_math.h"

/* At the head of all assembly: zig's cortex_m55 has its extensions only if they are named. */
#if defined(__clang__) && !defined(__ARM_FEATURE_MVE)
#define EK_MVE_ASM ".cpu cortex-m55\n"
#else
#define EK_MVE_ASM ""
#endif

/* gcc takes a piece of assembly to be as long as it has lines, and places its literals so that
 * they are in reach. Where a repetition makes it longer, empty lines make up for that. */
#define EK_LINES_32 "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"
#define EK_LINES_160 EK_LINES_32 EK_LINES_32 EK_LINES_32 EK_LINES_32 EK_LINES_32

typedef struct {
    const int32_t *requant;     /* 0 */
    const int8_t *first;        /* 4: column of either pixel; 15 bytes behind it can be read */
    const int8_t *second;       /* 8 */
    const int8_t *weights;      /* 12 */
    const int8_t *end;          /* 16: of the whole blocks' weights */
    int8_t *out;                /* 20 */
    const int8_t *in;           /* 24: of the next pair, where columns are copied from it */
    int32_t pairs;              /* 28 */
    int32_t zero;               /* 32 */
    int32_t low;                /* 36 */
    int32_t high;               /* 40 */
    uint16_t offsets[8];        /* 44: of both pixels' outputs of a block, interleaved */
    const int8_t *last_end;     /* 60: of all blocks' weights */
} ek_mve_job_t;

/* Requantisation of the vectors a and b in place; x is free. */
#define EK_MVE_FIX_DOWN(v, x) /* halves of negative numbers go down */ \
    "vshr.s32 " x ", " v ", #31\n" \
    "vadd.i32 " v ", " v ", " x "\n"
#define EK_MVE_FIX_ANY(v, x, shift) \
    "vand " x ", " v ", " shift "\n" \
    "vshr.s32 " x ", " x ", #31\n" \
    "vadd.i32 " v ", " v ", " x "\n"

#define EK_MVE_GROUP_MACS \
    "vldrw.u32 q2, [r7], #16\n" \
    "vmladava.s8 r0, q0, q2\n" \
    "vmladava.s8 r8, q1, q2\n" \
    "vldrw.u32 q3, [r7], #16\n" \
    "vmladava.s8 r2, q0, q3\n" \
    "vmladava.s8 r10, q1, q3\n" \
    "vldrw.u32 q2, [r7], #16\n" \
    "vmladava.s8 r4, q0, q2\n" \
    "vmladava.s8 r12, q1, q2\n" \
    "vldrw.u32 q3, [r7], #16\n" \
    "vmladava.s8 r6, q0, q3\n" \
    "vmladava.s8 lr, q1, q3\n"

/* r1 requant, r3 and r5 columns, r7 weights, r9 out, r11 end of the weights (or of the loop over
 * the depth), q6 offsets, q7 zero. Frame: 8 sums, job, end of the weights. */
#define EK_MVE_DOT \
    "mov r0, %[job]\n" \
    "push {r4-r11, lr}\n" \
    "sub sp, #44\n" \
    "str r0, [sp, #32]\n" \
    "add r1, r0, #44\n" \
    "vldrh.u16 q6, [r1]\n" \
    "ldr r1, [r0, #32]\n" \
    "vdup.16 q7, r1\n" \
    "ldr r9, [r0, #20]\n" \
    ".if %c[advance]\n" \
    "ldrd r3, r5, [r0, #4]\n" \
    ".endif\n" \
    "1:\n" \
    ".if %c[copy]\n" \
    "ldr r1, [r0, #24]\n" \
    "ldr r3, [r0, #4]\n" \
    ".if %c[copy] > 128\n" \
    "movw lr, #(%c[copy] / 16)\n" \
    "dls lr, lr\n" \
    "5:\n" \
    "vldrb.8 q0, [r1], #16\n" \
    "vstrb.8 q0, [r3], #16\n" \
    "le lr, 5b\n" \
    ".else\n" \
    ".rept %c[copy] / 16\n" \
    "vldrb.8 q0, [r1], #16\n" \
    "vstrb.8 q0, [r3], #16\n" \
    ".endr\n" \
    ".endif\n" \
    ".if %c[copy] %% 16\n" \
    ".if %c[copy] >= 16\n" \
    "add r1, #(%c[copy] %% 16)\n" \
    "add r3, #(%c[copy] %% 16)\n" \
    "vldrb.8 q0, [r1, #-16]\n" \
    "vstrb.8 q0, [r3, #-16]\n" \
    ".else\n" \
    "mov r5, #%c[copy]\n" \
    "vctp.8 r5\n" \
    "vpstt\n" \
    "vldrbt.8 q0, [r1], #0\n" \
    "vstrbt.8 q0, [r3], #0\n" \
    "add r1, r5\n" \
    ".endif\n" \
    ".endif\n" \
    "str r1, [r0, #24]\n" \
    ".endif\n" \
    ".if %c[advance]\n" \
    "ldr r1, [r0]\n" \
    "ldrd r7, r11, [r0, #12]\n" \
    ".else\n" \
    "ldmia r0, {r1, r3, r5, r7, r11}\n" \
    ".endif\n" \
    ".if %c[loops] > 1\n" \
    "str r11, [sp, #36]\n" \
    "addw r11, r3, #(16 * %c[loops] * %c[unroll])\n" \
    ".endif\n" \
    ".if %c[groups] == 1\n" \
    "vldrb.8 q0, [r3]\n" \
    "vldrb.8 q1, [r5]\n" \
    ".endif\n" \
    "2:\n" \
    "ldmia r1, {r0, r2, r4, r6}\n" \
    "ldmia r1!, {r8, r10, r12, lr}\n" \
    ".if %c[groups] == 1\n" \
    EK_MVE_GROUP_MACS \
    ".elseif %c[groups] <= 8\n" \
    ".set ek_group, 0\n" \
    ".rept %c[groups]\n" \
    "vldrb.8 q0, [r3, #(16 * ek_group)]\n" \
    "vldrb.8 q1, [r5, #(16 * ek_group)]\n" \
    EK_MVE_GROUP_MACS \
    ".set ek_group, ek_group + 1\n" \
    ".endr\n" \
    ".else\n" \
    "3:\n" \
    ".rept %c[unroll]\n" \
    "vldrb.8 q0, [r3], #16\n" \
    "vldrb.8 q1, [r5], #16\n" \
    EK_MVE_GROUP_MACS \
    ".endr\n" \
    ".if %c[loops] > 1\n" \
    "cmp r3, r11\n" \
    "bne 3b\n" \
    ".endif\n" \
    ".rept %c[rest]\n" \
    "vldrb.8 q0, [r3], #16\n" \
    "vldrb.8 q1, [r5], #16\n" \
    EK_MVE_GROUP_MACS \
    ".endr\n" \
    "sub r3, #(16 * %c[groups])\n" \
    "sub r5, #(16 * %c[groups])\n" \
    ".endif\n" \
    "stmia sp, {r0, r2, r4, r6, r8, r10, r12, lr}\n" \
    "vldrw.u32 q4, [sp]\n" \
    "vldrw.u32 q5, [sp, #16]\n" \
    ".if %c[mode] == 0\n" \
    "vldrw.u32 q2, [r1], #16\n" \
    "vshl.s32 q4, q4, q2\n" \
    "vshl.s32 q5, q5, q2\n" \
    ".endif\n" \
    "vldrw.u32 q2, [r1], #16\n" \
    "vldrw.u32 q3, [r1], #16\n" \
    "vqrdmulh.s32 q4, q4, q2\n" \
    "vqrdmulh.s32 q5, q5, q2\n" \
    ".if %c[mode] == 0\n" \
    EK_MVE_FIX_ANY("q4", "q2", "q3") EK_MVE_FIX_ANY("q5", "q2", "q3") \
    ".endif\n" \
    ".if %c[mode] == 1\n" \
    EK_MVE_FIX_DOWN("q4", "q2") EK_MVE_FIX_DOWN("q5", "q2") \
    ".endif\n" \
    "vrshl.s32 q4, q4, q3\n" \
    "vrshl.s32 q5, q5, q3\n" \
    "vqmovnb.s32 q4, q4\n" \
    "vqmovnt.s32 q4, q5\n" \
    "vqadd.s16 q4, q4, q7\n" \
    "vqmovnb.s16 q4, q4\n" \
    ".if %c[clamp]\n" \
    "ldr r0, [sp, #32]\n" \
    "ldrd r2, r4, [r0, #36]\n" \
    "vdup.8 q2, r2\n" \
    "vdup.8 q3, r4\n" \
    "vmax.s8 q4, q4, q2\n" \
    "vmin.s8 q4, q4, q3\n" \
    ".endif\n" \
    "vstrb.16 q4, [r9, q6]\n" \
    "add r9, #4\n" \
    ".if %c[loops] > 1\n" \
    "ldr r0, [sp, #36]\n" \
    "cmp r7, r0\n" \
    ".else\n" \
    "cmp r7, r11\n" \
    ".endif\n" \
    "bne 2b\n" \
    ".if %c[rem]\n" \
    "ldr r0, [sp, #32]\n" \
    "ldr r0, [r0, #60]\n" \
    "cmp r7, r0\n" \
    "beq 4f\n" \
    "sub r9, #(4 - %c[rem])\n" \
    ".if %c[loops] > 1\n" \
    "str r0, [sp, #36]\n" \
    ".else\n" \
    "mov r11, r0\n" \
    ".endif\n" \
    "b 2b\n" \
    "4:\n" \
    ".endif\n" \
    ".if %c[copy] | %c[advance]\n" \
    "ldr r0, [sp, #32]\n" \
    "ldr r1, [r0, #28]\n" \
    ".if %c[advance]\n" \
    "addw r3, r3, #%c[advance]\n" \
    "addw r5, r5, #%c[advance]\n" \
    ".endif\n" \
    "addw r9, r9, #%c[out_c]\n" \
    "subs r1, #1\n" \
    "str r1, [r0, #28]\n" \
    "bne 1b\n" \
    ".endif\n" \
    "add sp, #44\n" \
    "pop {r4-r11, lr}\n"

/* All output channels of job->pairs pairs of pixels. copy: bytes of both pixels' inputs that are
 * brought to the columns first, or 0 where the columns are there; then advance is the bytes from
 * a pair's columns to the next one's, or 0 for one pair. Everything but the job is literal; out_c
 * at least 4. */
EK_KERNEL void
ek_dot_s8_mve(ek_mve_job_t *job, const int32_t groups, const int32_t out_c, const int32_t copy,
              const int32_t advance, const int32_t mode, const int32_t clamp)
{
    const int32_t unroll = groups <= 10 ? groups : groups % 9 == 0 ? 9 : 8;
    const int32_t loops = groups / unroll;
    __asm__ volatile(EK_MVE_ASM EK_LINES_160 EK_MVE_DOT
        :
        : [job] "r"(job), [groups] "i"(groups), [unroll] "i"(unroll), [loops] "i"(loops),
          [rest] "i"(groups % unroll), [rem] "i"(out_c % 4), [out_c] "i"(out_c),
          [copy] "i"(copy), [advance] "i"(advance), [mode] "i"(mode), [clamp] "i"(clamp)
        : "r0", "r1", "r2", "r3", "r12", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory",
          "cc");
}

/* Copies forward, 16 bytes at a time and no byte beyond. */
EK_KERNEL void
ek_copy_mve(int8_t *to, const int8_t *from, int32_t nbytes)
{
    __asm__ volatile(
        EK_MVE_ASM
        "wlstp.8 lr, %[n], 2f\n"
        "1:\n"
        "vldrb.8 q0, [%[from]], #16\n"
        "vstrb.8 q0, [%[to]], #16\n"
        "letp lr, 1b\n"
        "2:\n"
        : [to] "+&r"(to), [from] "+&r"(from)
        : [n] "r"(nbytes)
        : "lr", "q0", "memory", "cc");
}

/* The same for a literal number of bytes, 16 to 128, without overlap. */
EK_KERNEL void
ek_copy_run_mve(int8_t *to, const int8_t *from, const int32_t nbytes)
{
    __asm__ volatile(
        EK_MVE_ASM "\n\n\n\n\n\n\n\n\n\n"
        ".if %c[n] %% 16\n"
        "vldrb.8 q0, [%[from]], #(%c[n] %% 16)\n"
        "vstrb.8 q0, [%[to]], #(%c[n] %% 16)\n"
        ".endif\n"
        ".rept %c[n] / 16\n"
        "vldrb.8 q0, [%[from]], #16\n"
        "vstrb.8 q0, [%[to]], #16\n"
        ".endr\n"
        : [to] "+&r"(to), [from] "+&r"(from)
        : [n] "i"(nbytes)
        : "q0", "memory");
}

/* Fills forward, 16 bytes at a time and no byte beyond. */
EK_KERNEL void
ek_fill_mve(int8_t *to, int32_t value, int32_t nbytes)
{
    __asm__ volatile(
        EK_MVE_ASM
        "vdup.8 q0, %[value]\n"
        "wlstp.8 lr, %[n], 2f\n"
        "1:\n"
        "vstrb.8 q0, [%[to]], #16\n"
        "letp lr, 1b\n"
        "2:\n"
        : [to] "+&r"(to)
        : [n] "r"(nbytes), [value] "r"(value)
        : "lr", "q0", "memory", "cc");
}

#endif
