/* Stand-in for ESP-IDF's header of this name. */
#pragma once
void esp_restart(void) __attribute__((noreturn));
