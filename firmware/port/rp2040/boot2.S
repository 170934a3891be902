/* Second boot stage of the RP2040: sets the flash interface up for execution in place.
 *
 * The boot ROM copies 256 bytes from flash to 0x20041F00, checks their CRC-32 and runs them (RP2040
 * datasheet 2.8.1.3). This code is position independent, has 252 bytes, and the build adds the CRC.
 * It makes the SSI (datasheet 4.10) read with quad I/O in continuous mode (flash command 0xEB,
 * mode bits 0xA0), at half the system clock, and starts the image behind it.
 */
    .syntax unified
    .cpu cortex-m0plus
    .thumb

    .equ SSI, 0x18000000        /* 4.10.13 "List of Registers" */
    .equ CTRLR0, 0x00
    .equ CTRLR1, 0x04
    .equ SSIENR, 0x08
    .equ BAUDR, 0x14
    .equ SR, 0x28               /* bit 0 BUSY, bit 2 TFE */
    .equ DR0, 0x60
    .equ RX_SAMPLE_DLY, 0xF0
    .equ SPI_CTRLR0, 0xF4

    /* CTRLR0: SPI_FRF 22:21 (2 = quad), DFS_32 20:16 (bits less one), TMOD 9:8 (3 = read) */
    .equ CTRLR0_BYTES, 7 << 16
    .equ CTRLR0_QUAD, 2 << 21 | 31 << 16 | 3 << 8
    /* SPI_CTRLR0: XIP_CMD 31:24, WAIT_CYCLES 15:11, INST_L 9:8 (0 none, 2 = 8 bits),
     * ADDR_L 5:2 (units of 4 bits: 24 address, 8 mode), TRANS_TYPE 1:0 */
    .equ FIRST_READ, 4 << 11 | 2 << 8 | 8 << 2 | 1
    .equ CONTINUED_READ, 0xA0 << 24 | 4 << 11 | 8 << 2 | 2

    .section .boot2, "ax"
    .global ek_boot2_entry
    .thumb_func
ek_boot2_entry:
    ldr r3, =SSI
    movs r1, #0
    str r1, [r3, #SSIENR]
    movs r1, #2                 /* clock: half the system's */
    str r1, [r3, #BAUDR]
    movs r1, #1                 /* sample one system clock later: the data comes back late */
    movs r2, #RX_SAMPLE_DLY
    str r1, [r3, r2]
    ldr r1, =CTRLR0_BYTES
    str r1, [r3, #CTRLR0]
    movs r1, #1
    str r1, [r3, #SSIENR]

    /* Quad enable: bit 1 of status register 2; set it if it is not */
    movs r0, #0x35
    bl exchange
    movs r1, #2
    tst r0, r1
    bne quad
    movs r0, #0x06              /* write enable */
    bl command
    movs r0, #0x31              /* write status register 2: quad enable */
    str r0, [r3, #DR0]
    movs r0, #2
    bl exchange_second
wait:
    movs r0, #0x05              /* status register 1, bit 0: still writing */
    bl exchange
    movs r1, #1
    tst r0, r1
    bne wait

quad:
    movs r1, #0
    str r1, [r3, #SSIENR]
    ldr r1, =CTRLR0_QUAD
    str r1, [r3, #CTRLR0]
    movs r1, #0
    str r1, [r3, #CTRLR1]
    ldr r1, =FIRST_READ
    movs r2, #SPI_CTRLR0
    str r1, [r3, r2]
    movs r1, #1
    str r1, [r3, #SSIENR]
    /* one read of address 0 with mode bits 0xA0: from now on the flash expects no command */
    movs r1, #0xEB
    str r1, [r3, #DR0]
    movs r1, #0xA0
    str r1, [r3, #DR0]
    bl finish
    movs r1, #0
    str r1, [r3, #SSIENR]
    ldr r1, =CONTINUED_READ
    movs r2, #SPI_CTRLR0
    str r1, [r3, r2]
    movs r1, #1
    str r1, [r3, #SSIENR]

    /* the image's vector table follows this stage in flash */
    ldr r0, =0x10000100
    ldr r1, =0xE000ED08         /* VTOR */
    str r0, [r1]
    ldm r0!, {r1, r2}
    mov sp, r1
    bx r2

/* Sends r0 and a byte of zeros; returns the second byte that came back in r0. */
    .thumb_func
exchange:
    str r0, [r3, #DR0]
    movs r0, #0
    .thumb_func
exchange_second:
    str r0, [r3, #DR0]
    mov r4, lr
    bl finish
    ldr r0, [r3, #DR0]
    ldr r0, [r3, #DR0]
    bx r4

/* Sends the one byte in r0. */
    .thumb_func
command:
    str r0, [r3, #DR0]
    mov r4, lr
    bl finish
    ldr r0, [r3, #DR0]
    bx r4

/* Waits until everything is sent. */
    .thumb_func
finish:
    ldr r1, [r3, #SR]
    movs r2, #4
    tst r1, r2
    beq finish
    movs r2, #1
    tst r1, r2
    bne finish
    bx lr

    .ltorg
