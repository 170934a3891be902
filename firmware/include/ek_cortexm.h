/* Registers that Cortex-M cores share, for the ports. Sources: Armv7-M architecture reference
 * manual (DDI 0403) C1.8 "Data Watchpoint and Trace", B3.2 "System Control Block"; Armv8-M (DDI
 * 0553) D1.2. */
#ifndef EK_CORTEXM_H
#define EK_CORTEXM_H

#include "ek_register.h"

void ek_system_reset(void) __attribute__((noreturn));

/* DEMCR.TRCENA, then the cycle counter (DWT_CTRL.CYCCNTENA). Cortex-M3 and above, but not v6-M.
 * Cortex-M7 locks the DWT until the key is written to LAR (DDI 0489 has no LAR; CoreSight's
 * lock access register at +0xFB0 takes 0xC5ACCE55 where it is there, and is ignored elsewhere). */
static inline void ek_cycle_counter_start(void)
{
    EK_REGISTER(0xE000EDFCu) |= 1u << 24;
    EK_REGISTER(0xE0001FB0u) = 0xC5ACCE55u;
    EK_REGISTER(0xE0001004u) = 0;
    EK_REGISTER(0xE0001000u) |= 1u;
}

static inline uint32_t ek_cycle_counter(void) { return EK_REGISTER(0xE0001004u); }

#endif
