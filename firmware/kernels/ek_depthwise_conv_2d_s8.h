/* DEPTHWISE_CONV_2D, int8, portable C.
 *
 * One input channel at a time is copied into a plane in scratch with its padding around it, so
 * the sums have no tests and the output may take the input's place. Up to four outputs in a
 * line (a row or a column, whichever wastes less) share the loads of the weights.
 */
#ifndef EK_DEPTHWISE_CONV_2D_S8_H
#define EK_DEPTHWISE_CONV_2D_S8_H

#include "ek_math.h"

/* `block` (1 to 4) outputs, `step` bytes of the plane and out_step bytes of the output apart. */
EK_KERNEL void ek_depthwise_block_s8(
    const int8_t *x, const int8_t *weights, int32_t bias, int32_t multiplier, int32_t shift,
    int32_t window_h, int32_t window_w, int32_t pitch, int32_t dilation_w, int32_t step,
    int32_t block, int32_t mode, int32_t zero, int32_t low, int32_t high, int32_t out_step,
    int8_t *out
) {
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias;
#define EK_ROW                                               \
    EK_UNROLL                                                \
    for (int32_t kx = 0; kx < window_w; ++kx) {              \
        const int32_t w = weights[kx];                       \
        s0 += x[kx * dilation_w] * w;                        \
        if (block > 1) {                                     \
            s1 += x[kx * dilation_w + step] * w;             \
        }                                                    \
        if (block > 2) {                                     \
            s2 += x[kx * dilation_w + 2 * step] * w;         \
        }                                                    \
        if (block > 3) {                                     \
            s3 += x[kx * dilation_w + 3 * step] * w;         \
        }                                                    \
    }                                                        \
    weights += window_w;                                     \
    x += pitch;
    if (window_h * window_w <= 9) {
        EK_UNROLL
        for (int32_t ky = 0; ky < window_h; ++ky) {
            EK_ROW
        }
    } else {
        for (int32_t ky = 0; ky < window_h; ++ky) {
            EK_ROW
        }
    }
#undef EK_ROW
    out[0] = ek_output_s8(s0, multiplier, shift, mode, zero, low, high);
    if (block > 1) {
        out[out_step] = ek_output_s8(s1, multiplier, shift, mode, zero, low, high);
    }
    if (block > 2) {
        out[2 * out_step] = ek_output_s8(s2, multiplier, shift, mode, zero, low, high);
    }
    if (block > 3) {
        out[3 * out_step] = ek_output_s8(s3, multiplier, shift, mode, zero, low, high);
    }
}

/* output[b][y][x][c * depth_multiplier + m] = sum over the window of input channel c * weights,
 * plus bias, requantised
 *
 * input:   batches x in_h x in_w x in_c
 * weights: (in_c * depth_multiplier) x window_h x window_w
 * bias, multipliers, shifts: one per output channel, as for ek_conv_2d_s8
 * scratch: plane_h * plane_w bytes, with plane = (out - 1) * stride + (window - 1) * dilation + 1
 * output:  batches x out_h x out_w x (in_c * depth_multiplier); with one batch and
 *          depth_multiplier 1 it may overlap the input at a distance that is a multiple of in_c
 * columns: 1: blocks run down the columns, 0: along the rows
 * block:   outputs per block, 1 to 4 and at most the length of a line
 */
EK_KERNEL void ek_depthwise_conv_2d_s8(
    const int8_t *input, const int8_t *weights, const int32_t *bias, const int32_t *multipliers,
    const int8_t *shifts, int8_t *scratch, int32_t in_h, int32_t in_w, int32_t in_c,
    int32_t out_h, int32_t out_w, int32_t pad_top, int32_t pad_left, int32_t batches,
    int32_t depth_multiplier, int32_t window_h, int32_t window_w, int32_t stride_h,
    int32_t stride_w, int32_t dilation_h, int32_t dilation_w, int32_t columns, int32_t block,
    int32_t mode, int32_t input_zero, int32_t output_zero, int32_t low, int32_t high,
    int8_t *output
) {
    const int32_t plane_h = (out_h - 1) * stride_h + (window_h - 1) * dilation_h + 1;
    const int32_t plane_w = (out_w - 1) * stride_w + (window_w - 1) * dilation_w + 1;
    const int32_t copy_h = in_h < plane_h - pad_top ? in_h : plane_h - pad_top;
    const int32_t copy_w = in_w < plane_w - pad_left ? in_w : plane_w - pad_left;
    const int32_t out_c = in_c * depth_multiplier;
    const int32_t row_step = stride_h * plane_w, row_out = out_w * out_c;
    const int32_t lines = columns ? out_w : out_h;
    const int32_t length = columns ? out_h : out_w;
    const int32_t line_step = columns ? stride_w : row_step;
    const int32_t line_out = columns ? out_c : row_out;
    const int32_t step = columns ? row_step : stride_w;
    const int32_t out_step = columns ? row_out : out_c;
    ek_fill(scratch, input_zero, plane_h * plane_w);
    for (int32_t plane = 0; plane < batches * in_c; ++plane) {
        const int32_t batch = plane / in_c, c = plane - batch * in_c;
        const int8_t *from = input + batch * in_h * in_w * in_c + c;
        int8_t *to = scratch + pad_top * plane_w + pad_left;
        for (int32_t y = 0; y < copy_h; ++y) {
            const int8_t *pixel = from;
            EK_UNROLL_4
            for (int32_t x = 0; x < copy_w; ++x) {
                to[x] = *pixel;
                pixel += in_c;
            }
            from += in_w * in_c;
            to += plane_w;
        }
        for (int32_t m = 0; m < depth_multiplier; ++m) {
            const int32_t channel = c * depth_multiplier + m;
            const int32_t multiplier = multipliers[channel], shift = shifts[channel];
            const int8_t *line_x = scratch;
            int8_t *line = output + batch * out_h * row_out + channel;
            for (int32_t i = 0; i < lines; ++i) {
                /* The last block of a line goes back over outputs that are there already. */
                for (int32_t at = 0; at < length; at += block) {
                    const int32_t start = at + block > length ? length - block : at;
                    ek_depthwise_block_s8(
                        line_x + start * step, weights + channel * window_h * window_w,
                        bias[channel], multiplier, shift, window_h,
                        window_w, plane_w * dilation_h, dilation_w, step, block, mode, output_zero,
                        low, high, out_step, line + start * out_step
                    );
                }
                line_x += line_step;
                line += line_out;
            }
        }
    }
}

#endif
