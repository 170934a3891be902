/* An RV32's part of the start-up: stack, traps.
 *
 * Registers: RISC-V privileged architecture 20211203, 3.1.7 mtvec, 3.1.14 mepc, 3.1.15 mcause,
 * 3.1.16 mtval.
 */
#include "ek_startup.h"

#include "ek_port.h"
#include "ek_stack.h"

/* binutils since 2.38 keep the CSR instructions apart from rv32i */
#define CSR ".option push\n.option arch, +zicsr\n"
#define CSR_END ".option pop\n"

__attribute__((used, noreturn)) void ek_fault_record(uint32_t cause, uint32_t pc, uint32_t value,
                                                     uint32_t ra)
{
    ek_fault.magic = EK_FAULT_MAGIC;
    ek_fault.exception = cause & 0x1FFu;
    ek_fault.pc = pc;
    ek_fault.lr = ra;
    ek_fault.status = cause;
    ek_fault.address = value;
    ek_port_reset();
}

/* On a fresh stack: the old one may have run out. Aligned for cores whose traps are vectored; with
 * interrupts off all that comes here comes to the first entry. */
__attribute__((naked, used, aligned(256))) void ek_trap(void)
{
    __asm volatile(CSR "csrr a0, mcause\n"
                       "csrr a1, mepc\n"
                       "csrr a2, mtval\n" CSR_END
                       "mv a3, ra\n"
                       "la sp, __ek_stack_top\n"
                       "tail ek_fault_record\n");
}

void ek_core_init(void)
{
    __asm volatile(CSR "csrci mstatus, 8\n" /* MIE */
                       "csrw mtvec, %0\n" CSR_END ::"r"(ek_trap)
                   : "memory");
}

/* In assembly: it must not use a stack frame below the part that is painted. */
__attribute__((naked, used)) void ek_reset_handler(void)
{
    __asm volatile("la sp, __ek_stack_top\n"
                   "addi a0, sp, -128\n"
                   "tail ek_start\n");
}
