/* ESP-IDF 5 (ESP32-S3, ESP32-C3): the runtime as one task, on the last core, above all others.
 *
 * ESP-IDF starts the chip, sets its clock and drives the line; its tick interrupts an inference a
 * hundred times a second. The line is UART0 or the chip's own USB serial port (menuconfig,
 * edgekit). `main` of the runtime is called ek_runtime here.
 */
#include "ek_port.h"

#include "driver/uart.h"
#include "driver/usb_serial_jtag.h"
#include "ek_stack.h"
#include "esp_cpu.h"
#include "esp_err.h"
#include "esp_system.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "sdkconfig.h"
#include "soc/uart_pins.h"

#if CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ * 1000000 != EK_CLOCK_HZ
#error "the CPU clock of sdkconfig is not the one that this project was made for"
#endif

#define STACK_BYTES 8192u
/* more than a window of requests, four of 1,036 bytes, while an inference runs */
#define RECEIVE_BYTES 8192
#define SEND_BYTES 2048

int ek_runtime(void);

/* ESP-IDF reports faults in its own way */
ek_fault_t ek_fault;

/* Reads what is there, at most `nbytes`; waits for the first byte at most `wait` ticks. */
static int line_read(uint8_t *bytes, uint32_t nbytes, TickType_t wait)
{
#if CONFIG_EK_LINE_USB
    return usb_serial_jtag_read_bytes(bytes, nbytes, wait);
#else
    return uart_read_bytes(UART_NUM_0, bytes, nbytes, wait);
#endif
}

static int line_write(const uint8_t *bytes, uint32_t nbytes)
{
#if CONFIG_EK_LINE_USB
    return usb_serial_jtag_write_bytes(bytes, nbytes, pdMS_TO_TICKS(100));
#else
    return uart_write_bytes(UART_NUM_0, bytes, nbytes);
#endif
}

void ek_port_init(void)
{
#if CONFIG_EK_LINE_USB
    usb_serial_jtag_driver_config_t config = {
        .tx_buffer_size = SEND_BYTES, .rx_buffer_size = RECEIVE_BYTES};
    ESP_ERROR_CHECK(usb_serial_jtag_driver_install(&config));
#else
    const uart_config_t config = {
        .baud_rate = EK_UART_BAUD,
        .data_bits = UART_DATA_8_BITS,
        .parity = UART_PARITY_DISABLE,
        .stop_bits = UART_STOP_BITS_1,
        .flow_ctrl = UART_HW_FLOWCTRL_DISABLE,
        .source_clk = UART_SCLK_DEFAULT,
    };
    ESP_ERROR_CHECK(uart_driver_install(UART_NUM_0, RECEIVE_BYTES, SEND_BYTES, 0, NULL, 0));
    ESP_ERROR_CHECK(uart_param_config(UART_NUM_0, &config));
    ESP_ERROR_CHECK(uart_set_pin(UART_NUM_0, U0TXD_GPIO_NUM, U0RXD_GPIO_NUM, UART_PIN_NO_CHANGE,
                                 UART_PIN_NO_CHANGE));
#endif
}

/* times that the runtime asked for a byte in vain since it last did something */
static uint32_t misses;

int ek_port_getc(void)
{
    static uint8_t in[256];
    static int count, next;
    if (next < count)
        return in[next++];
    /* The runtime asks once for every byte that it still has to handle: only when it asked more
     * often than that in vain does it have nothing to do, and lets others run until one comes. */
    uint32_t idle = misses > 2048u;
    count = line_read(in, idle ? 1u : sizeof in, idle ? pdMS_TO_TICKS(20) : 0);
    next = 0;
    if (count <= 0) {
        count = 0;
        misses++;
        return -1;
    }
    misses = 0;
    return in[next++];
}

static uint8_t out[256];
static uint32_t out_count;

static void flush(void)
{
    uint32_t done = 0;
    while (done < out_count) {
        int n = line_write(out + done, out_count - done);
        if (n <= 0)
            break; /* nobody listens; the host sends its request again when it does */
        done += (uint32_t)n;
    }
    out_count = 0;
}

int ek_port_putc(uint8_t byte)
{
    static uint8_t last = 1;
    misses = 0;
    out[out_count++] = byte;
    /* a delimiter behind something else ends a frame */
    if (out_count == sizeof out || (byte == 0 && last != 0))
        flush();
    last = byte;
    return 1;
}

uint32_t ek_port_ticks(void) { return (uint32_t)esp_cpu_get_cycle_count(); }

uint32_t ek_port_tick_hz(void) { return EK_CLOCK_HZ; }

void ek_port_reset(void)
{
    flush();
#if !CONFIG_EK_LINE_USB
    (void)uart_wait_tx_done(UART_NUM_0, pdMS_TO_TICKS(1000));
#endif
    esp_restart();
}

uint32_t ek_stack_bytes(void) { return STACK_BYTES; }

/* in bytes, other than in FreeRTOS of its own */
uint32_t ek_stack_used_bytes(void) { return STACK_BYTES - uxTaskGetStackHighWaterMark(NULL); }

static void runtime(void *unused)
{
    (void)unused;
    ek_port_init();
    ek_runtime();
    ek_port_reset();
}

void app_main(void)
{
    BaseType_t made = xTaskCreatePinnedToCore(runtime, "edgekit", STACK_BYTES, NULL,
                                              configMAX_PRIORITIES - 1, NULL,
                                              portNUM_PROCESSORS - 1);
    ESP_ERROR_CHECK(made == pdPASS ? ESP_OK : ESP_ERR_NO_MEM);
}
