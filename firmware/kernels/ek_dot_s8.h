/* Sums of int8 products in int32, blocked so that a loaded byte serves several products. */
#ifndef EK_DOT_S8_H
#define EK_DOT_S8_H

#include "ek_math.h"

/* Two rows x0, x1 of depth bytes by `channels` (1 or 2) rows of weights, which follow one
 * another at a distance of depth; results go to out0[c] and out1[c].
 *
 * out1 may equal out0: the result of x0 is what stays.
 */
EK_KERNEL void ek_dot_2x2_s8(
    const int8_t *x0, const int8_t *x1, const int8_t *weights, const int32_t *bias,
    const int32_t *multipliers, const int8_t *shifts, int32_t channels, int32_t depth,
    int32_t mode, int32_t zero, int32_t low, int32_t high, int8_t *out0, int8_t *out1
) {
    const int8_t *w0 = weights, *w1 = weights + (channels - 1) * depth;
    int32_t s00 = bias[0], s01 = s00, s10 = channels > 1 ? bias[1] : 0, s11 = s10;
    int32_t left = depth;
#define EK_TAP(i)                      \
    {                                  \
        const int32_t a = x0[i];       \
        const int32_t b = x1[i];       \
        const int32_t c = w0[i];       \
        s00 += a * c;                  \
        s01 += b * c;                  \
        if (channels > 1) {            \
            const int32_t d = w1[i];   \
            s10 += a * d;              \
            s11 += b * d;              \
        }                              \
    }
    for (; left >= 4; left -= 4) {
        EK_TAP(0)
        EK_TAP(1)
        EK_TAP(2)
        EK_TAP(3)
        x0 += 4;
        x1 += 4;
        w0 += 4;
        w1 += 4;
    }
    if (left > 0) {
        EK_TAP(0)
    }
    if (left > 1) {
        EK_TAP(1)
    }
    if (left > 2) {
        EK_TAP(2)
    }
#undef EK_TAP
    out1[0] = ek_output_s8(s01, multipliers[0], shifts[0], mode, zero, low, high);
    out0[0] = ek_output_s8(s00, multipliers[0], shifts[0], mode, zero, low, high);
    if (channels > 1) {
        out1[1] = ek_output_s8(s11, multipliers[1], shifts[1], mode, zero, low, high);
        out0[1] = ek_output_s8(s10, multipliers[1], shifts[1], mode, zero, low, high);
    }
}

#endif
