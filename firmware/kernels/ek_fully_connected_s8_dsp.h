/* FULLY_CONNECTED, int8, on cores with the DSP extension: four outputs at a time.
 *
 * weights: [ceil(out / 4)][groups][4 outputs][4 inputs], so that one LDM brings four inputs'
 * weights of four outputs; missing rows and inputs are zero. The inputs are either widened to
 * int16 once, into scratch (18 instructions for 16 multiply-accumulates), or on the fly (20),
 * which needs no scratch.
 */
#ifndef EK_FULLY_CONNECTED_S8_DSP_H
#define EK_FULLY_CONNECTED_S8_DSP_H

#include <stdint.h>

#include "ek_clamp_s8_dsp.h"
#include "ek_math.h"

typedef struct {
    const void *in;         /* int16 in SXTB16's order, or int8 */
    const int8_t *weights;
    const int32_t *requant; /* [out] biases, or [out][4]: bias, mult, add, shift */
    int8_t *out;
    int32_t in_bytes;       /* of all groups */
    int32_t groups;
    int32_t blocks;         /* of four outputs */
    int32_t mult;           /* for biases alone: TFLM's multiplier, */
    int32_t add;            /* (zero point << shift) + (1 << (shift - 1)), */
    int32_t shift;          /* right shift, at least 1 */
} ek_fc_job_t;

#define EK_FC_WIDE "ldrd r2, r3, [r0], #8\n"
#define EK_FC_NARROW "ldr r3, [r0], #4\n" "sxtb16 r2, r3\n" "sxtb16 r3, r3, ror #8\n"

#define EK_FC_OUTPUT(acc, w) \
    "sxtb16 r12, " w "\n" \
    "smlad " acc ", r2, r12, " acc "\n" \
    "sxtb16 r12, " w ", ror #8\n" \
    "smlad " acc ", r3, r12, " acc "\n"

#define EK_FC_GROUP(LOAD) \
    "ldmia r1!, {r4-r7}\n" LOAD \
    EK_FC_OUTPUT("r8", "r4") EK_FC_OUTPUT("r9", "r5") \
    EK_FC_OUTPUT("r10", "r6") EK_FC_OUTPUT("r11", "r7")

#define EK_FC_REQUANT(acc) /* r4 mult, r5 add, r6 shift */ \
    "add r3, r5, " acc ", asr #31\n" \
    "lsl " acc ", " acc ", #1\n" \
    "smmlar " acc ", " acc ", r4, r3\n" \
    "asr " acc ", " acc ", r6\n" \
    "ssat " acc ", #8, " acc "\n" \
    "strb " acc ", [r0], #1\n"

#define EK_FC_BIASES_PER_TENSOR \
    "ldr r2, [sp, #4]\n" \
    "ldmia r2!, {r8-r11}\n" \
    "str r2, [sp, #4]\n"
#define EK_FC_EPILOGUE_PER_TENSOR \
    "ldrd r4, r5, [sp, #20]\n" \
    "ldr r6, [sp, #28]\n" \
    EK_FC_REQUANT("r8") EK_FC_REQUANT("r9") EK_FC_REQUANT("r10") EK_FC_REQUANT("r11")

#define EK_FC_BIASES_PER_CHANNEL \
    "ldr r2, [sp, #4]\n" \
    "ldr r8, [r2]\n" \
    "ldr r9, [r2, #16]\n" \
    "ldr r10, [r2, #32]\n" \
    "ldr r11, [r2, #48]\n"
#define EK_FC_EPILOGUE_PER_CHANNEL \
    "ldr r2, [sp, #4]\n" \
    "ldmia r2!, {r3-r6}\n" EK_FC_REQUANT("r8") \
    "ldmia r2!, {r3-r6}\n" EK_FC_REQUANT("r9") \
    "ldmia r2!, {r3-r6}\n" EK_FC_REQUANT("r10") \
    "ldmia r2!, {r3-r6}\n" EK_FC_REQUANT("r11") \
    "str r2, [sp, #4]\n"

/* Frame: sp+0 in, +4 requant, +8 out, +12 blocks left, +16 entry into the unrolled loop,
 * +20 mult, +24 add, +28 shift */
#define EK_FC_FUNCTION(name, LOAD, BIASES, EPILOGUE) \
    EK_ASSEMBLY void name( \
        const ek_fc_job_t *job __attribute__((unused))) \
    { \
        __asm__ volatile( \
            "push {r4-r11, lr}\n" \
            "sub sp, #36\n" \
            "ldmia r0, {r1-r10}\n" /* in weights requant out in_bytes groups blocks mult add shift */ \
            "add r14, r1, r5\n" \
            "strd r1, r3, [sp]\n" \
            "strd r4, r7, [sp, #8]\n" \
            "strd r8, r9, [sp, #20]\n" \
            "str r10, [sp, #28]\n" \
            "mov r1, r2\n" \
            "and r6, r6, #3\n" \
            "adr r7, 9f\n" \
            "ldr r6, [r7, r6, lsl #2]\n" \
            "add r6, r6, r7\n" \
            "str r6, [sp, #16]\n" \
            "1:\n" \
            BIASES \
            "ldr r0, [sp]\n" \
            "ldr pc, [sp, #16]\n" \
            ".balign 4\n" \
            "9:\n" \
            ".word 20f - 9b + 1, 23f - 9b + 1, 22f - 9b + 1, 21f - 9b + 1\n" \
            "20:\n" EK_FC_GROUP(LOAD) \
            "21:\n" EK_FC_GROUP(LOAD) \
            "22:\n" EK_FC_GROUP(LOAD) \
            "23:\n" EK_FC_GROUP(LOAD) \
            "cmp r0, r14\n" \
            "bne 20b\n" \
            "ldr r0, [sp, #8]\n" \
            EPILOGUE \
            "str r0, [sp, #8]\n" \
            "ldr r2, [sp, #12]\n" \
            "subs r2, r2, #1\n" \
            "str r2, [sp, #12]\n" \
            "bne 1b\n" \
            "add sp, #36\n" \
            "pop {r4-r11, pc}\n"); \
    }

EK_FC_FUNCTION(ek_fc_dot_wide_tensor, EK_FC_WIDE, EK_FC_BIASES_PER_TENSOR, EK_FC_EPILOGUE_PER_TENSOR)
EK_FC_FUNCTION(ek_fc_dot_narrow_tensor, EK_FC_NARROW, EK_FC_BIASES_PER_TENSOR,
               EK_FC_EPILOGUE_PER_TENSOR)
EK_FC_FUNCTION(ek_fc_dot_wide_channel, EK_FC_WIDE, EK_FC_BIASES_PER_CHANNEL,
               EK_FC_EPILOGUE_PER_CHANNEL)
EK_FC_FUNCTION(ek_fc_dot_narrow_channel, EK_FC_NARROW, EK_FC_BIASES_PER_CHANNEL,
               EK_FC_EPILOGUE_PER_CHANNEL)

/* One row: in [in_c], out [out_c]; in_c a multiple of 4, the input 4-byte aligned.
 * per_channel: the table has [padded out][4] entries, otherwise [padded out] biases.
 * wide (literal): 2 * in_c bytes, 4-byte aligned, or a null pointer for none; with them the
 * output may overlap the input in any way. clamp (literal): the output is clamped to low, high. */
EK_KERNEL void
ek_fully_connected_s8_dsp(const int8_t *in, const int8_t *weights, const int32_t *requant,
                          int16_t *wide, int32_t use_wide, int32_t per_channel, int32_t in_c,
                          int32_t out_c, int32_t mult, int32_t add, int32_t shift, int32_t clamp,
                          int32_t low, int32_t high, int8_t *out)
{
    ek_fc_job_t job = {
        .in = in, .weights = weights, .requant = requant, .out = out, .in_bytes = in_c,
        .groups = in_c >> 2, .blocks = out_c >> 2, .mult = mult, .add = add, .shift = shift,
    };
    if (use_wide) {
        ek_word_t *to = (ek_word_t *)(void *)wide;
        const ek_word_t *from = (const ek_word_t *)(const void *)in;
EK_UNROLL_4
        for (int32_t i = 0; i < in_c >> 2; i++) {
            const uint32_t packed = from[i];
            __asm__("sxtb16 %0, %1" : "=r"(to[2 * i]) : "r"(packed));
            __asm__("sxtb16 %0, %1, ror #8" : "=r"(to[2 * i + 1]) : "r"(packed));
        }
        job.in = wide;
        job.in_bytes = 2 * in_c;
    }
    for (int32_t part = 0; part < 2; part++) {
        int8_t rest[4];
        if (part) { /* the last one to three outputs */
            if (!(out_c & 3)) {
                break;
            }
            job.weights += (out_c & ~3) * in_c;
            job.requant += (out_c & ~3) * (per_channel ? 4 : 1);
            job.out = rest;
            job.blocks = 1;
        } else if (!job.blocks) {
            continue;
        }
        if (use_wide) {
            per_channel ? ek_fc_dot_wide_channel(&job) : ek_fc_dot_wide_tensor(&job);
        } else {
            per_channel ? ek_fc_dot_narrow_channel(&job) : ek_fc_dot_narrow_tensor(&job);
        }
        if (part) {
            for (int32_t i = 0; i < (out_c & 3); i++) {
                out[(out_c & ~3) + i] = rest[i];
            }
        }
    }
    if (clamp) {
        ek_clamp_s8_dsp(out, out_c, low, high);
    }
}

#endif
