/* Element-wise functions of one 8-bit tensor with MVE, sixteen bytes at a time.
 *
 * The output may start at or below the input, or be it. Loops are predicated at their tail, so
 * that any count will do.
 */
#ifndef EK_LOOKUP_S8_MVE_H
#define EK_LOOKUP_S8_MVE_H

#include "ek_dot_s8_mve.h"

/* output[i] = table[input[i]]; the table starts with the answers of 0 .. 127, -128 .. -1 follow. */
EK_KERNEL void
ek_lookup_s8_mve(const int8_t *in, const int8_t *table, int32_t count, int8_t *out)
{
    __asm__ volatile(
        EK_MVE_ASM
        "wlstp.8 lr, %[count], 2f\n"
        "1:\n"
        "vldrb.u8 q0, [%[in]], #16\n"
        "vldrb.u8 q1, [%[table], q0]\n"
        "vstrb.8 q1, [%[out]], #16\n"
        "letp lr, 1b\n"
        "2:\n"
        : [in] "+&r"(in), [out] "+&r"(out)
        : [table] "r"(table), [count] "r"(count)
        : "lr", "q0", "q1", "memory", "cc");
}

EK_KERNEL void
ek_clamp_s8_mve(const int8_t *in, int32_t count, int32_t low, int32_t high, int8_t *out)
{
    __asm__ volatile(
        EK_MVE_ASM
        "vdup.8 q1, %[low]\n"
        "vdup.8 q2, %[high]\n"
        "wlstp.8 lr, %[count], 2f\n"
        "1:\n"
        "vldrb.8 q0, [%[in]], #16\n"
        "vmax.s8 q0, q0, q1\n"
        "vmin.s8 q0, q0, q2\n"
        "vstrb.8 q0, [%[out]], #16\n"
        "letp lr, 1b\n"
        "2:\n"
        : [in] "+&r"(in), [out] "+&r"(out)
        : [low] "r"(low), [high] "r"(high), [count] "r"(count)
        : "lr", "q0", "q1", "q2", "memory", "cc");
}

#endif
