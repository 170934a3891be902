/* BATCH_MATMUL, int8: products of two matrices that are both computed at run time.
 *
 * output[i][j] = requantized sum over k of (lhs[i][k] - zero_l) * (rhs[k][j] - zero_r), for
 * n0 x n1 pairs of matrices; any of the steps (in bytes) may be 0 or go along a transposed matrix.
 */
#ifndef EK_BATCH_MATMUL_S8_H
#define EK_BATCH_MATMUL_S8_H

#include "ek_math.h"

/* One row of lhs with `count` (1 or 4) columns of rhs. */
EK_KERNEL void ek_batch_matmul_block_s8(
    const int8_t *l, const int8_t *r, int32_t count, int32_t depth, int32_t l_step, int32_t r_step,
    int32_t r_column, int32_t zero_l, int32_t zero_r, int32_t multiplier, int32_t shift,
    int32_t zero, int8_t *output
) {
    int32_t sums[4] = {0, 0, 0, 0};
    int32_t total = 0;
    for (int32_t k = 0; k < depth; ++k) {
        const int32_t value = *l - zero_l;
        total += value;
        EK_UNROLL
        for (int32_t j = 0; j < count; ++j) {
            sums[j] += value * r[j * r_column];
        }
        l += l_step;
        r += r_step;
    }
    EK_UNROLL
    for (int32_t j = 0; j < count; ++j) {
        const int32_t value = ek_requantize(sums[j] - zero_r * total, multiplier, shift);
        output[j] = (int8_t)(ek_clamp(value, -128 - zero, 127 - zero) + zero);
    }
}

/* multiplier, shift: of ek_requantize; l0, l1, r0, r1: steps from one matrix to the next */
EK_KERNEL void ek_batch_matmul_s8(
    const int8_t *lhs, const int8_t *rhs, int32_t n0, int32_t n1, int32_t l0, int32_t l1,
    int32_t r0, int32_t r1, int32_t rows, int32_t depth, int32_t columns, int32_t l_row,
    int32_t l_step, int32_t r_step, int32_t r_column, int32_t zero_l, int32_t zero_r,
    int32_t multiplier, int32_t shift, int32_t zero, int8_t *output
) {
    for (int32_t a = 0; a < n0; ++a) {
        for (int32_t b = 0; b < n1; ++b) {
            const int8_t *l = lhs + a * l0 + b * l1;
            for (int32_t i = 0; i < rows; ++i) {
                const int8_t *r = rhs + a * r0 + b * r1;
                int32_t j = 0;
                for (; j + 4 <= columns; j += 4) {
                    ek_batch_matmul_block_s8(
                        l, r, 4, depth, l_step, r_step, r_column, zero_l, zero_r, multiplier,
                        shift, zero, output
                    );
                    r += 4 * r_column;
                    output += 4;
                }
                for (; j < columns; ++j) {
                    ek_batch_matmul_block_s8(
                        l, r, 1, depth, l_step, r_step, r_column, zero_l, zero_r, multiplier,
                        shift, zero, output
                    );
                    r += r_column;
                    ++output;
                }
                l += l_row;
            }
        }
    }
}

#endif
