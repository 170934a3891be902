/* The clamp of an activation whose bounds are not those of int8, over a whole output at a time, on
 * cores with the DSP extension: SSUB8 compares four values, SEL takes those that are inside.
 */
#ifndef EK_CLAMP_S8_DSP_H
#define EK_CLAMP_S8_DSP_H

#include <stdint.h>

#include "ek_math.h"

/* values: 4-byte aligned */
EK_KERNEL void ek_clamp_s8_dsp(int8_t *values, int32_t count, int32_t low, int32_t high)
{
    const uint32_t lows = (uint32_t)(uint8_t)low * 0x01010101u;
    const uint32_t highs = (uint32_t)(uint8_t)high * 0x01010101u;
    ek_word_t *words = (ek_word_t *)(void *)values;
    uint32_t unused;
EK_UNROLL_4
    for (int32_t i = 0; i < count >> 2; i++) {
        uint32_t word = words[i];
        __asm__("ssub8 %1, %0, %2\n"
                "sel %0, %0, %2"
                : "+r"(word), "=&r"(unused)
                : "r"(lows)
                : "cc");
        if (high < 127) {
            __asm__("ssub8 %1, %2, %0\n"
                    "sel %0, %0, %2"
                    : "+r"(word), "=&r"(unused)
                    : "r"(highs)
                    : "cc");
        }
        words[i] = word;
    }
    for (int32_t i = count & ~3; i < count; i++) {
        values[i] = (int8_t)ek_clamp(values[i], low, high);
    }
}

#endif
