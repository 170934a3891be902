/* ESP-IDF as far as edgekit's port calls it, on the host: the serial line is standard input and
 * output, a task runs in the thread that makes it, and a restart starts the program again. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "driver/uart.h"
#include "driver/usb_serial_jtag.h"
#include "esp_cpu.h"
#include "esp_system.h"
#include "freertos/task.h"

static int installed, configured;

void stand_in_error(esp_err_t code)
{
    fprintf(stderr, "ESP_ERROR_CHECK: %#x\n", (unsigned)code);
    abort();
}

static int line_read(void *bytes, uint32_t nbytes, TickType_t wait)
{
    struct pollfd fd = {STDIN_FILENO, POLLIN, 0};
    if (!installed)
        stand_in_error(ESP_FAIL);
    if (poll(&fd, 1, (int)(wait * 1000 / configTICK_RATE_HZ)) <= 0)
        return 0;
    ssize_t n = read(STDIN_FILENO, bytes, nbytes);
    if (n == 0)
        exit(0); /* the host hung up */
    return (int)n;
}

static int line_write(const void *bytes, size_t nbytes)
{
    if (!installed)
        stand_in_error(ESP_FAIL);
    /* a full buffer takes a part only */
    ssize_t n = write(STDOUT_FILENO, bytes, nbytes > 100 ? 100 : nbytes);
    return (int)n;
}

esp_err_t uart_driver_install(uart_port_t port, int rx_bytes, int tx_bytes, int queue_size,
                              QueueHandle_t *queue, int flags)
{
    (void)port, (void)queue, (void)flags;
    installed = 1;
    /* ESP-IDF wants more than the 128 bytes of the hardware's FIFO */
    return rx_bytes > 128 && (tx_bytes == 0 || tx_bytes > 128) && !queue_size ? ESP_OK : ESP_FAIL;
}

esp_err_t uart_param_config(uart_port_t port, const uart_config_t *config)
{
    configured = config->baud_rate == 115200 && config->data_bits == UART_DATA_8_BITS &&
                 config->stop_bits == UART_STOP_BITS_1;
    return port == UART_NUM_0 && configured ? ESP_OK : ESP_FAIL;
}

esp_err_t uart_set_pin(uart_port_t port, int tx, int rx, int rts, int cts)
{
    (void)port;
    return tx == 43 && rx == 44 && rts == -1 && cts == -1 ? ESP_OK : ESP_FAIL;
}

esp_err_t uart_wait_tx_done(uart_port_t port, TickType_t wait)
{
    (void)port, (void)wait;
    return ESP_OK;
}

int uart_read_bytes(uart_port_t port, void *bytes, uint32_t nbytes, TickType_t wait)
{
    (void)port;
    return configured ? line_read(bytes, nbytes, wait) : -1;
}

int uart_write_bytes(uart_port_t port, const void *bytes, size_t nbytes)
{
    (void)port;
    return line_write(bytes, nbytes);
}

esp_err_t usb_serial_jtag_driver_install(usb_serial_jtag_driver_config_t *config)
{
    installed = 1;
    return config->rx_buffer_size && config->tx_buffer_size ? ESP_OK : ESP_FAIL;
}

int usb_serial_jtag_read_bytes(void *bytes, uint32_t nbytes, TickType_t wait)
{
    return line_read(bytes, nbytes, wait);
}

int usb_serial_jtag_write_bytes(const void *bytes, size_t nbytes, TickType_t wait)
{
    (void)wait;
    return line_write(bytes, nbytes);
}

esp_cpu_cycle_count_t esp_cpu_get_cycle_count(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (esp_cpu_cycle_count_t)(((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) *
                                   240u / 1000u);
}

void esp_restart(void)
{
    execl("/proc/self/exe", "/proc/self/exe", (char *)0); /* same pipes, fresh memory */
    exit(1);
}

BaseType_t xTaskCreatePinnedToCore(TaskFunction_t code, const char *name, uint32_t stack_bytes,
                                   void *parameters, UBaseType_t priority, TaskHandle_t *task,
                                   BaseType_t core)
{
    (void)task;
    if (!name || stack_bytes < 4096 || priority >= configMAX_PRIORITIES ||
        core >= portNUM_PROCESSORS)
        return 0;
    code(parameters);
    return pdPASS;
}

UBaseType_t uxTaskGetStackHighWaterMark(TaskHandle_t task)
{
    (void)task;
    return 5000;
}

void app_main(void);

int main(void)
{
    app_main();
    return 0;
}
