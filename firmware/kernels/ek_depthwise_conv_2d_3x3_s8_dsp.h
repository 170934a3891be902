/* DEPTHWISE_CONV_2D 3x3, multiplier 1, stride 1 or 2, int8, on cores with the DSP extension.
 *
 * One channel at a time: its plane is gathered from NHWC into `plane` as int16 with a border of
 * zero points, then two neighbouring outputs are computed together: LDRD brings the words
 * (x, x+1) and (x+2, x+3) of a row, and each row costs two instructions per output (SMLAD for
 * two taps, SMLAxy for the third). Output channel c overwrites only bytes of channel c, so the
 * kernel works in place.
 */
#ifndef EK_DEPTHWISE_CONV_2D_3X3_S8_DSP_H
#define EK_DEPTHWISE_CONV_2D_3X3_S8_DSP_H

#include <stdint.h>

#include "ek_clamp_s8_dsp.h"
#include "ek_math.h"

/* The assembly takes literals, which only reach it through inlining. */
#if !defined(__OPTIMIZE__)
#if defined(__clang__)
#error "this model needs optimisation: compile it with -O1 or more"
#else
#pragma GCC optimize("O2")
#endif
#endif

/* int16 values in a row of the plane, and rows, for an output of out_w x out_h. */
#define EK_DW3_ROW(out_w, stride) ((stride) * (((out_w) + 1) & ~1) + 2)
#define EK_DW3_ROWS(out_h, stride) (((out_h)-1) * (stride) + 3)

typedef struct {
    const int16_t *plane; /* r0 */
    int8_t *out;          /* r1 */
    int32_t bias;         /* r2 */
    int32_t rows;         /* r3 */
    /* stride 1: (w0, w1) and (w1, w2) of each row; stride 2: (w0, w1) of each row, (w2 of row 0,
     * w2 of row 1), w2 of row 2, unused */
    uint32_t weights[6]; /* r4 to r9 */
    int32_t mult;        /* r12 */
    int32_t add;         /* r14 */
    int32_t shift;       /* exact requantisation only */
} ek_dw3_job_t;

#define EK_DW3_STORE(acc) \
    ".if %c[step] < 256\n" \
    "strb " acc ", [r1], %[step]\n" \
    ".else\n" \
    "strb " acc ", [r1]\n" \
    "add r1, r1, %[step]\n" \
    ".endif\n"

/* r12 mult, r14 add; q literal (linear), or 0: exact, with the shift in the frame */
#define EK_DW3_REQUANT(acc) \
    ".if %c[q]\n" \
    "smmla " acc ", " acc ", r12, r14\n" \
    "ssat " acc ", #8, " acc ", asr #%c[q]\n" \
    ".else\n" \
    "add r3, r14, " acc ", asr #31\n" \
    "ldr r2, [sp, #12]\n" \
    "lsl " acc ", " acc ", #1\n" \
    "smmlar " acc ", " acc ", r12, r3\n" \
    "asr " acc ", " acc ", r2\n" \
    "ssat " acc ", #8, " acc "\n" \
    ".endif\n"

#define EK_DW3_PAIR_1 \
    "ldrd r2, r3, [r0, %[row2]]\n" \
    "ldr r10, [sp]\n" \
    "mov r11, r10\n" \
    "smlad r10, r2, r8, r10\n" \
    "smlabt r10, r3, r9, r10\n" \
    "smlatb r11, r2, r8, r11\n" \
    "smlad r11, r3, r9, r11\n" \
    "ldrd r2, r3, [r0, %[row1]]\n" \
    "smlad r10, r2, r6, r10\n" \
    "smlabt r10, r3, r7, r10\n" \
    "smlatb r11, r2, r6, r11\n" \
    "smlad r11, r3, r7, r11\n" \
    "ldrd r2, r3, [r0], #4\n" \
    "smlad r10, r2, r4, r10\n" \
    "smlabt r10, r3, r5, r10\n" \
    "smlatb r11, r2, r4, r11\n" \
    "smlad r11, r3, r5, r11\n" \
    EK_DW3_REQUANT("r10") EK_DW3_STORE("r10") EK_DW3_REQUANT("r11") EK_DW3_STORE("r11")

#define EK_DW3_SINGLE_1 \
    "ldrd r2, r3, [r0, %[row2]]\n" \
    "ldr r10, [sp]\n" \
    "smlad r10, r2, r8, r10\n" \
    "smlabt r10, r3, r9, r10\n" \
    "ldrd r2, r3, [r0, %[row1]]\n" \
    "smlad r10, r2, r6, r10\n" \
    "smlabt r10, r3, r7, r10\n" \
    "ldrd r2, r3, [r0], #4\n" \
    "smlad r10, r2, r4, r10\n" \
    "smlabt r10, r3, r5, r10\n" \
    EK_DW3_REQUANT("r10") EK_DW3_STORE("r10")

#define EK_DW3_ROW_2(offset, w01, last0, last1) \
    "ldrd r2, r3, [r0, " offset "]\n" \
    "ldr r9, [r0, " offset " + 8]\n" \
    "smlad r10, r2, " w01 ", r10\n" \
    last0 \
    "smlad r11, r3, " w01 ", r11\n" \
    last1

#define EK_DW3_PAIR_2 \
    "ldr r10, [sp]\n" \
    "mov r11, r10\n" \
    EK_DW3_ROW_2("%[row2]", "r6", "smlabb r10, r3, r8, r10\n", "smlabb r11, r9, r8, r11\n") \
    EK_DW3_ROW_2("%[row1]", "r5", "smlabt r10, r3, r7, r10\n", "smlabt r11, r9, r7, r11\n") \
    "ldr r9, [r0, #8]\n" \
    "ldrd r2, r3, [r0], #8\n" \
    "smlad r10, r2, r4, r10\n" \
    "smlabb r10, r3, r7, r10\n" \
    "smlad r11, r3, r4, r11\n" \
    "smlabb r11, r9, r7, r11\n" \
    EK_DW3_REQUANT("r10") EK_DW3_STORE("r10") EK_DW3_REQUANT("r11") EK_DW3_STORE("r11")

#define EK_DW3_SINGLE_2 \
    "ldr r10, [sp]\n" \
    "ldrd r2, r3, [r0, %[row2]]\n" \
    "smlad r10, r2, r6, r10\n" \
    "smlabb r10, r3, r8, r10\n" \
    "ldrd r2, r3, [r0, %[row1]]\n" \
    "smlad r10, r2, r5, r10\n" \
    "smlabt r10, r3, r7, r10\n" \
    "ldrd r2, r3, [r0], #8\n" \
    "smlad r10, r2, r4, r10\n" \
    "smlabb r10, r3, r7, r10\n" \
    EK_DW3_REQUANT("r10") EK_DW3_STORE("r10")

/* gcc takes assembly to be as long as its lines, and places literals so that they are in reach.
 * Where the repetition of pairs makes it longer, empty lines make up for that. */
#define EK_DW3_LINES "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"

/* Frame: sp+0 bias, +4 rows left, +8 end of the pairs of this row, +12 shift */
#define EK_DW3_BODY(PAIR, SINGLE) \
    "mov r0, %[job]\n" \
    "push {r4-r11, lr}\n" \
    "sub sp, #16\n" \
    "mov r14, r0\n" \
    "ldr r12, [r14, #48]\n" \
    "ldmia r14!, {r0-r9}\n" \
    "strd r2, r3, [sp]\n" \
    "str r12, [sp, #12]\n" \
    "ldrd r12, r14, [r14]\n" \
    "1:\n" \
    ".if %c[loops] > 1\n" \
    "add r2, r0, %[advance]\n" \
    "str r2, [sp, #8]\n" \
    "2:\n" \
    ".endif\n" \
    ".rept %c[unroll]\n" \
    PAIR \
    ".endr\n" \
    ".if %c[loops] > 1\n" \
    "ldr r2, [sp, #8]\n" \
    "cmp r0, r2\n" \
    "bne 2b\n" \
    ".endif\n" \
    ".if %c[odd]\n" \
    SINGLE \
    ".endif\n" \
    "ldr r2, [sp, #4]\n" \
    "add r0, r0, %[next]\n" \
    "subs r2, r2, #1\n" \
    "str r2, [sp, #4]\n" \
    "bne 1b\n" \
    "add sp, #16\n" \
    "pop {r4-r11, lr}\n" \
    EK_DW3_LINES

#define EK_DW3_ASM(PAIR, SINGLE) \
    __asm__ volatile(EK_DW3_BODY(PAIR, SINGLE) \
        : \
        : [job] "r"(&job), [row1] "i"(2 * row), [row2] "i"(4 * row), [q] "i"(q), \
          [step] "i"(channels), [loops] "i"(loops), [unroll] "i"(unroll), [odd] "i"(out_w & 1), \
          [advance] "i"(4 * stride * unroll * loops), \
          [next] "i"(2 * stride * row - 4 * stride * ((out_w + 1) / 2)) \
        : "r0", "r1", "r2", "r3", "r12", "memory", "cc")

#define EK_PAIR16(low, high) ((uint32_t)(uint16_t)(low) | (uint32_t)(uint16_t)(high) << 16)

/* in [in_h][in_w][channels], weights [channels][9], requant as in ek_dot_s8_dsp.h: [channels][3]
 * (linear, q of 2 or 4) or [channels][4] (exact, q = 0), out [out_h][out_w][channels]. All numbers
 * are literals, except low and high, to which the output is clamped if clamp is not 0. strip:
 * output rows whose inputs are in the plane at a time.
 * plane: 2 * EK_DW3_ROW(out_w, stride) * EK_DW3_ROWS(strip, stride) bytes, 4-byte aligned. */
EK_KERNEL void
ek_depthwise_conv_2d_3x3_s8_dsp(const int8_t *in, const int8_t *weights, const int32_t *requant,
                                int16_t *plane, const int32_t in_h, const int32_t in_w,
                                const int32_t channels, const int32_t out_h, const int32_t out_w,
                                const int32_t stride, const int32_t pad_h, const int32_t pad_w,
                                const int32_t zero_point, const int32_t strip, const int32_t q,
                                const int32_t clamp, const int32_t low, const int32_t high,
                                int8_t *out)
{
    const int32_t row = EK_DW3_ROW(out_w, stride);
    const int32_t rows = EK_DW3_ROWS(strip, stride);
    const int32_t pairs = out_w / 2;
    const int32_t unroll = pairs <= 4 ? pairs : (pairs % 3 == 0 ? 3 : pairs % 2 == 0 ? 2 : 1);
    const int32_t loops = unroll ? pairs / unroll : 0;
    const int32_t seen_w = in_w < row - pad_w ? in_w : row - pad_w;
    ek_dw3_job_t job;

    for (int32_t i = 0; i < row * rows; i++) {
        plane[i] = (int16_t)zero_point;
    }
    for (int32_t c = 0; c < channels; c++) {
        const int8_t *w = weights + 9 * c;
        const int32_t *constants = requant + (q ? 3 : 4) * c;
        const int8_t *from = in + c;
        if (stride == 1) {
            for (int32_t y = 0; y < 3; y++) {
                job.weights[2 * y] = EK_PAIR16(w[3 * y], w[3 * y + 1]);
                job.weights[2 * y + 1] = EK_PAIR16(w[3 * y + 1], w[3 * y + 2]);
            }
        } else {
            for (int32_t y = 0; y < 3; y++) {
                job.weights[y] = EK_PAIR16(w[3 * y], w[3 * y + 1]);
            }
            job.weights[3] = EK_PAIR16(w[2], w[5]);
            job.weights[4] = EK_PAIR16(w[8], 0);
        }
        job.plane = plane;
        job.out = out + c;
        job.bias = constants[0];
        job.mult = constants[1];
        job.add = constants[2];
        job.shift = q ? 0 : constants[3];
        for (int32_t top = 0; top < out_h; top += strip) {
            const int32_t count = top + strip <= out_h ? strip : out_h - top;
            const int32_t needed = (count - 1) * stride + 3;
            int32_t y = 0;
            if (top > 0) { /* what the strip before has already gathered: 3 - stride rows */
                ek_word_t *to = (ek_word_t *)(void *)plane;
                for (int32_t i = 0; i < row * (3 - stride) / 2; i++) {
                    to[i] = to[i + strip * stride * row / 2];
                }
                y = 3 - stride;
            }
            int16_t *to = plane + pad_w + y * row;
            for (; y < needed; y++, to += row) {
                if ((uint32_t)(top * stride - pad_h + y) < (uint32_t)in_h) {
                    EK_UNROLL_4
                    for (int32_t x = 0; x < seen_w; x++) {
                        to[x] = *from;
                        from += channels;
                    }
                    from += (in_w - seen_w) * channels;
                } else if (strip < out_h) { /* a row of another strip was here */
                    for (int32_t x = 0; x < seen_w; x++) {
                        to[x] = (int16_t)zero_point;
                    }
                }
            }
            job.rows = count;
            if (stride == 1) {
                EK_DW3_ASM(EK_DW3_PAIR_1, EK_DW3_SINGLE_1);
            } else {
                EK_DW3_ASM(EK_DW3_PAIR_2, EK_DW3_SINGLE_2);
            }
            job.out += strip * out_w * channels;
        }
    }
    if (clamp) {
        ek_clamp_s8_dsp(out, out_h * out_w * channels, low, high);
    }
}

#endif
