/* The timing pin of a benchmark's energy mode: PF13, D7 of the board's Arduino header (UM2179). */
#include "ek_port.h"

#include "ek_stm32.h"

#define RCC_AHB2ENR 0x4002104Cu /* RM0432 6.4.17: GPIOFEN is bit 5 */
#define GPIOF 0x48001400u

void ek_port_pin_init(void)
{
    ek_modify(RCC_AHB2ENR, 1u << 5, 1u << 5);
    (void)EK_REGISTER(RCC_AHB2ENR);
    ek_stm32_output(GPIOF, 13);
}

void ek_port_pin(uint32_t level) { ek_stm32_set(GPIOF, 13, level); }
