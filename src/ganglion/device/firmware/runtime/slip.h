/* Datagrams on a line of bytes: SLIP (RFC 1055) around each datagram and its CRC-16/IBM-3740.
 *
 * A frame is END, then datagram and check with END and ESC escaped, then END. The END in front ends whatever noise came
 * before, so a frame is lost only by what hits the frame itself. The check: polynomial 0x1021, first value 0xffff, no
 * reflection, nothing added ("123456789" gives 0x29b1); sent high byte first. Nothing here waits, calls back or keeps
 * more than the caller's memory, so it may be used from an interrupt. */
#ifndef GANGLION_SLIP_H
#define GANGLION_SLIP_H
#include <stdint.h>

#define GD_SLIP_END 0xc0
#define GD_SLIP_ESC 0xdb
#define GD_SLIP_ESC_END 0xdc
#define GD_SLIP_ESC_ESC 0xdd
#define GD_SLIP_CHECK_BYTES 2
/* The most bytes on the line for a datagram of n. */
#define GD_SLIP_BYTES_MAX(n) (2 + 2 * ((n) + GD_SLIP_CHECK_BYTES))

/* What comes in. */
typedef struct {
  uint8_t *at;
  uint32_t room, size;
  uint8_t is_escaped, is_bad;
  /* Frames that were whole; that failed their check or were too short for one; that broke RFC 1055; that had no room. */
  uint32_t received, bad_check, bad_escape, too_long;
} gd_slip;

/* A datagram on its way out. */
typedef struct {
  const uint8_t *at;
  uint32_t size, next;
  uint16_t check;
  uint8_t step, escaped;
} gd_slip_sender;

/* The check of n more bytes after `check` (0xffff at first). */
uint16_t gd_slip_check(uint16_t check, const uint8_t *at, uint32_t n);

/* `memory` holds the largest datagram and GD_SLIP_CHECK_BYTES. */
void gd_slip_start(gd_slip *s, uint8_t *memory, uint32_t bytes);

/* Takes a byte. The size of the datagram that it completes, which lies at s->at until the next byte is taken; else 0. */
uint32_t gd_slip_receive(gd_slip *s, uint8_t byte);

/* Begins to send; the datagram has to stay where it is until gd_slip_next gives -1. */
void gd_slip_send(gd_slip_sender *s, const uint8_t *datagram, uint32_t n);

/* The next byte for the line, -1 when the frame has ended. */
int32_t gd_slip_next(gd_slip_sender *s);

#endif
