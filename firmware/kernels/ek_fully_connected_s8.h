/* FULLY_CONNECTED, int8 with int32 accumulation, portable C. */
#ifndef EK_FULLY_CONNECTED_S8_H
#define EK_FULLY_CONNECTED_S8_H

#include "ek_math.h"

/* `block` (1 to 4) outputs of one row; each input byte is loaded once for all of them. */
EK_KERNEL void ek_fully_connected_block_s8(
    const int8_t *x, const int8_t *w, const int32_t *bias, const int32_t *multipliers,
    const int8_t *shifts, int32_t per_channel, int32_t extra, int32_t depth, int32_t block,
    int32_t mode, int32_t zero, int32_t low, int32_t high, int8_t *out
) {
    int32_t s0 = bias[0] + extra, s1 = 0, s2 = 0, s3 = 0;
    const int8_t *w1 = w, *w2 = w, *w3 = w;
    if (block > 1) {
        s1 = bias[1] + extra;
        w1 = w + depth;
    }
    if (block > 2) {
        s2 = bias[2] + extra;
        w2 = w1 + depth;
    }
    if (block > 3) {
        s3 = bias[3] + extra;
        w3 = w2 + depth;
    }
    int32_t left = depth;
#define EK_TAP(i)                \
    {                            \
        const int32_t a = x[i];  \
        s0 += a * w[i];          \
        if (block > 1) {         \
            s1 += a * w1[i];     \
        }                        \
        if (block > 2) {         \
            s2 += a * w2[i];     \
        }                        \
        if (block > 3) {         \
            s3 += a * w3[i];     \
        }                        \
    }
    for (; left >= 4; left -= 4) {
        EK_TAP(0)
        EK_TAP(1)
        EK_TAP(2)
        EK_TAP(3)
        x += 4;
        w += 4;
        w1 += 4;
        w2 += 4;
        w3 += 4;
    }
    for (; left > 0; --left) {
        EK_TAP(0)
        ++x;
        ++w;
        ++w1;
        ++w2;
        ++w3;
    }
#undef EK_TAP
    const int32_t next = per_channel ? 1 : 0;
    out[0] = ek_output_s8(s0, multipliers[0], shifts[0], mode, zero, low, high);
    if (block > 1) {
        out[1] = ek_output_s8(s1, multipliers[next], shifts[next], mode, zero, low, high);
    }
    if (block > 2) {
        out[2] = ek_output_s8(s2, multipliers[2 * next], shifts[2 * next], mode, zero, low, high);
    }
    if (block > 3) {
        out[3] = ek_output_s8(s3, multipliers[3 * next], shifts[3 * next], mode, zero, low, high);
    }
}

/* output[row][o] = requantize(bias[o] + sum over i of input[row][i] * (weights[o][i] - zero))
 *
 * input:   rows x depth
 * weights: outputs x depth
 * bias:    outputs; holds the bias minus the input's zero point times the row's weight sum
 * multipliers, shifts: outputs with per_channel 1, else one; as `mode` of ek_output_s8 wants them
 * block:   outputs computed together, 1 to 4 and at most `outputs`
 * weights_zero: the weights' zero point
 * output:  rows x outputs, apart from the input: every output needs the whole row
 */
EK_KERNEL void ek_fully_connected_s8(
    const int8_t *input, const int8_t *weights, const int32_t *bias, const int32_t *multipliers,
    const int8_t *shifts, int32_t per_channel, int32_t rows, int32_t depth, int32_t outputs,
    int32_t block, int32_t weights_zero, int32_t mode, int32_t output_zero, int32_t low,
    int32_t high, int8_t *output
) {
    for (int32_t row = 0; row < rows; ++row) {
        int32_t extra = 0;
        if (weights_zero != 0) {
            for (int32_t i = 0; i < depth; ++i) {
                extra -= input[i];
            }
            extra *= weights_zero;
        }
        /* The last block goes back over outputs that are there already. */
        for (int32_t at = 0; at < outputs; at += block) {
            const int32_t o = at + block > outputs ? outputs - block : at;
            const int32_t channel = per_channel ? o : 0;
            ek_fully_connected_block_s8(
                input, weights + o * depth, bias + o, multipliers + channel, shifts + channel,
                per_channel, extra, depth, block, mode, output_zero, low, high, output + o
            );
        }
        input += depth;
        output += outputs;
    }
}

#endif
