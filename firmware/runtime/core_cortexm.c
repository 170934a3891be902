/* A Cortex-M's part of the start-up: vector table, FPU, faults, reset.
 *
 * Registers: Armv6-M, Armv7-M and Armv8-M architecture reference manuals, "System Control Block".
 */
#include "ek_startup.h"

#include "ek_cortexm.h"
#include "ek_port.h"
#include "ek_stack.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SCB_VTOR REGISTER(0xE000ED08u)
#define SCB_AIRCR REGISTER(0xE000ED0Cu)
#define SCB_CFSR REGISTER(0xE000ED28u)
#define SCB_MMFAR REGISTER(0xE000ED34u)
#define SCB_BFAR REGISTER(0xE000ED38u)

static void fault_handler(void);

typedef void (*vector_t)(void);

__attribute__((section(".vectors"), used)) const vector_t ek_vectors[16] = {
    (vector_t)(uintptr_t)__ek_stack_top,
    ek_reset_handler,
    fault_handler, /* NMI */
    fault_handler, /* HardFault */
    fault_handler, /* MemManage, where the core has it */
    fault_handler, /* BusFault */
    fault_handler, /* UsageFault */
    fault_handler, /* SecureFault */
    0,
    0,
    0,
    fault_handler, /* SVCall */
    fault_handler, /* DebugMonitor */
    0,
    fault_handler, /* PendSV */
    fault_handler, /* SysTick */
};

__attribute__((used, noreturn)) void ek_fault_record(const uint32_t *frame)
{
    uint32_t exception;
    __asm volatile("mrs %0, ipsr" : "=r"(exception));
    ek_fault.magic = EK_FAULT_MAGIC;
    ek_fault.exception = exception & 0x1FFu;
    ek_fault.pc = 0;
    ek_fault.lr = 0;
    ek_fault.status = 0;
    ek_fault.address = 0;
#if __ARM_ARCH >= 7
    uint32_t status = SCB_CFSR;
    ek_fault.status = status;
    if (status & 0x80u)
        ek_fault.address = SCB_MMFAR;
    if (status & 0x8000u)
        ek_fault.address = SCB_BFAR;
#endif
    /* after a stack overflow the frame is outside the memory and must not be read */
    if (frame >= __ek_stack_limit && frame + 8 <= __ek_stack_top) {
        ek_fault.lr = frame[5];
        ek_fault.pc = frame[6];
    }
    ek_port_reset();
}

/* Hands the exception frame over on a fresh stack: the old one may have run out. */
__attribute__((naked)) static void fault_handler(void)
{
    __asm volatile(".syntax unified\n"
                   "mov r0, sp\n"
                   "ldr r1, =__ek_stack_top\n"
                   "mov sp, r1\n"
                   "ldr r1, =ek_fault_record\n"
                   "bx r1\n"
                   ".ltorg\n");
}

void ek_core_init(void)
{
    SCB_VTOR = (uint32_t)(uintptr_t)ek_vectors; /* a boot loader may have left its own */
}

#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
/* CPACR: full access to CP10 and CP11, the FPU and MVE */
#define FPU_ON              \
    "ldr r0, =0xE000ED88\n" \
    "ldr r1, [r0]\n"        \
    "orr r1, #0xF00000\n"   \
    "str r1, [r0]\n"        \
    "dsb\n"                 \
    "isb\n"
#else
#define FPU_ON
#endif

#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
/* MSPLIM: a boot ROM's stack may have been elsewhere, and its limit above ours */
#define STACK_LIMIT_OFF   \
    "movs r0, #0\n"       \
    "msr msplim, r0\n"
#else
#define STACK_LIMIT_OFF
#endif

/* In assembly: it must not use a stack frame below the part that is painted, and no compiler may
 * move an FPU instruction before the FPU is on. */
__attribute__((naked, used)) void ek_reset_handler(void)
{
    __asm volatile(".syntax unified\n"
                   STACK_LIMIT_OFF
                   "ldr r0, =__ek_stack_top\n"
                   "mov sp, r0\n"
                   FPU_ON
                   "ldr r0, =__ek_stack_top\n"
                   "subs r0, #128\n"
                   "ldr r1, =ek_start\n"
                   "bx r1\n"
                   ".ltorg\n");
}

/* SCB AIRCR: VECTKEY and SYSRESETREQ. */
void ek_system_reset(void)
{
    __asm volatile("dsb" ::: "memory");
    SCB_AIRCR = 0x05FA0004u;
    __asm volatile("dsb" ::: "memory");
    for (;;) {
    }
}
