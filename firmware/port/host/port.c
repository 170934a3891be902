/* The runtime as a program on the host, the wire on standard input and output: for tests of the
 * protocol without any board, real or virtual. There is no clock to set up and no stack to paint.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "ek_port.h"
#include "ek_stack.h"

ek_fault_t ek_fault;

uint32_t ek_stack_bytes(void) { return 0; }

uint32_t ek_stack_used_bytes(void) { return 0; }

/* times that the runtime asked for a byte in vain since it last did something */
static uint32_t misses;

static uint8_t out[4096];
static size_t out_count;

static void flush(void)
{
    size_t done = 0;
    while (done < out_count) {
        ssize_t n = write(STDOUT_FILENO, out + done, out_count - done);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            exit(1); /* nobody listens any more */
        if (n > 0)
            done += (size_t)n;
    }
    out_count = 0;
}

void ek_port_init(void) {}

int ek_port_getc(void)
{
    static uint8_t in[4096];
    static ssize_t count, next;
    if (next < count)
        return in[next++];
    /* the runtime asks once for every byte that it still has to handle: only when it asked more
     * often than that in vain does it have nothing to do, and may sleep */
    struct pollfd fd = {STDIN_FILENO, POLLIN, 0};
    if (poll(&fd, 1, misses > 2048u ? 1000 : 0) <= 0) {
        misses++;
        return -1;
    }
    misses = 0;
    count = read(STDIN_FILENO, in, sizeof in);
    next = 0;
    if (count == 0)
        exit(0); /* the host hung up */
    if (count < 0) {
        count = 0;
        return -1;
    }
    return in[next++];
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

uint32_t ek_port_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u);
}

uint32_t ek_port_tick_hz(void) { return 1000000u; }

void ek_port_reset(void)
{
    flush();
    execl("/proc/self/exe", "/proc/self/exe", (char *)0); /* same pipes, fresh memory */
    exit(1);
}
