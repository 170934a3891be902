/* Stand-in for ESP-IDF's header of this name. */
#pragma once
#include <stddef.h>
#include <stdint.h>
typedef int BaseType_t;
typedef unsigned int UBaseType_t;
typedef uint32_t TickType_t;
typedef void *QueueHandle_t;
#define pdPASS 1
#define configTICK_RATE_HZ 100
#define configMAX_PRIORITIES 25
#define portNUM_PROCESSORS 2
#define pdMS_TO_TICKS(ms) ((TickType_t)((ms) * configTICK_RATE_HZ / 1000))
