/* The wire protocol, device side. Frames and messages are described in docs/wire.md. */
#include "ek_wire.h"

#include <string.h>

/* ---- CRC-32, four bits at a time: 64 bytes of table instead of 1,024 ---- */

static const uint32_t crc_table[16] = {
    0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u,
    0x4db26158u, 0x5005713cu, 0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
    0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};

/* Inverted CRC of nothing, and of anything with its own CRC behind it. */
#define CRC_START 0xFFFFFFFFu
#define CRC_WHOLE 0xDEBB20E3u

/* One byte more, on the inverted CRC. */
static inline uint32_t crc_step(uint32_t crc, uint8_t byte)
{
    crc ^= byte;
    crc = (crc >> 4) ^ crc_table[crc & 15u];
    return (crc >> 4) ^ crc_table[crc & 15u];
}

uint32_t ek_crc32(uint32_t crc, const void *bytes, uint32_t nbytes)
{
    const uint8_t *p = bytes;
    crc = ~crc;
    while (nbytes-- > 0)
        crc = crc_step(crc, *p++);
    return ~crc;
}

/* ---- little-endian fields ---- */

static uint32_t get16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }
static uint32_t get32(const uint8_t *p) { return get16(p) | get16(p + 2) << 16; }

/* ---- sending: COBS on the fly, one block of at most 254 bytes is held back ---- */

static void send_block(ek_wire_t *w)
{
    w->config->send((uint8_t)(w->tx_count + 1u));
    for (uint32_t i = 0; i < w->tx_count; i++)
        w->config->send(w->tx_block[i]);
    w->tx_count = 0;
}

static void send_stuffed(ek_wire_t *w, uint8_t byte)
{
    if (byte == 0) {
        send_block(w);
        return;
    }
    w->tx_block[w->tx_count++] = byte;
    if (w->tx_count == sizeof w->tx_block)
        send_block(w);
}

static void put(ek_wire_t *w, const void *bytes, uint32_t nbytes)
{
    /* byte by byte: a pass over everything first would leave the receiver alone for too long */
    const uint8_t *p = bytes;
    for (uint32_t i = 0; i < nbytes; i++) {
        w->tx_crc = crc_step(w->tx_crc, p[i]);
        send_stuffed(w, p[i]);
    }
}

static void put8(ek_wire_t *w, uint32_t value)
{
    uint8_t byte = (uint8_t)value;
    put(w, &byte, 1);
}

static void put16(ek_wire_t *w, uint32_t value)
{
    put8(w, value);
    put8(w, value >> 8);
}

static void put32(ek_wire_t *w, uint32_t value)
{
    put16(w, value);
    put16(w, value >> 16);
}

/* Opens the answer to the request in rx. The header echoes sequence number and session. */
static void begin(ek_wire_t *w, uint32_t status)
{
    w->tx_crc = CRC_START;
    w->tx_count = 0;
    w->config->send(0); /* ends whatever noise went before */
    put8(w, EK_WIRE_VERSION);
    put8(w, w->rx[1] | EK_WIRE_RESPONSE);
    put(w, w->rx + 2, 6);
    put8(w, status);
}

static void end(ek_wire_t *w)
{
    uint32_t crc = ~w->tx_crc;
    for (int i = 0; i < 4; i++)
        send_stuffed(w, (uint8_t)(crc >> (8 * i)));
    send_block(w);
    w->config->send(0);
}

static void answer(ek_wire_t *w, uint32_t status)
{
    begin(w, status);
    end(w);
}

static void put_string(ek_wire_t *w, const char *text)
{
    uint32_t n = 0;
    while (n < 63 && text[n] != 0)
        n++;
    put8(w, n);
    put(w, text, n);
}

/* ---- messages ---- */

/* Pieces in which the inputs of an inference come; 0: they are there before it. */
static inline uint32_t feed_count(const ek_wire_config_t *c)
{
#if EK_WIRE_FEEDS
    return c->feed_count;
#else
    (void)c;
    return 0;
#endif
}

static inline const ek_feed_t *feeds_of(const ek_wire_config_t *c)
{
#if EK_WIRE_FEEDS
    return c->feeds;
#else
    (void)c;
    return 0;
#endif
}

static void forget_results(ek_wire_t *w)
{
    w->runs_done = 0;
    w->output_ready = 0;
    w->steps_ready = 0;
    w->stopped_at = 0;
}

static void forget(ek_wire_t *w)
{
    forget_results(w);
    w->run_id = 0;
    w->input_ready = 0;
    w->fed = 0;
}

static void identify(ek_wire_t *w)
{
    const ek_wire_config_t *c = w->config;
    const ek_model_t *m = c->model;
    const ek_fault_t *f = c->fault;
    uint32_t session = get32(w->rx + 4);
    if (session == 0) {
        answer(w, EK_WIRE_BAD_SESSION);
        return;
    }
    if (session != w->session) {
        forget(w);
        w->session = session;
    }
    if (f != 0 && f->magic != EK_FAULT_MAGIC)
        f = 0;
    begin(w, EK_WIRE_OK);
    put8(w, c->flags | (feed_count(c) != 0 ? EK_WIRE_INPUT_FED : 0u));
    put8(w, EK_WIRE_WINDOW);
    put8(w, 0);
    put16(w, EK_WIRE_PAYLOAD);
    put16(w, c->run_capacity);
    put(w, c->build_id, 16);
    put(w, m->sha256, 32);
    put32(w, c->clock_hz);
    put32(w, c->tick_hz);
    put32(w, m->arena_bytes);
    put32(w, c->staging_bytes);
    put16(w, m->step_count);
    put16(w, m->input_count);
    put16(w, m->output_count);
    put16(w, feed_count(c));
    put32(w, f != 0 ? f->exception : 0);
    put32(w, f != 0 ? f->pc : 0);
    put32(w, f != 0 ? f->lr : 0);
    put32(w, f != 0 ? f->status : 0);
    put32(w, f != 0 ? f->address : 0);
    put_string(w, c->target);
    put_string(w, m->engine);
    put_string(w, m->name);
    for (uint32_t i = 0; i < m->input_count; i++)
        put32(w, m->inputs[i].nbytes);
    for (uint32_t i = 0; i < m->output_count; i++)
        put32(w, m->outputs[i].nbytes);
    end(w);
}

/* Where input `index` is kept between runs. */
static uint8_t *input_home(ek_wire_t *w, uint32_t index)
{
    const ek_model_t *m = w->config->model;
    if (!(w->config->flags & EK_WIRE_INPUT_STAGED))
        return (uint8_t *)w->config->arena + m->inputs[index].offset;
    uint8_t *home = w->config->staging;
    for (uint32_t i = 0; i < index; i++)
        home += (m->inputs[i].nbytes + 3u) & ~3u; /* kernels may read whole words of them */
    return home;
}

static void restore_inputs(ek_wire_t *w)
{
    const ek_model_t *m = w->config->model;
    if (!(w->config->flags & EK_WIRE_INPUT_STAGED))
        return;
    uint32_t apart = w->config->flags & EK_WIRE_INPUT_APART;
    for (uint32_t i = 0; apart && i < m->input_count; i++) {
        const uint8_t *home = input_home(w, i);
        memcpy(w->config->arena + m->inputs[i].offset, &home, sizeof home);
    }
    for (uint32_t i = 0; !apart && i < m->input_count; i++)
        memcpy(w->config->arena + m->inputs[i].offset, input_home(w, i), m->inputs[i].nbytes);
}

/* Bytes of an input that comes in pieces: those of the piece that is wanted, or of the first one,
 * which begins a new inference. */
static void write_feed(ek_wire_t *w, uint32_t index, uint32_t offset, const uint8_t *from,
                       uint32_t count)
{
    const ek_feed_t *feeds = feeds_of(w->config);
    uint32_t choices[2] = {w->fed, 0};
    for (uint32_t i = 0; i < 2; i++) {
        const ek_feed_t *feed = &feeds[choices[i]];
        if (index != feed->input || offset < feed->start ||
            offset - feed->start > feed->nbytes || count > feed->nbytes - (offset - feed->start))
            continue;
        memcpy(w->config->arena + feed->offset + (offset - feed->start), from, count);
        if (choices[i] == 0)
            forget_results(w);
        w->fed = choices[i];
        w->input_ready = 1;
        answer(w, EK_WIRE_OK);
        return;
    }
    answer(w, EK_WIRE_BAD_STATE);
}

/* index u16, zero u16, offset u32, data */
static void write_input(ek_wire_t *w, const uint8_t *p, uint32_t n)
{
    const ek_model_t *m = w->config->model;
    if (n < 8) {
        answer(w, EK_WIRE_BAD_LENGTH);
        return;
    }
    uint32_t index = get16(p), offset = get32(p + 4), count = n - 8;
    if (index >= m->input_count || offset > m->inputs[index].nbytes ||
        count > m->inputs[index].nbytes - offset) {
        answer(w, EK_WIRE_BAD_RANGE);
        return;
    }
    if (feed_count(w->config) != 0) {
        write_feed(w, index, offset, p + 8, count);
        return;
    }
    memcpy(input_home(w, index) + offset, p + 8, count);
    if (!(w->config->flags & EK_WIRE_INPUT_STAGED)) {
        /* the input shares its bytes with what the last run left behind */
        w->output_ready = 0;
        w->stopped_at = 0;
    }
    w->input_ready = 1;
    answer(w, EK_WIRE_OK);
}

/* area u8, zero u8, index u16, offset u32, length u16 */
static void read_area(ek_wire_t *w, const uint8_t *p, uint32_t n)
{
    const ek_wire_config_t *c = w->config;
    const ek_model_t *m = c->model;
    if (n != 10) {
        answer(w, EK_WIRE_BAD_LENGTH);
        return;
    }
    uint32_t area = p[0], index = get16(p + 2), offset = get32(p + 4), count = get16(p + 8);
    const uint8_t *from = 0;
    uint32_t size = 0, ready = 0;
    switch (area) {
    case EK_WIRE_AREA_OUTPUT:
        if (index < m->output_count) {
            from = (const uint8_t *)c->arena + m->outputs[index].offset;
            size = m->outputs[index].nbytes;
            ready = w->output_ready;
        }
        break;
    case EK_WIRE_AREA_STEP_OUTPUT:
        if (index < m->step_count) {
            from = (const uint8_t *)c->arena + m->step_outputs[index].offset;
            size = m->step_outputs[index].nbytes;
            ready = w->stopped_at == index + 1u;
        }
        break;
    case EK_WIRE_AREA_RUN_TICKS:
        from = (const uint8_t *)c->run_ticks;
        size = 4 * w->runs_done;
        ready = w->runs_done != 0;
        break;
    case EK_WIRE_AREA_STEP_TICKS:
    case EK_WIRE_AREA_STEP_CRCS:
        from = (const uint8_t *)(area == EK_WIRE_AREA_STEP_TICKS ? c->step_ticks : c->step_crcs);
        size = 4 * m->step_count;
        ready = w->steps_ready;
        break;
    case EK_WIRE_AREA_INPUT:
        if (index < m->input_count && feed_count(c) == 0) {
            from = input_home(w, index);
            size = m->inputs[index].nbytes;
            ready = w->input_ready;
        }
        break;
    case EK_WIRE_AREA_FEEDS:
        from = (const uint8_t *)feeds_of(c);
        size = feed_count(c) * sizeof(ek_feed_t);
        ready = 1;
        break;
    default:
        break;
    }
    if (from == 0) {
        answer(w, EK_WIRE_BAD_RANGE);
        return;
    }
    if (!ready) {
        answer(w, EK_WIRE_BAD_STATE);
        return;
    }
    if (offset > size || count > size - offset || count > EK_WIRE_PAYLOAD - 1u) {
        answer(w, EK_WIRE_BAD_RANGE);
        return;
    }
    begin(w, EK_WIRE_OK);
    put(w, from + offset, count); /* words go out as the core keeps them: little-endian */
    end(w);
}

static void answer_run(ek_wire_t *w, uint32_t status, uint32_t id, uint32_t done)
{
    begin(w, status);
    put32(w, id);
    put16(w, done);
    end(w);
}

/* A sign of life when the line was silent for a quarter of a second. */
static void sign_of_life(ek_wire_t *w, uint32_t id, uint32_t done, uint32_t *since)
{
    uint32_t now = w->config->ticks();
    if (now - *since < w->config->tick_hz / 4u)
        return;
    answer_run(w, EK_WIRE_BUSY, id, done);
    *since = w->config->ticks();
}

/* Steps `first` to `end` - 1; with `each` the ticks and CRC of every one are kept. Returns the sum of
 * the ticks. */
static uint32_t run_steps(ek_wire_t *w, uint32_t id, uint32_t first, uint32_t end, uint32_t each,
                          uint32_t *since)
{
    const ek_wire_config_t *c = w->config;
    const ek_model_t *m = c->model;
    uint32_t total = 0;
    for (uint32_t i = first; i < end; i++) {
        uint32_t start = c->ticks();
        m->step(c->arena, i);
        uint32_t ticks = c->ticks() - start;
        total += ticks;
        if (each) {
            c->step_ticks[i] = ticks;
            c->step_crcs[i] = ek_crc32(0, c->arena + m->step_outputs[i].offset,
                                       m->step_outputs[i].nbytes);
        }
        sign_of_life(w, id, 0, since);
    }
    return total;
}

/* id u32, mode u8, zero u8, count u16 */
static void run(ek_wire_t *w, const uint8_t *p, uint32_t n)
{
    const ek_wire_config_t *c = w->config;
    const ek_model_t *m = c->model;
    if (n != 8) {
        answer(w, EK_WIRE_BAD_LENGTH);
        return;
    }
    uint32_t id = get32(p), mode = p[4], count = get16(p + 6), fed = w->fed;
    uint32_t lasting = c->flags & (EK_WIRE_INPUT_KEPT | EK_WIRE_INPUT_STAGED);
    uint32_t pieces = feed_count(c); /* of an inference; 0: it runs in one */
    if (id != 0 && id == w->run_id && mode == w->run_mode && count == w->run_count) {
        answer_run(w, EK_WIRE_OK, id, w->runs_done); /* done before: nothing runs twice */
        return;
    }
    /* the steps that there is input for */
    uint32_t first = pieces != 0 ? feeds_of(c)[fed].step : 0;
    uint32_t end = fed + 1u < pieces ? feeds_of(c)[fed + 1u].step : m->step_count;
    uint32_t bad = id == 0 || mode > EK_WIRE_UNTIL;
    if (mode == EK_WIRE_INVOKE && pieces == 0)
        bad |= count == 0 || count > c->run_capacity || (count > 1 && !lasting);
    if (mode != EK_WIRE_UNTIL && pieces != 0)
        bad |= count >= pieces;
    if (mode == EK_WIRE_STEPS)
        bad |= m->step_count > c->step_capacity;
    if (mode == EK_WIRE_UNTIL)
        bad |= count >= m->step_count;
    if (bad) {
        answer(w, EK_WIRE_BAD_RANGE);
        return;
    }
    if (mode == EK_WIRE_UNTIL)
        bad = count < first || count >= end;
    else
        bad = pieces != 0 && count != fed;
    if (bad || !w->input_ready) {
        answer(w, EK_WIRE_BAD_STATE);
        return;
    }
    answer_run(w, EK_WIRE_BUSY, id, 0); /* accepted: the host need not send it again */

    uint32_t since = c->ticks(), done = 0;
    uint32_t each = mode == EK_WIRE_STEPS, whole = 1;
    w->run_id = 0;
    w->runs_done = 0;
    w->output_ready = 0;
    w->stopped_at = 0;
    if (mode == EK_WIRE_INVOKE && pieces == 0) {
        for (; done < count; done++) {
            restore_inputs(w);
            uint32_t start = c->ticks();
            m->invoke(c->arena);
            c->run_ticks[done] = c->ticks() - start;
            sign_of_life(w, id, done + 1u, &since);
        }
    } else {
        if (mode == EK_WIRE_UNTIL)
            end = count + 1u;
        if (fed == 0) {
            restore_inputs(w);
            c->run_ticks[0] = 0;
            w->stepwise = each;
        }
        if (each)
            w->steps_ready = 0;
        w->stepwise &= each;
        c->run_ticks[0] += run_steps(w, id, first, end, each, &since);
        whole = end == m->step_count;
        done = whole || mode == EK_WIRE_UNTIL;
        w->steps_ready |= whole && w->stepwise;
        w->stopped_at = end;
        w->fed = whole || mode == EK_WIRE_UNTIL || pieces == 0 ? 0 : fed + 1u;
    }
    w->output_ready = whole;
    w->input_ready = lasting != 0;
    w->runs_done = done;
    w->run_mode = mode;
    w->run_count = count;
    w->run_id = id;
    answer_run(w, EK_WIRE_OK, id, done);
}

static void stack(ek_wire_t *w)
{
    begin(w, EK_WIRE_OK);
    put32(w, w->config->stack_bytes());
    put32(w, w->config->stack_used_bytes());
    end(w);
}

static void handle(ek_wire_t *w)
{
    uint32_t n = w->rx_count - EK_WIRE_HEADER - EK_WIRE_CRC;
    uint32_t type = w->rx[1];
    const uint8_t *p = w->rx + EK_WIRE_HEADER;
    if (w->rx_crc != CRC_WHOLE)
        return; /* damaged: silence, the host sends it again */
    if (type & EK_WIRE_RESPONSE)
        return; /* an echo of our own, or another device: answering could go on for ever */
    if (w->rx[0] != EK_WIRE_VERSION) {
        answer(w, EK_WIRE_BAD_VERSION);
        return;
    }
    if (type == EK_WIRE_IDENTIFY) {
        if (n != 0)
            answer(w, EK_WIRE_BAD_LENGTH);
        else
            identify(w);
        return;
    }
    if (w->session == 0 || get32(w->rx + 4) != w->session) {
        answer(w, EK_WIRE_BAD_SESSION);
        return;
    }
    switch (type) {
    case EK_WIRE_WRITE:
        write_input(w, p, n);
        break;
    case EK_WIRE_READ:
        read_area(w, p, n);
        break;
    case EK_WIRE_RUN:
        run(w, p, n);
        break;
    case EK_WIRE_STACK:
        if (n != 0)
            answer(w, EK_WIRE_BAD_LENGTH);
        else
            stack(w);
        break;
    case EK_WIRE_RESET:
        if (n != 0) {
            answer(w, EK_WIRE_BAD_LENGTH);
        } else {
            answer(w, EK_WIRE_OK);
            w->session = 0;
            forget(w);
            w->config->reset();
        }
        break;
    default:
        answer(w, EK_WIRE_BAD_TYPE);
        break;
    }
}

/* ---- receiving ---- */

static void keep(ek_wire_t *w, uint8_t byte)
{
    if (w->rx_count == EK_WIRE_FRAME) {
        w->rx_drop = 1;
        return;
    }
    /* the CRC goes along, so that a long frame is done when its last byte is */
    w->rx_crc = crc_step(w->rx_crc, byte);
    w->rx[w->rx_count++] = byte;
}

void ek_wire_receive(ek_wire_t *w, uint8_t byte)
{
    if (byte == 0) { /* the delimiter: never inside a frame */
        if (!w->rx_drop && w->rx_block == 0 && w->rx_count >= EK_WIRE_HEADER + EK_WIRE_CRC)
            handle(w);
        w->rx_count = 0;
        w->rx_crc = CRC_START;
        w->rx_block = 0;
        w->rx_zero = 0;
        w->rx_drop = 0;
        return;
    }
    if (w->rx_drop)
        return;
    if (w->rx_block == 0) { /* a code: how many bytes follow up to the next zero */
        if (w->rx_zero)
            keep(w, 0);
        w->rx_block = byte - 1u;
        w->rx_zero = byte != 255u;
    } else {
        keep(w, byte);
        w->rx_block--;
    }
}

void ek_wire_init(ek_wire_t *w, const ek_wire_config_t *config)
{
    memset(w, 0, sizeof *w);
    w->config = config;
    w->rx_crc = CRC_START;
}
