/* ESP32-C3 without ESP-IDF: 160 MHz from the PLL, console on UART0, GPIO21 and GPIO20.
 *
 * The boot ROM starts it right from the flash ("direct boot"): the flash begins with a number,
 * twice, and what follows is executed. The ROM leaves the PLL running at 480 MHz, the CPU at the
 * crystal's 40 MHz, and three watchdogs. Ticks are the CPU's cycles.
 *
 * Registers: ESP-IDF, components/soc/esp32c3 (system_reg.h, rtc_cntl_reg.h, timer_group_reg.h,
 * uart_reg.h, io_mux_reg.h), riscv/csr.h; ESP32-C3 Technical Reference Manual.
 */
#include "ek_port.h"

#include "ek_register.h"

#if EK_CLOCK_HZ != 160000000
#error "this port sets the clock to 160 MHz"
#endif

#define UART0 0x60000000u
#define RTC_CNTL 0x60008000u
#define IO_MUX 0x60009000u
#define TIMG0 0x6001F000u
#define TIMG1 0x60020000u
#define SYSTEM 0x600C0000u

#define CRYSTAL_HZ 40000000u
#define FIFO_BYTES 128u

/* The first bytes of the flash. */
__asm(".section .boot_header, \"ax\"\n"
      ".word 0xaedb041d\n"
      ".word 0xaedb041d\n"
      "tail ek_reset_handler\n"
      ".text\n");

/* A watchdog's control register, behind its write protection. */
static void watchdog_set(uint32_t control, uint32_t value, uint32_t protection, uint32_t key)
{
    EK_REGISTER(protection) = key;
    EK_REGISTER(control) = value;
    EK_REGISTER(protection) = 0;
}

static void watchdogs_stop(void)
{
    watchdog_set(RTC_CNTL + 0x90u, 0, RTC_CNTL + 0xA8u, 0x50D83AA1u); /* WDTCONFIG0 */
    /* the super watchdog feeds itself: SWD_CONF.AUTO_FEED_EN */
    watchdog_set(RTC_CNTL + 0xACu, EK_REGISTER(RTC_CNTL + 0xACu) | 1u << 31, RTC_CNTL + 0xB0u,
                 0x8F1D312Au);
    watchdog_set(TIMG0 + 0x48u, 0, TIMG0 + 0x64u, 0x50D83AA1u); /* WDTCONFIG0 */
    watchdog_set(TIMG1 + 0x48u, 0, TIMG1 + 0x64u, 0x50D83AA1u);
}

static void clock_start(void)
{
    /* power for the PLL: OPTIONS0.BBPLL_FORCE_PD, BBPLL_I2C_FORCE_PD, BB_I2C_FORCE_PD off */
    ek_modify(RTC_CNTL + 0x00u, 1u << 10 | 1u << 8 | 1u << 6, 0);
    /* CPU_PER_CONF: CPUPERIOD_SEL 1 is 160 MHz of a PLL at 480 MHz (PLL_FREQ_SEL) */
    ek_modify(SYSTEM + 0x08u, 3u, 1u << 2 | 1u);
    /* SYSCLK_CONF: PRE_DIV_CNT 0, SOC_CLK_SEL 1: the PLL */
    ek_modify(SYSTEM + 0x58u, 3u << 10 | 0x3FFu, 1u << 10);
}

static void uart_start(void)
{
    /* PERIP_CLK_EN0, PERIP_RST_EN0: UART0 (2) and the memory of its FIFOs (24) */
    ek_modify(SYSTEM + 0x10u, 0, 1u << 24 | 1u << 2);
    ek_modify(SYSTEM + 0x18u, 1u << 24 | 1u << 2, 0);

    /* what the ROM still has to say leaves first: STATUS.TXFIFO_CNT */
    ek_await(UART0 + 0x1Cu, 0x3FFu << 16, 0);

    /* CLK_CONF: TX_SCLK_EN, RX_SCLK_EN, SCLK_EN, SCLK_SEL 3: the crystal, undivided */
    EK_REGISTER(UART0 + 0x78u) = 1u << 25 | 1u << 24 | 1u << 22 | 3u << 20;
    /* CLKDIV: in sixteenths, the fraction in bits 20 to 23 */
    uint32_t sixteenths = (16u * CRYSTAL_HZ + EK_UART_BAUD / 2u) / EK_UART_BAUD;
    EK_REGISTER(UART0 + 0x14u) = (sixteenths & 15u) << 20 | sixteenths >> 4;
    /* CONF0: BIT_NUM 3: 8 bits, STOP_BIT_NUM 1; with RXFIFO_RST and TXFIFO_RST at first */
    uint32_t frame = 1u << 28 | 1u << 4 | 3u << 2;
    EK_REGISTER(UART0 + 0x20u) = frame | 1u << 18 | 1u << 17;
    EK_REGISTER(UART0 + 0x80u) |= 1u << 31; /* ID.REG_UPDATE */
    ek_await(UART0 + 0x80u, 1u << 31, 0);
    EK_REGISTER(UART0 + 0x20u) = frame;
    EK_REGISTER(UART0 + 0x80u) |= 1u << 31;
    ek_await(UART0 + 0x80u, 1u << 31, 0);

    /* GPIO20 and GPIO21: MCU_SEL 0 is UART0; the receiver's input on (9), with pull-up (8) */
    ek_modify(IO_MUX + 0x04u + 4u * 20u, 7u << 12, 1u << 9 | 1u << 8);
    ek_modify(IO_MUX + 0x04u + 4u * 21u, 7u << 12, 0);
}

void ek_port_init(void)
{
    watchdogs_stop();
    clock_start();
    uart_start();
    /* mpcer: count cycles; mpcmr: count */
    __asm volatile(".option push\n.option arch, +zicsr\n"
                   "csrw 0x7E0, %0\n"
                   "csrw 0x7E1, %0\n"
                   ".option pop\n" ::"r"(1u));
}

int ek_port_getc(void)
{
    if (!(EK_REGISTER(UART0 + 0x1Cu) & 0x3FFu)) /* STATUS.RXFIFO_CNT */
        return -1;
    return (int)(EK_REGISTER(UART0 + 0x00u) & 0xFFu);
}

int ek_port_putc(uint8_t byte)
{
    if ((EK_REGISTER(UART0 + 0x1Cu) >> 16 & 0x3FFu) >= FIFO_BYTES) /* STATUS.TXFIFO_CNT */
        return 0;
    EK_REGISTER(UART0 + 0x00u) = byte;
    return 1;
}

uint32_t ek_port_ticks(void)
{
    uint32_t cycles;
    __asm volatile(".option push\n.option arch, +zicsr\n"
                   "csrr %0, 0x7E2\n" /* mpccr */
                   ".option pop\n"
                   : "=r"(cycles));
    return cycles;
}

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    ek_await(UART0 + 0x1Cu, 0x3FFu << 16, 0);
    /* the last byte has left the FIFO, not yet the line: FSM_STATUS.ST_UTX_OUT is 0 when idle */
    ek_await(UART0 + 0x6Cu, 0xF0u, 0);
    ek_modify(RTC_CNTL + 0x00u, 0, 1u << 31); /* OPTIONS0.SW_SYS_RST */
    for (;;) {
    }
}
