/* QUANTIZE from and DEQUANTIZE to float32 without floating-point instructions. */
#ifndef EK_QUANTIZE_F32_H
#define EK_QUANTIZE_F32_H

#include "ek_math.h"

/* output[i] = -128 + the number of thresholds that input[i] reaches
 *
 * thresholds: 255 keys, ascending; a key is a float's bits, the lower 31 inverted for negative
 *             ones, so that keys compare as the numbers do
 *
 * Beyond 2^31 steps the reference casts to int32 what does not fit, which C leaves undefined; here
 * such inputs saturate, as they do on Arm.
 */
EK_KERNEL void ek_quantize_f32_s8(
    const float *input, const int32_t *thresholds, int32_t count, int8_t *output
) {
    for (int32_t i = 0; i < count; ++i) {
        int32_t key;
        __builtin_memcpy(&key, input + i, 4);
        key ^= (int32_t)((uint32_t)(key >> 31) >> 1);
        int32_t reached = 0;
        EK_UNROLL
        for (int32_t step = 128; step > 0; step >>= 1) {
            reached += thresholds[reached + step - 1] <= key ? step : 0;
        }
        output[i] = (int8_t)(reached - 128);
    }
}

/* output[i] = the float whose bits are table[input[i]]; 0 .. 127 first, then -128 .. -1 */
EK_KERNEL void ek_dequantize_s8_f32(
    const int8_t *input, const uint32_t *table, int32_t count, float *output
) {
    for (int32_t i = 0; i < count; ++i) {
        __builtin_memcpy(output + i, table + (uint8_t)input[i], 4);
    }
}

#endif
