/* The MLPerf Tiny serial protocol, device side: text commands over any stream of bytes.
 *
 * docs/mlperf-tiny.md describes commands and answers. Nothing is allocated; what comes in may be
 * anything, of any length.
 */
#ifndef EK_MLPERF_H
#define EK_MLPERF_H

#include <stdint.h>

#include "ek_model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Longest command, without its end. */
#define EK_MLPERF_COMMAND 80u

enum ek_mlperf_input {
    EK_MLPERF_INT8 = 0,   /* the model's input as it is */
    EK_MLPERF_UINT8 = 1,  /* pixels: the model's input is 128 less */
    EK_MLPERF_FLOAT32 = 2 /* real numbers, little-endian: quantised here */
};

/* What the build knows of the benchmark and of the model's numbers. */
typedef struct {
    const char *vendor;
    const char *model; /* "kws01", "ic01", "vww01", "ad01" */
    uint8_t *buffer;   /* one input as the runner sends it, aligned to 4 bytes */
    uint32_t buffer_bytes;
    uint8_t *staging; /* the quantised input of EK_MLPERF_FLOAT32, NULL where it is kept */
    uint32_t input;         /* enum ek_mlperf_input */
    uint32_t reconstructs;  /* the result is the error of the output as a copy of the input */
    uint32_t energy;        /* timestamps are pulses on a pin instead of text */
    float input_scale, output_scale;
    int32_t input_zero_point, output_zero_point;
} ek_mlperf_image_t;

extern const ek_mlperf_image_t ek_mlperf_image;

typedef struct {
    const ek_mlperf_image_t *image;
    const ek_model_t *model;
    int8_t *arena;
    uint32_t tick_hz;
    uint32_t (*ticks)(void);
    void (*send)(uint8_t byte);
    void (*pin)(uint32_t level); /* the timing pin, 1 at rest; NULL where there is none */
} ek_mlperf_config_t;

typedef struct {
    const ek_mlperf_config_t *config;
    uint64_t elapsed_ticks;
    uint32_t last_ticks;
    uint32_t expected_bytes; /* of the load that goes on */
    uint32_t loaded_bytes;
    uint32_t count; /* characters of the command so far; one more than fit: too long */
    char command[EK_MLPERF_COMMAND + 12u]; /* names are compared as a whole: zeros follow */
} ek_mlperf_t;

/* Starts, and says so on the line. */
void ek_mlperf_init(ek_mlperf_t *mlperf, const ek_mlperf_config_t *config);

/* Takes one byte; answers when it ends a command. */
void ek_mlperf_receive(ek_mlperf_t *mlperf, uint8_t byte);

/* Follows the tick counter; called at least once while it goes round. */
void ek_mlperf_poll(ek_mlperf_t *mlperf);

#ifdef __cplusplus
}
#endif

#endif
