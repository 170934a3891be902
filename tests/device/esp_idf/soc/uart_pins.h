/* Stand-in for ESP-IDF's header of this name (ESP32-S3's pins). */
#pragma once
#define U0TXD_GPIO_NUM 43
#define U0RXD_GPIO_NUM 44
