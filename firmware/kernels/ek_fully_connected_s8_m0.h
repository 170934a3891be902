/* FULLY_CONNECTED, int8, on Cortex-M0 and M0+: four outputs at a time.
 *
 * weights: [ceil(out / 4)][depth][4 outputs] as weight + 128, which LDRB takes with an immediate
 * offset; the excess, 128 times the sum of the inputs, is the start value of the accumulators.
 */
#ifndef EK_FULLY_CONNECTED_S8_M0_H
#define EK_FULLY_CONNECTED_S8_M0_H

#include "ek_math.h"

typedef struct {
    const int8_t *in;       /* of the tap after the last */
    const uint8_t *weights; /* out: where the next four outputs' start */
    int32_t depth;
    int32_t sums[4];        /* in: start values, out: sums */
} ek_fc_m0_job_t;

#define EK_FC_M0_TAP(w0, w1, w2, w3) \
    "ldrsb r0, [r5, r7]\n" \
    "ldrb r1, [r6, #" w0 "]\n" \
    "ldrb r2, [r6, #" w1 "]\n" \
    "ldrb r3, [r6, #" w2 "]\n" \
    "ldrb r4, [r6, #" w3 "]\n" \
    "muls r1, r0, r1\n" \
    "muls r2, r0, r2\n" \
    "muls r3, r0, r3\n" \
    "muls r4, r0, r4\n" \
    "add r8, r8, r1\n" \
    "add r9, r9, r2\n" \
    "add r10, r10, r3\n" \
    "add r11, r11, r4\n" \
    "adds r7, #1\n"

/* depth is a multiple of four */
EK_ASSEMBLY void
ek_fc_dot_m0(ek_fc_m0_job_t *job __attribute__((unused)))
{
    __asm__ volatile(
        ".syntax unified\n"
        "push {r4-r7, lr}\n"
        "mov r1, r8\n"
        "mov r2, r9\n"
        "mov r3, r10\n"
        "mov r4, r11\n"
        "push {r0-r4}\n"
        "ldmia r0!, {r5, r6, r7}\n"
        "rsbs r7, r7, #0\n"
        "ldmia r0!, {r1-r4}\n"
        "mov r8, r1\n"
        "mov r9, r2\n"
        "mov r10, r3\n"
        "mov r11, r4\n"
        "1:\n"
        EK_FC_M0_TAP("0", "1", "2", "3")
        EK_FC_M0_TAP("4", "5", "6", "7")
        EK_FC_M0_TAP("8", "9", "10", "11")
        EK_FC_M0_TAP("12", "13", "14", "15")
        "adds r6, #16\n"
        "cmp r7, #0\n"
        "bne 1b\n"
        "pop {r0}\n"
        "str r6, [r0, #4]\n"
        "adds r0, #12\n"
        "mov r1, r8\n"
        "mov r2, r9\n"
        "mov r3, r10\n"
        "mov r4, r11\n"
        "stmia r0!, {r1-r4}\n"
        "pop {r1-r4}\n"
        "mov r8, r1\n"
        "mov r9, r2\n"
        "mov r10, r3\n"
        "mov r11, r4\n"
        "pop {r4-r7, pc}\n");
}

/* One row: in [depth], out [outputs]; depth a multiple of four. bias [outputs]; multipliers and
 * shifts [outputs] or [1]. */
EK_KERNEL void
ek_fully_connected_s8_m0(const int8_t *in, const uint8_t *weights, const int32_t *bias,
                         const int32_t *multipliers, const int8_t *shifts, int32_t per_channel,
                         int32_t depth, int32_t outputs, int32_t mode, int32_t output_zero,
                         int32_t low, int32_t high, int8_t *out)
{
    ek_fc_m0_job_t job = {.in = in + depth, .weights = weights, .depth = depth};
    int32_t excess = 0;
    EK_UNROLL_4
    for (int32_t i = 0; i < depth; i++) {
        excess += in[i];
    }
    excess *= -128;
    for (int32_t o = 0; o < outputs; o += 4) {
        for (int32_t i = 0; i < 4; i++) {
            job.sums[i] = excess;
        }
        ek_fc_dot_m0(&job);
        for (int32_t i = 0; i < 4 && o + i < outputs; i++) {
            const int32_t c = per_channel ? o + i : 0;
            out[o + i] = ek_output_s8(job.sums[i] + bias[o + i], multipliers[c], shifts[c], mode,
                                      output_zero, low, high);
        }
    }
}

#endif
