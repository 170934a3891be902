/* Element-wise functions of one int8 tensor: the host computed all 256 answers. */
#ifndef EK_LOOKUP_S8_H
#define EK_LOOKUP_S8_H

#include "ek_math.h"

/* output[i] = table[input[i]]; the table starts with the answers of 0 .. 127, -128 .. -1 follow.
 *
 * output: may start at or below the input, or be it
 */
EK_KERNEL void ek_lookup_s8(
    const int8_t *input, const int8_t *table, int32_t count, int8_t *output
) {
    EK_UNROLL_4
    for (int32_t i = 0; i < count; ++i) {
        output[i] = table[(uint8_t)input[i]];
    }
}

/* The same from and to 8-bit types of either sign: bytes are bytes. */
EK_KERNEL void ek_lookup_u8(
    const uint8_t *input, const int8_t *table, int32_t count, int8_t *output
) {
    ek_lookup_s8((const int8_t *)input, table, count, output);
}

EK_KERNEL void ek_lookup_s8_u8(
    const int8_t *input, const int8_t *table, int32_t count, uint8_t *output
) {
    ek_lookup_s8(input, table, count, (int8_t *)output);
}

/* output[i] = clamp(input[i]) */
EK_KERNEL void ek_clamp_s8(
    const int8_t *input, int32_t count, int32_t low, int32_t high, int8_t *output
) {
    EK_UNROLL_4
    for (int32_t i = 0; i < count; ++i) {
        output[i] = (int8_t)ek_clamp(input[i], low, high);
    }
}

#endif
