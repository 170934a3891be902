/* STM32H7A3/H7B3 (RM0455): 280 MHz from PLL1, console on USART3, PD8 and PD9.
 *
 * The core supply is the SMPS, direct (how NUCLEO-...-Q boards are wired). The clock comes from
 * HSI: 64 MHz / M 16 = 4 MHz, * N 140 = 560 MHz, / P 2 = 280 MHz; the APB buses run at 140 MHz.
 */
#include "ek_port.h"

#include "ek_stm32.h"

#if EK_CLOCK_HZ != 280000000
#error "this port sets the clock to 280 MHz"
#endif

#define PWR 0x58024800u   /* RM0455 6.8 */
#define RCC 0x58024400u   /* RM0455 8.7 */
#define FLASH 0x52002000u /* RM0455 4.9 */
#define GPIOD 0x58020C00u
#define USART3 0x40004800u

#define PWR_CSR1 (PWR + 0x04u)
#define PWR_CR3 (PWR + 0x0Cu)
#define PWR_SRDCR (PWR + 0x18u)
#define RCC_CR (RCC + 0x00u)
#define RCC_CFGR (RCC + 0x10u)
#define RCC_CDCFGR1 (RCC + 0x18u)
#define RCC_CDCFGR2 (RCC + 0x1Cu)
#define RCC_SRDCFGR (RCC + 0x20u)
#define RCC_PLLCKSELR (RCC + 0x28u)
#define RCC_PLLCFGR (RCC + 0x2Cu)
#define RCC_PLL1DIVR (RCC + 0x30u)
#define RCC_CDCCIP2R (RCC + 0x54u)
#define RCC_AHB4ENR (RCC + 0x140u)
#define RCC_APB1LENR (RCC + 0x148u)

/* Cortex-M7 caches: Armv7-M ARM (DDI 0403) B2.2.7 "Cache maintenance operations", B4.8 "CCSIDR" */
static void caches_start(void)
{
    const uint32_t ccr = 0xE000ED14u, ccsidr = 0xE000ED80u, csselr = 0xE000ED84u;
    const uint32_t iciallu = 0xE000EF50u, dcisw = 0xE000EF60u;
    __asm volatile("dsb\nisb" ::: "memory");
    EK_REGISTER(iciallu) = 0;
    EK_REGISTER(csselr) = 0; /* the data cache of level 1 */
    __asm volatile("dsb" ::: "memory");
    uint32_t size = EK_REGISTER(ccsidr);
    uint32_t sets = size >> 13 & 0x7FFFu, ways = size >> 3 & 0x3FFu; /* each minus 1 */
    for (uint32_t set = 0; set <= sets; set++)
        for (uint32_t way = 0; way <= ways; way++)
            EK_REGISTER(dcisw) = way << 30 | set << 5; /* 4 ways, lines of 32 bytes */
    __asm volatile("dsb" ::: "memory");
    ek_modify(ccr, 1u << 17 | 1u << 16, 1u << 17 | 1u << 16); /* IC, DC */
    __asm volatile("dsb\nisb" ::: "memory");
}

static void supply_start(void)
{
    /* 6.4.1: CR3 is written once after power-on: SMPSEN alone, LDOEN and BYPASS off */
    ek_modify(PWR_CR3, 7u, 4u);
    ek_await(PWR_CSR1, 1u << 13, 1u << 13); /* ACTVOSRDY */
    /* 6.6.2: above 225 MHz scale 0 (3), which is reached by way of scale 1 (2); VOSRDY */
    ek_modify(PWR_SRDCR, 3u << 14, 2u << 14);
    ek_await(PWR_SRDCR, 1u << 13, 1u << 13);
    ek_modify(PWR_SRDCR, 3u << 14, 3u << 14);
    ek_await(PWR_SRDCR, 1u << 13, 1u << 13);
}

static void clock_start(void)
{
    /* HSION, HSIDIV = 1, HSIRDY: the state after reset, but not after a boot loader */
    ek_modify(RCC_CR, 1u, 1u);
    ek_await(RCC_CR, 1u << 2, 1u << 2);
    ek_modify(RCC_CR, 3u << 3, 0);

    /* FLASH_ACR: 6 wait states and WRHIGHFREQ 3 for 252 to 280 MHz at scale 0 (4.3.8, table
     * "FLASH recommended number of wait states and programming delay") */
    ek_modify(FLASH + 0x00u, 0x3Fu, 3u << 4 | 6u);
    ek_await(FLASH + 0x00u, 0x3Fu, 3u << 4 | 6u);

    /* PLL1: source HSI (0), M = 16; input 4 to 8 MHz (RGE 2), wide VCO (VCOSEL 0), output P only;
     * N, P, Q, R are written less one */
    ek_modify(RCC_CR, 1u << 24, 0);
    ek_await(RCC_CR, 1u << 25, 0);
    ek_modify(RCC_PLLCKSELR, 3u | 0x3Fu << 4, 16u << 4);
    ek_modify(RCC_PLLCFGR, 0xFu | 7u << 16, 2u << 2 | 1u << 16);
    EK_REGISTER(RCC_PLL1DIVR) = (140u - 1u) | (2u - 1u) << 9 | (2u - 1u) << 16 | (2u - 1u) << 24;
    ek_modify(RCC_CR, 1u << 24, 1u << 24);
    ek_await(RCC_CR, 1u << 25, 1u << 25);

    /* dividers before the switch: CPU and AHB / 1, the four APBs / 2 (field 4) */
    ek_modify(RCC_CDCFGR1, 0xFu << 8 | 7u << 4 | 0xFu, 4u << 4);
    ek_modify(RCC_CDCFGR2, 7u << 8 | 7u << 4, 4u << 8 | 4u << 4);
    ek_modify(RCC_SRDCFGR, 7u << 4, 4u << 4);
    /* CFGR: SW = PLL1 (3), SWS */
    ek_modify(RCC_CFGR, 7u, 3u);
    ek_await(RCC_CFGR, 7u << 3, 3u << 3);
}

void ek_port_init(void)
{
    supply_start();
    clock_start();
    caches_start();
    ek_cycle_counter_start();

    ek_modify(RCC_AHB4ENR, 1u << 3, 1u << 3); /* GPIOD */
    (void)EK_REGISTER(RCC_AHB4ENR);
    ek_stm32_alternate(GPIOD, 8, 7);
    ek_stm32_alternate(GPIOD, 9, 7);
    ek_modify(RCC_CDCCIP2R, 7u, 0);              /* USART234578SEL: PCLK1 */
    ek_modify(RCC_APB1LENR, 1u << 18, 1u << 18); /* USART3EN */
    (void)EK_REGISTER(RCC_APB1LENR);
    ek_stm32_usart_start(USART3, ek_stm32_usart_brr(EK_CLOCK_HZ / 2u));
}

int ek_port_getc(void) { return ek_stm32_usart_getc(USART3); }

int ek_port_putc(uint8_t byte) { return ek_stm32_usart_putc(USART3, byte); }

uint32_t ek_port_ticks(void) { return ek_cycle_counter(); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    ek_stm32_usart_flush(USART3);
    ek_system_reset();
}
