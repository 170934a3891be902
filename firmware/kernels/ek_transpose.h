/* TRANSPOSE of bytes: dimensions in the output's order, with the input's steps along them. */
#ifndef EK_TRANSPOSE_H
#define EK_TRANSPOSE_H

#include "ek_math.h"

/* output[i][j][k][l] = input[i * step_0 + j * step_1 + k * step_2 + l * step_3]
 *
 * Steps in bytes. The output is dense and apart from the input. With step_3 1 whole runs of d3
 * bytes are copied.
 */
EK_KERNEL void ek_transpose(
    const void *input, int32_t d0, int32_t d1, int32_t d2, int32_t d3, int32_t step_0,
    int32_t step_1, int32_t step_2, int32_t step_3, void *output
) {
    int8_t *out = (int8_t *)output;
    for (int32_t i = 0; i < d0; ++i) {
        for (int32_t j = 0; j < d1; ++j) {
            const int8_t *in = (const int8_t *)input + i * step_0 + j * step_1;
            for (int32_t k = 0; k < d2; ++k) {
                if (step_3 == 1) {
                    ek_copy(out, in, d3);
                } else {
                    EK_UNROLL_4
                    for (int32_t l = 0; l < d3; ++l) {
                        out[l] = in[l * step_3];
                    }
                }
                out += d3;
                in += step_2;
            }
        }
    }
}

#endif
