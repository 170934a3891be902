/* RP2040 (RP2040 datasheet): 125 MHz from PLL_SYS, console on UART0, GPIO0 and GPIO1.
 *
 * The clock comes from the 12 MHz crystal: * 125 = 1500 MHz, / 6 / 2 = 125 MHz. Cortex-M0+ has no
 * cycle counter: ticks are the timer's microseconds.
 */
#include "ek_port.h"

#include "ek_cortexm.h"

#if EK_CLOCK_HZ != 125000000
#error "this port sets the clock to 125 MHz"
#endif

#define CLOCKS 0x40008000u     /* 2.15.7 */
#define RESETS 0x4000C000u     /* 2.14.3 */
#define IO_BANK0 0x40014000u   /* 2.19.6.1 */
#define PADS_BANK0 0x4001C000u /* 2.19.6.3 */
#define XOSC 0x40024000u       /* 2.16.7 */
#define PLL_SYS 0x40028000u    /* 2.18.4 */
#define UART0 0x40034000u      /* 4.2.8 */
#define TIMER 0x40054000u      /* 4.6.5 */
#define WATCHDOG 0x40058000u   /* 4.7.6 */

#define CRYSTAL_HZ 12000000u

/* Bits of RESETS: IO_BANK0 5, PADS_BANK0 8, PLL_SYS 12, TIMER 21, UART0 22 */
static void release(uint32_t bits)
{
    ek_modify(RESETS + 0x00u, bits, 0);
    ek_await(RESETS + 0x08u, bits, bits); /* RESET_DONE */
}

static void clock_start(void)
{
    /* Both multiplexers back to clocks that cannot stop, in case a boot loader moved them:
     * clk_sys from clk_ref (2.15.3.2: the glitchless side), clk_ref from the ring oscillator */
    ek_modify(CLOCKS + 0x3Cu, 1u, 0);
    ek_await(CLOCKS + 0x44u, 3u, 1u);
    ek_modify(CLOCKS + 0x30u, 3u, 0);
    ek_await(CLOCKS + 0x38u, 7u, 1u);

    /* Crystal: STARTUP delay of 1 ms in units of 256 cycles, range 1..15 MHz, ENABLE, STABLE */
    EK_REGISTER(XOSC + 0x0Cu) = (CRYSTAL_HZ / 1000u + 128u) / 256u;
    EK_REGISTER(XOSC + 0x00u) = 0xFABu << 12 | 0xAA0u;
    ek_await(XOSC + 0x04u, 1u << 31, 1u << 31);

    /* PLL: from reset; REFDIV 1, FBDIV 125, power on VCO, LOCK, then the post dividers (2.18.2.1) */
    EK_REGISTER(RESETS + 0x00u) |= 1u << 12;
    release(1u << 12);
    EK_REGISTER(PLL_SYS + 0x00u) = 1u;   /* CS.REFDIV */
    EK_REGISTER(PLL_SYS + 0x08u) = 125u; /* FBDIV_INT */
    ek_modify(PLL_SYS + 0x04u, 1u << 0 | 1u << 5, 0); /* PWR: PD, VCOPD off */
    ek_await(PLL_SYS + 0x00u, 1u << 31, 1u << 31);
    EK_REGISTER(PLL_SYS + 0x0Cu) = 6u << 16 | 2u << 12; /* PRIM: POSTDIV1, POSTDIV2 */
    ek_modify(PLL_SYS + 0x04u, 1u << 3, 0);             /* PWR: POSTDIVPD off */

    /* clk_ref from the crystal (2); clk_sys from its auxiliary source (1), PLL_SYS (AUXSRC 0);
     * clk_peri from clk_sys (AUXSRC 0), ENABLE */
    ek_modify(CLOCKS + 0x30u, 3u, 2u);
    ek_await(CLOCKS + 0x38u, 1u << 2, 1u << 2);
    EK_REGISTER(CLOCKS + 0x40u) = 1u << 8; /* CLK_SYS_DIV: 1 */
    ek_modify(CLOCKS + 0x3Cu, 7u << 5, 0);
    ek_modify(CLOCKS + 0x3Cu, 1u, 1u);
    ek_await(CLOCKS + 0x44u, 1u << 1, 1u << 1);
    EK_REGISTER(CLOCKS + 0x48u) = 1u << 11;
}

void ek_port_init(void)
{
    clock_start();
    /* a reset of the core leaves the other blocks as they were: the UART begins anew */
    ek_modify(RESETS + 0x00u, 1u << 22, 1u << 22);
    release(1u << 5 | 1u << 8 | 1u << 21 | 1u << 22);
    /* the watchdog's tick makes the timer's microseconds: TICK.CYCLES of clk_ref, ENABLE */
    EK_REGISTER(WATCHDOG + 0x2Cu) = 1u << 9 | CRYSTAL_HZ / 1000000u;

    /* GPIO0, GPIO1: FUNCSEL 2 = UART0; the receiver's pad with pull-up (bit 3), input on (bit 6) */
    EK_REGISTER(IO_BANK0 + 0x04u) = 2u;
    EK_REGISTER(IO_BANK0 + 0x0Cu) = 2u;
    ek_modify(PADS_BANK0 + 0x08u, 3u << 2 | 1u << 6, 1u << 3 | 1u << 6);

    /* PL011: divisor in 64ths of clock / 16 / baud, 8 bits with FIFOs, transmitter and receiver */
    uint32_t divisor = (4u * EK_CLOCK_HZ + EK_UART_BAUD / 2u) / EK_UART_BAUD;
    EK_REGISTER(UART0 + 0x24u) = divisor >> 6;   /* IBRD */
    EK_REGISTER(UART0 + 0x28u) = divisor & 63u;  /* FBRD */
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

uint32_t ek_port_ticks(void) { return EK_REGISTER(TIMER + 0x28u); } /* TIMERAWL */

uint32_t ek_port_tick_hz(void) { return 1000000u; }

void ek_port_reset(void)
{
    ek_await(UART0 + 0x18u, 1u << 3, 0); /* FR.BUSY */
    ek_system_reset();
}
