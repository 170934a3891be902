/* BATCH_MATMUL, int8, on Cortex-M0 and M0+: the columns of rhs are brought into rows of rhs + 128
 * once per matrix, then four rows of lhs at a time run over them (ek_dot_s8_m0.h). With
 * x = lhs - zero_l their accumulators start at -(128 + zero_r) * (sum of a row's x).
 */
#ifndef EK_BATCH_MATMUL_S8_M0_H
#define EK_BATCH_MATMUL_S8_M0_H

#include "ek_conv_2d_s8_m0.h"

/* scratch: 16 * depth bytes of inputs, 16 * EK_M0_CHANNELS of sums, columns * depth of weights.
 * zeros: EK_M0_CHANNELS of them. Steps as in ek_batch_matmul_s8.h; multiplier, shift, mode: of
 * ek_output_s8. */
EK_KERNEL void
ek_batch_matmul_s8_m0(const int8_t *lhs, const int8_t *rhs, const int32_t *zeros, int32_t *scratch,
                      int32_t n0, int32_t n1, int32_t l0, int32_t l1, int32_t r0, int32_t r1,
                      int32_t rows, int32_t depth, int32_t columns, int32_t l_row, int32_t l_step,
                      int32_t r_step, int32_t r_column, int32_t zero_l, int32_t zero_r,
                      int32_t mode, int32_t multiplier, int32_t shift, int32_t zero, int8_t *out)
{
    int32_t *sums = scratch + 4 * depth;
    uint8_t *weights = (uint8_t *)(sums + 4 * EK_M0_CHANNELS);
    ek_m0_job_t job;
    job.columns = scratch;
    job.end = sums;
    job.skip = (uint32_t)-depth & 7u;
    job.depth = depth;
    for (int32_t a = 0; a < n0; a++) {
        for (int32_t b = 0; b < n1; b++) {
            const int8_t *r = rhs + a * r0 + b * r1;
            uint8_t *weight = weights;
            for (int32_t j = 0; j < columns; j++) {
                EK_UNROLL_4
                for (int32_t k = 0; k < depth; k++) {
                    *weight++ = (uint8_t)(r[k * r_step] + 128);
                }
                r += r_column;
            }
            const int8_t *l = lhs + a * l0 + b * l1;
            for (int32_t left = rows; left > 0; left -= EK_M0_PIXELS) {
                job.pixels = left < EK_M0_PIXELS ? left : EK_M0_PIXELS;
                for (int32_t p = 0; p < job.pixels; p++) {
                    int32_t total = 0;
                    EK_UNROLL_4
                    for (int32_t k = 0; k < depth; k++) {
                        const int32_t x = l[k * l_step] - zero_l;
                        scratch[4 * k + p] = x;
                        total += x;
                    }
                    job.start[p] = -(128 + zero_r) * total;
                    l += l_row;
                }
                for (int32_t first = 0; first < columns; first += EK_M0_CHANNELS) {
                    const int32_t count =
                        columns - first < EK_M0_CHANNELS ? columns - first : EK_M0_CHANNELS;
                    job.weights = weights + first * depth;
                    job.requant = zeros;
                    job.channels = count;
                    job.out = sums;
                    ek_dot_s8_m0_raw(&job);
                    for (int32_t c = 0; c < count; c++) {
                        for (int32_t p = 0; p < job.pixels; p++) {
                            out[p * columns + first + c] = ek_output_s8(
                                sums[4 * c + p], multiplier, shift, mode, zero, -128, 127);
                        }
                    }
                }
                out += job.pixels * columns;
            }
        }
    }
}

#endif
