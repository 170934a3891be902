/* Integer arithmetic that all kernels share, exact for every input.
 *
 * Right shifts of negative numbers are arithmetic in every compiler that can build this
 * (gcc and clang document it); sums that may leave the range are made unsigned.
 */
#ifndef EK_MATH_H
#define EK_MATH_H

#include <stdint.h>

#define EK_KERNEL static inline __attribute__((always_inline, unused))

/* A function whose body is assembly. gcc must not conclude anything about it from the outside:
 * it sees no memory accesses there. */
#if defined(__clang__)
#define EK_ASSEMBLY __attribute__((naked, noinline, unused, aligned(4))) static
#else
#define EK_ASSEMBLY __attribute__((naked, noinline, noipa, unused, aligned(4))) static
#endif

/* A word that may lie over bytes or half-words. */
typedef uint32_t __attribute__((may_alias)) ek_word_t;

/* Before a loop with literal bounds that must vanish. */
#if defined(__clang__)
#define EK_UNROLL _Pragma("clang loop unroll(full)")
#define EK_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define EK_UNROLL _Pragma("GCC unroll 16")
#define EK_UNROLL_4 _Pragma("GCC unroll 4")
#endif

/* Words may be read and written at any address. */
#if defined(__ARM_FEATURE_UNALIGNED) || defined(__x86_64__) || defined(__aarch64__)
#define EK_UNALIGNED 1
#else
#define EK_UNALIGNED 0
#endif

/* x * multiplier * 2^(shift - 31), rounded as TensorFlow Lite does it by default: a rounding
 * doubling high multiplication (half up), then a rounding right shift (half away from zero).
 *
 * multiplier: 0 or 2^30 .. 2^31-1. shift: -31 .. 30, to the left where positive.
 *
 * The first rounding of TensorFlow Lite nudges by 2^30 or 1 - 2^30 and divides towards zero,
 * which is floor((x * multiplier + 2^30) / 2^31) for either sign.
 */
EK_KERNEL int32_t ek_requantize(int32_t x, int32_t multiplier, int32_t shift) {
    const int32_t left = shift > 0 ? shift : 0;
    const int32_t right = shift > 0 ? 0 : -shift;
    const int32_t shifted = (int32_t)((uint32_t)x << left);
    const int64_t product = (int64_t)shifted * multiplier;
    const int32_t high = (int32_t)((product + ((int64_t)1 << 30)) >> 31);
    if (right == 0) {
        return high;
    }
    /* The bit below the result rounds half up; at exactly half a negative goes down instead. */
    const int32_t mask = (int32_t)(((uint32_t)1 << right) - 1u);
    const int32_t threshold = (mask >> 1) + (high < 0 ? 1 : 0);
    const int32_t result = high >> right;
    return result + ((high & mask) > threshold ? 1 : 0);
}

/* The rounding doubling high multiplication alone, for |x| < 2^30. */
EK_KERNEL int32_t ek_multiply_high(int32_t x, int32_t multiplier) {
#if defined(__ARM_FEATURE_DSP)
    int32_t result;
    __asm__("smmulr %0, %1, %2" : "=r"(result) : "r"(x * 2), "r"(multiplier));
    return result;
#else
    const int64_t product = (int64_t)(x * 2) * multiplier;
    return (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
#endif
}

/* The same for |x| < 2^20. A core without a long multiplication takes the multiplier as digits of 11,
 * 10 and 10 bits: floors of floors are the floor of the whole.
 */
EK_KERNEL int32_t ek_multiply_high_small(int32_t x, int32_t multiplier) {
#if defined(__ARM_ARCH_6M__)
    const int32_t low = (x * (multiplier & 1023)) >> 10;
    const int32_t middle = (x * ((multiplier >> 10) & 1023) + low) >> 10;
    return (x * (multiplier >> 20) + middle + (1 << 10)) >> 11;
#else
    return ek_multiply_high(x, multiplier);
#endif
}

/* A rounding right shift by 1 + less, half away from zero; zero is added to the result.
 *
 * A negative number becomes one smaller, so that its half goes down with the floor; nothing
 * here can overflow but zero itself, as the first shift leaves the room.
 */
EK_KERNEL int32_t ek_shift_right(int32_t x, int32_t less, int32_t zero) {
    return (((x + (x >> 31)) >> less) + (2 * zero + 1)) >> 1;
}

/* ek_requantize for |x| < 2^30 and shift <= 0, in fewer instructions. */
EK_KERNEL int32_t ek_requantize_down(int32_t x, int32_t multiplier, int32_t shift) {
    const int32_t high = ek_multiply_high(x, multiplier);
    return shift == 0 ? high : ek_shift_right(high, -shift - 1, 0);
}

EK_KERNEL int32_t ek_clamp(int32_t x, int32_t low, int32_t high) {
#if defined(__ARM_FEATURE_SAT)
    if (__builtin_constant_p(low == -128 && high == 127) && low == -128 && high == 127) {
        return __builtin_arm_ssat(x, 8);
    }
#endif
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* How ek_output_s8 computes; the host proves which one is exact for a step. */
#define EK_ANY 0  /* every sum and shift */
#define EK_DOWN 1 /* |sum| < 2^30 and shift < 0 for every channel; tables hold -shift - 1 */
#define EK_RELU 2 /* as EK_DOWN, and low >= zero: what rounds below zero is clamped anyway */
#define EK_SMALL 4 /* beside EK_DOWN or EK_RELU: |sum| < 2^20 */

/* A sum of products as an int8 output. */
EK_KERNEL int8_t ek_output_s8(
    int32_t sum, int32_t multiplier, int32_t shift, int32_t mode, int32_t zero, int32_t low,
    int32_t high
) {
    int32_t value;
    if (mode == EK_ANY) {
        /* A huge result plus the zero point may leave the range; clamped before, it cannot. */
        value = ek_requantize(sum, multiplier, shift);
        return (int8_t)(ek_clamp(value, low - zero, high - zero) + zero);
    }
#if defined(__ARM_FEATURE_DSP)
    if (__builtin_constant_p(shift) && shift < 22) {
        /* The zero point and both halves go into the first rounding's addend. */
        const int32_t nudge = (mode & ~EK_SMALL) == EK_DOWN ? sum >> 31 : 0;
        const int32_t add = (int32_t)((uint32_t)zero << (shift + 1)) + (1 << shift) + nudge;
        __asm__("smmlar %0, %1, %2, %3" : "=r"(value) : "r"(sum * 2), "r"(multiplier), "r"(add));
        return (int8_t)ek_clamp(value >> (shift + 1), low, high);
    }
#endif
    value = mode & EK_SMALL ? ek_multiply_high_small(sum, multiplier)
                            : ek_multiply_high(sum, multiplier);
    if ((mode & ~EK_SMALL) == EK_DOWN) {
        value += value >> 31;
    }
    value = ((value >> shift) + (2 * zero + 1)) >> 1;
    return (int8_t)ek_clamp(value, low, high);
}

/* Copies forward; the areas may overlap if the target is not above the source. */
EK_KERNEL void ek_copy(int8_t *to, const int8_t *from, int32_t nbytes) {
#if EK_UNALIGNED
    for (; nbytes >= 4; nbytes -= 4) {
        uint32_t word;
        __builtin_memcpy(&word, from, 4);
        __builtin_memcpy(to, &word, 4);
        from += 4;
        to += 4;
    }
#endif
    for (; nbytes > 0; --nbytes) {
        *to++ = *from++;
    }
}

EK_KERNEL void ek_fill(int8_t *to, int32_t value, int32_t nbytes) {
    for (; nbytes > 0; --nbytes) {
        *to++ = (int8_t)value;
    }
}

#endif
