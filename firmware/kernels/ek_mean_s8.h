/* MEAN over any axes, int8. */
#ifndef EK_MEAN_S8_H
#define EK_MEAN_S8_H

#include "ek_math.h"

/* Kept dimensions k0 x k1 x k2 and reduced ones r0 x r1, each with its stride in the input, in
 * bytes; bias is minus the number of reduced elements times the input's zero point.
 *
 * output: k0 x k1 x k2, apart from the input
 */
EK_KERNEL void ek_mean_s8(
    const int8_t *input, int32_t k0, int32_t k1, int32_t k2, int32_t r0, int32_t r1,
    int32_t k0_step, int32_t k1_step, int32_t k2_step, int32_t r0_step, int32_t r1_step,
    int32_t bias, int32_t multiplier, int32_t shift, int32_t zero, int8_t *output
) {
    for (int32_t a = 0; a < k0; ++a) {
        for (int32_t b = 0; b < k1; ++b) {
            for (int32_t c = 0; c < k2; ++c) {
                const int8_t *from = input + a * k0_step + b * k1_step + c * k2_step;
                int32_t sum = bias;
                for (int32_t i = 0; i < r0; ++i) {
                    const int8_t *x = from;
                    for (int32_t j = 0; j < r1; ++j) {
                        sum += *x;
                        x += r1_step;
                    }
                    from += r0_step;
                }
                *output++ = ek_output_s8(sum, multiplier, shift, EK_ANY, zero, -128, 127);
            }
        }
    }
}

#endif
