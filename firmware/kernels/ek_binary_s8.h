/* ADD, SUB, MUL and SQUARED_DIFFERENCE, int8, with broadcasting.
 *
 * Shapes are d0 x d1 x d2 x d3 after merging dimensions; each input has a stride in bytes per
 * dimension, 0 where it is broadcast. The output is dense. It may start at or below an input
 * that has the output's shape, or be it.
 */
#ifndef EK_BINARY_S8_H
#define EK_BINARY_S8_H

#include "ek_math.h"

/* An input of ek_add_one_s8 at the common scale. Only the input of the larger scale has the shift
 * 0; its factor is then a half, which is exact.
 */
EK_KERNEL int32_t ek_add_scaled(int32_t x, int32_t multiplier, int32_t shift) {
    /* |x| <= 255, so that nothing reaches 2^30 before the last multiplication. */
    return shift == 0 ? x * (1 << 19) : ek_requantize_down(x * (1 << 20), multiplier, shift);
}

/* TensorFlow Lite's ADD brings both inputs to a common scale with 20 bits below the point.
 *
 * multipliers: of ek_requantize; shifts: 0 .. -31; sign: 1 adds, -1 subtracts
 */
EK_KERNEL int8_t ek_add_one_s8(
    int32_t a, int32_t b, int32_t sign, int32_t zero_a, int32_t multiplier_a, int32_t shift_a,
    int32_t zero_b, int32_t multiplier_b, int32_t shift_b, int32_t multiplier, int32_t shift,
    int32_t zero, int32_t low, int32_t high
) {
    const int32_t scaled_a = ek_add_scaled(a - zero_a, multiplier_a, shift_a);
    const int32_t scaled_b = ek_add_scaled(b - zero_b, multiplier_b, shift_b);
    const int32_t sum = sign < 0 ? scaled_a - scaled_b : scaled_a + scaled_b;
    return (int8_t)ek_clamp(ek_requantize_down(sum, multiplier, shift) + zero, low, high);
}

EK_KERNEL void ek_add_s8(
    const int8_t *input_a, const int8_t *input_b, int32_t d0, int32_t d1, int32_t d2, int32_t d3,
    int32_t a0, int32_t a1, int32_t a2, int32_t a3, int32_t b0, int32_t b1, int32_t b2,
    int32_t b3, int32_t sign, int32_t zero_a, int32_t multiplier_a, int32_t shift_a,
    int32_t zero_b, int32_t multiplier_b, int32_t shift_b, int32_t multiplier, int32_t shift,
    int32_t zero, int32_t low, int32_t high, int8_t *output
) {
    for (int32_t i = 0; i < d0; ++i) {
        for (int32_t j = 0; j < d1; ++j) {
            for (int32_t k = 0; k < d2; ++k) {
                const int8_t *a = input_a + i * a0 + j * a1 + k * a2;
                const int8_t *b = input_b + i * b0 + j * b1 + k * b2;
                for (int32_t l = 0; l < d3; ++l) {
                    *output++ = ek_add_one_s8(
                        *a, *b, sign, zero_a, multiplier_a, shift_a, zero_b, multiplier_b,
                        shift_b, multiplier, shift, zero, low, high
                    );
                    a += a3;
                    b += b3;
                }
            }
        }
    }
}

/* The same where the host found constants with which one shift gives every result:
 * clamp((a * factor_a + b * factor_b + bias) >> q).
 */
EK_KERNEL int8_t ek_add_one_linear_s8(
    int32_t a, int32_t b, int32_t factor_a, int32_t factor_b, int32_t bias, int32_t q, int32_t low,
    int32_t high
) {
    const int32_t sum = bias + a * factor_a + b * factor_b;
#if defined(__ARM_FEATURE_SAT) && defined(__OPTIMIZE__)
    if (low == -128 && high == 127 && __builtin_constant_p(q)) {
        int32_t result;
        __asm__("ssat %0, #8, %1, asr %2" : "=r"(result) : "r"(sum), "I"(q));
        return (int8_t)result;
    }
#endif
    return (int8_t)ek_clamp(sum >> q, low, high);
}

EK_KERNEL void ek_add_linear_s8(
    const int8_t *input_a, const int8_t *input_b, int32_t d0, int32_t d1, int32_t d2, int32_t d3,
    int32_t a0, int32_t a1, int32_t a2, int32_t a3, int32_t b0, int32_t b1, int32_t b2,
    int32_t b3, int32_t factor_a, int32_t factor_b, int32_t bias, int32_t q, int32_t low,
    int32_t high, int8_t *output
) {
    for (int32_t i = 0; i < d0; ++i) {
        for (int32_t j = 0; j < d1; ++j) {
            for (int32_t k = 0; k < d2; ++k) {
                const int8_t *a = input_a + i * a0 + j * a1 + k * a2;
                const int8_t *b = input_b + i * b0 + j * b1 + k * b2;
                EK_UNROLL_4
                for (int32_t l = 0; l < d3; ++l) {
                    *output++ = ek_add_one_linear_s8(
                        *a, *b, factor_a, factor_b, bias, q, low, high
                    );
                    a += a3;
                    b += b3;
                }
            }
        }
    }
}

/* ek_requantize_down for |x| < 2^20 */
EK_KERNEL int32_t ek_squared_difference_scaled(int32_t x, int32_t multiplier, int32_t shift) {
    const int32_t high = ek_multiply_high_small(x, multiplier);
    return shift == 0 ? high : ek_shift_right(high, -shift - 1, 0);
}

/* TensorFlow Lite Micro's SQUARED_DIFFERENCE: both inputs at a common scale with 7 bits below the
 * point (see ek_add_scaled), and the square of their difference.
 */
EK_KERNEL void ek_squared_difference_s8(
    const int8_t *input_a, const int8_t *input_b, int32_t d0, int32_t d1, int32_t d2, int32_t d3,
    int32_t a0, int32_t a1, int32_t a2, int32_t a3, int32_t b0, int32_t b1, int32_t b2,
    int32_t b3, int32_t zero_a, int32_t multiplier_a, int32_t shift_a, int32_t zero_b,
    int32_t multiplier_b, int32_t shift_b, int32_t multiplier, int32_t shift, int32_t zero,
    int32_t low, int32_t high, int8_t *output
) {
    for (int32_t i = 0; i < d0; ++i) {
        for (int32_t j = 0; j < d1; ++j) {
            for (int32_t k = 0; k < d2; ++k) {
                const int8_t *a = input_a + i * a0 + j * a1 + k * a2;
                const int8_t *b = input_b + i * b0 + j * b1 + k * b2;
                for (int32_t l = 0; l < d3; ++l) {
                    const int32_t difference =
                        ek_squared_difference_scaled((*a - zero_a) * (1 << 7), multiplier_a, shift_a) -
                        ek_squared_difference_scaled((*b - zero_b) * (1 << 7), multiplier_b, shift_b);
                    /* Below 2^30, and never negative. */
                    const int32_t square = difference * difference;
                    *output++ =
                        shift < 0
                            ? ek_output_s8(square, multiplier, -shift - 1, EK_RELU, zero, low, high)
                            : ek_output_s8(square, multiplier, shift, EK_ANY, zero, low, high);
                    a += a3;
                    b += b3;
                }
            }
        }
    }
}

/* multiplier, shift: of ek_requantize */
EK_KERNEL void ek_mul_s8(
    const int8_t *input_a, const int8_t *input_b, int32_t d0, int32_t d1, int32_t d2, int32_t d3,
    int32_t a0, int32_t a1, int32_t a2, int32_t a3, int32_t b0, int32_t b1, int32_t b2,
    int32_t b3, int32_t zero_a, int32_t zero_b, int32_t multiplier, int32_t shift, int32_t zero,
    int32_t low, int32_t high, int8_t *output
) {
    for (int32_t i = 0; i < d0; ++i) {
        for (int32_t j = 0; j < d1; ++j) {
            for (int32_t k = 0; k < d2; ++k) {
                const int8_t *a = input_a + i * a0 + j * a1 + k * a2;
                const int8_t *b = input_b + i * b0 + j * b1 + k * b2;
                EK_UNROLL_4
                for (int32_t l = 0; l < d3; ++l) {
                    const int32_t product = (*a - zero_a) * (*b - zero_b);
                    *output++ =
                        shift < 0 ? ek_output_s8(product, multiplier, -shift - 1,
                                                 EK_DOWN | EK_SMALL, zero, low, high)
                                  : ek_output_s8(product, multiplier, shift, EK_ANY, zero, low, high);
                    a += a3;
                    b += b3;
                }
            }
        }
    }
}

#endif
