/* STM32G0B1 (RM0444): 64 MHz from the PLL, console on USART2, PA2 and PA3.
 *
 * The clock comes from HSI16: 16 MHz / M 1, * N 8 = 128 MHz, / R 2 = 64 MHz. Cortex-M0+ has no
 * cycle counter; TIM2, 32 bits wide here, counts the timer clock, which is the core's.
 */
#include "ek_port.h"

#include "ek_stm32.h"

#if EK_CLOCK_HZ != 64000000
#error "this port sets the clock to 64 MHz"
#endif

#define RCC 0x40021000u   /* RM0444 5.4 */
#define FLASH 0x40022000u /* RM0444 3.7 */
#define GPIOA 0x50000000u
#define USART2 0x40004400u
#define TIM2 0x40000000u /* RM0444 22.4 */

#define RCC_CR (RCC + 0x00u)
#define RCC_CFGR (RCC + 0x08u)
#define RCC_PLLCFGR (RCC + 0x0Cu)
#define RCC_IOPENR (RCC + 0x34u)
#define RCC_APBENR1 (RCC + 0x3Cu)
#define RCC_CCIPR (RCC + 0x54u)
#define TIM2_CR1 (TIM2 + 0x00u)
#define TIM2_EGR (TIM2 + 0x14u)
#define TIM2_CNT (TIM2 + 0x24u)
#define TIM2_PSC (TIM2 + 0x28u)
#define TIM2_ARR (TIM2 + 0x2Cu)

static void clock_start(void)
{
    /* HSION, HSIRDY */
    ek_modify(RCC_CR, 1u << 8, 1u << 8);
    ek_await(RCC_CR, 1u << 10, 1u << 10);

    /* FLASH_ACR: 2 wait states above 48 MHz in range 1, the reset state (3.3.4), prefetch, cache */
    ek_modify(FLASH + 0x00u, 7u, 2u);
    ek_await(FLASH + 0x00u, 7u, 2u);
    ek_modify(FLASH + 0x00u, 3u << 8, 3u << 8);

    /* PLL: source HSI16 (2), M = 1 (0), N = 8, R = 2 (1), output R on */
    ek_modify(RCC_CR, 1u << 24, 0);
    ek_await(RCC_CR, 1u << 25, 0);
    EK_REGISTER(RCC_PLLCFGR) = 2u | 0u << 4 | 8u << 8 | 1u << 28 | 1u << 29;
    ek_modify(RCC_CR, 1u << 24, 1u << 24);
    ek_await(RCC_CR, 1u << 25, 1u << 25);

    /* CFGR: AHB and APB / 1, SW = PLLRCLK (2), SWS */
    ek_modify(RCC_CFGR, 0xFu << 8 | 7u << 12, 0);
    ek_modify(RCC_CFGR, 7u, 2u);
    ek_await(RCC_CFGR, 7u << 3, 2u << 3);
}

void ek_port_init(void)
{
    clock_start();
    ek_modify(RCC_APBENR1, 1u << 17 | 1u, 1u << 17 | 1u); /* USART2EN, TIM2EN */
    ek_modify(RCC_IOPENR, 1u, 1u);                        /* GPIOA */
    (void)EK_REGISTER(RCC_IOPENR);

    EK_REGISTER(TIM2_PSC) = 0;
    EK_REGISTER(TIM2_ARR) = 0xFFFFFFFFu;
    EK_REGISTER(TIM2_EGR) = 1u; /* UG: takes over the prescaler */
    EK_REGISTER(TIM2_CR1) = 1u; /* CEN */

    ek_stm32_alternate(GPIOA, 2, 1);
    ek_stm32_alternate(GPIOA, 3, 1);
    ek_modify(RCC_CCIPR, 3u << 2, 0); /* USART2SEL: PCLK */
    ek_stm32_usart_start(USART2, ek_stm32_usart_brr(EK_CLOCK_HZ));
}

int ek_port_getc(void) { return ek_stm32_usart_getc(USART2); }

int ek_port_putc(uint8_t byte) { return ek_stm32_usart_putc(USART2, byte); }

uint32_t ek_port_ticks(void) { return EK_REGISTER(TIM2_CNT); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    ek_stm32_usart_flush(USART2);
    ek_system_reset();
}
