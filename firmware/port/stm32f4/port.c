/* STM32F446 (RM0390): 180 MHz from the PLL with over-drive, console on USART2, PA2 and PA3.
 *
 * The clock comes from HSI (1 %), as the ST-LINK's clock output depends on the board's solder
 * bridges: 16 MHz / M 8 = 2 MHz, * N 180 = 360 MHz, / P 2 = 180 MHz.
 */
#include "ek_port.h"

#include "ek_stm32.h"

#if EK_CLOCK_HZ != 180000000
#error "this port sets the clock to 180 MHz"
#endif

#define USART2 0x40004400u /* RM0390 2.2, memory map */
#define PWR 0x40007000u    /* 5.4 */
#define GPIOA 0x40020000u  /* 7.4 */
#define RCC 0x40023800u    /* 6.3 */
#define FLASH 0x40023C00u  /* 3.8 */

#define PWR_CR (PWR + 0x00u)
#define PWR_CSR (PWR + 0x04u)
#define RCC_CR (RCC + 0x00u)
#define RCC_PLLCFGR (RCC + 0x04u)
#define RCC_CFGR (RCC + 0x08u)
#define RCC_AHB1ENR (RCC + 0x30u)
#define RCC_APB1ENR (RCC + 0x40u)
#define FLASH_ACR (FLASH + 0x00u)

#define APB1_DIVIDER 4u

static void clock_start(void)
{
    /* HSION, HSIRDY; a boot loader may have moved the clock: back to HSI (SW = 0) first */
    ek_modify(RCC_CR, 1u << 0, 1u << 0);
    ek_await(RCC_CR, 1u << 1, 1u << 1);
    ek_modify(RCC_CFGR, 3u, 0);
    ek_await(RCC_CFGR, 3u << 2, 0);
    ek_modify(RCC_CR, 1u << 24, 0); /* PLLON */
    ek_await(RCC_CR, 1u << 25, 0);

    ek_modify(RCC_APB1ENR, 1u << 28, 1u << 28); /* PWREN */
    (void)EK_REGISTER(RCC_APB1ENR);
    /* Regulator voltage scale 1 (VOS = 3): may change only while the PLL is off (5.4.1) */
    ek_modify(PWR_CR, 3u << 14, 3u << 14);

    /* PLL: M = 8, N = 180, P = 2 (field 0), source HSI (bit 22 = 0), Q = 8 (45 MHz), R = 2 */
    EK_REGISTER(RCC_PLLCFGR) = 8u | 180u << 6 | 0u << 16 | 8u << 24 | 2u << 28;
    ek_modify(RCC_CR, 1u << 24, 1u << 24);

    /* Over-drive for more than 168 MHz, while the core still runs on HSI (5.1.3): ODEN, ODRDY,
     * ODSWEN, ODSWRDY */
    ek_modify(PWR_CR, 1u << 16, 1u << 16);
    ek_await(PWR_CSR, 1u << 16, 1u << 16);
    ek_modify(PWR_CR, 1u << 17, 1u << 17);
    ek_await(PWR_CSR, 1u << 17, 1u << 17);

    /* FLASH_ACR: 5 wait states for 150 to 180 MHz at 2.7 to 3.6 V (3.4.1, table "number of wait
     * states"); ART: prefetch, instruction and data cache, both empty */
    EK_REGISTER(FLASH_ACR) = 5u;
    EK_REGISTER(FLASH_ACR) = 5u | 3u << 11; /* ICRST, DCRST: only while the caches are off */
    EK_REGISTER(FLASH_ACR) = 5u | 7u << 8;  /* PRFTEN, ICEN, DCEN */
    ek_await(FLASH_ACR, 0xFu, 5u);

    /* PPRE1 /4 (45 MHz at most), PPRE2 /2 (90 MHz at most), then SW = PLL (2) */
    ek_modify(RCC_CFGR, 0xFu << 4 | 7u << 10 | 7u << 13, 5u << 10 | 4u << 13);
    ek_await(RCC_CR, 1u << 25, 1u << 25);
    ek_modify(RCC_CFGR, 3u, 2u);
    ek_await(RCC_CFGR, 3u << 2, 2u << 2);
}

/* The USART of this family is an older one than that of ek_stm32.h (RM0390 25.6): one byte of
 * buffer, errors are cleared by reading SR and then DR. */
#define USART_SR (USART2 + 0x00u) /* ORE 3, RXNE 5, TC 6, TXE 7 */
#define USART_DR (USART2 + 0x04u)
#define USART_BRR (USART2 + 0x08u)
#define USART_CR1 (USART2 + 0x0Cu) /* RE 2, TE 3, UE 13 */

void ek_port_init(void)
{
    clock_start();
    ek_cycle_counter_start();

    ek_modify(RCC_AHB1ENR, 1u << 0, 1u << 0);   /* GPIOA */
    ek_modify(RCC_APB1ENR, 1u << 17, 1u << 17); /* USART2 */
    (void)EK_REGISTER(RCC_APB1ENR);
    ek_stm32_alternate(GPIOA, 2, 7);
    ek_stm32_alternate(GPIOA, 3, 7);
    EK_REGISTER(USART_CR1) = 0;
    EK_REGISTER(USART_BRR) = ek_stm32_usart_brr(EK_CLOCK_HZ / APB1_DIVIDER);
    EK_REGISTER(USART_CR1) = 1u << 13 | 1u << 3 | 1u << 2;
}

int ek_port_getc(void)
{
    uint32_t status = EK_REGISTER(USART_SR);
    if (!(status & (1u << 5 | 1u << 3)))
        return -1;
    uint32_t byte = EK_REGISTER(USART_DR) & 0xFFu; /* clears RXNE and, after SR, ORE */
    return status & 1u << 5 ? (int)byte : -1;
}

int ek_port_putc(uint8_t byte)
{
    if (!(EK_REGISTER(USART_SR) & 1u << 7))
        return 0;
    EK_REGISTER(USART_DR) = byte;
    return 1;
}

uint32_t ek_port_ticks(void) { return ek_cycle_counter(); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    ek_await(USART_SR, 1u << 6, 1u << 6); /* TC: the last stop bit is out */
    ek_system_reset();
}
