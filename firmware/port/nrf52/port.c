/* nRF52840 (Product Specification v1.7): 64 MHz, console on UART0 on the target's pins.
 *
 * The core always runs at 64 MHz; what is chosen is the oscillator behind it. The crystal is
 * started, as the UART's baud rate follows the oscillator's error. UART0 is the older interface of
 * the same block as UARTE0 (6.33): it hands over byte by byte, as this runtime polls.
 */
#include "ek_port.h"

#include "ek_cortexm.h"

#if EK_CLOCK_HZ != 64000000
#error "this core runs at 64 MHz"
#endif
#if !defined(EK_UART_TX) || !defined(EK_UART_RX)
#error "the target file names no pins of the console: uart: {tx: P1.03, rx: P1.10}"
#endif

#define CLOCK 0x40000000u /* 5.4 */
#define UART0 0x40002000u /* 6.33 */
#define NVMC 0x4001E000u  /* 4.3 */
#define GPIO 0x50000000u  /* 6.9; port 1 is 0x300 behind port 0 */

#define HFCLKSTART (CLOCK + 0x000u)
#define HFCLKSTARTED (CLOCK + 0x100u)
#define ICACHECNF (NVMC + 0x540u)

#define UART_STARTRX (UART0 + 0x000u)
#define UART_STARTTX (UART0 + 0x008u)
#define UART_RXDRDY (UART0 + 0x108u)
#define UART_TXDRDY (UART0 + 0x11Cu)
#define UART_ENABLE (UART0 + 0x500u)
#define UART_PSEL_RTS (UART0 + 0x508u)
#define UART_PSEL_TXD (UART0 + 0x50Cu)
#define UART_PSEL_CTS (UART0 + 0x510u)
#define UART_PSEL_RXD (UART0 + 0x514u)
#define UART_RXD (UART0 + 0x518u)
#define UART_TXD (UART0 + 0x51Cu)
#define UART_BAUDRATE (UART0 + 0x524u)
#define UART_CONFIG (UART0 + 0x56Cu)

/* BAUDRATE's values are a table (6.33, register BAUDRATE) */
#if EK_UART_BAUD == 9600
#define BAUDRATE 0x00275000u
#elif EK_UART_BAUD == 115200
#define BAUDRATE 0x01D7E000u
#elif EK_UART_BAUD == 230400
#define BAUDRATE 0x03AFB000u
#elif EK_UART_BAUD == 460800
#define BAUDRATE 0x075F7000u
#elif EK_UART_BAUD == 921600 /* really 941176, 2.1 % more */
#define BAUDRATE 0x0EBED000u
#elif EK_UART_BAUD == 1000000
#define BAUDRATE 0x10000000u
#else
#error "baud rates of this port: 9600, 115200, 230400, 460800, 921600, 1000000"
#endif

#define OUTSET(pin) (GPIO + 0x300u * ((pin) / 32u) + 0x508u)
#define PIN_CNF(pin) (GPIO + 0x300u * ((pin) / 32u) + 0x700u + 4u * ((pin) % 32u))

/* whether a byte is on its way out */
static uint32_t sending;

void ek_port_init(void)
{
    /* A boot loader may have left interrupts on, whose handlers are gone with its vector table:
     * ICER and ICPR of the 48 interrupts */
    for (uint32_t i = 0; i < 2; i++) {
        EK_REGISTER(0xE000E180u + 4u * i) = 0xFFFFFFFFu;
        EK_REGISTER(0xE000E280u + 4u * i) = 0xFFFFFFFFu;
    }

    EK_REGISTER(HFCLKSTARTED) = 0;
    EK_REGISTER(HFCLKSTART) = 1;
    ek_await(HFCLKSTARTED, 1u, 1u);
    EK_REGISTER(ICACHECNF) = 1u; /* CACHEEN */
    ek_cycle_counter_start();

    EK_REGISTER(UART_ENABLE) = 0; /* pins may change only while it is off */
    EK_REGISTER(OUTSET(EK_UART_TX)) = 1u << (EK_UART_TX % 32u); /* idle */
    EK_REGISTER(PIN_CNF(EK_UART_TX)) = 3u;      /* DIR output, INPUT disconnected */
    EK_REGISTER(PIN_CNF(EK_UART_RX)) = 3u << 2; /* input, PULL up: idle while nothing drives it */
    EK_REGISTER(UART_PSEL_TXD) = EK_UART_TX;    /* PIN 4:0, PORT 5, CONNECT 31 (0 = connected) */
    EK_REGISTER(UART_PSEL_RXD) = EK_UART_RX;
    EK_REGISTER(UART_PSEL_RTS) = 0xFFFFFFFFu;
    EK_REGISTER(UART_PSEL_CTS) = 0xFFFFFFFFu;
    EK_REGISTER(UART_BAUDRATE) = BAUDRATE;
    EK_REGISTER(UART_CONFIG) = 0; /* no parity, one stop bit, no flow control */
    EK_REGISTER(UART_RXDRDY) = 0;
    EK_REGISTER(UART_TXDRDY) = 0;
    EK_REGISTER(UART_ENABLE) = 4u; /* 8 would be UARTE */
    EK_REGISTER(UART_STARTRX) = 1;
    EK_REGISTER(UART_STARTTX) = 1;
}

int ek_port_getc(void)
{
    if (EK_REGISTER(UART_RXDRDY) == 0)
        return -1;
    /* first the event, then the byte: reading it brings the next one, and its event */
    EK_REGISTER(UART_RXDRDY) = 0;
    return (int)(EK_REGISTER(UART_RXD) & 0xFFu);
}

int ek_port_putc(uint8_t byte)
{
    if (sending) {
        if (EK_REGISTER(UART_TXDRDY) == 0)
            return 0;
        EK_REGISTER(UART_TXDRDY) = 0;
    }
    EK_REGISTER(UART_TXD) = byte;
    sending = 1;
    return 1;
}

uint32_t ek_port_ticks(void) { return ek_cycle_counter(); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    if (sending)
        ek_await(UART_TXDRDY, 1u, 1u);
    ek_system_reset();
}
