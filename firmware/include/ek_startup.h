/* Between the core's part of the start-up (core_*.c) and the rest (startup.c). */
#ifndef EK_STARTUP_H
#define EK_STARTUP_H

#include <stdint.h>

extern uint32_t __ek_stack_limit[], __ek_stack_top[];

/* Where a reset leads to; the core's. It sets the stack and calls ek_start. */
void ek_reset_handler(void);

/* Everything behind it. `sp`: the stack below is unused, and is painted. */
void ek_start(uint32_t *sp) __attribute__((noreturn));

/* Faults lead to the core's handler from here on. */
void ek_core_init(void);

#endif
