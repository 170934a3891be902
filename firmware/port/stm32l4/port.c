/* STM32L4+ (STM32L4R5, RM0432): 120 MHz from the PLL, console on LPUART1, PG7 and PG8.
 *
 * The clock comes from HSI16 (1 %), as the ST-LINK's clock output depends on the board's solder
 * bridges: 16 MHz / M 4 = 4 MHz, * N 60 = 240 MHz, / R 2 = 120 MHz.
 */
#include "ek_port.h"

#include "ek_stm32.h"

#if EK_CLOCK_HZ != 120000000
#error "this port sets the clock to 120 MHz"
#endif

#define PWR 0x40007000u   /* RM0432 5.4 */
#define RCC 0x40021000u   /* RM0432 6.4 */
#define FLASH 0x40022000u /* RM0432 3.7 */
#define GPIOG 0x48001800u
#define LPUART1 0x40008000u

#define PWR_CR2 (PWR + 0x04u)
#define PWR_SR2 (PWR + 0x14u)
#define PWR_CR5 (PWR + 0x80u)
#define RCC_CR (RCC + 0x00u)
#define RCC_CFGR (RCC + 0x08u)
#define RCC_PLLCFGR (RCC + 0x0Cu)
#define RCC_AHB2ENR (RCC + 0x4Cu)
#define RCC_APB1ENR1 (RCC + 0x58u)
#define RCC_APB1ENR2 (RCC + 0x5Cu)
#define RCC_CCIPR (RCC + 0x88u)

#define UART_PRESCALER (EK_UART_BAUD < 32768u ? 4u : 1u)

static void clock_start(void)
{
    ek_modify(RCC_APB1ENR1, 1u << 28, 1u << 28); /* PWREN */
    (void)EK_REGISTER(RCC_APB1ENR1);             /* 6.2.19: the clock is there after two cycles */

    /* HSION, HSIRDY */
    ek_modify(RCC_CR, 1u << 8, 1u << 8);
    ek_await(RCC_CR, 1u << 10, 1u << 10);

    /* Above 80 MHz: range 1 boost mode, R1MODE = 0 (5.1.8); range 1 is the reset state, VOSF
     * says that it is reached */
    ek_modify(PWR_CR5, 1u << 8, 0);
    ek_await(PWR_SR2, 1u << 10, 0);

    /* FLASH_ACR: 5 wait states for 100 to 120 MHz in boost mode (3.3.3, table "number of wait
     * states"), prefetch, instruction and data cache */
    ek_modify(FLASH + 0x00u, 0xFu, 5u);
    ek_await(FLASH + 0x00u, 0xFu, 5u);
    ek_modify(FLASH + 0x00u, 7u << 8, 7u << 8);

    /* PLL: source HSI16 (2), M = 4 (field 3), N = 60, R = 2 (field 0), output R on */
    ek_modify(RCC_CR, 1u << 24, 0);
    ek_await(RCC_CR, 1u << 25, 0);
    EK_REGISTER(RCC_PLLCFGR) = 2u | 3u << 4 | 60u << 8 | 1u << 24;
    ek_modify(RCC_CR, 1u << 24, 1u << 24);
    ek_await(RCC_CR, 1u << 25, 1u << 25);

    /* 5.1.8: on the way above 80 MHz the AHB runs at half speed for at least 1 us.
     * CFGR: HPRE = /2 (8), SW = PLL (3), SWS tells when it is done */
    ek_modify(RCC_CFGR, 0xFu << 4 | 7u << 8 | 7u << 11, 8u << 4);
    ek_modify(RCC_CFGR, 3u, 3u);
    ek_await(RCC_CFGR, 3u << 2, 3u << 2);
    for (volatile uint32_t i = 0; i < 60; i++) {
    }
    ek_modify(RCC_CFGR, 0xFu << 4, 0);
}

void ek_port_init(void)
{
    clock_start();
    ek_cycle_counter_start();

    /* PG2 to PG15 are supplied by VddIO2, which must be declared valid: PWR_CR2.IOSV (5.4.2) */
    ek_modify(PWR_CR2, 1u << 9, 1u << 9);
    ek_modify(RCC_AHB2ENR, 1u << 6, 1u << 6); /* GPIOG */
    (void)EK_REGISTER(RCC_AHB2ENR);
    ek_stm32_alternate(GPIOG, 7, 8);
    ek_stm32_alternate(GPIOG, 8, 8);

    ek_modify(RCC_CCIPR, 3u << 10, 0);        /* LPUART1 from PCLK1, 120 MHz */
    ek_modify(RCC_APB1ENR2, 1u << 0, 1u << 0); /* LPUART1EN */
    (void)EK_REGISTER(RCC_APB1ENR2);
    /* LPUART: BRR = 256 * clock / baud (RM0432 50.4.7), which needs 64 bits on the way, and has 20:
     * the slow rates of instruments want the prescaler, PRESC (0x2C) = 2 for a fourth */
    EK_REGISTER(LPUART1 + 0x2Cu) = UART_PRESCALER == 4u ? 2u : 0u;
    ek_stm32_usart_start(LPUART1, (uint32_t)((256ull * EK_CLOCK_HZ / UART_PRESCALER +
                                              EK_UART_BAUD / 2u) / EK_UART_BAUD));
}

int ek_port_getc(void) { return ek_stm32_usart_getc(LPUART1); }

int ek_port_putc(uint8_t byte) { return ek_stm32_usart_putc(LPUART1, byte); }

uint32_t ek_port_ticks(void) { return ek_cycle_counter(); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    ek_stm32_usart_flush(LPUART1);
    ek_system_reset();
}
