/* Start-up behind the reset: memory, the painted stack, the port, main. What the core itself needs
 * is in core_*.c, the chip is the port's.
 *
 * Sections and the symbols __ek_* come from the linker script that the build generates.
 */
#include "ek_startup.h"

#include "ek_port.h"
#include "ek_stack.h"

#define PAINT 0x5AA5C33Cu

extern uint32_t __ek_data_load[], __ek_data_start[], __ek_data_end[];
extern uint32_t __ek_tables_load[], __ek_tables_start[], __ek_tables_end[];
extern uint32_t __ek_bss_start[], __ek_bss_end[];

int main(void);

/* Not cleared at start-up: tells the host after the reset what happened before it. */
__attribute__((section(".noinit"))) ek_fault_t ek_fault;

static void copy(const uint32_t *from, uint32_t *to, const uint32_t *end)
{
    while (to < end)
        *to++ = *from++;
}

__attribute__((used, noreturn)) void ek_start(uint32_t *sp)
{
    ek_core_init();
    for (uint32_t *p = __ek_stack_limit; p < sp; p++)
        *p = PAINT;
    copy(__ek_data_load, __ek_data_start, __ek_data_end);
    copy(__ek_tables_load, __ek_tables_start, __ek_tables_end);
    for (uint32_t *p = __ek_bss_start; p < __ek_bss_end; p++)
        *p = 0;
    ek_port_init();
    main();
    ek_port_reset();
}

uint32_t ek_stack_bytes(void)
{
    return (uint32_t)((uintptr_t)__ek_stack_top - (uintptr_t)__ek_stack_limit);
}

uint32_t ek_stack_used_bytes(void)
{
    const uint32_t *p = __ek_stack_limit;
    while (p < __ek_stack_top && *p == PAINT)
        p++;
    return (uint32_t)((uintptr_t)__ek_stack_top - (uintptr_t)p);
}
