/* Arm Corstone-300 (SSE-300) on MPS3 with AN547 (Cortex-M55), and its QEMU model.
 *
 * Clock: fixed at 32 MHz by the FPGA image (AN547 "Clocks"). UART: CMSDK (Arm DDI 0479) at
 * AN547's address. Ticks: the SSE-300 system counter (Arm 101773, "System counter"), which QEMU
 * runs although its DWT does not count.
 */
#include "ek_port.h"

#include "ek_cortexm.h"

#define UART0 0x49303000u
#define UART_DATA (UART0 + 0x00u)
#define UART_STATE (UART0 + 0x04u) /* bit 0: transmit buffer full, bit 1: receive buffer full */
#define UART_CTRL (UART0 + 0x08u)  /* bit 0: transmitter on, bit 1: receiver on */
#define UART_BAUDDIV (UART0 + 0x10u)

/* Control frame, secure: CNTCR bit 0 enables, CNTCV counts at CNTCR + 0x08 */
#define COUNTER 0x58100000u

void ek_port_init(void)
{
    EK_REGISTER(COUNTER + 0x00u) = 1u;
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

uint32_t ek_port_ticks(void) { return EK_REGISTER(COUNTER + 0x08u); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    while (EK_REGISTER(UART_STATE) & 1u) {
    }
    uint32_t start = ek_port_ticks();
    while (ek_port_ticks() - start < 20u * (EK_CLOCK_HZ / EK_UART_BAUD)) {
    }
    ek_system_reset();
}
