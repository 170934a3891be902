/* Integer arithmetic that all kernels share, exact for every input.
 *
 * Right shifts of negative numbers are arithmetic in every compiler that can build this
 * (gcc and clang document it); sums that may leave the range are made unsigned.
 */
#ifndef EK_MATH_H
#define EK_MATH_H

#include <stdint.h>

#define EK_KERNEL static inline __attribute__((always_inline, unused))

/* x * multiplier * 2^(shift - 31), rounded as TensorFlow Lite does it by default: a rounding
 * doubling high multiplication (half up), then a rounding right shift (half away from zero).
 *
 * multiplier: 0 or 2^30 .. 2^31-1. shift: -31 .. 30, to the left where positive.
 *
 * The first rounding of TensorFlow Lite nudges by 2^30 or 1 - 2^30 and divides towards zero,
 * which is floor((x * multiplier + 2^30) / 2^31) for either sign.
 */
EK_KERNEL int32_t ek_requantize(int32_t x, int32_t multiplier, int32_t shift) {
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    const int32_t shifted = (int32_t)((uint32_t)x << left);
    const int64_t product = (int64_t)shifted * multiplier;
    const int32_t high = (int32_t)((product + ((int64_t)1 << 30)) >> 31);
    if (right == 0) {
        return high;
    }
    /* The bit below the result rounds half up; at exactly half a negative goes down instead. */
    const int32_t mask = (int32_t)(((uint32_t)1 << right) - 1u);
    const int32_t threshold = (mask >> 1) + (high < 0 ? 1 : 0);
    const int32_t result = high >> right;
    return result + ((high & mask) > threshold ? 1 : 0);
}

EK_KERNEL int32_t ek_clamp(int32_t x, int32_t low, int32_t high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

#endif
