/* What the runtime knows of a model: one descriptor that the generated code defines.
 *
 * All state of a model is in its arena, which the caller supplies; the descriptor and
 * everything that it points to is constant and lives in flash. Offsets are bytes from the
 * start of the arena.
 */
#ifndef EK_MODEL_H
#define EK_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint32_t offset; /* bytes from the start of the arena */
    uint32_t nbytes;
} ek_span_t;

/* Bytes of an input that the caller puts into the arena right before a step. The feeds of a model
 * are in the order of their steps; they bring every byte once, in ascending order. */
typedef struct {
    uint32_t step;
    uint32_t input;
    uint32_t start;  /* first byte in the input */
    uint32_t offset; /* in the arena */
    uint32_t nbytes;
} ek_feed_t;

typedef struct {
    const char *name;
    const char *engine;      /* "aot 0.1.0" */
    uint8_t sha256[32];      /* of the .tflite file that it was made from */
    uint32_t arena_bytes;
    uint32_t arena_align;    /* a power of two */
    uint32_t input_count;
    uint32_t output_count;
    uint32_t step_count;
    const ek_span_t *inputs;
    const ek_span_t *outputs;
    const ek_span_t *step_outputs; /* what step i leaves behind, valid right after it */
    void (*invoke)(int8_t *arena); /* NULL where an input comes in pieces */
    void (*step)(int8_t *arena, uint32_t index); /* runs one step; 0 <= index < step_count */
} ek_model_t;

#ifdef __cplusplus
}
#endif

#endif
