/* RP2350, Arm cores (RP2350 datasheet): 150 MHz from PLL_SYS, console on UART0, GPIO0 and GPIO1.
 *
 * The clock comes from the 12 MHz crystal: * 125 = 1500 MHz, / 5 / 2 = 150 MHz. The boot ROM has
 * found out how the flash wants to be read and has left its interface so; a program may go on with
 * that (5.9.5), as the vendor's own do at 150 MHz.
 */
#include "ek_port.h"

#include "ek_cortexm.h"

#if EK_CLOCK_HZ != 150000000
#error "this port sets the clock to 150 MHz"
#endif

#define CLOCKS 0x40010000u     /* 8.1.7; addresses: 2.2 */
#define RESETS 0x40020000u     /* 7.5.3 */
#define IO_BANK0 0x40028000u   /* 9.11.1 */
#define PADS_BANK0 0x40038000u /* 9.11.3 */
#define XOSC 0x40048000u       /* 8.2.8 */
#define PLL_SYS 0x40050000u    /* 8.6.5 */
#define UART0 0x40070000u      /* 12.1.8 */

#define CRYSTAL_HZ 12000000u

/* Bits of RESETS: IO_BANK0 6, PADS_BANK0 9, PLL_SYS 14, UART0 26 */
static void release(uint32_t bits)
{
    ek_modify(RESETS + 0x00u, bits, 0);
    ek_await(RESETS + 0x08u, bits, bits); /* RESET_DONE */
}

static void clock_start(void)
{
    /* Both multiplexers to clocks that do not stop: clk_sys from clk_ref, clk_ref from the ring
     * oscillator (8.1.3.2, glitchless side) */
    ek_modify(CLOCKS + 0x3Cu, 1u, 0);
    ek_await(CLOCKS + 0x44u, 3u, 1u);
    ek_modify(CLOCKS + 0x30u, 3u, 0);
    ek_await(CLOCKS + 0x38u, 0xFu, 1u);

    /* Crystal: STARTUP delay of 1 ms in units of 256 cycles, range 1..15 MHz, ENABLE, STABLE */
    EK_REGISTER(XOSC + 0x0Cu) = (CRYSTAL_HZ / 1000u + 128u) / 256u;
    EK_REGISTER(XOSC + 0x00u) = 0xFABu << 12 | 0xAA0u;
    ek_await(XOSC + 0x04u, 1u << 31, 1u << 31);

    /* PLL: from reset; REFDIV 1, FBDIV 125, power on VCO, LOCK, then the post dividers (8.6.3) */
    EK_REGISTER(RESETS + 0x00u) |= 1u << 14;
    release(1u << 14);
    EK_REGISTER(PLL_SYS + 0x00u) = 1u;   /* CS.REFDIV */
    EK_REGISTER(PLL_SYS + 0x08u) = 125u; /* FBDIV_INT */
    ek_modify(PLL_SYS + 0x04u, 1u << 0 | 1u << 5, 0); /* PWR: PD, VCOPD off */
    ek_await(PLL_SYS + 0x00u, 1u << 31, 1u << 31);
    EK_REGISTER(PLL_SYS + 0x0Cu) = 5u << 16 | 2u << 12; /* PRIM: POSTDIV1, POSTDIV2 */
    ek_modify(PLL_SYS + 0x04u, 1u << 3, 0);             /* PWR: POSTDIVPD off */

    /* clk_ref from the crystal (2); clk_sys from its auxiliary source (1), PLL_SYS (AUXSRC 0);
     * clk_peri from clk_sys (AUXSRC 0), ENABLE. Dividers are 16.16 here */
    ek_modify(CLOCKS + 0x30u, 3u, 2u);
    ek_await(CLOCKS + 0x38u, 1u << 2, 1u << 2);
    EK_REGISTER(CLOCKS + 0x40u) = 1u << 16; /* CLK_SYS_DIV: 1 */
    ek_modify(CLOCKS + 0x3Cu, 7u << 5, 0);
    ek_modify(CLOCKS + 0x3Cu, 1u, 1u);
    ek_await(CLOCKS + 0x44u, 1u << 1, 1u << 1);
    EK_REGISTER(CLOCKS + 0x4Cu) = 1u << 16; /* CLK_PERI_DIV: 1 */
    EK_REGISTER(CLOCKS + 0x48u) = 1u << 11;
}

void ek_port_init(void)
{
    clock_start();
    ek_cycle_counter_start();
    /* a reset of the core leaves the other blocks as they were: the UART begins anew */
    ek_modify(RESETS + 0x00u, 1u << 26, 1u << 26);
    release(1u << 6 | 1u << 9 | 1u << 26);

    /* GPIO0, GPIO1: FUNCSEL 2 = UART0; then the pads: input on (bit 6), the receiver's with pull-up
     * (bit 3), isolation off (bit 8), which a pad has out of reset (9.7) */
    EK_REGISTER(IO_BANK0 + 0x04u) = 2u;
    EK_REGISTER(IO_BANK0 + 0x0Cu) = 2u;
    ek_modify(PADS_BANK0 + 0x04u, 1u << 6 | 1u << 7 | 1u << 8, 1u << 6);
    ek_modify(PADS_BANK0 + 0x08u, 3u << 2 | 1u << 6 | 1u << 7 | 1u << 8, 1u << 3 | 1u << 6);

    /* PL011: divisor in 64ths of clock / 16 / baud, 8 bits with FIFOs, transmitter and receiver */
    uint32_t divisor = (4u * EK_CLOCK_HZ + EK_UART_BAUD / 2u) / EK_UART_BAUD;
    EK_REGISTER(UART0 + 0x24u) = divisor >> 6;      /* IBRD */
    EK_REGISTER(UART0 + 0x28u) = divisor & 63u;     /* FBRD */
    EK_REGISTER(UART0 + 0x2Cu) = 3u << 5 | 1u << 4; /* LCR_H: WLEN, FEN */
    EK_REGISTER(UART0 + 0x30u) = 1u << 9 | 1u << 8 | 1u; /* CR: RXE, TXE, UARTEN */
}

int ek_port_getc(void)
{
    if (EK_REGISTER(UART0 + 0x18u) & 1u << 4) /* FR.RXFE */
        return -1;
    return (int)(EK_REGISTER(UART0 + 0x00u) & 0xFFu);
}

int ek_port_putc(uint8_t byte)
{
    if (EK_REGISTER(UART0 + 0x18u) & 1u << 5) /* FR.TXFF */
        return 0;
    EK_REGISTER(UART0 + 0x00u) = byte;
    return 1;
}

uint32_t ek_port_ticks(void) { return ek_cycle_counter(); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    ek_await(UART0 + 0x18u, 1u << 3, 0); /* FR.BUSY */
    ek_system_reset();
}
