/* What the boot ROM of the RP2350 looks for in the first 4 kB of the flash (RP2350 datasheet 5.1.5,
 * 5.9): a block with an image definition, in a loop of one. The image starts with its vector
 * table, so that no further item is needed (5.9.5.1). */
#include <stdint.h>

/* IMAGE_TYPE (5.9.3.1): item 0x42 of one word; executable 1, secure 2 << 4, Arm 0 << 8, RP2350
 * 1 << 12 */
#define IMAGE_TYPE (0x42u | 1u << 8 | (1u | 2u << 4 | 0u << 8 | 1u << 12) << 16)
/* LAST: item 0xFF, with the words of all items before it */
#define LAST (0xFFu | 1u << 8)

__attribute__((section(".image_def"), used)) const uint32_t ek_image_def[5] = {
    0xFFFFDED3u, /* start of a block */
    IMAGE_TYPE,
    LAST,
    0,           /* bytes to the next block: this one again */
    0xAB123579u, /* end of a block */
};
