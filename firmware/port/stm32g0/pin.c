/* The timing pin of a benchmark's energy mode: PA8, D7 of the board's Arduino header (UM2324). */
#include "ek_port.h"

#include "ek_stm32.h"

#define RCC_IOPENR 0x40021034u /* RM0444 5.4.13: GPIOAEN is bit 0 */
#define GPIOA 0x50000000u

void ek_port_pin_init(void)
{
    ek_modify(RCC_IOPENR, 1u, 1u);
    (void)EK_REGISTER(RCC_IOPENR);
    ek_stm32_output(GPIOA, 8);
}

void ek_port_pin(uint32_t level) { ek_stm32_set(GPIOA, 8, level); }
