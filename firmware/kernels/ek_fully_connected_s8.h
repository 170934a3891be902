/* FULLY_CONNECTED, int8 with int32 accumulation, portable C. */
#ifndef EK_FULLY_CONNECTED_S8_H
#define EK_FULLY_CONNECTED_S8_H

#include "ek_math.h"

EK_KERNEL int8_t ek_fully_connected_s8_out(
    int32_t sum, int32_t multiplier, int32_t shift, int32_t output_zero, int32_t low, int32_t high
) {
    return (int8_t)ek_clamp(ek_requantize(sum, multiplier, shift) + output_zero, low, high);
}

/* output[row][o] = requantize(bias[o] + sum over i of input[row][i] * weights[o][i])
 *
 * input:   rows x depth
 * weights: outputs x depth
 * bias:    outputs; holds the bias minus the input's zero point times the row's weight sum
 * output:  rows x outputs, apart from the input: every output needs the whole row
 * multiplier, shift: of ek_requantize, the same for all outputs
 */
EK_KERNEL void ek_fully_connected_s8(
    const int8_t *input, const int8_t *weights, const int32_t *bias, int32_t rows, int32_t depth,
    int32_t outputs, int32_t multiplier, int32_t shift, int32_t output_zero, int32_t low,
    int32_t high, int8_t *output
) {
    for (int32_t row = 0; row < rows; ++row) {
        const int8_t *w = weights;
        int32_t o = 0;
        /* Four outputs at a time: each input byte is loaded once for four products. */
        for (; o + 4 <= outputs; o += 4) {
            const int8_t *w0 = w, *w1 = w + depth, *w2 = w1 + depth, *w3 = w2 + depth;
            int32_t s0 = bias[o], s1 = bias[o + 1], s2 = bias[o + 2], s3 = bias[o + 3];
            for (int32_t i = 0; i < depth; ++i) {
                const int32_t x = input[i];
                s0 += x * w0[i];
                s1 += x * w1[i];
                s2 += x * w2[i];
                s3 += x * w3[i];
            }
            output[o] = ek_fully_connected_s8_out(s0, multiplier, shift, output_zero, low, high);
            output[o + 1] =
                ek_fully_connected_s8_out(s1, multiplier, shift, output_zero, low, high);
            output[o + 2] =
                ek_fully_connected_s8_out(s2, multiplier, shift, output_zero, low, high);
            output[o + 3] =
                ek_fully_connected_s8_out(s3, multiplier, shift, output_zero, low, high);
            w = w3 + depth;
        }
        for (; o < outputs; ++o) {
            int32_t sum = bias[o];
            for (int32_t i = 0; i < depth; ++i) {
                sum += (int32_t)input[i] * w[i];
            }
            output[o] = ek_fully_connected_s8_out(sum, multiplier, shift, output_zero, low, high);
            w += depth;
        }
        input += depth;
        output += outputs;
    }
}

#endif
