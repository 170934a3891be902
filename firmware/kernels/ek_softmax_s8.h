/* SOFTMAX, int8 to int8, without floating point. */
#ifndef EK_SOFTMAX_S8_H
#define EK_SOFTMAX_S8_H

#include "ek_math.h"

/* a * b in Q0.31, rounded half up: gemmlowp's SaturatingRoundingDoublingHighMul for operands
 * that are not both -2^31, which none here is.
 */
EK_KERNEL int32_t ek_softmax_product(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* Doubling in Q0.31 with saturation, twice: a number in Q2.29 back to Q0.31. */
EK_KERNEL int32_t ek_softmax_times_4(int32_t x) {
    if (x > 0x1fffffff) {
        return 0x7fffffff;
    }
    return x < -0x20000000 ? (int32_t)(-0x7fffffff - 1) : x * 4;
}

/* 1 / (1 + x) for x in [0, 1), all in Q0.31: three Newton steps in Q2.29, as gemmlowp's
 * one_over_one_plus_x_for_x_in_0_1 takes them.
 */
EK_KERNEL int32_t ek_softmax_reciprocal(int32_t x) {
    /* The mean of x and one, rounded half away from zero (both are positive). */
    const int32_t half = (int32_t)(((int64_t)x + 0x7fffffff + 1) >> 1);
    /* 48/17 - 32/17 * half, the best linear start. */
    int32_t y = 1515870810 + ek_softmax_product(half, -1010580540);
    for (int32_t i = 0; i < 3; ++i) {
        const int32_t error = (1 << 29) - ek_softmax_product(half, y);
        y += ek_softmax_times_4(ek_softmax_product(y, error));
    }
    /* y is in Q2.29 and half of the result: doubled once it is in Q1.30, saturated to Q0.31. */
    return y > 0x3fffffff ? 0x7fffffff : y * 2;
}

/* output[row][i] = exp(input[row][i]) / sum over the row, in steps of 1/256 from -128
 *
 * input, output: rows x depth; they may be the same or the output below the input
 * exps: exps[d] = exp(-d * beta * scale) in Q0.31, as gemmlowp's exp_on_negative_values gives
 *       it; zero from exps_count (at least 1) on
 */
EK_KERNEL void ek_softmax_s8(
    const int8_t *input, const int32_t *exps, int32_t exps_count, int32_t rows, int32_t depth,
    int8_t *output
) {
    for (int32_t row = 0; row < rows; ++row) {
        int32_t top = -128;
        for (int32_t i = 0; i < depth; ++i) {
            top = input[i] > top ? input[i] : top;
        }
        /* The sum in Q12.19. */
        int32_t sum = 0;
        for (int32_t i = 0; i < depth; ++i) {
            const int32_t below = top - input[i];
            if (below < exps_count) {
                sum += ((exps[below] >> 11) + 1) >> 1;
            }
        }
        const int32_t zeros = __builtin_clz((uint32_t)sum);
        const int32_t fraction = (int32_t)(((uint32_t)sum << zeros) - 0x80000000u);
        const int32_t scale = ek_softmax_reciprocal(fraction);
        const int32_t shift = 12 - zeros + 31 - 8;
        const uint32_t half = shift > 31 ? 0 : 1u << (shift - 1);
        for (int32_t i = 0; i < depth; ++i) {
            const int32_t below = top - input[i];
            int32_t value = 0;
            if (below < exps_count) {
                const int32_t product = ek_softmax_product(scale, exps[below]);
                /* From 32 on nothing is left, as the product is below 2^31. */
                value = shift > 31 ? 0 : (int32_t)(((uint32_t)product + half) >> shift);
            }
            value -= 128;
            output[i] = (int8_t)(value > 127 ? 127 : value);
        }
        input += depth;
        output += depth;
    }
}

#endif
