/* A model of three steps for tests: small, and its outputs are easy to predict. The second step
 * overwrites the input. Input 300 bytes, output 8 bytes. */
#include <string.h>

#include "ek_model.h"

#define N 300

static const int8_t weights[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

void toy_s0(int8_t *arena);
void toy_s1(int8_t *arena);
void toy_s2(int8_t *arena);
void toy_invoke(int8_t *arena);
void toy_step(int8_t *arena, uint32_t index);

/* middle[i] = input[i] * weights[i % 16] */
__attribute__((noinline)) void toy_s0(int8_t *arena)
{
    for (int i = 0; i < N; i++)
        arena[304 + i] = (int8_t)(arena[i] * weights[i % 16]);
}

/* input[i] = middle[i] ^ 0x55 */
__attribute__((noinline)) void toy_s1(int8_t *arena)
{
    memcpy(arena, arena + 304, N);
    for (int i = 0; i < N; i++)
        arena[i] ^= 0x55;
}

/* output[j] = sum of what is at i % 8 == j */
__attribute__((noinline)) void toy_s2(int8_t *arena)
{
    int8_t sum[8] = {0};
    for (int i = 0; i < N; i++)
        sum[i % 8] = (int8_t)(sum[i % 8] + arena[i]);
    memcpy(arena + 608, sum, 8);
}

void toy_invoke(int8_t *arena)
{
    toy_s0(arena);
    toy_s1(arena);
    toy_s2(arena);
}

void toy_step(int8_t *arena, uint32_t index)
{
    static void (*const steps[3])(int8_t *) = {toy_s0, toy_s1, toy_s2};
    steps[index](arena);
}

static const ek_span_t inputs[1] = {{0, N}};
static const ek_span_t outputs[1] = {{608, 8}};
static const ek_span_t step_outputs[3] = {{304, N}, {0, N}, {608, 8}};

extern const ek_model_t toy_model;
const ek_model_t toy_model = {
    .name = "toy",
    .engine = "test",
    .sha256 = {0xab, 0xcd},
    .arena_bytes = 616,
    .arena_align = 16,
    .input_count = 1,
    .output_count = 1,
    .step_count = 3,
    .inputs = inputs,
    .outputs = outputs,
    .step_outputs = step_outputs,
    .invoke = toy_invoke,
    .step = toy_step,
};
