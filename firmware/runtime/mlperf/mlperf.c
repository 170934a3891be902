/* The MLPerf Tiny serial protocol, device side. docs/mlperf-tiny.md describes it. */
#include "ek_mlperf.h"

#include <string.h>

/* ---- text out ---- */

static void put(ek_mlperf_t *m, const char *text)
{
    while (*text != 0)
        m->config->send((uint8_t)*text++);
}

static void line_end(ek_mlperf_t *m) { put(m, "\r\n"); }

static void line(ek_mlperf_t *m, const char *text)
{
    put(m, text);
    line_end(m);
}

static void put_number(ek_mlperf_t *m, uint64_t value)
{
    char digits[21];
    uint32_t at = sizeof digits - 1u;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + (uint32_t)(value % 10u));
        value /= 10u;
    } while (value != 0);
    put(m, digits + at);
}

static void put_hex(ek_mlperf_t *m, uint32_t byte)
{
    static const char digits[] = "0123456789abcdef";
    m->config->send((uint8_t)digits[byte >> 4]);
    m->config->send((uint8_t)digits[byte & 15u]);
}

/* A whole number of 24 bits times 2^exponent, which may have 39 digits. */
static void put_large(ek_mlperf_t *m, uint32_t mantissa, uint32_t exponent)
{
    uint8_t digits[40] = {0}; /* the lowest first */
    uint32_t top = 1;
    for (uint32_t i = 0; mantissa != 0; i++) {
        digits[i] = (uint8_t)(mantissa % 10u);
        mantissa /= 10u;
        top = i + 1u;
    }
    while (exponent-- > 0) {
        uint32_t carry = 0;
        for (uint32_t i = 0; i < top || (carry != 0 && i < sizeof digits); i++) {
            uint32_t digit = 2u * digits[i] + carry;
            carry = digit >= 10u;
            digits[i] = (uint8_t)(carry ? digit - 10u : digit);
            if (i >= top)
                top = i + 1u;
        }
    }
    while (top-- > 0)
        m->config->send((uint8_t)('0' + digits[top]));
}

/* Three digits behind the point, rounded to nearest, halves to even: from the bits alone. */
static void put_float(ek_mlperf_t *m, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t exponent = bits >> 23 & 0xFFu, mantissa = bits & 0x7FFFFFu;
    if (exponent == 0xFFu && mantissa != 0) {
        put(m, "nan");
        return;
    }
    if (bits >> 31)
        put(m, "-");
    if (exponent == 0xFFu) {
        put(m, "inf");
        return;
    }
    if (exponent != 0)
        mantissa |= 0x800000u;
    else
        exponent = 1;
    if (exponent >= 150u) { /* no fraction is left */
        put_large(m, mantissa, exponent - 150u);
        put(m, ".000");
        return;
    }
    uint32_t shift = 150u - exponent; /* value = mantissa / 2^shift */
    uint64_t thousandths = 0;
    if (shift < 48u) {
        uint64_t scaled = (uint64_t)mantissa * 1000u, half = (uint64_t)1 << (shift - 1u);
        uint64_t rest = scaled & ((half << 1) - 1u);
        thousandths = scaled >> shift;
        if (rest > half || (rest == half && (thousandths & 1u)))
            thousandths++;
    }
    put_number(m, thousandths / 1000u);
    uint32_t fraction = (uint32_t)(thousandths % 1000u);
    put(m, ".");
    m->config->send((uint8_t)('0' + fraction / 100u));
    m->config->send((uint8_t)('0' + fraction / 10u % 10u));
    m->config->send((uint8_t)('0' + fraction % 10u));
}

/* ---- time ---- */

void ek_mlperf_poll(ek_mlperf_t *m)
{
    uint32_t now = m->config->ticks();
    m->elapsed_ticks += now - m->last_ticks;
    m->last_ticks = now;
}

static uint64_t microseconds(ek_mlperf_t *m)
{
    uint32_t hz = m->config->tick_hz;
    ek_mlperf_poll(m);
    return m->elapsed_ticks / hz * 1000000u + m->elapsed_ticks % hz * 1000000u / hz;
}

static void timestamp(ek_mlperf_t *m)
{
    const ek_mlperf_config_t *c = m->config;
    if (c->image->energy) {
        /* the instrument wants at least a microsecond, and some tick counters have no finer step */
        uint32_t pulse = c->tick_hz / 500000u + 1u, start = c->ticks();
        if (c->pin == 0)
            return;
        c->pin(0);
        while (c->ticks() - start < pulse) {
        }
        c->pin(1);
        return;
    }
    uint64_t now = microseconds(m);
    put(m, "m-lap-us-");
    put_number(m, now);
    line_end(m);
}

/* ---- arguments ---- */

/* Cuts the next word off; an empty one at the end. */
static char *word(char **rest)
{
    char *start = *rest;
    while (*start == ' ')
        start++;
    char *end = start;
    while (*end != 0 && *end != ' ')
        end++;
    *rest = *end != 0 ? end + 1 : end;
    *end = 0;
    return start;
}

/* A whole number from -2^31 to 2^31 - 1, cut off there; 0 for anything else. */
static int32_t number(const char *text)
{
    uint32_t negative = *text == '-', value = 0;
    text += negative;
    for (; *text != 0; text++) {
        if (*text < '0' || *text > '9')
            return 0;
        value = value > 214748363u ? 2147483647u : 10u * value + (uint32_t)(*text - '0');
    }
    return negative ? -(int32_t)value : (int32_t)value;
}

static int32_t hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static void put_visible(ek_mlperf_t *m, const char *text, uint32_t most)
{
    for (; *text != 0 && most > 0; text++, most--)
        m->config->send((uint8_t)(*text >= ' ' && *text <= '~' ? *text : '?'));
}

/* ---- the model ---- */

static uint32_t mask_of(const ek_mlperf_image_t *image)
{
    return image->input == EK_MLPERF_UINT8 ? 0x80u : 0u; /* x - 128 in two's complement */
}

static float sample(const ek_mlperf_image_t *image, uint32_t index)
{
    float value;
    memcpy(&value, image->buffer + 4u * index, 4);
    return value;
}

/* Rounded half away from zero, exactly; what is no number becomes the lowest. */
static int8_t quantize(float value, const ek_mlperf_image_t *image)
{
    float steps = value / image->input_scale;
    if (!(steps > -512.0f))
        steps = -512.0f;
    if (steps > 512.0f)
        steps = 512.0f;
    int32_t whole = (int32_t)steps;
    float rest = steps - (float)whole;
    if (rest >= 0.5f)
        whole++;
    if (rest <= -0.5f)
        whole--;
    whole += image->input_zero_point;
    return (int8_t)(whole < -128 ? -128 : whole > 127 ? 127 : whole);
}

/* The runner's input in the model's numbers: what is copied into the arena before every inference,
 * or lies there already. */
static const uint8_t *prepare(ek_mlperf_t *m)
{
    const ek_mlperf_image_t *image = m->config->image;
    const ek_span_t *span = &m->config->model->inputs[0];
    if (image->input != EK_MLPERF_FLOAT32)
        return image->buffer;
    int8_t *to = image->staging != 0 ? (int8_t *)image->staging : m->config->arena + span->offset;
    for (uint32_t i = 0; i < span->nbytes && 4u * i + 3u < image->buffer_bytes; i++)
        to[i] = quantize(sample(image, i), image);
    return (const uint8_t *)to;
}

static void invoke(ek_mlperf_t *m, const uint8_t *from)
{
    const ek_model_t *model = m->config->model;
    uint8_t *to = (uint8_t *)m->config->arena + model->inputs[0].offset;
    if (to != from)
        memcpy(to, from, model->inputs[0].nbytes);
    model->invoke(m->config->arena);
}

static void results(ek_mlperf_t *m)
{
    const ek_mlperf_image_t *image = m->config->image;
    const ek_span_t *span = &m->config->model->outputs[0];
    const int8_t *output = m->config->arena + span->offset;
    put(m, "m-results-[");
    if (image->reconstructs) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < span->nbytes; i++) {
            float real = (float)(output[i] - image->output_zero_point) * image->output_scale;
            float difference = real - sample(image, i);
            sum += difference * difference;
        }
        put_float(m, sum / (float)span->nbytes);
    } else {
        for (uint32_t i = 0; i < span->nbytes; i++) {
            if (i != 0)
                put(m, ",");
            put_float(m, (float)(output[i] - image->output_zero_point) * image->output_scale);
        }
    }
    line(m, "]");
}

static void infer(ek_mlperf_t *m, char *rest)
{
    char *first = word(&rest), *second = word(&rest);
    int32_t count = number(first), warmups = *second != 0 ? number(second) : 10;
    if (count <= 0) {
        line(m, "e-[Inference iterations must be >0]");
        return;
    }
    if (warmups < 0) {
        line(m, "e-[Inference warmup must be >=0]");
        return;
    }
    const uint8_t *input = prepare(m);
    put(m, "m-warmup-start-");
    put_number(m, (uint32_t)warmups);
    line_end(m);
    for (int32_t i = 0; i < warmups; i++) {
        invoke(m, input);
        ek_mlperf_poll(m);
    }
    line(m, "m-warmup-done");
    put(m, "m-infer-start-");
    put_number(m, (uint32_t)count);
    line_end(m);
    timestamp(m);
    for (int32_t i = 0; i < count; i++) {
        invoke(m, input);
        ek_mlperf_poll(m);
    }
    timestamp(m);
    line(m, "m-infer-done");
    results(m);
}

/* ---- the buffer ---- */

static void load(ek_mlperf_t *m, char *rest)
{
    const ek_mlperf_image_t *image = m->config->image;
    char *text = word(&rest);
    if (*text == 0) {
        line(m, "e-[Command 'db load' requires the # of bytes]");
        return;
    }
    int32_t nbytes = number(text);
    if (nbytes <= 0) {
        line(m, "e-[Command 'db load' must be >0 bytes]");
        return;
    }
    m->loaded_bytes = 0;
    m->expected_bytes = 0;
    if ((uint32_t)nbytes > image->buffer_bytes) {
        put(m, "e-[Supplied buffer size ");
        put_number(m, (uint32_t)nbytes);
        put(m, " exceeds maximum of ");
        put_number(m, image->buffer_bytes);
        line(m, "]");
        return;
    }
    m->expected_bytes = (uint32_t)nbytes;
    put(m, "m-[Expecting ");
    put_number(m, (uint32_t)nbytes);
    line(m, " bytes]");
}

static void print(ek_mlperf_t *m, char *rest)
{
    const ek_mlperf_image_t *image = m->config->image;
    char *first = word(&rest), *second = word(&rest);
    int32_t count = *first != 0 ? number(first) : 16, offset = number(second);
    uint32_t start = offset < 0 ? 0u : (uint32_t)offset;
    uint32_t left = start < image->buffer_bytes ? image->buffer_bytes - start : 0u;
    uint32_t n = count < 0 ? 0u : (uint32_t)count;
    n = n < left ? n : left;
    put(m, "m-buffer-");
    for (uint32_t i = 0; i < n; i++) {
        if (i != 0)
            put(m, "-");
        put_hex(m, image->buffer[start + i] ^ mask_of(image));
    }
    line_end(m);
}

static void take_hex(ek_mlperf_t *m, const char *text)
{
    const ek_mlperf_image_t *image = m->config->image;
    uint32_t n = (uint32_t)strlen(text);
    if (n % 2u != 0) {
        line(m, "e-[Insufficent number of hex digits]");
        return;
    }
    for (uint32_t i = 0; i < n; i += 2) {
        int32_t high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0) {
            put(m, "e-[Invalid hex digit '");
            put_visible(m, text + i, 2);
            line(m, "']");
            return;
        }
        if (m->loaded_bytes >= m->expected_bytes)
            return; /* more than was announced: nobody waits for it */
        image->buffer[m->loaded_bytes++] = (uint8_t)((uint32_t)(high << 4 | low) ^ mask_of(image));
        if (m->loaded_bytes == m->expected_bytes)
            line(m, "m-load-done");
    }
}

static void buffer(ek_mlperf_t *m, char *rest)
{
    char *sub = word(&rest);
    if (*sub == 0)
        line(m, "e-[Command 'db' requires a subcommand]");
    else if (memcmp(sub, "load", 5) == 0)
        load(m, rest);
    else if (memcmp(sub, "print", 6) == 0)
        print(m, rest);
    else
        take_hex(m, sub);
}

/* ---- commands ---- */

static void profile(ek_mlperf_t *m)
{
    line(m, "m-profile-[ULPMark for tinyML Firmware V0.0.1]");
}

static void help(ek_mlperf_t *m)
{
    profile(m);
    line(m, "help");
    line(m, "name");
    line(m, "profile");
    line(m, "timestamp");
    line(m, "db load N");
    line(m, "db HEX");
    line(m, "db print [N=16] [offset=0]");
    line(m, "infer N [W=10]");
    line(m, "results");
}

/* The command is followed by zeros, so that comparing a whole name never reads past it. */
static int is(const char *name, const char *wanted)
{
    return memcmp(name, wanted, strlen(wanted) + 1u) == 0;
}

static void execute(ek_mlperf_t *m)
{
    char *rest = m->command, *name = word(&rest);
    const ek_mlperf_image_t *image = m->config->image;
    if (is(name, "db")) {
        buffer(m, rest);
    } else if (is(name, "infer")) {
        infer(m, rest);
    } else if (is(name, "results")) {
        results(m);
    } else if (is(name, "timestamp")) {
        timestamp(m);
    } else if (is(name, "name")) {
        put(m, "m-name-dut-[");
        put(m, image->vendor);
        line(m, "]");
    } else if (is(name, "profile")) {
        profile(m);
        put(m, "m-model-[");
        put(m, image->model);
        line(m, "]");
    } else if (is(name, "help")) {
        help(m);
    } else {
        put(m, "e-[Unknown command: ");
        put_visible(m, name, EK_MLPERF_COMMAND);
        line(m, "]");
    }
}

void ek_mlperf_receive(ek_mlperf_t *m, uint8_t byte)
{
    if (byte == '%') {
        if (m->count > EK_MLPERF_COMMAND)
            line(m, "e-[Command too long]");
        else
            execute(m);
        line(m, "m-ready");
        memset(m->command, 0, sizeof m->command);
        m->count = 0;
        return;
    }
    if (byte == '\r' || byte == '\n' || byte == 0)
        return;
    if (m->count < EK_MLPERF_COMMAND)
        m->command[m->count] = (char)byte;
    if (m->count <= EK_MLPERF_COMMAND)
        m->count++;
}

void ek_mlperf_init(ek_mlperf_t *m, const ek_mlperf_config_t *config)
{
    memset(m, 0, sizeof *m);
    m->config = config;
    m->last_ticks = config->ticks();
    memset(config->image->buffer, (int)mask_of(config->image), config->image->buffer_bytes);
    if (config->pin != 0)
        config->pin(1);
    line(m, config->image->energy ? "m-timestamp-mode-energy" : "m-timestamp-mode-performance");
    timestamp(m);
    line(m, "m-init-done");
    line(m, "m-ready");
}
