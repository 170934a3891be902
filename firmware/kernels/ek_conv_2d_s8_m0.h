/* CONV_2D, int8, on Cortex-M0 and M0+: widens the inputs of four output pixels into `columns`,
 * then runs all output channels over them (ek_dot_s8_m0.h).
 */
#ifndef EK_CONV_2D_S8_M0_H
#define EK_CONV_2D_S8_M0_H

#include "ek_dot_s8_m0.h"

/* `count` values go to every fourth word of a column; returns their sum added to `sum`. */
EK_KERNEL int32_t ek_widen_m0(const int8_t *in, int32_t count, int32_t *column, int32_t sum)
{
    EK_UNROLL_4
    for (int32_t i = 0; i < count; i++) {
        const int32_t x = in[i];
        column[4 * i] = x;
        sum += x;
    }
    return sum;
}

/* Channels whose sums are kept at a time where the requantisation is ek_math.h's. */
#define EK_M0_CHANNELS 16

/* All channels of the pixels that are in the columns; their outputs go to `out`.
 * shift: of the linear requantisation; 0: the multipliers and shifts of ek_math.h, by way of
 * `sums` [EK_M0_CHANNELS][4]. */
EK_KERNEL void ek_conv_2d_pixels_m0(ek_m0_job_t *job, const int32_t *columns,
                                    const uint8_t *weights, const int32_t *requant, int32_t out_c,
                                    int32_t shift, const int32_t *multipliers, const int8_t *shifts,
                                    int32_t mode, int32_t output_zero, int32_t low, int32_t high,
                                    int32_t *sums, int8_t *out)
{
    job->columns = columns;
    if (shift) {
        job->weights = weights;
        job->requant = requant;
        job->channels = out_c;
        job->out = out;
        ek_dot_s8_m0_linear(job);
        return;
    }
    for (int32_t first = 0; first < out_c; first += EK_M0_CHANNELS) {
        const int32_t count = out_c - first < EK_M0_CHANNELS ? out_c - first : EK_M0_CHANNELS;
        job->weights = weights + first * job->depth;
        job->requant = requant + first;
        job->channels = count; /* which it counts down */
        job->out = sums;
        ek_dot_s8_m0_raw(job);
        for (int32_t c = 0; c < count; c++) {
            const int32_t at = first + c;
            for (int32_t p = 0; p < job->pixels; p++) {
                out[p * out_c + at] = ek_output_s8(sums[4 * c + p], multipliers[at], shifts[at],
                                                   mode, output_zero, low, high);
            }
        }
    }
}

/* in [in_h][in_w][in_c], weights [out_c][k_h][k_w][in_c] as weight + 128, out [out_h][out_w][out_c].
 * Inputs outside the image are zero_point. columns: 16 * depth bytes; without a linear
 * requantisation (shift 0) 16 * EK_M0_CHANNELS bytes for sums follow. skip = -depth & 7. */
EK_KERNEL void
ek_conv_2d_any_s8_m0(const int8_t *in, const uint8_t *weights, const int32_t *requant,
                 const int32_t *multipliers, const int8_t *shifts, int32_t *columns,
                 int32_t in_h, int32_t in_w, int32_t in_c, int32_t out_h, int32_t out_w,
                 int32_t out_c, int32_t k_h, int32_t k_w, int32_t stride_h, int32_t stride_w,
                 int32_t pad_h, int32_t pad_w, int32_t zero_point, int32_t shift, int32_t mode,
                 int32_t output_zero, int32_t low, int32_t high, int8_t *out)
{
    const int32_t depth = k_h * k_w * in_c;
    ek_m0_job_t job;
    job.end = columns + 4 * depth;
    job.skip = (uint32_t)-depth & 7u;
    job.stride = out_c;
    job.depth = depth;
    job.shift = shift;
    job.pixels = 0;
    for (int32_t y = 0; y < out_h; y++) {
        const int32_t top = y * stride_h - pad_h;
        for (int32_t x = 0; x < out_w; x++) {
            const int32_t left = x * stride_w - pad_w;
            int32_t *column = columns + job.pixels;
            int32_t sum = 0;
            for (int32_t ky = 0; ky < k_h; ky++) {
                const int8_t *row = in + ((top + ky) * in_w + left) * in_c;
                const int row_inside = (uint32_t)(top + ky) < (uint32_t)in_h;
                if (row_inside && left >= 0 && left + k_w <= in_w) {
                    sum = ek_widen_m0(row, k_w * in_c, column, sum);
                    column += 4 * k_w * in_c;
                    continue;
                }
                for (int32_t kx = 0; kx < k_w; kx++) {
                    if (row_inside && (uint32_t)(left + kx) < (uint32_t)in_w) {
                        sum = ek_widen_m0(row + kx * in_c, in_c, column, sum);
                    } else {
                        for (int32_t i = 0; i < in_c; i++) {
                            column[4 * i] = zero_point;
                        }
                        sum += in_c * zero_point;
                    }
                    column += 4 * in_c;
                }
            }
            job.start[job.pixels] = -128 * sum;
            if (++job.pixels == EK_M0_PIXELS) {
                ek_conv_2d_pixels_m0(&job, columns, weights, requant, out_c, shift, multipliers,
                                     shifts, mode, output_zero, low, high, columns + 4 * depth,
                                     out);
                out += EK_M0_PIXELS * out_c;
                job.pixels = 0;
            }
        }
    }
    if (job.pixels) {
        ek_conv_2d_pixels_m0(&job, columns, weights, requant, out_c, shift, multipliers, shifts,
                             mode, output_zero, low, high, columns + 4 * depth, out);
    }
}

/* With ek_math.h's requantisation. */
EK_KERNEL void
ek_conv_2d_s8_m0(const int8_t *in, const uint8_t *weights, const int32_t *biases,
                 const int32_t *multipliers, const int8_t *shifts, int32_t *columns,
                 int32_t in_h, int32_t in_w, int32_t in_c, int32_t out_h, int32_t out_w,
                 int32_t out_c, int32_t k_h, int32_t k_w, int32_t stride_h, int32_t stride_w,
                 int32_t pad_h, int32_t pad_w, int32_t zero_point, int32_t mode,
                 int32_t output_zero, int32_t low, int32_t high, int8_t *out)
{
    ek_conv_2d_any_s8_m0(in, weights, biases, multipliers, shifts, columns, in_h, in_w, in_c, out_h,
                         out_w, out_c, k_h, k_w, stride_h, stride_w, pad_h, pad_w, zero_point, 0,
                         mode, output_zero, low, high, out);
}

/* With the linear requantisation of ek_dot_s8_m0.h. */
EK_KERNEL void
ek_conv_2d_s8_m0_linear(const int8_t *in, const uint8_t *weights, const int32_t *requant,
                        int32_t *columns, int32_t in_h, int32_t in_w, int32_t in_c, int32_t out_h,
                        int32_t out_w, int32_t out_c, int32_t k_h, int32_t k_w, int32_t stride_h,
                        int32_t stride_w, int32_t pad_h, int32_t pad_w, int32_t zero_point,
                        int32_t shift, int32_t clamp, int32_t low, int32_t high, int8_t *out)
{
    ek_conv_2d_any_s8_m0(in, weights, requant, 0, 0, columns, in_h, in_w, in_c, out_h, out_w, out_c,
                         k_h, k_w, stride_h, stride_w, pad_h, pad_w, zero_point, shift, 0, 0, 0, 0,
                         out);
    if (clamp) { /* to what int8's own range does not */
        EK_UNROLL_4
        for (int32_t i = 0; i < out_h * out_w * out_c; i++) {
            out[i] = (int8_t)ek_clamp(out[i], low, high);
        }
    }
}

#endif
