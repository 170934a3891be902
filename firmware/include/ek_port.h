/* What a port gives to the runtime: the chip's clock, one UART, one tick counter.
 *
 * Everything is polled; no interrupt runs while a model does, so that what is measured is the
 * model alone and every run takes the same instructions.
 */
#ifndef EK_PORT_H
#define EK_PORT_H

#include <stdint.h>

/* Sets the clock to EK_CLOCK_HZ, the UART to EK_UART_BAUD 8N1, and starts the tick counter.
 * Called once, after .data and .bss are set up and before main. */
void ek_port_init(void);

/* A received byte, or -1 when there is none. */
int ek_port_getc(void);

/* Hands one byte to the transmitter; 0 when it has no room (try again), else 1. */
int ek_port_putc(uint8_t byte);

/* A counter that goes up by one EK_TICK_HZ times a second and wraps at 2^32. */
uint32_t ek_port_ticks(void);

/* Ticks per second of ek_port_ticks. */
uint32_t ek_port_tick_hz(void);

/* Only where the port has a pin.c: a pin that tells an instrument when something begins and ends.
 * It is high after ek_port_pin_init, and has `level` after ek_port_pin. */
void ek_port_pin_init(void);
void ek_port_pin(uint32_t level);

/* Resets the chip; does not return. Called after the last byte was handed to the UART. */
void ek_port_reset(void) __attribute__((noreturn));

#endif
