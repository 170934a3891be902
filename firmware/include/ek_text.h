/* Words as ternary features by hashing: the input of the zoo's text_projection models.
 *
 * The same values from the same bytes as edgekit/features/text.py, which explains them. C11 with
 * nothing but integers; no allocation, under 500 bytes of stack, no state between calls.
 */
#ifndef EK_TEXT_H
#define EK_TEXT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a word that count; the rest of a longer one is ignored. */
#define EK_TEXT_WORD_BYTES 64

static inline uint32_t ek_text_hash(const uint8_t *data, uint32_t nbytes) {
    uint32_t hash = 0x811C9DC5u; /* FNV-1a */
    for (uint32_t i = 0; i < nbytes; ++i) {
        hash = (hash ^ data[i]) * 0x01000193u;
    }
    return hash;
}

static inline uint32_t ek_text_finish(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu; /* MurmurHash3's finaliser */
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}

/* One word: bounded is '<', the word in lower case, '>'; out has `features` values. */
static inline void ek_text_word(const uint8_t *bounded, uint32_t nbytes, uint32_t features,
                                const int8_t codes[3], int8_t *out) {
    uint32_t hashes[EK_TEXT_WORD_BYTES + 1];
    uint32_t count = nbytes - 2;
    for (uint32_t i = 0; i < count; ++i) {
        hashes[i] = ek_text_hash(bounded + i, 3);
    }
    hashes[count++] = ek_text_hash(bounded, nbytes);
    for (uint32_t word = 0; word < features / 16; ++word) {
        /* Votes in bytes, four to a register and biased by 128: feature f is in byte f / 4 of
         * votes[f % 4]. There are at most 65 of either sign, so that no byte overflows. */
        uint32_t votes[4] = {0x80808080u, 0x80808080u, 0x80808080u, 0x80808080u};
        for (uint32_t i = 0; i < count; ++i) {
            uint32_t bits = ek_text_finish(hashes[i] + word * 0x9E3779B9u);
            for (uint32_t k = 0; k < 4; ++k) {
                votes[k] += (bits >> 2 * k & 0x01010101u) - (bits >> (2 * k + 1) & 0x01010101u);
            }
        }
        for (uint32_t f = 0; f < 16; ++f) {
            uint32_t vote = votes[f % 4] >> f / 4 * 8 & 0xFF;
            *out++ = codes[vote < 128 ? 0 : vote > 128 ? 2 : 1];
        }
    }
}

/* The features of a text's first words, [tokens][features]; rows without a word are zeros.
 *
 *   text, nbytes   UTF-8; it need not end in 0
 *   tokens         words at most, the model's first dimension
 *   features       per word, a multiple of 16, the model's second dimension
 *   codes          what -1, 0 and 1 are in the model's int8 input (codes() in text.py)
 *   out            tokens * features values, for instance the model's input
 *
 * Returns how many words were found, at most `tokens`.
 */
static inline uint32_t ek_text_features(const void *text, uint32_t nbytes, uint32_t tokens,
                                        uint32_t features, const int8_t codes[3], int8_t *out) {
    const uint8_t *bytes = (const uint8_t *)text;
    uint8_t bounded[EK_TEXT_WORD_BYTES + 2];
    uint32_t found = 0;
    uint32_t length = 0; /* of the word so far */
    bounded[0] = '<';
    for (uint32_t at = 0; at <= nbytes && found < tokens; ++at) {
        uint8_t byte = at < nbytes ? bytes[at] : ' ';
        if (byte >= 'A' && byte <= 'Z') {
            byte = (uint8_t)(byte + 0x20);
        }
        if (byte >= 0x80 || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9')) {
            if (length < EK_TEXT_WORD_BYTES) {
                bounded[1 + length++] = byte;
            }
            continue;
        }
        if (length) {
            bounded[1 + length] = '>';
            ek_text_word(bounded, length + 2, features, codes, out + found++ * features);
            length = 0;
        }
        if (byte > 0x20 && byte < 0x7F && found < tokens) {
            bounded[1] = byte;
            bounded[2] = '>';
            ek_text_word(bounded, 3, features, codes, out + found++ * features);
        }
    }
    for (uint32_t i = found * features; i < tokens * features; ++i) {
        out[i] = codes[1];
    }
    return found;
}

#ifdef __cplusplus
}
#endif

#endif
