/* The device's side of MLPerf Tiny's protocol for tests on the host. It is included, so that its
 * number formatting can be asked directly. */
#include "mlperf.c"

#define N 300
#define GUARD 64
#define OUT 262144

static struct {
    uint8_t before[GUARD];
    int8_t arena[2 * 304];
    uint8_t middle[GUARD];
    uint8_t buffer[4 * N] __attribute__((aligned(4)));
    uint8_t staging[N];
    uint8_t after[GUARD];
} memory;

static uint8_t out[OUT];
static uint32_t out_count, now, invocations, pulses, level;

/* output[i] = input[i] + 1; the input is gone afterwards */
static void toy_invoke(int8_t *arena)
{
    invocations++;
    for (int i = 0; i < N; i++)
        arena[304 + i] = (int8_t)(arena[i] + (arena[i] < 127));
    memset(arena, 0x77, N);
    now += 1000;
}

static const ek_span_t in_span[1] = {{0, N}}, out_span[1] = {{304, N}};
static ek_span_t short_span[1] = {{304, 8}};
static ek_model_t model = {.name = "toy", .engine = "test", .input_count = 1, .output_count = 1,
                           .inputs = in_span, .invoke = toy_invoke};

static void send(uint8_t byte)
{
    if (out_count < OUT)
        out[out_count++] = byte;
}

static uint32_t ticks(void) { return now += 1; }

static void pin(uint32_t value)
{
    pulses += level == 1 && value == 0;
    level = value;
}

static ek_mlperf_image_t image;
static ek_mlperf_config_t config;
static ek_mlperf_t state;

void harness_boot(uint32_t input, uint32_t energy, uint32_t start);
void harness_feed(const uint8_t *bytes, uint32_t count);
uint32_t harness_take(uint8_t *to);
int harness_intact(void);
uint32_t harness_invocations(void);
uint32_t harness_pulses(void);
uint32_t harness_format(uint32_t bits, uint8_t *to);
void harness_pass(uint32_t ticks);

void harness_boot(uint32_t input, uint32_t energy, uint32_t start)
{
    memset(&memory, 0xA5, sizeof memory);
    out_count = pulses = invocations = 0;
    now = start;
    model.outputs = input == EK_MLPERF_FLOAT32 ? out_span : short_span;
    image = (ek_mlperf_image_t){
        .vendor = "toys", .model = "toy01", .buffer = memory.buffer,
        .buffer_bytes = input == EK_MLPERF_FLOAT32 ? 4 * N : N,
        .staging = input == EK_MLPERF_FLOAT32 ? memory.staging : 0, .input = input,
        .reconstructs = input == EK_MLPERF_FLOAT32, .energy = energy,
        .input_scale = 0.5f, .output_scale = 0.5f, .input_zero_point = 3, .output_zero_point = 3};
    config = (ek_mlperf_config_t){.image = &image, .model = &model, .arena = memory.arena,
                                  .tick_hz = 1000000, .ticks = ticks, .send = send,
                                  .pin = energy ? pin : 0};
    ek_mlperf_init(&state, &config);
}

void harness_feed(const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ek_mlperf_receive(&state, bytes[i]);
}

uint32_t harness_take(uint8_t *to)
{
    uint32_t count = out_count;
    memcpy(to, out, count);
    out_count = 0;
    return count;
}

int harness_intact(void)
{
    for (int i = 0; i < GUARD; i++)
        if (memory.before[i] != 0xA5 || memory.middle[i] != 0xA5 || memory.after[i] != 0xA5)
            return 0;
    return 1;
}

uint32_t harness_invocations(void) { return invocations; }
uint32_t harness_pulses(void) { return pulses; }

uint32_t harness_format(uint32_t bits, uint8_t *to)
{
    float value;
    memcpy(&value, &bits, 4);
    out_count = 0;
    put_float(&state, value);
    return harness_take(to);
}

/* Time goes by, and the runtime looks at the counter as its main loop does. */
void harness_pass(uint32_t count)
{
    now += count;
    ek_mlperf_poll(&state);
}
