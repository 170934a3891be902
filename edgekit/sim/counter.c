/* Counts executed blocks of a virtual board.
 *
 * Unicorn calls ek_block before it executes a translation block, and ek_read for each data
 * read from flash. A callback in Python takes a microsecond; these take nanoseconds. What a
 * block is made of (instructions, cost, what to watch) is asked once from Python, through
 * ek_counter.describe, and kept.
 *
 * Counts are kept by bucket: bucket 0 is everything outside an inference, then for every
 * model one for its invoke function and one for each of its steps. A bucket is entered when
 * the function's first block is, and left when the return address it was called with is
 * reached with the same stack pointer.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_WAYS_MAX 16u
#define FRAMES_MAX 16u
#define LOG_LENGTH 4096u
#define NO_LINE UINT64_MAX

#define XPSR_IT 0x0600FC00u /* Armv7-M ARM B1.4.2 */

enum { FLAG_REFUSED = 1, FLAG_FP = 2, FLAG_STACK = 4, FLAG_MARKER = 8 };
enum { EVENT_NONE, EVENT_REQUEST, EVENT_REFUSED, EVENT_STACK };

typedef struct ek_block_s {
    uint32_t address, nbytes, instructions, flags;
    uint32_t stack_bytes; /* by which it lowers the stack pointer */
    uint32_t bucket;      /* that it enters, with FLAG_MARKER */
    uint64_t cost;        /* thousandths of a cycle */
    uint64_t *counts;     /* by bucket: executed, left by a taken branch */
    struct ek_block_s *likely_next;
} ek_block_t;

typedef struct {
    uint64_t lines8, lines16, lines32, misses, nbytes;
} ek_reads_t;

typedef struct {
    uint64_t bucket, instructions, cost;
} ek_log_t;

typedef struct {
    uint32_t bucket, return_address, sp, pad;
} ek_frame_t;

typedef struct {
    /* set by Python */
    int (*reg_read)(void *uc, int reg, void *value);
    int (*reg_write)(void *uc, int reg, const void *value);
    int (*emu_stop)(void *uc);
    void (*describe)(ek_block_t *block);
    int32_t reg_sp, reg_lr, reg_status;
    uint32_t bucket_count, watched_flags, stack_limit, cost_per_taken;
    uint32_t cost_per_line8, cost_per_miss;
    uint32_t cache_sets, cache_ways, cache_line_shift;
    /* per bucket: the first and the last bucket of an inference that it starts, or 0 */
    const uint32_t *inference_last;
    volatile uint64_t deadline; /* of `now`: stop and report EVENT_REQUEST */
    /* results */
    volatile uint64_t now; /* thousandths of a cycle */
    uint64_t instructions;
    uint64_t inferences;
    uint32_t event, event_address;
    ek_reads_t *reads; /* by bucket */
    ek_log_t log[LOG_LENGTH];
    /* inside */
    uint32_t bucket, frame_count;
    ek_frame_t frames[FRAMES_MAX];
    uint64_t inference_start_instructions, inference_start_cost;
    ek_block_t *previous;
    uint64_t *previous_counts;
    uint32_t previous_end, return_address;
    ek_block_t **table;
    uint32_t table_bits, block_count;
    ek_block_t **blocks;
    uint32_t blocks_capacity;
    uint64_t line8, line16, line32, cache_last;
    uint64_t *cache_tags; /* sets x ways, most recently used first */
} ek_counter_t;

size_t ek_sizes(uint32_t which)
{
    return which == 0 ? sizeof(ek_counter_t) : sizeof(ek_block_t);
}

static uint32_t slot_of(const ek_counter_t *c, uint32_t address, uint32_t nbytes)
{
    return ((address >> 1) * 2654435761u ^ nbytes * 40503u) & ((1u << c->table_bits) - 1u);
}

static int table_grow(ek_counter_t *c)
{
    uint32_t bits = c->table_bits ? c->table_bits + 1u : 14u;
    ek_block_t **table = calloc((size_t)1 << bits, sizeof *table);
    if (!table) return 0;
    free(c->table);
    c->table = table;
    c->table_bits = bits;
    for (uint32_t i = 0; i < c->block_count; i++) {
        uint32_t slot = slot_of(c, c->blocks[i]->address, c->blocks[i]->nbytes);
        while (table[slot]) slot = (slot + 1u) & ((1u << bits) - 1u);
        table[slot] = c->blocks[i];
    }
    return 1;
}

static ek_block_t *block_find(ek_counter_t *c, uint32_t address, uint32_t nbytes)
{
    if ((!c->table || c->block_count * 2u > (1u << c->table_bits)) && !table_grow(c)) abort();
    uint32_t slot = slot_of(c, address, nbytes);
    for (ek_block_t *b; (b = c->table[slot]) != NULL;
         slot = (slot + 1u) & ((1u << c->table_bits) - 1u)) {
        if (b->address == address && b->nbytes == nbytes) return b;
    }
    ek_block_t *block = calloc(1, sizeof *block);
    if (!block) abort();
    block->counts = calloc((size_t)c->bucket_count * 2u, sizeof *block->counts);
    if (!block->counts) abort();
    block->address = address;
    block->nbytes = nbytes;
    if (c->block_count == c->blocks_capacity) {
        c->blocks_capacity = c->blocks_capacity ? c->blocks_capacity * 2u : 1024u;
        c->blocks = realloc(c->blocks, c->blocks_capacity * sizeof *c->blocks);
        if (!c->blocks) abort();
    }
    c->blocks[c->block_count++] = block;
    c->table[slot] = block;
    c->describe(block);
    return block;
}

static void buckets_clear(ek_counter_t *c, uint32_t first, uint32_t last)
{
    for (uint32_t i = 0; i < c->block_count; i++)
        memset(c->blocks[i]->counts + 2u * first, 0, (size_t)(last - first + 1u) * 16u);
    memset(c->reads + first, 0, (size_t)(last - first + 1u) * sizeof *c->reads);
}

void ek_reads_forget(ek_counter_t *c)
{
    c->line8 = c->line16 = c->line32 = c->cache_last = NO_LINE;
    if (c->cache_tags)
        memset(c->cache_tags, 0xff, (size_t)c->cache_sets * c->cache_ways * sizeof(uint64_t));
}

static uint32_t reg(ek_counter_t *c, void *uc, int which)
{
    uint32_t value = 0;
    c->reg_read(uc, which, &value);
    return value;
}

static void marker_enter(ek_counter_t *c, void *uc, uint32_t bucket)
{
    uint32_t sp = reg(c, uc, c->reg_sp), back = reg(c, uc, c->reg_lr) & ~1u;
    if (c->frame_count) {
        const ek_frame_t *top = &c->frames[c->frame_count - 1u];
        /* a loop back to the function's first instruction is not a call */
        if (top->bucket == bucket && top->sp == sp && top->return_address == back) return;
    }
    if (c->frame_count == FRAMES_MAX) return;
    if (c->inference_last[bucket]) {
        buckets_clear(c, bucket, c->inference_last[bucket]);
        ek_reads_forget(c);
        c->inference_start_instructions = c->instructions;
        c->inference_start_cost = c->now;
    } else if (c->bucket == 0) {
        buckets_clear(c, bucket, bucket);
        ek_reads_forget(c);
    }
    ek_frame_t *frame = &c->frames[c->frame_count++];
    frame->bucket = bucket;
    frame->return_address = back;
    frame->sp = sp;
    c->bucket = bucket;
    c->return_address = back;
}

static void marker_leave(ek_counter_t *c, void *uc, uint32_t address)
{
    uint32_t sp = reg(c, uc, c->reg_sp);
    while (c->frame_count) {
        const ek_frame_t *top = &c->frames[c->frame_count - 1u];
        if (top->return_address != address || top->sp != sp) break;
        if (c->inference_last[top->bucket]) {
            ek_log_t *entry = &c->log[c->inferences++ % LOG_LENGTH];
            entry->bucket = top->bucket;
            entry->instructions = c->instructions - c->inference_start_instructions;
            entry->cost = c->now - c->inference_start_cost;
        }
        c->frame_count--;
    }
    c->bucket = c->frame_count ? c->frames[c->frame_count - 1u].bucket : 0u;
    c->return_address = c->frame_count ? c->frames[c->frame_count - 1u].return_address : 1u;
}

static void stop(ek_counter_t *c, void *uc, uint32_t event, uint32_t address)
{
    c->event = event;
    c->event_address = address;
    c->emu_stop(uc);
}

void ek_block(void *uc, uint64_t address64, uint32_t nbytes, void *user)
{
    ek_counter_t *c = user;
    uint32_t address = (uint32_t)address64;
    ek_block_t *previous = c->previous;
    ek_block_t *block = previous ? previous->likely_next : NULL;
    if (c->event) return; /* stopping: nothing more is executed */
    if (!block || block->address != address || block->nbytes != nbytes) {
        block = block_find(c, address, nbytes);
        if (previous) previous->likely_next = block;
    }
    if (c->now >= c->deadline) {
        stop(c, uc, EVENT_REQUEST, address);
        return;
    }
    if (previous && address != c->previous_end) {
        c->previous_counts[1]++;
        c->now += c->cost_per_taken;
    }
    c->previous = NULL; /* until this block is known to be executed */
    if (address == c->return_address) marker_leave(c, uc, address);
    if (block->flags & c->watched_flags) {
        if (block->flags & c->watched_flags & (FLAG_REFUSED | FLAG_FP)) {
            stop(c, uc, EVENT_REFUSED, address);
            return;
        }
        if (block->flags & FLAG_STACK) {
            uint32_t sp = reg(c, uc, c->reg_sp);
            if (sp - block->stack_bytes < c->stack_limit || sp < block->stack_bytes) {
                stop(c, uc, EVENT_STACK, address);
                return;
            }
        }
        if (block->flags & FLAG_MARKER) marker_enter(c, uc, block->bucket);
    }
    c->now += block->cost;
    c->instructions += block->instructions;
    uint64_t *counts = block->counts + 2u * c->bucket;
    counts[0]++;
    c->previous_counts = counts;
    c->previous = block;
    c->previous_end = address + nbytes;
}

/* Python calls it when it changes the program counter itself (reset, exception). */
void ek_jumped(ek_counter_t *c)
{
    c->previous = NULL;
}

/* Python calls it at a reset: whatever was under way is not any more. */
void ek_forget(ek_counter_t *c)
{
    c->previous = NULL;
    c->frame_count = 0;
    c->bucket = 0;
    c->return_address = 1u;
}

/* A block was left before its end, at `address`: what was not executed is taken back. */
void ek_cut(ek_counter_t *c, uint32_t instructions, uint64_t cost)
{
    c->instructions -= instructions;
    c->now -= cost;
    c->previous = NULL;
}

/* The code from `first` up to `last` was changed from outside. */
void ek_describe_again(ek_counter_t *c, uint64_t first, uint64_t last)
{
    for (uint32_t i = 0; i < c->block_count; i++) {
        ek_block_t *block = c->blocks[i];
        if (block->address < last && first < (uint64_t)block->address + block->nbytes)
            c->describe(block);
    }
}

static int cache_misses(ek_counter_t *c, uint64_t line)
{
    uint64_t *set = c->cache_tags + (line & (c->cache_sets - 1u)) * c->cache_ways;
    uint32_t way = 0;
    while (way < c->cache_ways && set[way] != line) way++;
    int miss = way == c->cache_ways;
    if (miss) way = c->cache_ways - 1u;
    memmove(set + 1, set, way * sizeof *set);
    set[0] = line;
    return miss;
}

/* Unicorn 2.1 writes the IT state of the reading instruction into the CPU when it calls a hook, and
 * does not take it back when the IT block ends within the translation block: the next one would then
 * execute its first instructions under a condition. What a translation block needs of the state it
 * has in its code, so that nothing is lost by clearing it. */
static void it_state_clear(ek_counter_t *c, void *uc)
{
    uint32_t status = reg(c, uc, c->reg_status);
    if (!(status & XPSR_IT)) return;
    status &= ~XPSR_IT;
    c->reg_write(uc, c->reg_status, &status);
}

void ek_read(void *uc, int type, uint64_t address, int size, int64_t value, void *user)
{
    ek_counter_t *c = user;
    ek_reads_t *reads = &c->reads[c->bucket];
    uint64_t last = address + (uint64_t)size - 1u;
    (void)type, (void)value;
    if (c->reg_status) it_state_clear(c, uc);
    reads->nbytes += (uint64_t)size;
    if (address >> 3 == c->line8 && last >> 3 == c->line8) return;
    for (uint64_t line = address >> 3; line <= last >> 3; line++) {
        if (line == c->line8) continue;
        c->line8 = line;
        reads->lines8++;
        c->now += c->cost_per_line8;
        if (line >> 1 != c->line16) {
            c->line16 = line >> 1;
            reads->lines16++;
        }
        if (line >> 2 != c->line32) {
            c->line32 = line >> 2;
            reads->lines32++;
        }
        if (c->cache_tags) {
            uint64_t cached = line << 3 >> c->cache_line_shift;
            if (cached != c->cache_last) {
                c->cache_last = cached;
                if (cache_misses(c, cached)) {
                    reads->misses++;
                    c->now += c->cost_per_miss;
                }
            }
        }
    }
}

ek_counter_t *ek_new(uint32_t bucket_count, uint32_t sets, uint32_t ways, uint32_t line_shift)
{
    ek_counter_t *c = calloc(1, sizeof *c);
    if (!c || ways > CACHE_WAYS_MAX) abort();
    c->bucket_count = bucket_count;
    c->reads = calloc(bucket_count, sizeof *c->reads);
    c->cache_sets = sets;
    c->cache_ways = ways;
    c->cache_line_shift = line_shift;
    if (sets) c->cache_tags = calloc((size_t)sets * ways, sizeof *c->cache_tags);
    c->deadline = UINT64_MAX;
    c->return_address = 1u; /* odd: no block starts there */
    ek_reads_forget(c);
    return c;
}

void ek_free(ek_counter_t *c)
{
    for (uint32_t i = 0; i < c->block_count; i++) {
        free(c->blocks[i]->counts);
        free(c->blocks[i]);
    }
    free(c->blocks);
    free(c->table);
    free(c->reads);
    free(c->cache_tags);
    free(c);
}
