/* Arm MPS2 and MPS2+ FPGA boards with AN385, AN386 (Cortex-M4), AN500 (Cortex-M7).
 *
 * Clock: fixed at 25 MHz by the FPGA image (AN386, "Clocks"); nothing to set up.
 * UART and timer: CMSDK (Arm DDI 0479 "Cortex-M System Design Kit", chapter 4: APB UART, APB
 * timer), at the addresses of AN386 table "APB peripherals".
 */
#include "ek_port.h"

#include "ek_cortexm.h"

#define TIMER0 0x40000000u
#define TIMER_CTRL (TIMER0 + 0x00u) /* bit 0: enable */
#define TIMER_VALUE (TIMER0 + 0x04u)
#define TIMER_RELOAD (TIMER0 + 0x08u)

#define UART0 0x40004000u
#define UART_DATA (UART0 + 0x00u)
#define UART_STATE (UART0 + 0x04u) /* bit 0: transmit buffer full, bit 1: receive buffer full */
#define UART_CTRL (UART0 + 0x08u)  /* bit 0: transmitter on, bit 1: receiver on */
#define UART_BAUDDIV (UART0 + 0x10u)

void ek_port_init(void)
{
    /* the timer counts down and wraps to RELOAD */
    EK_REGISTER(TIMER_RELOAD) = 0xFFFFFFFFu;
    EK_REGISTER(TIMER_VALUE) = 0xFFFFFFFFu;
    EK_REGISTER(TIMER_CTRL) = 1u;
    EK_REGISTER(UART_BAUDDIV) = (EK_CLOCK_HZ + EK_UART_BAUD / 2u) / EK_UART_BAUD;
    EK_REGISTER(UART_CTRL) = 3u;
}

int ek_port_getc(void)
{
    if (!(EK_REGISTER(UART_STATE) & 2u))
        return -1;
    return (int)(EK_REGISTER(UART_DATA) & 0xFFu);
}

int ek_port_putc(uint8_t byte)
{
    if (EK_REGISTER(UART_STATE) & 1u)
        return 0;
    EK_REGISTER(UART_DATA) = byte;
    return 1;
}

uint32_t ek_port_ticks(void) { return ~EK_REGISTER(TIMER_VALUE); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    /* the byte in the shift register still has to leave: CMSDK tells only that the buffer is
     * empty, so wait for two characters' worth of time after that */
    while (EK_REGISTER(UART_STATE) & 1u) {
    }
    uint32_t start = ek_port_ticks();
    while (ek_port_ticks() - start < 20u * (EK_CLOCK_HZ / EK_UART_BAUD)) {
    }
    ek_system_reset();
}
