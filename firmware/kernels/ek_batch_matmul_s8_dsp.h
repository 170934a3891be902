/* BATCH_MATMUL, int8, on cores with the DSP extension: the columns of rhs are brought into rows
 * once per matrix, then six rows of lhs at a time run over them (ek_dot_s8_dsp.h).
 *
 * With x = lhs - zero_l the sum is x * rhs - zero_r * (sum of a row's x). The row's sum becomes two
 * more elements of x, whose weights add up to -zero_r (which may be 128, so it takes two).
 */
#ifndef EK_BATCH_MATMUL_S8_DSP_H
#define EK_BATCH_MATMUL_S8_DSP_H

#include "ek_conv_2d_s8_dsp.h"

/* scratch: columns * 4 * groups bytes of weights, then 48 * groups of inputs; 8-byte aligned.
 * groups: of four of the depth + 2 elements (depth alone if zero_r is 0). depth <= 128.
 * requant: `columns` equal entries of the exact requantisation. Steps as in ek_batch_matmul_s8.h. */
EK_KERNEL void
ek_batch_matmul_s8_dsp(const int8_t *lhs, const int8_t *rhs, const int32_t *requant,
                       int8_t *scratch, int32_t n0, int32_t n1, int32_t l0, int32_t l1,
                       int32_t r0, int32_t r1, int32_t rows, int32_t depth, int32_t columns,
                       int32_t l_row, int32_t l_step, int32_t r_step, int32_t r_column,
                       int32_t zero_l, int32_t zero_r, int8_t *out)
{
    const int32_t groups = (depth + (zero_r ? 2 : 0) + 3) >> 2;
    int16_t *wide = (int16_t *)(void *)(scratch + ((4 * groups * columns + 7) & ~7));
    ek_dsp_job_t job = {
        .columns = wide, .weights = scratch, .requant = requant, .stride = columns,
        .groups = groups,
    };
    for (int32_t i = 0; i < EK_DSP_COLUMN_BYTES(groups) / 2; i++) {
        wide[i] = 0;
    }
    for (int32_t a = 0; a < n0; a++) {
        for (int32_t b = 0; b < n1; b++) {
            const int8_t *r = rhs + a * r0 + b * r1;
            for (int32_t j = 0; j < columns; j++, r += r_column) {
                int8_t *row = scratch + 4 * groups * j;
                int32_t k = 0;
                EK_UNROLL_4
                for (; k < depth; k++) {
                    row[k] = r[k * r_step];
                }
                if (zero_r) {
                    row[k++] = (int8_t)(-zero_r / 2);
                    row[k++] = (int8_t)(-zero_r - -zero_r / 2);
                }
                for (; k < 4 * groups; k++) {
                    row[k] = 0;
                }
            }
            const int8_t *l = lhs + a * l0 + b * l1;
            for (int32_t left = rows; left > 0; left -= EK_DSP_PIXELS) {
                job.pixels = left < EK_DSP_PIXELS ? left : EK_DSP_PIXELS;
                for (int32_t p = 0; p < job.pixels; p++, l += l_row) {
                    int16_t *column = wide + 4 * p;
                    int32_t total = 0;
                    EK_UNROLL_4
                    for (int32_t k = 0; k < depth; k++) {
                        const int32_t value = l[k * l_step] - zero_l;
                        total += value;
                        column[EK_COLUMN_INDEX(k)] = (int16_t)value;
                    }
                    if (zero_r) {
                        column[EK_COLUMN_INDEX(depth)] = (int16_t)total;
                        column[EK_COLUMN_INDEX(depth + 1)] = (int16_t)total;
                    }
                }
                job.out = out;
                job.out_end = out + columns;
                ek_dot_s8_dsp(&job, 0);
                out += job.pixels * columns;
            }
        }
    }
}

#endif
