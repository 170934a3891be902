/* DEPTHWISE_CONV_2D, multiplier 1, int8, any window, stride and dilation, with MVE: eight channels
 * of a pixel at a time, products in 32 bits.
 *
 * weights: [ceil(channels / 8)][k_h][k_w][8], zero beyond the channels.
 * requant: [blocks][3][8] biases, multipliers, negated right shifts, for EK_ANY [blocks][4][8]
 * with left shifts after the biases; the channels of a block in the order 0, 2, 4, 6, 1, 3, 5, 7.
 * The bias is the model's own: the input's zero point is subtracted here, so that taps outside
 * the image are left out.
 *
 * Pixels and their channels are written in ascending order, each block after it has been read.
 */
#ifndef EK_DEPTHWISE_CONV_2D_S8_MVE_H
#define EK_DEPTHWISE_CONV_2D_S8_MVE_H

#include "ek_dot_s8_mve.h"

typedef struct {
    int32_t rows;           /* 0: of the window, inside the image */
    int32_t columns;        /* 4 */
    int32_t in_step;        /* 8: from a tap to the one at its right */
    int32_t in_next;        /* 12: from behind a row of taps to the next row */
    int32_t weights_next;   /* 16 */
    int32_t in_zero;        /* 20 */
    int32_t zero;           /* 24 */
    int32_t low;            /* 28 */
    int32_t high;           /* 32 */
} ek_dw_mve_job_t;

#define EK_DW_MVE_SCALE(v, offset) \
    ".if %c[mode] == 0\n" \
    "vldrw.u32 q0, [%[requant], #(" offset " + 32)]\n" \
    "vshl.s32 " v ", " v ", q0\n" \
    ".endif\n" \
    "vldrw.u32 q0, [%[requant], #(" offset " + %c[at])]\n" \
    "vqrdmulh.s32 " v ", " v ", q0\n" \
    "vldrw.u32 q1, [%[requant], #(" offset " + %c[at] + 32)]\n" \
    ".if %c[mode] == 0\n" \
    EK_MVE_FIX_ANY(v, "q0", "q1") \
    ".endif\n" \
    ".if %c[mode] == 1\n" \
    EK_MVE_FIX_DOWN(v, "q0") \
    ".endif\n" \
    "vrshl.s32 " v ", " v ", q1\n"

/* One pixel's block of `count` channels (8 where it is not partial). */
EK_KERNEL void
ek_dw_block_mve(const ek_dw_mve_job_t *job, const int8_t *in, const int8_t *weights,
                const int32_t *requant, int32_t count, const int32_t partial,
                const int32_t mode, const int32_t clamp, int8_t *out)
{
    int32_t rows;
    int32_t step;
    int32_t spare;
    __asm__ volatile(
        EK_MVE_ASM
        ".if %c[partial]\n"
        "vctp.16 %[count]\n"
        ".endif\n"
        "vldrw.u32 q4, [%[requant]]\n"
        "vldrw.u32 q5, [%[requant], #16]\n"
        "ldr %[rows], [%[job]]\n"
        "ldr %[step], [%[job], #8]\n"
        "ldr %[spare], [%[job], #20]\n"
        "vdup.16 q6, %[spare]\n"
        "1:\n"
        "ldr %[spare], [%[job], #4]\n"
        "dls lr, %[spare]\n"
        "2:\n"
        "vldrb.s16 q1, [%[weights]], #8\n"
        ".if %c[partial]\n"
        "vpst\n"
        "vldrbt.s16 q0, [%[in]]\n"
        ".else\n"
        "vldrb.s16 q0, [%[in]]\n"
        ".endif\n"
        "add %[in], %[step]\n"
        "vsub.i16 q0, q0, q6\n"
        "vmullb.s16 q2, q0, q1\n"
        "vmullt.s16 q3, q0, q1\n"
        "vadd.i32 q4, q4, q2\n"
        "vadd.i32 q5, q5, q3\n"
        "le lr, 2b\n"
        "ldr %[spare], [%[job], #12]\n"
        "add %[in], %[spare]\n"
        "ldr %[spare], [%[job], #16]\n"
        "add %[weights], %[spare]\n"
        "subs %[rows], #1\n"
        "bne 1b\n"
        EK_DW_MVE_SCALE("q4", "0") EK_DW_MVE_SCALE("q5", "16")
        "vqmovnb.s32 q4, q4\n"
        "vqmovnt.s32 q4, q5\n"
        "ldr %[spare], [%[job], #24]\n"
        "vqadd.s16 q4, q4, %[spare]\n"
        "vqmovnb.s16 q4, q4\n"
        ".if %c[clamp]\n"
        "ldr %[spare], [%[job], #28]\n"
        "vdup.8 q0, %[spare]\n"
        "vmax.s8 q4, q4, q0\n"
        "ldr %[spare], [%[job], #32]\n"
        "vdup.8 q0, %[spare]\n"
        "vmin.s8 q4, q4, q0\n"
        ".endif\n"
        ".if %c[partial]\n"
        "vpst\n"
        "vstrbt.16 q4, [%[out]]\n"
        ".else\n"
        "vstrb.16 q4, [%[out]]\n"
        ".endif\n"
        : [in] "+&l"(in), [weights] "+&l"(weights), [rows] "=&r"(rows), [step] "=&r"(step),
          [spare] "=&r"(spare)
        : [job] "r"(job), [requant] "r"(requant), [out] "l"(out), [count] "r"(count),
          [partial] "i"(partial), [mode] "i"(mode), [clamp] "i"(clamp),
          [at] "i"(mode == EK_ANY ? 64 : 32)
        : "lr", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "memory", "cc");
}

/* in [in_h][in_w][channels], out [out_h][out_w][channels]; mode and clamp are literals. */
EK_KERNEL void
ek_depthwise_conv_2d_s8_mve(const int8_t *in, const int8_t *weights, const int32_t *requant,
                            int32_t in_h, int32_t in_w, int32_t channels, int32_t out_h,
                            int32_t out_w, int32_t k_h, int32_t k_w, int32_t stride_h,
                            int32_t stride_w, int32_t dilation_h, int32_t dilation_w,
                            int32_t pad_h, int32_t pad_w, int32_t in_zero, const int32_t mode,
                            int32_t zero, const int32_t clamp, int32_t low, int32_t high,
                            int8_t *out)
{
    const int32_t constants = mode == EK_ANY ? 32 : 24; /* of a block */
    ek_dw_mve_job_t job = {
        .in_step = dilation_w * channels, .in_zero = in_zero, .zero = zero, .low = low,
        .high = high,
    };
    for (int32_t y = 0; y < out_h; y++) {
        /* taps [first, last) of a window are inside the image */
        const int32_t top = y * stride_h - pad_h;
        const int32_t first_y = top < 0 ? (dilation_h - 1 - top) / dilation_h : 0;
        int32_t last_y = in_h > top ? (in_h - top + dilation_h - 1) / dilation_h : 0;
        last_y = last_y < k_h ? last_y : k_h;
        job.rows = last_y - first_y;
        for (int32_t x = 0; x < out_w; x++) {
            const int32_t left = x * stride_w - pad_w;
            const int32_t first_x = left < 0 ? (dilation_w - 1 - left) / dilation_w : 0;
            int32_t last_x = in_w > left ? (in_w - left + dilation_w - 1) / dilation_w : 0;
            last_x = last_x < k_w ? last_x : k_w;
            job.columns = last_x - first_x;
            job.in_next = dilation_h * in_w * channels - job.columns * job.in_step;
            job.weights_next = 8 * (k_w - job.columns);
            const int8_t *from = in + ((top + first_y * dilation_h) * in_w + left +
                                       first_x * dilation_w) * channels;
            const int8_t *taps = weights + 8 * (first_y * k_w + first_x);
            const int32_t *scales = requant;
            int32_t c = 0;
            for (; c + 8 <= channels; c += 8) {
                ek_dw_block_mve(&job, from + c, taps, scales, 8, 0, mode, clamp, out + c);
                taps += 8 * k_h * k_w;
                scales += constants;
            }
            if (c < channels) {
                ek_dw_block_mve(&job, from + c, taps, scales, channels - c, 1, mode, clamp,
                                out + c);
            }
            out += channels;
        }
    }
}

#endif
