/* CONV_2D, int8, with MVE: the inputs of two output pixels become columns in scratch, then all
 * output channels run over them (ek_dot_s8_mve.h). Nothing is written before a pair's inputs are
 * in the columns, so that the output may overlap the input.
 */
#ifndef EK_CONV_2D_S8_MVE_H
#define EK_CONV_2D_S8_MVE_H

#include "ek_dot_s8_mve.h"

EK_KERNEL void
ek_mve_offsets(ek_mve_job_t *job, int32_t row)
{
    for (int32_t i = 0; i < 4; i++) {
        job->offsets[2 * i] = (uint16_t)i;
        job->offsets[2 * i + 1] = (uint16_t)(i + row);
    }
}

/* 1x1, stride 1: in [pixels][in_c], out [pixels][out_c]; columns: 2 * in_c + 16 bytes. */
EK_KERNEL void
ek_conv_2d_1x1_s8_mve(const int8_t *in, const int8_t *weights, const int32_t *requant,
                     int8_t *columns, const int32_t pixels, const int32_t in_c,
                     const int32_t out_c, const int32_t mode, int32_t zero, const int32_t clamp,
                     int32_t low, int32_t high, int8_t *out)
{
    const int32_t groups = (in_c + 15) / 16;
    ek_mve_job_t job = {
        .requant = requant, .first = columns, .second = columns + in_c, .weights = weights,
        .end = weights + (out_c / 4) * 64 * groups,
        .last_end = weights + ((out_c + 3) / 4) * 64 * groups,
        .out = out, .in = in, .pairs = pixels / 2, .zero = zero, .low = low, .high = high,
    };
    if (pixels >= 2) {
        ek_mve_offsets(&job, out_c);
        ek_dot_s8_mve(&job, groups, out_c, 2 * in_c, mode, clamp);
    }
    if (pixels % 2) { /* the last one as both of a pair */
        ek_copy_mve(columns, in + (pixels - 1) * in_c, in_c);
        job.second = columns;
        job.out = out + (pixels - 1) * out_c;
        ek_mve_offsets(&job, 0);
        ek_dot_s8_mve(&job, groups, out_c, 0, mode, clamp);
    }
}

/* Any window and stride: in [in_h][in_w][in_c], out [out_h][out_w][out_c]. Inputs outside the
 * image are in_zero (the bias holds -in_zero * sum of weights).
 * columns: 2 * k_h * k_w * in_c + 16 bytes. */
EK_KERNEL void
ek_conv_2d_s8_mve(const int8_t *in, const int8_t *weights, const int32_t *requant,
                 int8_t *columns, const int32_t in_h, const int32_t in_w, const int32_t in_c,
                 const int32_t out_h, const int32_t out_w, const int32_t out_c,
                 const int32_t k_h, const int32_t k_w, const int32_t stride_h,
                 const int32_t stride_w, const int32_t pad_h, const int32_t pad_w,
                 int32_t in_zero, const int32_t mode, int32_t zero, const int32_t clamp,
                 int32_t low, int32_t high, int8_t *out)
{
    const int32_t depth = k_h * k_w * in_c;
    const int32_t groups = (depth + 15) / 16;
    const int32_t run = k_w * in_c; /* bytes of a window's row */
    const int32_t line = in_w * in_c;
    ek_mve_job_t job = {
        .requant = requant, .first = columns, .second = columns + depth, .weights = weights,
        .end = weights + (out_c / 4) * 64 * groups,
        .last_end = weights + ((out_c + 3) / 4) * 64 * groups,
        .out = out, .pairs = 1, .zero = zero, .low = low, .high = high,
    };
    int8_t *column = columns;
    ek_mve_offsets(&job, out_c);
    for (int32_t y = 0; y < out_h; y++) {
        const int32_t top = y * stride_h - pad_h;
        for (int32_t x = 0; x < out_w; x++) {
            const int32_t left = x * stride_w - pad_w;
            const int8_t *from = in + top * line + left * in_c;
            if (top >= 0 && left >= 0 && top + k_h <= in_h && left + k_w <= in_w) {
                int8_t *to = column;
                if (run == line) { /* rows of the window are neighbours */
                    ek_copy_mve(to, from, depth);
                } else if (run > 128) {
                    for (int32_t ky = 0; ky < k_h; ky++) {
                        ek_copy_mve(to, from, run);
                        from += line;
                        to += run;
                    }
                } else if (run >= 16) {
                    EK_UNROLL_4
                    for (int32_t ky = 0; ky < k_h; ky++) {
                        ek_copy_run_mve(to, from, run);
                        from += line;
                        to += run;
                    }
                } else {
                    EK_UNROLL
                    for (int32_t ky = 0; ky < k_h; ky++) {
                        EK_UNROLL
                        for (int32_t i = 0; i + 4 <= run; i += 4) {
                            __builtin_memcpy(to + i, from + i, 4);
                        }
                        if (run >= 4 && run % 4) {
                            __builtin_memcpy(to + run - 4, from + run - 4, 4);
                        }
                        if (run < 4) {
                            for (int32_t i = 0; i < run; i++) {
                                to[i] = from[i];
                            }
                        }
                        from += line;
                        to += run;
                    }
                }
            } else {
                const int32_t skip_x = left < 0 ? -left : 0;
                const int32_t past_x = left + k_w > in_w ? in_w - left : k_w;
                const int32_t skip_y = top < 0 ? -top : 0;
                const int32_t past_y = top + k_h > in_h ? in_h - top : k_h;
                ek_fill_mve(column, in_zero, depth);
                for (int32_t ky = skip_y; ky < past_y && skip_x < past_x; ky++) {
                    ek_copy_mve(column + ky * run + skip_x * in_c,
                                from + ky * line + skip_x * in_c, (past_x - skip_x) * in_c);
                }
            }
            if (column == columns) {
                column += depth;
            } else {
                ek_dot_s8_mve(&job, groups, out_c, 0, mode, clamp);
                job.out += 2 * out_c;
                column = columns;
            }
        }
    }
    if (out_h * out_w % 2) { /* the last one as both of a pair */
        job.second = columns;
        ek_mve_offsets(&job, 0);
        ek_dot_s8_mve(&job, groups, out_c, 0, mode, clamp);
    }
}

#endif
