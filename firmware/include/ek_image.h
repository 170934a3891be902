/* What the build writes into a firmware about itself (generated `ek_image.c`). */
#ifndef EK_IMAGE_H
#define EK_IMAGE_H

#include <stdint.h>

#include "ek_wire.h"

typedef struct {
    const ek_model_t *model;
#if EK_WIRE_FEEDS
    const ek_feed_t *feeds;
    uint32_t feed_count;
#endif
    int8_t *arena;
    uint8_t *staging; /* NULL when inputs need not be kept apart */
    uint32_t staging_bytes;
    uint32_t flags; /* enum ek_wire_flags */
    uint32_t *step_ticks;
    uint32_t *step_crcs;
    uint32_t step_capacity;
    uint32_t clock_hz;
    const char *target;
    uint8_t build_id[16];
} ek_image_t;

extern const ek_image_t ek_image;

#endif
