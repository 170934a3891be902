/* CONV_2D, int8, portable C.
 *
 * The window of each output pixel is gathered into scratch with the padding filled in, so one
 * loop without tests computes every pixel; two pixels and two channels share their loads.
 */
#ifndef EK_CONV_2D_S8_H
#define EK_CONV_2D_S8_H

#include "ek_dot_s8.h"

/* Copies the window whose top left input pixel is (y, x), outside of the input or not, to `to`:
 * window_h x window_w x in_c bytes, `fill` where there is no input.
 */
EK_KERNEL void ek_gather_s8(
    const int8_t *input, int32_t in_h, int32_t in_w, int32_t in_pitch, int32_t in_c, int32_t y,
    int32_t x, int32_t window_h, int32_t window_w, int32_t dilation_h, int32_t dilation_w,
    int32_t fill, int8_t *to
) {
    for (int32_t ky = 0; ky < window_h; ++ky, y += dilation_h) {
        const int8_t *row = input + y * in_w * in_pitch;
        if (y < 0 || y >= in_h) {
            ek_fill(to, fill, window_w * in_c);
        } else if (dilation_w == 1 && in_pitch == in_c && x >= 0 && x + window_w <= in_w) {
            ek_copy(to, row + x * in_pitch, window_w * in_c);
        } else {
            int8_t *pixel = to;
            for (int32_t kx = 0; kx < window_w; ++kx) {
                const int32_t at = x + kx * dilation_w;
                if (at < 0 || at >= in_w) {
                    ek_fill(pixel, fill, in_c);
                } else {
                    ek_copy(pixel, row + at * in_pitch, in_c);
                }
                pixel += in_c;
            }
        }
        to += window_w * in_c;
    }
}

/* output[b][y][x][c] = sum over the window of input * weights, plus bias, requantised
 *
 * input:   batches x in_h x in_w x (groups * in_c)
 * weights: out_c x window_h x window_w x in_c
 * bias:    out_c; the bias minus the input's zero point times the sum of the channel's weights
 * multipliers, shifts: out_c each, as `mode` of ek_output_s8 wants them
 * scratch: 2 * window_h * window_w * in_c bytes
 * output:  batches x out_h x out_w x out_c; with groups == 1 it may overwrite what earlier pixel
 *          pairs have read
 * groups:  out_c / groups output channels read in_c input channels each
 */
EK_KERNEL void ek_conv_2d_s8(
    const int8_t *input, const int8_t *weights, const int32_t *bias, const int32_t *multipliers,
    const int8_t *shifts, int8_t *scratch, int32_t in_h, int32_t in_w, int32_t in_c,
    int32_t out_h, int32_t out_w, int32_t out_c, int32_t pad_top, int32_t pad_left,
    int32_t batches, int32_t groups, int32_t window_h, int32_t window_w, int32_t stride_h,
    int32_t stride_w, int32_t dilation_h, int32_t dilation_w, int32_t mode, int32_t input_zero,
    int32_t output_zero, int32_t low, int32_t high, int8_t *output
) {
    const int32_t depth = window_h * window_w * in_c;
    const int32_t pitch = groups * in_c;
    const int32_t channels = out_c / groups;
    const int32_t pixels = batches * out_h * out_w;
    for (int32_t group = 0; group < groups; ++group) {
        const int8_t *from = input + group * in_c;
        int8_t *out = output + group * channels;
        int32_t oy = 0, ox = 0;
        for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
            const int32_t pair = pixel + 1 < pixels;
            for (int32_t slot = 0; slot <= pair; ++slot) {
                ek_gather_s8(
                    from, in_h, in_w, pitch, in_c, oy * stride_h - pad_top,
                    ox * stride_w - pad_left, window_h, window_w, dilation_h, dilation_w,
                    input_zero, scratch + slot * depth
                );
                if (++ox == out_w) {
                    ox = 0;
                    if (++oy == out_h) {
                        oy = 0;
                        from += in_h * in_w * pitch;
                    }
                }
            }
            int8_t *out1 = out + (pair ? out_c : 0);
            const int32_t first = group * channels;
            const int32_t block = channels > 1 ? 2 : 1;
            for (int32_t at = 0; at < channels; at += block) {
                /* The last pair of an odd number goes back over a channel that is there. */
                const int32_t c = at + block > channels ? channels - block : at;
                ek_dot_2x2_s8(
                    scratch, scratch + depth, weights + (first + c) * depth, bias + first + c,
                    multipliers + first + c, shifts + first + c, block, depth, mode, output_zero,
                    low, high, out + c, out1 + c
                );
            }
            out = out1 + out_c;
        }
    }
}

#endif
