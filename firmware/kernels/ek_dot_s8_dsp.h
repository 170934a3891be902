/* The inner product of the DSP variants: int8 weights with int16 activations, six output
 * pixels at a time, on cores with the DSP extension (Cortex-M4, M7, M33).
 *
 * The inputs of six pixels are widened to int16 once, into `columns`; every output channel then
 * runs over them. SXTB16 widens four weights in two instructions, and six pixels use them:
 * 18 instructions for 24 multiply-accumulates. The layout of `columns` is what SXTB16 gives:
 * for group j of four inputs and pixel p the words (x0, x2) and (x1, x3) at byte 48 j + 8 p.
 */
#ifndef EK_DOT_S8_DSP_H
#define EK_DOT_S8_DSP_H

#include <stdint.h>

#include "ek_math.h"

#define EK_DSP_PIXELS 6
#define EK_DSP_COLUMN_BYTES(groups) (48 * (groups))

typedef struct {
    const int16_t *columns;
    const int8_t *weights;  /* [channels][4 * groups] */
    const int32_t *requant; /* [channels][3], or [channels][4] for the exact one */
    int8_t *out;            /* first pixel, first channel */
    int8_t *out_end;        /* out + channels */
    int32_t stride;         /* bytes from one pixel's output to the next one's */
    int32_t groups;         /* of four inputs */
    int32_t pixels;         /* 1 to 6 */
} ek_dsp_job_t;

#define EK_DOT_LINE \
    "sxtb16 r6, r7, ror #8\n" \
    "sxtb16 r7, r7\n" \
    "ldmia r0!, {r2-r5}\n" \
    "smlad r8, r2, r7, r8\n" \
    "smlad r8, r3, r6, r8\n" \
    "smlad r9, r4, r7, r9\n" \
    "smlad r9, r5, r6, r9\n" \
    "ldmia r0!, {r2-r5}\n" \
    "smlad r10, r2, r7, r10\n" \
    "smlad r10, r3, r6, r10\n" \
    "smlad r11, r4, r7, r11\n" \
    "smlad r11, r5, r6, r11\n" \
    "ldmia r0!, {r2-r5}\n" \
    "smlad r12, r2, r7, r12\n" \
    "smlad r12, r3, r6, r12\n" \
    "smlad r14, r4, r7, r14\n" \
    "smlad r14, r5, r6, r14\n"

/* Frame: sp+0 columns, +4 columns end, +8 requant, +12 out, +16 out end, +20 stride,
 * +24 entry into the unrolled loop, +28 pixels */
#define EK_DSP_BODY(EPILOGUE) \
    "push {r4-r11, lr}\n" \
    "sub sp, #36\n" \
    "ldmia r0, {r1-r8}\n"       /* columns weights requant out out_end stride groups pixels */ \
    "mov r9, #48\n" \
    "mla r9, r7, r9, r1\n"      /* end of columns */ \
    "strd r1, r9, [sp, #0]\n" \
    "strd r3, r4, [sp, #8]\n" \
    "strd r5, r6, [sp, #16]\n" \
    "mov r1, r2\n" \
    "and r7, r7, #3\n"          /* groups before the first whole round of four */ \
    "adr r9, 9f\n" \
    "ldr r9, [r9, r7, lsl #2]\n" \
    "adr r7, 9f\n" \
    "add r9, r9, r7\n" \
    "strd r9, r8, [sp, #24]\n" \
    "1:\n"                      /* one output channel */ \
    "ldr r2, [sp, #8]\n" \
    "ldr r0, [sp, #0]\n" \
    "ldr r8, [r2]\n" \
    "mov r9, r8\n" \
    "mov r10, r8\n" \
    "mov r11, r8\n" \
    "mov r12, r8\n" \
    "mov r14, r8\n" \
    "ldr pc, [sp, #24]\n" \
    ".balign 4\n" \
    "9:\n" \
    ".word 20f - 9b + 1, 23f - 9b + 1, 22f - 9b + 1, 21f - 9b + 1\n" \
    "20:\n" \
    "ldr r7, [r1], #4\n" EK_DOT_LINE \
    "21:\n" \
    "ldr r7, [r1], #4\n" EK_DOT_LINE \
    "22:\n" \
    "ldr r7, [r1], #4\n" EK_DOT_LINE \
    "23:\n" \
    "ldr r7, [r1], #4\n" EK_DOT_LINE \
    "ldr r2, [sp, #4]\n" \
    "cmp r0, r2\n" \
    "bne 20b\n" \
    "ldr r2, [sp, #8]\n" \
    EPILOGUE \
    "str r2, [sp, #8]\n" \
    "ldrd r2, r3, [sp, #12]\n"  /* out, end */ \
    "ldrd r4, r5, [sp, #20]\n"  /* stride, entry */ \
    "ldr r6, [sp, #28]\n" \
    "cmp r6, #6\n" \
    "bne 3f\n" \
    "strb r9, [r2, r4]\n" \
    "add r5, r2, r4, lsl #1\n" \
    "strb r10, [r5]\n" \
    "strb r11, [r5, r4]\n" \
    "add r5, r5, r4, lsl #1\n" \
    "strb r12, [r5]\n" \
    "strb r14, [r5, r4]\n" \
    "2:\n" \
    "strb r8, [r2], #1\n" \
    "str r2, [sp, #12]\n" \
    "cmp r2, r3\n" \
    "bne 1b\n" \
    "add sp, #36\n" \
    "pop {r4-r11, pc}\n" \
    "3:\n"                      /* fewer than six pixels */ \
    "cmp r6, #1\n" \
    "beq 2b\n" \
    "strb r9, [r2, r4]\n" \
    "cmp r6, #2\n" \
    "beq 2b\n" \
    "add r5, r2, r4, lsl #1\n" \
    "strb r10, [r5]\n" \
    "cmp r6, #3\n" \
    "beq 2b\n" \
    "strb r11, [r5, r4]\n" \
    "cmp r6, #4\n" \
    "beq 2b\n" \
    "add r5, r5, r4, lsl #1\n" \
    "strb r12, [r5]\n" \
    "b 2b\n"

#define EK_LINEAR_1(acc, q) \
    "smmla " acc ", " acc ", r4, r5\n" \
    "ssat " acc ", #8, " acc ", asr #" q "\n"

#define EK_LINEAR(q) \
    "ldmia r2!, {r3-r5}\n" \
    EK_LINEAR_1("r8", q) EK_LINEAR_1("r9", q) EK_LINEAR_1("r10", q) \
    EK_LINEAR_1("r11", q) EK_LINEAR_1("r12", q) EK_LINEAR_1("r14", q)

#define EK_EXACT_1(acc) \
    "add r3, r5, " acc ", asr #31\n" \
    "lsl " acc ", " acc ", #1\n" \
    "smmlar " acc ", " acc ", r4, r3\n" \
    "asr " acc ", " acc ", r6\n" \
    "ssat " acc ", #8, " acc "\n"

#define EK_EXACT \
    "ldmia r2!, {r3-r6}\n" \
    EK_EXACT_1("r8") EK_EXACT_1("r9") EK_EXACT_1("r10") \
    EK_EXACT_1("r11") EK_EXACT_1("r12") EK_EXACT_1("r14")

/* Two requantisations. Both saturate to int8.
 *
 * linear: out = (add + ((acc * mult) >> 32)) >> q. The host searches bias, mult and add such that
 *         it gives TFLM's result for every accumulator that the weights allow (see
 *         edgekit/engines/aot/requant.py); table entries are (bias, mult, add).
 * exact:  TFLM's double rounding for any accumulator and a right shift of at least 1; table
 *         entries are (bias, mult, (zero point << shift) + (1 << (shift - 1)), shift).
 */
#define EK_DSP_FUNCTION(name, epilogue) \
    EK_ASSEMBLY void name( \
        const ek_dsp_job_t *job __attribute__((unused))) \
    { \
        __asm__ volatile(EK_DSP_BODY(epilogue)); \
    }

EK_DSP_FUNCTION(ek_dot_s8_dsp_linear2, EK_LINEAR("2"))
EK_DSP_FUNCTION(ek_dot_s8_dsp_linear4, EK_LINEAR("4"))
EK_DSP_FUNCTION(ek_dot_s8_dsp_exact, EK_EXACT)

EK_KERNEL void ek_dot_s8_dsp(const ek_dsp_job_t *job, int32_t q)
{
    if (q == 4) {
        ek_dot_s8_dsp_linear4(job);
    } else if (q == 2) {
        ek_dot_s8_dsp_linear2(job);
    } else {
        ek_dot_s8_dsp_exact(job);
    }
}

#endif
