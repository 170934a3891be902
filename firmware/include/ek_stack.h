/* The painted stack, and what the last fault left behind. */
#ifndef EK_STACK_H
#define EK_STACK_H

#include <stdint.h>

#include "ek_wire.h"

/* Size of the stack, and the most of it that was used since the last reset. */
uint32_t ek_stack_bytes(void);
uint32_t ek_stack_used_bytes(void);

extern ek_fault_t ek_fault;

#endif
