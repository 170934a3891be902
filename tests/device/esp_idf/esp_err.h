/* Stand-in for ESP-IDF's header of this name: what edgekit's port uses of it, for tests on the host. */
#pragma once
typedef int esp_err_t;
#define ESP_OK 0
#define ESP_FAIL -1
#define ESP_ERR_NO_MEM 0x101
void stand_in_error(esp_err_t code);
#define ESP_ERROR_CHECK(x)            \
    do {                              \
        esp_err_t code_ = (x);        \
        if (code_ != ESP_OK)          \
            stand_in_error(code_);    \
    } while (0)
