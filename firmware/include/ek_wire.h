/* The device's side of the wire protocol (docs/wire.md), over any byte stream.
 *
 * Feed received bytes to ek_wire_receive; it calls `send` for every byte of an answer. Nothing
 * is allocated; every length that comes from the line is checked before it is used.
 */
#ifndef EK_WIRE_H
#define EK_WIRE_H

#include <stdint.h>

#include "ek_model.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EK_WIRE_VERSION 1u

/* Largest payload of a frame, in both directions; the device tells it to the host. */
#ifndef EK_WIRE_PAYLOAD
#define EK_WIRE_PAYLOAD 1024u
#endif

/* Requests that the host may have in flight at a time. */
#ifndef EK_WIRE_WINDOW
#define EK_WIRE_WINDOW 4u
#endif

/* 0 leaves out what inputs in pieces need, where the model has none. */
#ifndef EK_WIRE_FEEDS
#define EK_WIRE_FEEDS 1
#endif

#define EK_WIRE_HEADER 8u
#define EK_WIRE_CRC 4u
#define EK_WIRE_FRAME (EK_WIRE_HEADER + EK_WIRE_PAYLOAD + EK_WIRE_CRC)

enum ek_wire_type {
    EK_WIRE_IDENTIFY = 0x01,
    EK_WIRE_WRITE = 0x02,
    EK_WIRE_READ = 0x03,
    EK_WIRE_RUN = 0x04,
    EK_WIRE_STACK = 0x05,
    EK_WIRE_RESET = 0x06,
    EK_WIRE_RESPONSE = 0x80 /* or-ed to the type of the request that is answered */
};

enum ek_wire_status {
    EK_WIRE_OK = 0,
    EK_WIRE_BUSY = 1,        /* a run was accepted or goes on; its answer follows */
    EK_WIRE_BAD_LENGTH = 2,  /* the payload does not have the length that its type wants */
    EK_WIRE_BAD_RANGE = 3,   /* an index, offset or count outside what exists */
    EK_WIRE_BAD_TYPE = 4,    /* a request that this version does not know */
    EK_WIRE_BAD_SESSION = 5, /* the device was reset, or another host took it */
    EK_WIRE_BAD_STATE = 6,   /* nothing there: no input, or no such result */
    EK_WIRE_BAD_VERSION = 7
};

enum ek_wire_area {
    EK_WIRE_AREA_OUTPUT = 1,
    EK_WIRE_AREA_STEP_OUTPUT = 2, /* of the step after which the last run stopped */
    EK_WIRE_AREA_RUN_TICKS = 3,   /* u32 per run of the last RUN */
    EK_WIRE_AREA_STEP_TICKS = 4,  /* u32 per step of the last stepwise RUN */
    EK_WIRE_AREA_STEP_CRCS = 5,   /* CRC-32 of what each step left behind */
    EK_WIRE_AREA_INPUT = 6,
    EK_WIRE_AREA_FEEDS = 7 /* which bytes of an input are wanted before which step */
};

enum ek_wire_mode {
    EK_WIRE_INVOKE = 0, /* `count` whole inferences */
    EK_WIRE_STEPS = 1,  /* one inference step by step, with ticks and CRCs */
    EK_WIRE_UNTIL = 2   /* steps 0..count of one inference, then stop */
};

enum ek_wire_flags {
    EK_WIRE_INPUT_KEPT = 1,  /* inference leaves the inputs as they are */
    EK_WIRE_INPUT_STAGED = 2, /* the runtime restores the inputs before every run */
    EK_WIRE_INPUT_APART = 4,  /* staged inputs are read where they are: the arena has pointers */
    EK_WIRE_INPUT_FED = 8     /* inputs come in pieces, between the steps of an inference */
};

/* What a fault left behind; survives a reset in RAM that start-up does not clear. */
typedef struct {
    uint32_t magic;
    uint32_t exception; /* number of the exception, 3 = HardFault */
    uint32_t pc;
    uint32_t lr;
    uint32_t status; /* CFSR, 0 where the core has none */
    uint32_t address; /* MMFAR or BFAR where CFSR says that they are valid */
} ek_fault_t;

#define EK_FAULT_MAGIC 0x656b4655u

/* Everything that the protocol needs of its surroundings. */
typedef struct {
    const ek_model_t *model;
#if EK_WIRE_FEEDS
    const ek_feed_t *feeds;
    uint32_t feed_count; /* 0: the inputs are in the arena before the first step */
#endif
    int8_t *arena;
    uint8_t *staging; /* room for all inputs one after the other, or NULL */
    uint32_t staging_bytes;
    uint32_t flags;
    const uint8_t *build_id; /* 16 bytes */
    const char *target;
    uint32_t clock_hz;
    uint32_t tick_hz;
    uint32_t *run_ticks; /* run_capacity words */
    uint32_t run_capacity;
    uint32_t *step_ticks; /* step_capacity >= model->step_count words */
    uint32_t *step_crcs;
    uint32_t step_capacity;
    const ek_fault_t *fault; /* NULL or without its magic: none */
    void (*send)(uint8_t byte);
    uint32_t (*ticks)(void);
    uint32_t (*stack_bytes)(void);
    uint32_t (*stack_used_bytes)(void);
    void (*reset)(void);
} ek_wire_config_t;

typedef struct {
    const ek_wire_config_t *config;
    uint32_t session;      /* 0: none */
    uint32_t run_id;       /* the last run that was done, 0: none */
    uint32_t run_mode;
    uint32_t run_count;
    uint32_t runs_done;
    uint32_t input_ready;  /* inputs were written and not yet overwritten */
    uint32_t output_ready; /* the outputs are those of the last run */
    uint32_t steps_ready;  /* step ticks and CRCs are there */
    uint32_t stepwise;     /* all steps of this inference so far kept their ticks and CRC */
    uint32_t fed;          /* the feed whose bytes are wanted next */
    uint32_t stopped_at;   /* index + 1 of the step after which the arena was left; 0: none */
    /* receiving */
    uint32_t rx_count;
    uint32_t rx_crc;
    uint32_t rx_block;
    uint32_t rx_zero;
    uint32_t rx_drop;
    /* sending */
    uint32_t tx_crc;
    uint32_t tx_count;
    uint8_t tx_block[254];
    /* aligned, so that what it carries is copied in words */
    uint8_t rx[EK_WIRE_FRAME] __attribute__((aligned(4)));
} ek_wire_t;

void ek_wire_init(ek_wire_t *wire, const ek_wire_config_t *config);
void ek_wire_receive(ek_wire_t *wire, uint8_t byte);

/* CRC-32 (IEEE 802.3, reflected, as in zlib). Start with 0; may be continued. */
uint32_t ek_crc32(uint32_t crc, const void *bytes, uint32_t nbytes);

#ifdef __cplusplus
}
#endif

#endif
