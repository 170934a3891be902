/* The firmware: one model behind the wire protocol, polled, without interrupts. */
#include "ek_image.h"
#include "ek_port.h"
#include "ek_stack.h"
#include "ek_wire.h"

#define RUNS 64u

/* While an answer goes out, requests come in: they wait here. */
#define RING 512u
static uint8_t ring[RING];
static uint32_t ring_in, ring_out;

static uint32_t run_ticks[RUNS];
static ek_wire_t wire;

static void pump(void)
{
    /* when the ring is full the UART keeps the rest, or loses it and the host sends it again */
    while (ring_in - ring_out < RING) {
        int byte = ek_port_getc();
        if (byte < 0)
            return;
        ring[ring_in++ % RING] = (uint8_t)byte;
    }
}

static void send(uint8_t byte)
{
    do
        pump();
    while (!ek_port_putc(byte));
}

int main(void)
{
    const ek_wire_config_t config = {
        .model = ek_image.model,
#if EK_WIRE_FEEDS
        .feeds = ek_image.feeds,
        .feed_count = ek_image.feed_count,
#endif
        .arena = ek_image.arena,
        .staging = ek_image.staging,
        .staging_bytes = ek_image.staging_bytes,
        .flags = ek_image.flags,
        .build_id = ek_image.build_id,
        .target = ek_image.target,
        .clock_hz = ek_image.clock_hz,
        .tick_hz = ek_port_tick_hz(),
        .run_ticks = run_ticks,
        .run_capacity = RUNS,
        .step_ticks = ek_image.step_ticks,
        .step_crcs = ek_image.step_crcs,
        .step_capacity = ek_image.step_capacity,
        .fault = &ek_fault,
        .send = send,
        .ticks = ek_port_ticks,
        .stack_bytes = ek_stack_bytes,
        .stack_used_bytes = ek_stack_used_bytes,
        .reset = ek_port_reset,
    };
    ek_wire_init(&wire, &config);
    for (;;) {
        pump();
        while (ring_in != ring_out) {
            ek_wire_receive(&wire, ring[ring_out % RING]);
            ring_out++;
            pump();
        }
    }
}
