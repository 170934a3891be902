/* Access to registers, for the ports. */
#ifndef EK_REGISTER_H
#define EK_REGISTER_H

#include <stdint.h>

#define EK_REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* Sets the bits of `mask` in a register to `value`, leaving the others. */
static inline void ek_modify(uint32_t address, uint32_t mask, uint32_t value)
{
    EK_REGISTER(address) = (EK_REGISTER(address) & ~mask) | value;
}

/* Waits until the bits of `mask` read as `value`. */
static inline void ek_await(uint32_t address, uint32_t mask, uint32_t value)
{
    while ((EK_REGISTER(address) & mask) != value) {
    }
}

#endif
