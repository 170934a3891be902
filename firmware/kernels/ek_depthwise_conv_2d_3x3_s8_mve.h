/* DEPTHWISE_CONV_2D 3x3, multiplier 1, stride 1 or 2, int8, with MVE.
 *
 * One channel at a time: its plane is gathered from NHWC into `tiles` so that a window is in one
 * vector. Tile row j holds input rows 2j to 2j + 3 (with the border), a word per column: 16 bytes
 * are four columns by four rows. With stride 1 they hold the windows of 2x2 outputs, and one
 * VMLADAV with the weights shifted by a column, a row or both gives each; with stride 2 those of
 * one output. Eight sums go through the stack into two vectors (a lane per pixel, so that the
 * channel's constants are scalars), and one scatter stores them. Where four do not divide the
 * row, the last outputs are computed a second time.
 *
 * Output channel c overwrites only bytes of channel c, so the kernel works in place.
 */
#ifndef EK_DEPTHWISE_CONV_2D_3X3_S8_MVE_H
#define EK_DEPTHWISE_CONV_2D_3X3_S8_MVE_H

#include "ek_dot_s8_mve.h"

/* Columns that windows read; behind them, each tile row has one that takes what is too much. */
#define EK_DW3_COLUMNS(out_w, stride) ((stride) * (out_w) + 2)
#define EK_DW3_PITCH(out_w, stride) (4 * (EK_DW3_COLUMNS(out_w, stride) + 1))

typedef struct {
    const int8_t *tiles;    /* 0: r1 */
    int8_t *out;            /* 4: r3 */
    int32_t bias;           /* 8: r5 */
    int32_t multiplier;     /* 12: r7 */
    int32_t right;          /* 16: r9, negated */
    const int8_t *weights;  /* 20: of the channel, 16 bytes */
    int32_t pairs;          /* 24: of output rows */
    int32_t odd;            /* 28: whether a single row follows */
    int32_t left;           /* 32 */
    int32_t zero;           /* 36 */
    int32_t low;            /* 40 */
    int32_t high;           /* 44 */
    uint16_t offsets8[8];   /* 48: of two 2x2 blocks' outputs, interleaved */
    uint32_t offsets4[4];   /* 64: of one */
    uint16_t single8[8];    /* 80: the same where both rows are one */
    uint32_t single4[4];    /* 96 */
} ek_dw3_mve_job_t;

#define EK_DW3_ADD(register, number) \
    ".if (" number ") > 0\n" \
    ".if (" number ") < 4096\n" \
    "addw " register ", " register ", #(" number ")\n" \
    ".else\n" \
    "movw r0, #((" number ") & 0xffff)\n" \
    "movt r0, #((" number ") >> 16)\n" \
    "add " register ", r0\n" \
    ".endif\n" \
    ".endif\n" \
    ".if (" number ") < 0\n" \
    ".if (" number ") > -4096\n" \
    "subw " register ", " register ", #(0 - (" number "))\n" \
    ".else\n" \
    "movw r0, #((0 - (" number ")) & 0xffff)\n" \
    "movt r0, #((0 - (" number ")) >> 16)\n" \
    "sub " register ", r0\n" \
    ".endif\n" \
    ".endif\n"

/* 2x2 outputs from column ek_column + more on. r1 tiles, r11 those of the second row (stride 2),
 * q0 to q3 weights of the four (stride 1), q0 of all (stride 2) */
#define EK_DW3_UNIT(more, a, b, c, d) \
    ".if %c[stride] == 1\n" \
    "vldrw.u32 q6, [r1, #(4 * (ek_column + " more "))]\n" \
    "vmladav.s8 " a ", q6, q0\n" \
    "vmladav.s8 " b ", q6, q1\n" \
    "vmladav.s8 " c ", q6, q2\n" \
    "vmladav.s8 " d ", q6, q3\n" \
    ".else\n" \
    "vldrw.u32 q6, [r1, #(8 * (ek_column + " more "))]\n" \
    "vmladav.s8 " a ", q6, q0\n" \
    "vldrw.u32 q7, [r1, #(8 * (ek_column + " more ") + 8)]\n" \
    "vmladav.s8 " b ", q7, q0\n" \
    "vldrw.u32 q6, [r11, #(8 * (ek_column + " more "))]\n" \
    "vmladav.s8 " c ", q6, q0\n" \
    "vldrw.u32 q7, [r11, #(8 * (ek_column + " more ") + 8)]\n" \
    "vmladav.s8 " d ", q7, q0\n" \
    ".endif\n"

#define EK_DW3_SCALE(v) \
    "vadd.i32 " v ", " v ", r5\n" \
    ".if %c[mode] == 0\n" \
    "ldr r0, [sp, #32]\n" \
    "ldr r0, [r0, #32]\n" \
    "vshl.s32 " v ", r0\n" \
    ".endif\n" \
    "vqrdmulh.s32 " v ", " v ", r7\n" \
    ".if %c[mode] == 1\n" \
    EK_MVE_FIX_DOWN(v, "q5") \
    ".endif\n" \
    ".if %c[mode] == 0\n" \
    "vdup.32 q5, r9\n" \
    "vand q5, q5, " v "\n" \
    "vshr.s32 q5, q5, #31\n" \
    "vadd.i32 " v ", " v ", q5\n" \
    ".endif\n" \
    "vrshl.s32 " v ", r9\n"

#define EK_DW3_NARROW \
    ".if %c[mode] == 2\n" \
    "vqadd.s16 q6, q6, q5\n" \
    ".else\n" \
    "ldr r0, [sp, #44]\n" \
    "vqadd.s16 q6, q6, r0\n" \
    ".endif\n" \
    "vqmovnb.s16 q6, q6\n" \
    ".if %c[clamp]\n" \
    "ldr r0, [sp, #32]\n" \
    "ldrd r0, r2, [r0, #40]\n" \
    "vdup.8 q7, r0\n" \
    "vmax.s8 q6, q6, q7\n" \
    "vdup.8 q7, r2\n" \
    "vmin.s8 q6, q6, q7\n" \
    ".endif\n"

#define EK_DW3_BLOCK8 \
    EK_DW3_UNIT("0", "r0", "r2", "r4", "r6") \
    EK_DW3_UNIT("2", "r8", "r10", "r12", "lr") \
    "stmia sp, {r0, r2, r4, r6, r8, r10, r12, lr}\n" \
    "vldrw.u32 q6, [sp]\n" \
    "vldrw.u32 q7, [sp, #16]\n" \
    EK_DW3_SCALE("q6") EK_DW3_SCALE("q7") \
    "vqmovnb.s32 q6, q6\n" \
    "vqmovnt.s32 q6, q7\n" \
    EK_DW3_NARROW \
    "vstrb.16 q6, [r3, q4]\n"

#define EK_DW3_BLOCK4 \
    EK_DW3_UNIT("0", "r0", "r2", "r4", "r6") \
    "stmia sp, {r0, r2, r4, r6}\n" \
    "vldrw.u32 q6, [sp]\n" \
    EK_DW3_SCALE("q6") \
    "vqmovnb.s32 q6, q6\n" \
    EK_DW3_NARROW \
    "vldrw.u32 q7, [sp, #48]\n" \
    "vstrb.32 q6, [r3, q7]\n"

/* Frame: 8 sums, +32 job, +36 pairs left, +40 end of the blocks in a loop, +44 zero,
 * +48 offsets4, +64 bytes from the first to the second row's tiles (stride 2) */
#define EK_DW3_COMPUTE \
    "mov r0, %[job]\n" \
    "push {r4-r11, lr}\n" \
    "sub sp, #68\n" \
    "str r0, [sp, #32]\n" \
    "ldr r2, [r0, #20]\n" \
    "vldrb.8 q0, [r2]\n" \
    ".if %c[stride] == 1\n" \
    "vldrb.8 q1, [r2, #-4]\n" \
    "vldrb.8 q2, [r2, #-1]\n" \
    "vldrb.8 q3, [r2, #-5]\n" \
    ".else\n" \
    "movw r2, #%c[pitch]\n" \
    "str r2, [sp, #64]\n" \
    ".endif\n" \
    "ldrd r4, r6, [r0, #36]\n" \
    ".if %c[mode] == 2\n" \
    "vdup.16 q5, r4\n" \
    ".else\n" \
    "str r4, [sp, #44]\n" \
    ".endif\n" \
    "add r2, r0, #48\n" \
    "vldrh.u16 q4, [r2]\n" \
    ".if %c[tail] & 1\n" \
    "vldrw.u32 q7, [r2, #16]\n" \
    "vstrw.32 q7, [sp, #48]\n" \
    ".endif\n" \
    "ldr r2, [r0, #24]\n" \
    "str r2, [sp, #36]\n" \
    "ldmia r0, {r1, r3, r5, r7, r9}\n" \
    "cmp r2, #0\n" \
    "beq 4f\n" \
    "1:\n" \
    ".set ek_column, 0\n" \
    ".if %c[stride] == 2\n" \
    "ldr r0, [sp, #64]\n" \
    "add r11, r1, r0\n" \
    ".endif\n" \
    ".if %c[loops] > 1\n" \
    "add r0, r1, #(16 * %c[stride] * %c[loops] * %c[unroll])\n" \
    "str r0, [sp, #40]\n" \
    "2:\n" \
    ".endif\n" \
    ".rept %c[unroll]\n" \
    EK_DW3_BLOCK8 \
    EK_DW3_ADD("r3", "4 * %c[channels]") \
    ".set ek_column, ek_column + 4\n" \
    ".endr\n" \
    ".if %c[loops] > 1\n" \
    ".set ek_column, 0\n" \
    "add r1, #(16 * %c[stride] * %c[unroll])\n" \
    ".if %c[stride] == 2\n" \
    "add r11, #(16 * %c[stride] * %c[unroll])\n" \
    ".endif\n" \
    "ldr r0, [sp, #40]\n" \
    "cmp r1, r0\n" \
    "bne 2b\n" \
    ".endif\n" \
    ".if %c[tail] == 1\n" /* one or two columns are left */ \
    ".set ek_column, ek_column + %c[back]\n" \
    EK_DW3_ADD("r3", "%c[back] * %c[channels]") \
    EK_DW3_BLOCK4 \
    ".endif\n" \
    ".if %c[tail] == 2\n" /* three, after others */ \
    ".set ek_column, ek_column + %c[back]\n" \
    EK_DW3_ADD("r3", "%c[back] * %c[channels]") \
    EK_DW3_BLOCK8 \
    ".endif\n" \
    ".if %c[tail] == 3\n" /* three alone */ \
    EK_DW3_BLOCK4 \
    EK_DW3_ADD("r3", "%c[channels]") \
    ".set ek_column, 1\n" \
    EK_DW3_BLOCK4 \
    ".endif\n" \
    EK_DW3_ADD("r3", "%c[next]") \
    EK_DW3_ADD("r1", "%c[stride] * %c[pitch] - %c[moved]") \
    "ldr r0, [sp, #36]\n" \
    "subs r0, #1\n" \
    "str r0, [sp, #36]\n" \
    "bgt 1b\n" \
    "4:\n" \
    ".if %c[odd]\n" \
    "ldr r0, [sp, #32]\n" \
    "ldr r2, [r0, #28]\n" \
    "cmp r2, #0\n" \
    "beq 5f\n" \
    "movs r2, #0\n" \
    "str r2, [r0, #28]\n" \
    "str r2, [sp, #36]\n" \
    "add r2, r0, #80\n" \
    "vldrh.u16 q4, [r2]\n" \
    ".if %c[tail] & 1\n" \
    "vldrw.u32 q7, [r2, #16]\n" \
    "vstrw.32 q7, [sp, #48]\n" \
    ".endif\n" \
    ".if %c[stride] == 1\n" \
    "vmov q2, q0\n" \
    "vmov q3, q1\n" \
    ".else\n" \
    "movs r2, #0\n" \
    "str r2, [sp, #64]\n" \
    ".endif\n" \
    "b 1b\n" \
    "5:\n" \
    ".endif\n" \
    "add sp, #68\n" \
    "pop {r4-r11, lr}\n"

EK_KERNEL void
ek_dw3_compute_mve(ek_dw3_mve_job_t *job, const int32_t channels, const int32_t out_h,
                   const int32_t out_w, const int32_t stride, const int32_t mode,
                   const int32_t clamp)
{
    const int32_t blocks = out_w / 4;
    const int32_t unroll = blocks <= 6 ? blocks
                           : blocks % 6 == 0 ? 6 : blocks % 5 == 0 ? 5 : blocks % 4 == 0 ? 4
                           : blocks % 3 == 0 ? 3 : blocks % 2 == 0 ? 2 : 1;
    const int32_t loops = unroll ? blocks / unroll : 0;
    const int32_t rest = out_w % 4;
    const int32_t tail = rest == 0 ? 0 : rest < 3 ? 1 : blocks ? 2 : 3;
    const int32_t back = tail == 1 ? rest - 2 : -1;
    const int32_t last = tail == 0 ? out_w : tail == 1 ? out_w - 2 : tail == 2 ? out_w - 4 : 1;
    __asm__ volatile(EK_MVE_ASM EK_DW3_COMPUTE
        :
        : [job] "r"(job), [channels] "i"(channels), [stride] "i"(stride), [mode] "i"(mode),
          [clamp] "i"(clamp), [unroll] "i"(unroll), [loops] "i"(loops), [tail] "i"(tail),
          [back] "i"(back), [next] "i"((2 * out_w - last) * channels), [odd] "i"(out_h % 2),
          [pitch] "i"(EK_DW3_PITCH(out_w, stride)),
          [moved] "i"(loops > 1 ? 16 * stride * blocks : 0)
        : "r0", "r1", "r2", "r3", "r12", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "memory",
          "cc");
}

/* Where the gather of eight pixels reads, and where their halfwords go. */
typedef struct {
    uint16_t from[8];   /* of one row */
    uint16_t below[8];  /* of the next */
    uint16_t high[8];   /* upper half of the words of a tile row */
    uint16_t low[8];    /* lower half of the words of the next tile row */
} ek_dw3_mve_map_t;

#define EK_DW3_GATHER8 \
    "vldrb.u16 q4, [%[in], q0]\n" \
    "vldrb.u16 q5, [%[in], q1]\n" \
    "vsli.16 q4, q5, #8\n" \
    "vstrh.16 q4, [%[to], q2]\n" \
    "vstrh.16 q4, [%[to], q3]\n"

#define EK_DW3_STEP(register, number) \
    ".if (" number ") < 4096\n" \
    "addw " register ", " register ", #(" number ")\n" \
    ".else\n" \
    "movw r12, #((" number ") & 0xffff)\n" \
    "movt r12, #((" number ") >> 16)\n" \
    "add " register ", r12\n" \
    ".endif\n"

/* `count` pairs of rows from `in` on; `to`: upper half of the first column of the tile row that
 * ends with the first pair. wide: columns, of which the last eight are gathered last. */
EK_KERNEL void
ek_dw3_gather_mve(const ek_dw3_mve_map_t *map, const int8_t *in, int8_t *to, int32_t count,
                  const int32_t wide, const int32_t channels, const int32_t line,
                  const int32_t pitch)
{
    const int32_t blocks = wide <= 8 ? 0 : (wide + 7) / 8 - 1; /* before the last one */
    const int32_t last = wide <= 8 ? 0 : wide - 8;
    __asm__ volatile(
        EK_MVE_ASM EK_LINES_160
        "vldrh.u16 q0, [%[map]]\n"
        "vldrh.u16 q1, [%[map], #16]\n"
        "vldrh.u16 q2, [%[map], #32]\n"
        "vldrh.u16 q3, [%[map], #48]\n"
        "dls lr, %[count]\n"
        "1:\n"
        ".rept %c[blocks]\n"
        EK_DW3_GATHER8
        EK_DW3_STEP("%[in]", "8 * %c[channels]")
        "add %[to], #32\n"
        ".endr\n"
        ".if %c[blocks]\n"
        ".if %c[back]\n"
        ".if %c[back] * %c[channels] < 4096\n"
        "subw %[in], %[in], #(%c[back] * %c[channels])\n"
        ".else\n"
        "movw r12, #(%c[back] * %c[channels])\n"
        "sub %[in], r12\n"
        ".endif\n"
        "sub %[to], #(4 * %c[back])\n"
        ".endif\n"
        ".endif\n"
        EK_DW3_GATHER8
        EK_DW3_STEP("%[in]", "2 * %c[line] - %c[last] * %c[channels]")
        EK_DW3_STEP("%[to]", "%c[onward]")
        "le lr, 1b\n"
        : [in] "+&r"(in), [to] "+&r"(to)
        : [map] "r"(map), [count] "r"(count), [blocks] "i"(blocks), [channels] "i"(channels),
          [line] "i"(line), [last] "i"(last), [back] "i"(8 * blocks - last),
          [onward] "i"(pitch - 4 * last)
        : "lr", "r12", "q0", "q1", "q2", "q3", "q4", "q5", "memory", "cc");
}

/* One row that is the upper or lower byte of such halves (`to` is one more for the upper one);
 * `in` 0: the zero point. */
EK_KERNEL void
ek_dw3_gather_row_mve(const ek_dw3_mve_map_t *map, const int8_t *in, int8_t *to, int32_t zero,
                      const int32_t wide, const int32_t channels)
{
    int32_t x = 0;
    for (;;) {
        if (in) {
            __asm__ volatile(
                EK_MVE_ASM
                "vldrh.u16 q0, [%[map]]\n"
                "vldrb.u16 q4, [%[in], q0]\n"
                "vldrh.u16 q2, [%[map], #32]\n"
                "vldrh.u16 q3, [%[map], #48]\n"
                "vstrb.16 q4, [%[to], q2]\n"
                "vstrb.16 q4, [%[to], q3]\n"
                :
                : [map] "r"(map), [in] "r"(in + x * channels), [to] "r"(to + 4 * x)
                : "q0", "q2", "q3", "q4", "memory");
        } else {
            __asm__ volatile(
                EK_MVE_ASM
                "vdup.16 q4, %[zero]\n"
                "vldrh.u16 q2, [%[map], #32]\n"
                "vldrh.u16 q3, [%[map], #48]\n"
                "vstrb.16 q4, [%[to], q2]\n"
                "vstrb.16 q4, [%[to], q3]\n"
                :
                : [map] "r"(map), [zero] "r"(zero), [to] "r"(to + 4 * x)
                : "q2", "q3", "q4", "memory");
        }
        if (x + 8 >= wide) {
            break;
        }
        x = x + 16 <= wide ? x + 8 : wide - 8;
    }
}

/* in [in_h][in_w][channels], out [out_h][out_w][channels], out_w 2 to 160 / stride. All numbers
 * but the zero points and the clamp are literals. weights: 8 zeros, then [channels][3 columns][3 rows and
 * a zero] with four zeros after each. requant: [channels][3] bias, multiplier, negated right
 * shift; for EK_ANY [channels][4] with the left shift after the bias.
 * strip: rows of tiles that are held at a time. tiles: (strip + 2) * EK_DW3_PITCH bytes, aligned
 * to 4; with more than one strip, a whole number of output rows' pairs. */
EK_KERNEL void
ek_depthwise_conv_2d_3x3_s8_mve(const int8_t *in, const int8_t *weights, const int32_t *requant,
                                int8_t *tiles, const int32_t in_h, const int32_t in_w,
                                const int32_t channels, const int32_t out_h,
                                const int32_t out_w, const int32_t stride, const int32_t pad_h,
                                const int32_t pad_w, const int32_t strip, int32_t in_zero,
                                const int32_t mode, int32_t zero, const int32_t clamp,
                                int32_t low, int32_t high, int8_t *out)
{
    const int32_t pitch = EK_DW3_PITCH(out_w, stride);
    const int32_t columns = EK_DW3_COLUMNS(out_w, stride);
    const int32_t wide = in_w < columns - pad_w ? in_w : columns - pad_w;
    const int32_t line = in_w * channels;
    const int32_t rows = stride == 1 ? (out_h + 1) / 2 : out_h; /* of tiles */
    ek_dw3_mve_map_t map;
    ek_dw3_mve_job_t job;
    for (int32_t i = 0; i < 8; i++) {
        const int32_t x = i < wide ? i : 0;
        map.from[i] = (uint16_t)(x * channels);
        map.below[i] = (uint16_t)(x * channels + line);
        map.high[i] = (uint16_t)(i < wide ? 4 * i : 4 * (columns - pad_w));
        map.low[i] = (uint16_t)(map.high[i] + pitch - 2);
    }
    for (int32_t i = 0; i < 4; i++) {
        const int32_t column = (i & 1) * channels;
        const int32_t at = column + (i >> 1) * out_w * channels;
        job.offsets4[i] = (uint32_t)at;
        job.offsets8[2 * i] = (uint16_t)at;
        job.offsets8[2 * i + 1] = (uint16_t)(at + 2 * channels);
        job.single4[i] = (uint32_t)column;
        job.single8[2 * i] = (uint16_t)column;
        job.single8[2 * i + 1] = (uint16_t)(column + 2 * channels);
    }
    job.zero = zero;
    job.low = low;
    job.high = high;
    ek_fill_mve(tiles, in_zero, (strip + 2) * pitch);
    /* Tile row 0 takes what belongs to the one before the first. */
    int8_t *const first = tiles + 4 * pad_w + 2;
    for (int32_t c = 0; c < channels; c++) {
        job.weights = weights + 8 + 16 * c;
        job.bias = *requant++;
        if (mode == EK_ANY) {
            job.left = *requant++;
        }
        job.multiplier = *requant++;
        job.right = *requant++;
        job.out = out + c;
        for (int32_t top = 0; top < rows; top += strip) {
            const int32_t count = top + strip <= rows ? strip : rows - top;
            int8_t *to = first;
            int32_t half = 0;
            if (top > 0) { /* the last pair of rows is the first one now */
                ek_copy_mve(tiles + pitch, tiles + (strip + 1) * pitch, pitch);
                to += pitch;
                half = 1;
            }
            int32_t y = 2 * (top + half) - pad_h;
            const int8_t *from = in + c + y * line;
            while (half <= count) {
                int32_t inside = 0; /* pairs of rows of which both exist */
                if (y >= 0 && y + 1 < in_h) {
                    inside = (in_h - y) >> 1;
                    if (inside > count - half + 1) {
                        inside = count - half + 1;
                    }
                    ek_dw3_gather_mve(&map, from, to, inside, wide, channels, line, pitch);
                } else {
                    inside = 1;
                    for (int32_t i = 0; i < 2; i++) {
                        const int exists = y + i >= 0 && y + i < in_h;
                        if (exists || strip < rows) {
                            ek_dw3_gather_row_mve(&map, exists ? from + i * line : 0, to + i,
                                                  in_zero, wide, channels);
                        }
                    }
                }
                half += inside;
                y += 2 * inside;
                from += 2 * inside * line;
                to += inside * pitch;
            }
            job.tiles = tiles + pitch;
            const int32_t outputs = stride == 1 ? out_h - 2 * top : count;
            const int32_t these = stride == 1 && outputs > 2 * count ? 2 * count : outputs;
            job.pairs = these >> 1;
            job.odd = these & 1;
            ek_dw3_compute_mve(&job, channels, out_h, out_w, stride, mode, clamp);
            job.out += these * out_w * channels;
        }
    }
}

#endif
