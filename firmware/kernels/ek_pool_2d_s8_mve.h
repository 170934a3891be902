/* AVERAGE_POOL_2D and MAX_POOL_2D, int8, with MVE, where every window is inside the input.
 *
 * in [in_h][in_w][channels], at least 8 (average) or 16 (maximum) channels; up to four vectors of
 * channels are walked together, and the last ones overlap those before where the width does not
 * divide the channels. The output must not overlap the input.
 */
#ifndef EK_POOL_2D_S8_MVE_H
#define EK_POOL_2D_S8_MVE_H

#include "ek_dot_s8_mve.h"

/* ek_at: channel at which vector n begins; the last one ends with the last channel */
#define EK_POOL_MVE_EACH(n, LINE) \
    ".if %c[vectors] > " #n "\n" \
    ".set ek_at, %c[lanes] * " #n "\n" \
    ".if %c[vectors] == " #n " + 1\n" \
    ".set ek_at, %c[last]\n" \
    ".endif\n" \
    LINE(#n) \
    ".endif\n"
#define EK_POOL_MVE_ALL(LINE) \
    EK_POOL_MVE_EACH(0, LINE) EK_POOL_MVE_EACH(1, LINE) EK_POOL_MVE_EACH(2, LINE) \
    EK_POOL_MVE_EACH(3, LINE)

/* A window: r-registers are the compiler's choice; q0 to q3 results, q4 and q5 free. */
#define EK_POOL_MVE_WALK(ADD) \
    "1:\n" \
    "dls lr, %[columns]\n" \
    "2:\n" \
    EK_POOL_MVE_ALL(ADD) \
    "add %[in], %[pixel]\n" \
    "le lr, 2b\n" \
    "add %[in], %[onward]\n" \
    "subs %[rows], #1\n" \
    "bne 1b\n"

#define EK_POOL_MVE_ZERO(n) "vmov.i16 q" n ", #0\n"
#define EK_POOL_MVE_SUM(n) \
    "vldrb.s16 q4, [%[in], #ek_at]\n" \
    "vadd.i16 q" n ", q" n ", q4\n"
/* (|sum| + half) / count by a high multiply; q6 multiplier, q7 half */
#define EK_POOL_MVE_DIVIDE(n) \
    "vabs.s16 q4, q" n "\n" \
    "vadd.i16 q4, q4, q7\n" \
    "vmulh.u16 q4, q4, q6\n" \
    ".if %c[shift]\n" \
    "vshr.u16 q4, q4, #%c[shift]\n" \
    ".endif\n" \
    "vshr.s16 q5, q" n ", #15\n" \
    "veor q4, q4, q5\n" \
    "vsub.i16 q4, q4, q5\n" \
    ".if %c[clamp]\n" \
    "vdup.16 q5, %[low]\n" \
    "vmax.s16 q4, q4, q5\n" \
    "vdup.16 q5, %[high]\n" \
    "vmin.s16 q4, q4, q5\n" \
    ".endif\n" \
    "vstrb.16 q4, [%[out], #ek_at]\n"

EK_KERNEL void
ek_average_mve(const int8_t *in, int32_t rows, int32_t columns, int32_t pixel, int32_t onward,
               const int32_t vectors, const int32_t last, int32_t multiplier, int32_t half,
               const int32_t shift, const int32_t clamp, int32_t low, int32_t high, int8_t *out)
{
    __asm__ volatile(
        EK_MVE_ASM
        "vdup.16 q6, %[multiplier]\n"
        "vdup.16 q7, %[half]\n"
        EK_POOL_MVE_ALL(EK_POOL_MVE_ZERO)
        EK_POOL_MVE_WALK(EK_POOL_MVE_SUM)
        EK_POOL_MVE_ALL(EK_POOL_MVE_DIVIDE)
        : [in] "+&l"(in), [rows] "+&r"(rows)
        : [columns] "r"(columns), [pixel] "r"(pixel), [onward] "r"(onward), [out] "l"(out),
          [multiplier] "r"(multiplier), [half] "r"(half), [low] "r"(low), [high] "r"(high),
          [vectors] "i"(vectors), [lanes] "i"(8), [last] "i"(last),
          [shift] "i"(shift), [clamp] "i"(clamp)
        : "lr", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory", "cc");
}

/* The quotient of at most 2^15 + count / 2 by the window's size is
 * (x * multiplier) >> (16 + shift). */
EK_KERNEL void
ek_average_pool_2d_s8_mve(const int8_t *in, const int32_t in_w, const int32_t channels,
                          const int32_t out_h, const int32_t out_w, const int32_t window_h,
                          const int32_t window_w, const int32_t stride_h, const int32_t stride_w,
                          int32_t multiplier, const int32_t shift, const int32_t clamp,
                          int32_t low, int32_t high, int8_t *out)
{
    const int32_t onward = (in_w - window_w) * channels;
    const int32_t rest = channels % 32;
    const int32_t whole = channels - rest;
    for (int32_t y = 0; y < out_h; y++) {
        for (int32_t x = 0; x < out_w; x++) {
            const int8_t *corner = in + (y * stride_h * in_w + x * stride_w) * channels;
            for (int32_t c = 0; c + 32 <= channels; c += 32) {
                ek_average_mve(corner + c, window_h, window_w, channels, onward, 4, 24, multiplier,
                               window_h * window_w / 2, shift, clamp, low, high, out + c);
            }
            if (rest) {
                ek_average_mve(corner + whole, window_h, window_w, channels, onward,
                               (rest + 7) / 8, rest - 8, multiplier, window_h * window_w / 2,
                               shift, clamp, low, high, out + whole);
            }
            out += channels;
        }
    }
}

#define EK_POOL_MVE_LEAST(n) "vmov.i8 q" n ", #0x80\n"
#define EK_POOL_MVE_MAX(n) \
    "vldrb.8 q4, [%[in], #ek_at]\n" \
    "vmax.s8 q" n ", q" n ", q4\n"
#define EK_POOL_MVE_STORE(n) \
    ".if %c[clamp]\n" \
    "vmax.s8 q" n ", q" n ", q6\n" \
    "vmin.s8 q" n ", q" n ", q7\n" \
    ".endif\n" \
    "vstrb.8 q" n ", [%[out], #ek_at]\n"

EK_KERNEL void
ek_maximum_mve(const int8_t *in, int32_t rows, int32_t columns, int32_t pixel, int32_t onward,
               const int32_t vectors, const int32_t last, const int32_t clamp, int32_t low,
               int32_t high, int8_t *out)
{
    __asm__ volatile(
        EK_MVE_ASM
        "vdup.8 q6, %[low]\n"
        "vdup.8 q7, %[high]\n"
        EK_POOL_MVE_ALL(EK_POOL_MVE_LEAST)
        EK_POOL_MVE_WALK(EK_POOL_MVE_MAX)
        EK_POOL_MVE_ALL(EK_POOL_MVE_STORE)
        : [in] "+&r"(in), [rows] "+&r"(rows)
        : [columns] "r"(columns), [pixel] "r"(pixel), [onward] "r"(onward), [out] "r"(out),
          [low] "r"(low), [high] "r"(high), [vectors] "i"(vectors), [lanes] "i"(16),
          [last] "i"(last), [clamp] "i"(clamp)
        : "lr", "q0", "q1", "q2", "q3", "q4", "q6", "q7", "memory", "cc");
}

EK_KERNEL void
ek_max_pool_2d_s8_mve(const int8_t *in, const int32_t in_w, const int32_t channels,
                      const int32_t out_h, const int32_t out_w, const int32_t window_h,
                      const int32_t window_w, const int32_t stride_h, const int32_t stride_w,
                      const int32_t clamp, int32_t low, int32_t high, int8_t *out)
{
    const int32_t onward = (in_w - window_w) * channels;
    const int32_t rest = channels % 64;
    const int32_t whole = channels - rest;
    for (int32_t y = 0; y < out_h; y++) {
        for (int32_t x = 0; x < out_w; x++) {
            const int8_t *corner = in + (y * stride_h * in_w + x * stride_w) * channels;
            for (int32_t c = 0; c + 64 <= channels; c += 64) {
                ek_maximum_mve(corner + c, window_h, window_w, channels, onward, 4, 48, clamp, low,
                               high, out + c);
            }
            if (rest) {
                ek_maximum_mve(corner + whole, window_h, window_w, channels, onward,
                               (rest + 15) / 16, rest - 16, clamp, low, high, out + whole);
            }
            out += channels;
        }
    }
}

#endif
