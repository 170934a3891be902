/* CONV_2D, int8, on cores with the DSP extension: widens the inputs of six output pixels into
 * `columns`, then runs all output channels over them (ek_dot_s8_dsp.h).
 */
#ifndef EK_CONV_2D_S8_DSP_H
#define EK_CONV_2D_S8_DSP_H

#include "ek_clamp_s8_dsp.h"
#include "ek_dot_s8_dsp.h"

/* Four int8 values at `in` (any alignment) become four int16 values in SXTB16's order. */
EK_KERNEL void ek_widen4(const int8_t *in, int16_t *column)
{
    uint32_t packed;
    uint32_t even;
    uint32_t odd;
    __builtin_memcpy(&packed, in, 4);
    __asm__("sxtb16 %0, %1" : "=r"(even) : "r"(packed));
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(packed));
    ((ek_word_t *)(void *)column)[0] = even;
    ((ek_word_t *)(void *)column)[1] = odd;
}

/* Element i of a column: where SXTB16's order puts it. */
#define EK_COLUMN_INDEX(i) (((i) >> 2) * 24 + (((i) & 1) << 1) + (((i) >> 1) & 1))

/* `count` consecutive values from element `first` (a multiple of 4) of a pixel's column. What
 * the last group lacks keeps its old value: its weights are zero. */
EK_KERNEL int16_t *
ek_widen(const int8_t *in, int32_t count, int16_t *column)
{
    int32_t i = 0;
    for (; i + 16 <= count; i += 16) {
        ek_widen4(in + i, column);
        ek_widen4(in + i + 4, column + 24);
        ek_widen4(in + i + 8, column + 48);
        ek_widen4(in + i + 12, column + 72);
        column += 96;
    }
    for (; i + 4 <= count; i += 4, column += 24) {
        ek_widen4(in + i, column);
    }
    if (count & 3) {
        column[0] = in[i];
        if ((count & 3) > 1) {
            column[2] = in[i + 1];
        }
        if ((count & 3) > 2) {
            column[1] = in[i + 2];
        }
        column += 24;
    }
    return column;
}

/* 1x1, stride 1: in [pixels][in_c], out [pixels][out_c]. columns: 48 * ceil(in_c / 4) bytes,
 * 8-byte aligned. The output may overlap the input as long as no block of six pixels' output
 * reaches an input that a later block reads. q: 4 or 2 (linear), 0 (exact). clamp (literal): the
 * output is clamped to low and high, which are otherwise -128 and 127. */
EK_KERNEL void
ek_conv_2d_1x1_s8_dsp(const int8_t *in, const int8_t *weights, const int32_t *requant,
                     int16_t *columns, int32_t pixels, int32_t in_c, int32_t out_c, int32_t q,
                     int32_t clamp, int32_t low, int32_t high, int8_t *out)
{
    int8_t *const all = out;
    const int32_t count = pixels * out_c;
    ek_dsp_job_t job = {
        .columns = columns, .weights = weights, .requant = requant,
        .stride = out_c, .groups = (in_c + 3) >> 2,
    };
    while (pixels > 0) {
        job.pixels = pixels < EK_DSP_PIXELS ? pixels : EK_DSP_PIXELS;
        for (int32_t p = 0; p < job.pixels; p++) {
            ek_widen(in, in_c, columns + 4 * p);
            in += in_c;
        }
        job.out = out;
        job.out_end = out + out_c;
        ek_dot_s8_dsp(&job, q);
        out += EK_DSP_PIXELS * out_c;
        pixels -= EK_DSP_PIXELS;
    }
    if (clamp) {
        ek_clamp_s8_dsp(all, count, low, high);
    }
}

/* Any window and stride: in [in_h][in_w][in_c], weights [out_c][k_h][k_w][in_c] with every
 * channel's row padded by zeros to a multiple of 4, out [out_h][out_w][out_c]. Inputs outside
 * the image are zero_point (the bias holds -zero_point * sum of weights).
 * columns: 48 * groups bytes, 8-byte aligned. clamp, low, high: as above. */
EK_KERNEL void
ek_conv_2d_s8_dsp(const int8_t *in, const int8_t *weights, const int32_t *requant,
                 int16_t *columns, int32_t in_h, int32_t in_w, int32_t in_c, int32_t out_h,
                 int32_t out_w, int32_t out_c, int32_t k_h, int32_t k_w, int32_t stride_h,
                 int32_t stride_w, int32_t pad_h, int32_t pad_w, int32_t zero_point, int32_t q,
                 int32_t clamp, int32_t low, int32_t high, int8_t *out)
{
    const int32_t depth = k_h * k_w * in_c;
    ek_dsp_job_t job = {
        .columns = columns, .weights = weights, .requant = requant, .stride = out_c,
        .groups = (depth + 3) >> 2, .pixels = 0,
    };
    job.out = out;
    for (int32_t y = 0; y < out_h; y++) {
        const int32_t top = y * stride_h - pad_h;
        for (int32_t x = 0; x < out_w; x++) {
            const int32_t left = x * stride_w - pad_w;
            int16_t *column = columns + 4 * job.pixels;
            if ((in_c & 3) == 0) {
                /* a tap's channels are whole groups */
                const uint32_t fill = (uint32_t)(zero_point & 0xffff) * 0x10001u;
                for (int32_t ky = 0; ky < k_h; ky++) {
                    for (int32_t kx = 0; kx < k_w; kx++) {
                        if ((uint32_t)(top + ky) < (uint32_t)in_h &&
                            (uint32_t)(left + kx) < (uint32_t)in_w) {
                            column = ek_widen(in + ((top + ky) * in_w + left + kx) * in_c, in_c,
                                              column);
                        } else {
                            for (int32_t i = 0; i < in_c; i += 4, column += 24) {
                                ((ek_word_t *)(void *)column)[0] = fill;
                                ((ek_word_t *)(void *)column)[1] = fill;
                            }
                        }
                    }
                }
            } else if (top >= 0 && left >= 0 && top + k_h <= in_h && left + k_w <= in_w) {
                const int8_t *row = in + (top * in_w + left) * in_c;
EK_UNROLL
                for (int32_t ky = 0; ky < k_h; ky++) {
EK_UNROLL
                    for (int32_t i = 0; i < k_w * in_c; i++) {
                        column[EK_COLUMN_INDEX(ky * k_w * in_c + i)] = row[ky * in_w * in_c + i];
                    }
                }
            } else {
                int32_t at = 0;
                for (int32_t ky = 0; ky < k_h; ky++) {
                    for (int32_t kx = 0; kx < k_w; kx++) {
                        const int inside = (uint32_t)(top + ky) < (uint32_t)in_h &&
                                           (uint32_t)(left + kx) < (uint32_t)in_w;
                        const int8_t *pixel = in + ((top + ky) * in_w + left + kx) * in_c;
                        for (int32_t c = 0; c < in_c; c++, at++) {
                            column[EK_COLUMN_INDEX(at)] =
                                (int16_t)(inside ? pixel[c] : zero_point);
                        }
                    }
                }
            }
            if (++job.pixels == EK_DSP_PIXELS) {
                job.out_end = job.out + out_c;
                ek_dot_s8_dsp(&job, q);
                job.out += EK_DSP_PIXELS * out_c;
                job.pixels = 0;
            }
        }
    }
    if (job.pixels) {
        job.out_end = job.out + out_c;
        ek_dot_s8_dsp(&job, q);
    }
    if (clamp) {
        ek_clamp_s8_dsp(out, out_h * out_w * out_c, low, high);
    }
}

#endif
