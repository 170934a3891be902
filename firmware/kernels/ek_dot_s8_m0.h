/* The inner product of the Cortex-M0 and M0+ variants: four output pixels at a time.
 *
 * The inputs of four pixels are widened to int32 once, into `columns` [depth][4], so that one LDM
 * brings an input of all four. Weights are stored as unsigned bytes, weight + 128, which LDRB
 * takes with an immediate offset; the excess, 128 times the sum of a pixel's inputs, is the start
 * value of its accumulators. Accumulators live in high registers, which ADD reaches:
 * 10 instructions for 4 multiply-accumulates.
 */
#ifndef EK_DOT_S8_M0_H
#define EK_DOT_S8_M0_H

#include "ek_math.h"

#define EK_M0_PIXELS 4

typedef struct {
    const int32_t *columns;  /* [depth][4] */
    const int32_t *end;      /* columns + 4 * depth */
    const uint8_t *weights;  /* [channels][depth] */
    const int32_t *requant;  /* linear: [channels][5]; raw: [channels] biases */
    void *out;               /* linear: int8; raw: int32 [channels][4] */
    int32_t channels;
    int32_t stride;          /* bytes from one pixel's output to the next one's */
    uint32_t skip;           /* taps that the first round of eight leaves out */
    int32_t depth;
    int32_t shift;           /* linear: the last right shift */
    int32_t pixels;          /* 1 to 4 */
    int32_t start[4];        /* -128 * sum of the pixel's inputs */
} ek_m0_job_t;

#define EK_M0_TAP(k) \
    "ldmia r5!, {r0-r3}\n" \
    "ldrb r4, [r6, #" k "]\n" \
    "muls r0, r4, r0\n" \
    "muls r1, r4, r1\n" \
    "muls r2, r4, r2\n" \
    "muls r3, r4, r3\n" \
    "add r8, r8, r0\n" \
    "add r9, r9, r1\n" \
    "add r10, r10, r2\n" \
    "add r11, r11, r3\n"

/* r14 holds the job; 20 bytes per tap. */
#define EK_M0_FUNCTION(name, EPILOGUE) \
    EK_ASSEMBLY void name( \
        ek_m0_job_t *job __attribute__((unused))) \
    { \
        __asm__ volatile( \
            ".syntax unified\n" \
            "push {r4-r7, lr}\n" \
            "mov r1, r8\n" \
            "mov r2, r9\n" \
            "mov r3, r10\n" \
            "mov r4, r11\n" \
            "push {r1-r4}\n" \
            "sub sp, #4\n" \
            "mov r14, r0\n" \
            "ldr r7, [r0, #28]\n" \
            "movs r6, #20\n" \
            "muls r7, r6, r7\n" \
            "adr r6, 20f\n" \
            "adds r7, r7, r6\n" \
            "adds r7, #1\n" \
            "str r7, [sp]\n" \
            "ldr r6, [r0, #8]\n" \
            "ldr r7, [r0, #28]\n" \
            "subs r6, r6, r7\n" \
            "1:\n" /* one output channel */ \
            "mov r7, r14\n" \
            "ldr r5, [r7, #12]\n" \
            "ldr r4, [r5]\n" \
            "ldr r5, [r7, #0]\n" \
            "ldr r0, [r7, #4]\n" \
            "mov r12, r0\n" \
            "adds r7, #44\n" \
            "ldmia r7!, {r0-r3}\n" \
            "adds r0, r0, r4\n" \
            "adds r1, r1, r4\n" \
            "adds r2, r2, r4\n" \
            "adds r3, r3, r4\n" \
            "mov r8, r0\n" \
            "mov r9, r1\n" \
            "mov r10, r2\n" \
            "mov r11, r3\n" \
            "ldr r7, [sp]\n" \
            "bx r7\n" \
            ".balign 4\n" \
            "20:\n" \
            EK_M0_TAP("0") EK_M0_TAP("1") EK_M0_TAP("2") EK_M0_TAP("3") \
            EK_M0_TAP("4") EK_M0_TAP("5") EK_M0_TAP("6") EK_M0_TAP("7") \
            "adds r6, #8\n" \
            "cmp r5, r12\n" \
            "bne 20b\n" \
            "mov r7, r14\n" \
            EPILOGUE \
            "ldr r0, [r7, #28]\n" /* the next channel's weights start skip earlier */ \
            "subs r6, r6, r0\n" \
            "ldr r0, [r7, #20]\n" \
            "subs r0, #1\n" \
            "str r0, [r7, #20]\n" \
            "beq 4f\n" \
            "b 1b\n" \
            "4:\n" \
            "add sp, #4\n" \
            "pop {r1-r4}\n" \
            "mov r8, r1\n" \
            "mov r9, r2\n" \
            "mov r10, r3\n" \
            "mov r11, r4\n" \
            "pop {r4-r7, pc}\n"); \
    }

/* (bias, m2, m1, m0, add): floor(acc * m / 2^20) for m = m2 2^20 + m1 2^10 + m0, in 32 bits since
 * |acc| < 2^20 and every part is below 2^10; then (add + that) >> shift, saturated to int8. r7
 * holds the last shift, r5 the output, r12 the stride. */
#define EK_M0_LINEAR_1(acc) \
    "mov r0, " acc "\n" \
    "mov r1, r0\n" \
    "muls r1, r4, r1\n" /* m0 */ \
    "asrs r1, r1, #10\n" \
    "mov " acc ", r3\n" \
    "muls r3, r0, r3\n" /* m1 */ \
    "adds r1, r1, r3\n" \
    "mov r3, " acc "\n" \
    "asrs r1, r1, #10\n" \
    "muls r0, r2, r0\n" /* m2 */ \
    "adds r0, r0, r1\n" \
    "ldr r1, [sp]\n" /* add */ \
    "adds r0, r0, r1\n" \
    "asrs r0, r7\n" \
    "sxtb r1, r0\n" \
    "cmp r1, r0\n" \
    "beq 2f\n" \
    "asrs r0, r0, #31\n" \
    "movs r1, #127\n" \
    "eors r0, r1\n" \
    "2:\n" \
    "strb r0, [r5]\n"

#define EK_M0_LINEAR \
    "ldr r0, [r7, #12]\n" \
    "ldmia r0!, {r1-r4}\n" /* bias, m2, m1, m0 */ \
    "ldr r1, [r0]\n" \
    "adds r0, #4\n" \
    "str r0, [r7, #12]\n" \
    "sub sp, #8\n" \
    "str r1, [sp]\n" \
    "ldr r5, [r7, #16]\n" \
    "adds r0, r5, #1\n" \
    "str r0, [r7, #16]\n" \
    "ldr r0, [r7, #24]\n" \
    "mov r12, r0\n" \
    "ldr r0, [r7, #40]\n" \
    "str r0, [sp, #4]\n" \
    "ldr r7, [r7, #36]\n" \
    EK_M0_LINEAR_1("r8") \
    "ldr r0, [sp, #4]\n" \
    "cmp r0, #1\n" \
    "beq 3f\n" \
    "add r5, r5, r12\n" \
    EK_M0_LINEAR_1("r9") \
    "ldr r0, [sp, #4]\n" \
    "cmp r0, #2\n" \
    "beq 3f\n" \
    "add r5, r5, r12\n" \
    EK_M0_LINEAR_1("r10") \
    "ldr r0, [sp, #4]\n" \
    "cmp r0, #3\n" \
    "beq 3f\n" \
    "add r5, r5, r12\n" \
    EK_M0_LINEAR_1("r11") \
    "3:\n" \
    "add sp, #8\n" \
    "mov r7, r14\n"

#define EK_M0_RAW \
    "ldr r0, [r7, #12]\n" \
    "adds r0, #4\n" \
    "str r0, [r7, #12]\n" \
    "ldr r5, [r7, #16]\n" \
    "mov r0, r8\n" \
    "mov r1, r9\n" \
    "mov r2, r10\n" \
    "mov r3, r11\n" \
    "stmia r5!, {r0-r3}\n" \
    "str r5, [r7, #16]\n"

EK_M0_FUNCTION(ek_dot_s8_m0_linear, EK_M0_LINEAR)
EK_M0_FUNCTION(ek_dot_s8_m0_raw, EK_M0_RAW)

#endif
