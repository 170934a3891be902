/* The device's side of the wire for tests on the host: bytes in, bytes out, guards around the
 * memory that hostile frames would like to reach. */
#include <string.h>

#include "ek_wire.h"

extern const ek_model_t toy_model;

#define GUARD 64
#define OUT 65536

static struct {
    uint8_t before[GUARD];
    int8_t arena[624];
    uint8_t middle[GUARD];
    uint8_t staging[304];
    uint8_t after[GUARD];
} memory;

static uint8_t out[OUT];
static uint32_t out_count;
static uint32_t run_ticks[8], step_ticks[7], step_crcs[7];
static uint32_t now, invocations, resets;
static const uint8_t build_id[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static ek_model_t model;
static ek_wire_config_t config;
static ek_wire_t wire;

static void send(uint8_t byte)
{
    if (out_count < OUT)
        out[out_count++] = byte;
}

static uint32_t ticks(void) { return now += 100; }
static uint32_t stack_bytes(void) { return 1024; }
static uint32_t stack_used(void) { return 321; }
static void reset(void) { resets++; }

static void invoke(int8_t *arena)
{
    invocations++;
    toy_model.invoke(arena);
}

void harness_boot(int staged);
void harness_boot_big(void);
void harness_boot_fed(void);
void harness_feed(const uint8_t *bytes, uint32_t count);
uint32_t harness_take(uint8_t *to);
int harness_intact(void);
uint32_t harness_invocations(void);
uint32_t harness_resets(void);

void harness_boot(int staged)
{
    model = toy_model;
    model.invoke = invoke;
    memset(&memory, 0xA5, sizeof memory);
    config = (ek_wire_config_t){
        .model = &model, .arena = memory.arena,
        .staging = staged ? memory.staging : 0, .staging_bytes = staged ? 300 : 0,
        .flags = staged ? EK_WIRE_INPUT_STAGED : 0,
        .build_id = build_id, .target = "harness", .clock_hz = 1000000, .tick_hz = 1000000,
        .run_ticks = run_ticks, .run_capacity = 8,
        .step_ticks = step_ticks, .step_crcs = step_crcs, .step_capacity = 3,
        .send = send, .ticks = ticks, .stack_bytes = stack_bytes, .stack_used_bytes = stack_used,
        .reset = reset};
    out_count = 0;
    ek_wire_init(&wire, &config);
}

/* The toy whose input comes in two pieces, both to where the first step's output will be. */
#define HALF 150
static const ek_feed_t feeds[2] = {{0, 0, 0, 304, HALF}, {2, 0, HALF, 304, HALF}};
static const ek_span_t fed_steps[7] = {{304, HALF}, {0, HALF}, {304, HALF}, {HALF, HALF},
                                       {304, 300}, {0, 300}, {608, 8}};

static void fed_step(int8_t *arena, uint32_t index)
{
    if (index >= 4)
        toy_model.step(arena, index - 4);
    else if (index % 2 == 1)
        memcpy(arena + (index == 1 ? 0 : HALF), arena + 304, HALF);
    invocations += index == 6;
}

void harness_boot_fed(void)
{
    harness_boot(0);
    model.invoke = 0;
    model.step = fed_step;
    model.step_count = 7;
    model.step_outputs = fed_steps;
    config.feed_count = 2;
    config.feeds = feeds;
    config.step_capacity = 7;
    ek_wire_init(&wire, &config);
}

/* A model that copies a large input to its output: for throughput. */
#define BIG 27648
static int8_t big_arena[2 * BIG];
static const ek_span_t big_in[1] = {{0, BIG}}, big_out[1] = {{BIG, BIG}};

static void big_invoke(int8_t *arena) { memcpy(arena + BIG, arena, BIG); }

void harness_boot_big(void)
{
    harness_boot(0);
    model.inputs = big_in;
    model.outputs = big_out;
    model.step_count = 0;
    model.invoke = big_invoke;
    config.arena = big_arena;
    config.flags = EK_WIRE_INPUT_KEPT;
    ek_wire_init(&wire, &config);
}

void harness_feed(const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ek_wire_receive(&wire, bytes[i]);
}

uint32_t harness_take(uint8_t *to)
{
    uint32_t count = out_count;
    memcpy(to, out, count);
    out_count = 0;
    return count;
}

/* Whether nothing was written outside arena and staging. */
int harness_intact(void)
{
    for (int i = 0; i < GUARD; i++)
        if (memory.before[i] != 0xA5 || memory.middle[i] != 0xA5 || memory.after[i] != 0xA5)
            return 0;
    return 1;
}

uint32_t harness_invocations(void) { return invocations; }
uint32_t harness_resets(void) { return resets; }
