/* What the STM32 ports share: GPIO alternate functions, and the USART with FIFO.
 *
 * The same blocks, register by register, in RM0432 (L4+) chapters 8, 49, 50, RM0455 (H7A3)
 * chapters 11, 51, 52, RM0456 (U5) chapters 13, 66, 67 and RM0444 (G0) chapters 7, 33, 34.
 */
#ifndef EK_STM32_H
#define EK_STM32_H

#include "ek_cortexm.h"

/* ---- GPIO: MODER 0x00, OSPEEDR 0x08, PUPDR 0x0C, AFRL 0x20, AFRH 0x24 ---- */

/* Gives a pin to a peripheral: alternate function `af`, medium speed, pull-up. */
static inline void ek_stm32_alternate(uint32_t gpio, uint32_t pin, uint32_t af)
{
    ek_modify(gpio + 0x20u + 4u * (pin / 8u), 0xFu << (4u * (pin % 8u)), af << (4u * (pin % 8u)));
    ek_modify(gpio + 0x08u, 3u << (2u * pin), 1u << (2u * pin));
    /* a pull-up keeps the line idle while nothing is plugged in */
    ek_modify(gpio + 0x0Cu, 3u << (2u * pin), 1u << (2u * pin));
    ek_modify(gpio + 0x00u, 3u << (2u * pin), 2u << (2u * pin));
}

/* Level of an output. BSRR, 0x18: bit n sets pin n, bit n + 16 resets it. */
static inline void ek_stm32_set(uint32_t gpio, uint32_t pin, uint32_t level)
{
    EK_REGISTER(gpio + 0x18u) = level ? 1u << pin : 1u << (pin + 16u);
}

/* Makes a pin an output, high from the start. */
static inline void ek_stm32_output(uint32_t gpio, uint32_t pin)
{
    ek_stm32_set(gpio, pin, 1);
    ek_modify(gpio + 0x00u, 3u << (2u * pin), 1u << (2u * pin));
}

/* ---- USART and LPUART ---- */

#define EK_USART_CR1 0x00u /* UE 0, RE 2, TE 3, FIFOEN 29 */
#define EK_USART_BRR 0x0Cu
#define EK_USART_ISR 0x1Cu /* PE 0, FE 1, NE 2, ORE 3, RXFNE 5, TC 6, TXFNF 7 */
#define EK_USART_ICR 0x20u
#define EK_USART_RDR 0x24u
#define EK_USART_TDR 0x28u

/* 8N1 with FIFOs; `brr` is the value of the baud rate register. */
static inline void ek_stm32_usart_start(uint32_t usart, uint32_t brr)
{
    EK_REGISTER(usart + EK_USART_CR1) = 0;
    EK_REGISTER(usart + EK_USART_BRR) = brr;
    EK_REGISTER(usart + EK_USART_CR1) = 1u << 29 | 1u << 3 | 1u << 2;
    EK_REGISTER(usart + EK_USART_CR1) = 1u << 29 | 1u << 3 | 1u << 2 | 1u;
}

/* Baud rate register with 16 times oversampling: clock / baud, rounded. */
static inline uint32_t ek_stm32_usart_brr(uint32_t clock_hz)
{
    return (clock_hz + EK_UART_BAUD / 2u) / EK_UART_BAUD;
}

static inline int ek_stm32_usart_getc(uint32_t usart)
{
    uint32_t status = EK_REGISTER(usart + EK_USART_ISR);
    if (status & 0xFu) /* an overrun stops reception until it is cleared */
        EK_REGISTER(usart + EK_USART_ICR) = 0xFu;
    if (!(status & 1u << 5))
        return -1;
    return (int)(EK_REGISTER(usart + EK_USART_RDR) & 0xFFu);
}

static inline int ek_stm32_usart_putc(uint32_t usart, uint8_t byte)
{
    if (!(EK_REGISTER(usart + EK_USART_ISR) & 1u << 7))
        return 0;
    EK_REGISTER(usart + EK_USART_TDR) = byte;
    return 1;
}

/* Waits until the last stop bit is out. */
static inline void ek_stm32_usart_flush(uint32_t usart)
{
    ek_await(usart + EK_USART_ISR, 1u << 6, 1u << 6);
}

#endif
