/* memcpy and its like for firmware without a C library.
 *
 * Words where both sides are aligned alike, bytes otherwise: Cortex-M0+ has no unaligned access.
 * Compiled with -fno-builtin, or a compiler would turn the loops into calls of themselves.
 */
#include <string.h>
#include <stdint.h>

/* a word that may be any object's bytes */
typedef uint32_t __attribute__((may_alias)) word_t;

#define ALIGNED_ALIKE(a, b) ((((uintptr_t)(a) ^ (uintptr_t)(b)) & 3u) == 0)

void *memcpy(void *to, const void *from, size_t n)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if (n >= 8 && ALIGNED_ALIKE(t, f)) {
        while ((uintptr_t)t & 3u) {
            *t++ = *f++;
            n--;
        }
        word_t *tw = (word_t *)t;
        const word_t *fw = (const word_t *)f;
        for (; n >= 16; n -= 16) {
            word_t a = fw[0], b = fw[1], c = fw[2], d = fw[3];
            tw[0] = a;
            tw[1] = b;
            tw[2] = c;
            tw[3] = d;
            tw += 4;
            fw += 4;
        }
        for (; n >= 4; n -= 4)
            *tw++ = *fw++;
        t = (uint8_t *)tw;
        f = (const uint8_t *)fw;
    }
    while (n-- > 0)
        *t++ = *f++;
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if ((uintptr_t)t - (uintptr_t)f >= n) /* also when `to` is below: forwards is right */
        return memcpy(to, from, n);
    t += n;
    f += n;
    if (n >= 8 && ALIGNED_ALIKE(t, f)) {
        while ((uintptr_t)t & 3u) {
            *--t = *--f;
            n--;
        }
        word_t *tw = (word_t *)t;
        const word_t *fw = (const word_t *)f;
        for (; n >= 4; n -= 4)
            *--tw = *--fw;
        t = (uint8_t *)tw;
        f = (const uint8_t *)fw;
    }
    while (n-- > 0)
        *--t = *--f;
    return to;
}

void *memset(void *to, int value, size_t n)
{
    uint8_t *t = to;
    uint8_t byte = (uint8_t)value;
    if (n >= 8) {
        while ((uintptr_t)t & 3u) {
            *t++ = byte;
            n--;
        }
        word_t word = byte * 0x01010101u;
        word_t *tw = (word_t *)t;
        for (; n >= 16; n -= 16) {
            tw[0] = word;
            tw[1] = word;
            tw[2] = word;
            tw[3] = word;
            tw += 4;
        }
        for (; n >= 4; n -= 4)
            *tw++ = word;
        t = (uint8_t *)tw;
    }
    while (n-- > 0)
        *t++ = byte;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;
    for (; n > 0; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

size_t strlen(const char *text)
{
    size_t n = 0;
    while (text[n] != 0)
        n++;
    return n;
}
