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

/* 1x1, stride 1: in [pixels][in_c], out [pixels][out_c]; columns: 2 * in_c bytes, and what in_c
 * lacks to a multiple of 16. */
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
        ek_dot_s8_mve(&job, groups, out_c, 2 * in_c, 0, mode, clamp);
    }
    if (pixels % 2) { /* the last one as both of a pair */
        ek_copy_mve(columns, in + (pixels - 1) * in_c, in_c);
        job.second = columns;
        job.out = out + (pixels - 1) * out_c;
        ek_mve_offsets(&job, 0);
        ek_dot_s8_mve(&job, groups, out_c, 0, 0, mode, clamp);
    }
}

/* Any window and stride: in [in_h][in_w][in_c], out [out_h][out_w][out_c]. Inputs outside the
 * image are in_zero (the bias holds -in_zero * sum of weights).
 * columns: 2 * k_h * k_w * in_c bytes, and what the depth lacks to a multiple of 16. */
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
                ek_dot_s8_mve(&job, groups, out_c, 0, 0, mode, clamp);
                job.out += 2 * out_c;
                column = columns;
            }
        }
    }
    if (out_h * out_w % 2) { /* the last one as both of a pair */
        job.second = columns;
        ek_mve_offsets(&job, 0);
        ek_dot_s8_mve(&job, groups, out_c, 0, 0, mode, clamp);
    }
}

/* What brings rows of in_c bytes per pixel into a strip, where in_c divides few vectors. */
typedef struct {
    uint16_t offsets[3][8];
} ek_mve_strip_t;

/* Pixels of in_c bytes, side by side, to places that are `apart`. in_c is a multiple of 16; to is
 * aligned to 4, which VSTRW needs; from is where it is. */
EK_KERNEL void
ek_spread_mve(int8_t *to, const int8_t *from, int32_t pixels, const int32_t in_c,
              const int32_t apart)
{
    const int32_t more = apart - in_c + 16; /* from a pixel's last vector to the next pixel */
    __asm__ volatile(
        EK_MVE_ASM EK_LINES_32
        "dls lr, %[pixels]\n"
        "1:\n"
        ".rept %c[in_c] / 16 - 1\n"
        "vldrb.8 q0, [%[from]], #16\n"
        "vstrw.32 q0, [%[to]], #16\n"
        ".endr\n"
        "vldrb.8 q0, [%[from]], #16\n"
        ".if %c[more] <= 508\n"
        "vstrw.32 q0, [%[to]], #%c[more]\n"
        ".else\n"
        "vstrw.32 q0, [%[to]], #16\n"
        "addw %[to], %[to], #(%c[more] - 16)\n"
        ".endif\n"
        "le lr, 1b\n"
        : [to] "+&r"(to), [from] "+&r"(from)
        : [pixels] "r"(pixels), [in_c] "i"(in_c), [more] "i"(more)
        : "lr", "q0", "memory", "cc");
}

/* The same for a few bytes per pixel: `phases` vectors of eight bytes are a whole number of
 * pixels, and their offsets repeat after that. */
EK_KERNEL void
ek_scatter_mve(const ek_mve_strip_t *map, int8_t *to, const int8_t *from, int32_t count,
               const int32_t phases, const int32_t step)
{
    __asm__ volatile(
        EK_MVE_ASM
        "vldrh.u16 q1, [%[map]]\n"
        "vldrh.u16 q2, [%[map], #16]\n"
        "vldrh.u16 q3, [%[map], #32]\n"
        "dls lr, %[count]\n"
        "1:\n"
        "vldrb.u16 q0, [%[from]], #8\n"
        "vstrb.16 q0, [%[to], q1]\n"
        ".if %c[phases] > 1\n"
        "vldrb.u16 q0, [%[from]], #8\n"
        "vstrb.16 q0, [%[to], q2]\n"
        ".endif\n"
        ".if %c[phases] > 2\n"
        "vldrb.u16 q0, [%[from]], #8\n"
        "vstrb.16 q0, [%[to], q3]\n"
        ".endif\n"
        "addw %[to], %[to], #%c[step]\n"
        "le lr, 1b\n"
        : [to] "+&r"(to), [from] "+&l"(from)
        : [map] "r"(map), [count] "r"(count), [phases] "i"(phases), [step] "i"(step)
        : "lr", "q0", "q1", "q2", "q3", "memory", "cc");
}

/* Any window and stride, an output row at a time: the inputs of the row go into `strip`, column by
 * column ([columns][k_h][in_c]), where the windows of neighbouring pixels overlap, so that each is
 * copied k_h times and not k_h * k_w. weights as for ek_conv_2d_s8_mve with each channel's
 * [k_w][k_h][in_c]. phases: 0 for whole pixels at a time, else as in ek_scatter_mve.
 * strip: ((out_w - 1) * stride_w + k_w) * k_h * in_c bytes, and what the depth lacks to a multiple
 * of 16; aligned to 4. */
EK_KERNEL void
ek_conv_2d_rows_s8_mve(const int8_t *in, const int8_t *weights, const int32_t *requant,
                       int8_t *strip, const int32_t in_h, const int32_t in_w,
                       const int32_t in_c, const int32_t out_h, const int32_t out_w,
                       const int32_t out_c, const int32_t k_h, const int32_t k_w,
                       const int32_t stride_h, const int32_t stride_w, const int32_t pad_h,
                       const int32_t pad_w, const int32_t phases, int32_t in_zero,
                       const int32_t mode, int32_t zero, const int32_t clamp, int32_t low,
                       int32_t high, int8_t *out)
{
    const int32_t depth = k_h * k_w * in_c;
    const int32_t groups = (depth + 15) / 16;
    const int32_t column = k_h * in_c;
    const int32_t columns = (out_w - 1) * stride_w + k_w;
    const int32_t wide = in_w < columns - pad_w ? in_w : columns - pad_w;
    const int32_t chunk = phases ? 8 * phases / in_c : 1; /* pixels */
    const int32_t advance = 2 * stride_w * column;
    ek_mve_job_t job = {
        .requant = requant, .first = strip, .second = strip + stride_w * column,
        .weights = weights, .end = weights + (out_c / 4) * 64 * groups,
        .last_end = weights + ((out_c + 3) / 4) * 64 * groups,
        .zero = zero, .low = low, .high = high,
    };
    ek_mve_strip_t map;
    for (int32_t i = 0; i < 8 * phases; i++) {
        map.offsets[i / 8][i % 8] = (uint16_t)(i / in_c * column + i % in_c);
    }
    ek_mve_offsets(&job, out_c);
    ek_fill_mve(strip, in_zero, columns * column);
    for (int32_t y = 0; y < out_h; y++) {
        const int32_t top = y * stride_h - pad_h;
        if (y > 0 && (top < 0 || top + k_h > in_h)) {
            ek_fill_mve(strip, in_zero, columns * column);
        }
        for (int32_t ky = 0; ky < k_h; ky++) {
            if (top + ky < 0 || top + ky >= in_h) {
                continue;
            }
            const int8_t *from = in + (top + ky) * in_w * in_c;
            int8_t *to = strip + pad_w * column + ky * in_c;
            if (phases == 0 && in_c % 16 == 0) {
                ek_spread_mve(to, from, wide, in_c, column);
            } else if (phases == 0) {
                for (int32_t x = 0; x < wide; x++) {
                    ek_copy_mve(to, from, in_c);
                    from += in_c;
                    to += column;
                }
            } else {
                ek_scatter_mve(&map, to, from, wide / chunk, phases, chunk * column);
                if (wide % chunk) { /* the last ones, some of them again */
                    ek_scatter_mve(&map, to + (wide - chunk) * column,
                                   from + (wide - chunk) * in_c, 1, phases, chunk * column);
                }
            }
        }
        job.out = out;
        job.pairs = out_w / 2;
        if (out_w >= 2) {
            ek_dot_s8_mve(&job, groups, out_c, 0, advance, mode, clamp);
        }
        if (out_w % 2) { /* the last one as both of a pair */
            ek_mve_job_t single = job;
            single.first = strip + (out_w - 1) * stride_w * column;
            single.second = single.first;
            single.out = out + (out_w - 1) * out_c;
            ek_mve_offsets(&single, 0);
            ek_dot_s8_mve(&single, groups, out_c, 0, 0, mode, clamp);
        }
        out += out_w * out_c;
    }
}

#endif
