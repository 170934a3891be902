/* STM32U575/U585 (RM0456), TrustZone off: 160 MHz from PLL1, console on USART1, PA9 and PA10.
 *
 * The clock comes from HSI16: 16 MHz / M 1, * N 20 = 320 MHz, / R 2 = 160 MHz.
 */
#include "ek_port.h"

#include "ek_stm32.h"

#if EK_CLOCK_HZ != 160000000
#error "this port sets the clock to 160 MHz"
#endif

#define PWR 0x46020800u    /* RM0456 10.10 */
#define RCC 0x46020C00u    /* RM0456 11.8 */
#define FLASH 0x40022000u  /* RM0456 7.9 */
#define ICACHE 0x40030400u /* RM0456 8.7 */
#define GPIOA 0x42020000u
#define USART1 0x40013800u

#define PWR_VOSR (PWR + 0x0Cu)
#define RCC_CR (RCC + 0x00u)
#define RCC_CFGR1 (RCC + 0x1Cu)
#define RCC_CFGR2 (RCC + 0x20u)
#define RCC_PLL1CFGR (RCC + 0x28u)
#define RCC_PLL1DIVR (RCC + 0x34u)
#define RCC_AHB2ENR1 (RCC + 0x8Cu)
#define RCC_AHB3ENR (RCC + 0x94u)
#define RCC_APB2ENR (RCC + 0xA4u)
#define RCC_CCIPR1 (RCC + 0xE0u)

static void clock_start(void)
{
    ek_modify(RCC_AHB3ENR, 1u << 2, 1u << 2); /* PWREN */
    (void)EK_REGISTER(RCC_AHB3ENR);
    /* HSION, HSIRDY */
    ek_modify(RCC_CR, 1u << 8, 1u << 8);
    ek_await(RCC_CR, 1u << 10, 1u << 10);

    /* 10.5.4: range 1 (VOS 3) and its ready flag, then the EPOD booster, which runs on the PLL1
     * source divided by PLL1MBOOST to 4..16 MHz; both are chosen before BOOSTEN and PLL1ON */
    ek_modify(PWR_VOSR, 3u << 16, 3u << 16);
    ek_await(PWR_VOSR, 1u << 15, 1u << 15); /* VOSRDY */
    ek_modify(RCC_CR, 1u << 24, 0);
    ek_await(RCC_CR, 1u << 25, 0);
    /* PLL1CFGR: source HSI16 (2), input 8 to 16 MHz (RGE 3), M = 1 (0), MBOOST / 1 (0) */
    ek_modify(RCC_PLL1CFGR, 3u | 3u << 2 | 1u << 4 | 0xFu << 8 | 0xFu << 12 | 7u << 16,
              2u | 3u << 2);
    ek_modify(PWR_VOSR, 1u << 18, 1u << 18); /* BOOSTEN */
    ek_await(PWR_VOSR, 1u << 14, 1u << 14);  /* BOOSTRDY */

    /* FLASH_ACR: 4 wait states for 128 to 160 MHz in range 1 (7.3.3), prefetch */
    ek_modify(FLASH + 0x00u, 0xFu, 4u);
    ek_await(FLASH + 0x00u, 0xFu, 4u);
    ek_modify(FLASH + 0x00u, 1u << 8, 1u << 8);

    /* N, P, Q, R are written less one; output R on */
    EK_REGISTER(RCC_PLL1DIVR) = (20u - 1u) | (2u - 1u) << 9 | (2u - 1u) << 16 | (2u - 1u) << 24;
    ek_modify(RCC_PLL1CFGR, 1u << 18, 1u << 18);
    ek_modify(RCC_CR, 1u << 24, 1u << 24);
    ek_await(RCC_CR, 1u << 25, 1u << 25);

    ek_modify(RCC_CFGR2, 0xFu | 7u << 4 | 7u << 8, 0); /* AHB, APB1, APB2 / 1 */
    ek_modify(RCC_CFGR1, 3u, 3u);                      /* SW = PLL1 */
    ek_await(RCC_CFGR1, 3u << 2, 3u << 2);
}

void ek_port_init(void)
{
    clock_start();
    /* ICACHE_CR.EN: instructions and constants from flash; its invalidation after reset ends
     * with BUSYF = 0 in ICACHE_SR (8.4.5) */
    ek_await(ICACHE + 0x04u, 1u, 0);
    ek_modify(ICACHE + 0x00u, 1u, 1u);
    ek_cycle_counter_start();

    ek_modify(RCC_AHB2ENR1, 1u << 0, 1u << 0); /* GPIOA */
    (void)EK_REGISTER(RCC_AHB2ENR1);
    ek_stm32_alternate(GPIOA, 9, 7);
    ek_stm32_alternate(GPIOA, 10, 7);
    ek_modify(RCC_CCIPR1, 3u, 0);               /* USART1SEL: PCLK2 */
    ek_modify(RCC_APB2ENR, 1u << 14, 1u << 14); /* USART1EN */
    (void)EK_REGISTER(RCC_APB2ENR);
    ek_stm32_usart_start(USART1, ek_stm32_usart_brr(EK_CLOCK_HZ));
}

int ek_port_getc(void) { return ek_stm32_usart_getc(USART1); }

int ek_port_putc(uint8_t byte) { return ek_stm32_usart_putc(USART1, byte); }

uint32_t ek_port_ticks(void) { return ek_cycle_counter(); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    ek_stm32_usart_flush(USART1);
    ek_system_reset();
}
