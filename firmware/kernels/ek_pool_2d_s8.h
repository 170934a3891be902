/* AVERAGE_POOL_2D and MAX_POOL_2D, int8, portable C.
 *
 * input: batches x in_h x in_w x channels; output: batches x out_h x out_w x channels, in
 * ascending order; it may overwrite what is no longer needed. Padding takes no part.
 */
#ifndef EK_POOL_2D_S8_H
#define EK_POOL_2D_S8_H

#include "ek_math.h"

EK_KERNEL void ek_pool_2d_s8(
    const int8_t *input, int32_t is_max, int32_t in_h, int32_t in_w, int32_t channels,
    int32_t out_h, int32_t out_w, int32_t batches, int32_t window_h, int32_t window_w,
    int32_t stride_h, int32_t stride_w, int32_t pad_top, int32_t pad_left, int32_t low,
    int32_t high, int8_t *output
) {
    /* With every window inside, its size is a literal and the division a multiplication. */
    const int32_t inside = pad_top == 0 && pad_left == 0 &&
                           (out_h - 1) * stride_h + window_h <= in_h &&
                           (out_w - 1) * stride_w + window_w <= in_w;
    for (int32_t b = 0; b < batches; ++b) {
        for (int32_t oy = 0; oy < out_h; ++oy) {
            for (int32_t ox = 0; ox < out_w; ++ox) {
                int32_t top = oy * stride_h - pad_top, bottom = top + window_h;
                int32_t left = ox * stride_w - pad_left, right = left + window_w;
                if (!inside) {
                    top = top < 0 ? 0 : top;
                    left = left < 0 ? 0 : left;
                    bottom = bottom > in_h ? in_h : bottom;
                    right = right > in_w ? in_w : right;
                }
                const int32_t rows = inside ? window_h : bottom - top;
                const int32_t columns = inside ? window_w : right - left;
                const int8_t *corner = input + (top * in_w + left) * channels;
                for (int32_t c = 0; c < channels; ++c) {
                    const int8_t *row = corner + c;
                    int32_t value = is_max ? -128 : 0;
                    for (int32_t y = 0; y < rows; ++y) {
                        const int8_t *x = row;
                        for (int32_t i = 0; i < columns; ++i) {
                            const int32_t v = *x;
                            if (is_max) {
                                value = v > value ? v : value;
                            } else {
                                value += v;
                            }
                            x += channels;
                        }
                        row += in_w * channels;
                    }
                    if (!is_max) {
                        const int32_t count = rows * columns;
                        value = (value > 0 ? value + count / 2 : value - count / 2) / count;
                    }
                    *output++ = (int8_t)ek_clamp(value, low, high);
                }
            }
        }
        input += in_h * in_w * channels;
    }
}

EK_KERNEL void ek_average_pool_2d_s8(
    const int8_t *input, int32_t in_h, int32_t in_w, int32_t channels, int32_t out_h,
    int32_t out_w, int32_t batches, int32_t window_h, int32_t window_w, int32_t stride_h,
    int32_t stride_w, int32_t pad_top, int32_t pad_left, int32_t low, int32_t high,
    int8_t *output
) {
    ek_pool_2d_s8(
        input, 0, in_h, in_w, channels, out_h, out_w, batches, window_h, window_w, stride_h,
        stride_w, pad_top, pad_left, low, high, output
    );
}

EK_KERNEL void ek_max_pool_2d_s8(
    const int8_t *input, int32_t in_h, int32_t in_w, int32_t channels, int32_t out_h,
    int32_t out_w, int32_t batches, int32_t window_h, int32_t window_w, int32_t stride_h,
    int32_t stride_w, int32_t pad_top, int32_t pad_left, int32_t low, int32_t high,
    int8_t *output
) {
    ek_pool_2d_s8(
        input, 1, in_h, in_w, channels, out_h, out_w, batches, window_h, window_w, stride_h,
        stride_w, pad_top, pad_left, low, high, output
    );
}

#endif
