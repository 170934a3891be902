/* The firmware for the MLPerf Tiny runner: one model behind its text protocol, polled. */
#include "ek_image.h"
#include "ek_mlperf.h"
#include "ek_port.h"

/* While an answer goes out, the next command may come in: it waits here. */
#define RING 256u
static uint8_t ring[RING];
static uint32_t ring_in, ring_out;

static ek_mlperf_t mlperf;

static void pump(void)
{
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
    const ek_mlperf_config_t config = {
        .image = &ek_mlperf_image,
        .model = ek_image.model,
        .arena = ek_image.arena,
        .tick_hz = ek_port_tick_hz(),
        .ticks = ek_port_ticks,
        .send = send,
#ifdef EK_MLPERF_ENERGY
        .pin = ek_port_pin,
#endif
    };
#ifdef EK_MLPERF_ENERGY
    ek_port_pin_init();
#endif
    ek_mlperf_init(&mlperf, &config);
    for (;;) {
        pump();
        ek_mlperf_poll(&mlperf);
        while (ring_in != ring_out) {
            ek_mlperf_receive(&mlperf, ring[ring_out % RING]);
            ring_out++;
            pump();
        }
    }
}
