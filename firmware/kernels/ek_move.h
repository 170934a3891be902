/* Operators that move bytes or leave them: CONCATENATION, PAD, SPLIT, STRIDED_SLICE, and RESHAPE where a copy is
 * wanted.
 */
#ifndef EK_MOVE_H
#define EK_MOVE_H

#include "ek_math.h"

/* The same bytes in another place; the output may be the input or start below it. */
EK_KERNEL void ek_reshape(const void *input, int32_t nbytes, void *output) {
    if (input != output) {
        ek_copy((int8_t *)output, (const int8_t *)input, nbytes);
    }
}

/* Rows of an input: the caller has put them there before this step. */
EK_KERNEL void ek_fed(const int8_t *rows) {
    (void)rows;
}

/* Copies `outer` runs of nbytes, which are `pitch` bytes apart in the output. One run may be where
 * it belongs already. */
EK_KERNEL void ek_concatenation_part(
    const int8_t *input, int32_t outer, int32_t nbytes, int32_t pitch, int8_t *output
) {
    if (outer == 1 && input == output) {
        return;
    }
    for (int32_t i = 0; i < outer; ++i) {
        ek_copy(output, input, nbytes);
        input += nbytes;
        output += pitch;
    }
}

/* output[i] = the i-th runs of all inputs, one after the other
 *
 * input_k: outer x nbytes_k; output: outer x (sum of all nbytes_k). Unused inputs have 0 bytes.
 * With outer 1 an input may already be at its place in the output.
 */
EK_KERNEL void ek_concatenation_2(
    const int8_t *input_0, const int8_t *input_1, int32_t outer, int32_t nbytes_0,
    int32_t nbytes_1, int8_t *output
) {
    const int32_t pitch = nbytes_0 + nbytes_1;
    ek_concatenation_part(input_0, outer, nbytes_0, pitch, output);
    ek_concatenation_part(input_1, outer, nbytes_1, pitch, output + nbytes_0);
}

EK_KERNEL void ek_concatenation_4(
    const int8_t *input_0, const int8_t *input_1, const int8_t *input_2, const int8_t *input_3,
    int32_t outer, int32_t nbytes_0, int32_t nbytes_1, int32_t nbytes_2, int32_t nbytes_3,
    int8_t *output
) {
    const int32_t pitch = nbytes_0 + nbytes_1 + nbytes_2 + nbytes_3;
    ek_concatenation_part(input_0, outer, nbytes_0, pitch, output);
    output += nbytes_0;
    ek_concatenation_part(input_1, outer, nbytes_1, pitch, output);
    output += nbytes_1;
    ek_concatenation_part(input_2, outer, nbytes_2, pitch, output);
    output += nbytes_2;
    ek_concatenation_part(input_3, outer, nbytes_3, pitch, output);
}

EK_KERNEL void ek_concatenation_10(
    const int8_t *input_0, const int8_t *input_1, const int8_t *input_2, const int8_t *input_3,
    const int8_t *input_4, const int8_t *input_5, const int8_t *input_6, const int8_t *input_7,
    const int8_t *input_8, const int8_t *input_9, int32_t outer, int32_t nbytes_0,
    int32_t nbytes_1, int32_t nbytes_2, int32_t nbytes_3, int32_t nbytes_4, int32_t nbytes_5,
    int32_t nbytes_6, int32_t nbytes_7, int32_t nbytes_8, int32_t nbytes_9, int8_t *output
) {
    for (int32_t i = 0; i < outer; ++i) {
#define EK_PART(k)                                                                     \
    ek_concatenation_part(input_##k + i * nbytes_##k, 1, nbytes_##k, nbytes_##k, output); \
    output += nbytes_##k;
        EK_PART(0)
        EK_PART(1)
        EK_PART(2)
        EK_PART(3)
        EK_PART(4)
        EK_PART(5)
        EK_PART(6)
        EK_PART(7)
        EK_PART(8)
        EK_PART(9)
#undef EK_PART
    }
}

/* Surrounds the input with `value`.
 *
 * input: d0 x d1 x d2 x d3 bytes; before_k, after_k: bytes (in units of dimension k) around it
 * output: (before_0 + d0 + after_0) x …, apart from the input
 */
EK_KERNEL void ek_pad_s8(
    const int8_t *input, int32_t d0, int32_t d1, int32_t d2, int32_t d3, int32_t before_0,
    int32_t before_1, int32_t before_2, int32_t before_3, int32_t after_0, int32_t after_1,
    int32_t after_2, int32_t after_3, int32_t value, int8_t *output
) {
    const int32_t line = before_3 + d3 + after_3;
    const int32_t slice = line * (before_2 + d2 + after_2);
    const int32_t block = slice * (before_1 + d1 + after_1);
    ek_fill(output, value, before_0 * block);
    output += before_0 * block;
    for (int32_t i = 0; i < d0; ++i) {
        ek_fill(output, value, before_1 * slice);
        output += before_1 * slice;
        for (int32_t j = 0; j < d1; ++j) {
            ek_fill(output, value, before_2 * line);
            output += before_2 * line;
            for (int32_t k = 0; k < d2; ++k) {
                ek_fill(output, value, before_3);
                ek_copy(output + before_3, input, d3);
                ek_fill(output + before_3 + d3, value, after_3);
                output += line;
                input += d3;
            }
            ek_fill(output, value, after_2 * line);
            output += after_2 * line;
        }
        ek_fill(output, value, after_1 * slice);
        output += after_1 * slice;
    }
    ek_fill(output, value, after_0 * block);
}

/* output = `outer` runs of nbytes from input + start, which are `pitch` bytes apart there; the
 * output may start at or below the first of them.
 */
EK_KERNEL void ek_split(
    const void *input, int32_t start, int32_t outer, int32_t nbytes, int32_t pitch, void *output
) {
    const int8_t *in = (const int8_t *)input + start;
    int8_t *out = (int8_t *)output;
    if (out == in && outer == 1) {
        return;
    }
    for (int32_t i = 0; i < outer; ++i) {
        ek_copy(out, in, nbytes);
        out += nbytes;
        in += pitch;
    }
}

/* output[i][j][k][l] = input[start + i * step_0 + j * step_1 + k * step_2 + l * step_3]
 *
 * start and steps in bytes; steps may be negative. An element has nbytes.
 */
EK_KERNEL void ek_strided_slice(
    const int8_t *input, int32_t nbytes, int32_t start, int32_t d0, int32_t d1, int32_t d2,
    int32_t d3, int32_t step_0, int32_t step_1, int32_t step_2, int32_t step_3, int8_t *output
) {
    for (int32_t i = 0; i < d0; ++i) {
        for (int32_t j = 0; j < d1; ++j) {
            for (int32_t k = 0; k < d2; ++k) {
                int32_t at = start + i * step_0 + j * step_1 + k * step_2;
                for (int32_t l = 0; l < d3; ++l) {
                    ek_copy(output, input + at, nbytes);
                    output += nbytes;
                    at += step_3;
                }
            }
        }
    }
}

#endif
