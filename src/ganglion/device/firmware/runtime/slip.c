/* SLIP (RFC 1055) with a check: see slip.h. */
#include "slip.h"

uint16_t gd_slip_check(uint16_t check, const uint8_t *at, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) { /* eight steps of the polynomial at once, without a table */
    uint32_t x = ((uint32_t)check >> 8 ^ at[i]) & 255u;
    x ^= x >> 4;
    check = (uint16_t)((uint32_t)check << 8 ^ x << 12 ^ x << 5 ^ x);
  }
  return check;
}

void gd_slip_start(gd_slip *s, uint8_t *memory, uint32_t bytes) {
  s->at = memory;
  s->room = bytes;
  s->size = 0;
  s->is_escaped = s->is_bad = 0;
  s->received = s->bad_check = s->bad_escape = s->too_long = 0;
}

/* The size of the datagram that has ended, 0 when there is none or it is broken. */
static uint32_t gd_slip_ended(gd_slip *s) {
  uint32_t size = s->size, is_bad = s->is_bad;
  s->size = 0;
  s->is_bad = 0;
  if (s->is_escaped && !is_bad) { /* ESC before END */
    s->bad_escape++;
    is_bad = 1;
  }
  s->is_escaped = 0;
  if (is_bad || size == 0) return 0; /* counted already; or two ENDs in a row, which is how frames meet */
  if (size > GD_SLIP_CHECK_BYTES && gd_slip_check(0xffff, s->at, size) == 0) {
    s->received++;
    return size - GD_SLIP_CHECK_BYTES;
  }
  s->bad_check++;
  return 0;
}

uint32_t gd_slip_receive(gd_slip *s, uint8_t byte) {
  if (byte == GD_SLIP_END) return gd_slip_ended(s);
  if (s->is_bad) return 0;
  if (s->is_escaped) {
    s->is_escaped = 0;
    if (byte != GD_SLIP_ESC_END && byte != GD_SLIP_ESC_ESC) {
      s->bad_escape++;
      s->is_bad = 1;
      return 0;
    }
    byte = byte == GD_SLIP_ESC_END ? GD_SLIP_END : GD_SLIP_ESC;
  } else if (byte == GD_SLIP_ESC) {
    s->is_escaped = 1;
    return 0;
  }
  if (s->size >= s->room) {
    s->too_long++;
    s->is_bad = 1;
    return 0;
  }
  s->at[s->size++] = byte;
  return 0;
}

void gd_slip_send(gd_slip_sender *s, const uint8_t *datagram, uint32_t n) {
  s->at = datagram;
  s->size = n;
  s->next = 0;
  s->check = gd_slip_check(0xffff, datagram, n);
  s->step = s->escaped = 0;
}

int32_t gd_slip_next(gd_slip_sender *s) {
  uint8_t byte;
  if (s->escaped) {
    byte = s->escaped;
    s->escaped = 0;
    return byte;
  }
  if (s->step == 0 || (s->step == 1 && s->next >= s->size + GD_SLIP_CHECK_BYTES)) {
    s->step++;
    return GD_SLIP_END;
  }
  if (s->step == 2) return -1;
  byte = s->next < s->size ? s->at[s->next] : (uint8_t)(s->next == s->size ? s->check >> 8 : s->check & 255);
  s->next++;
  if (byte != GD_SLIP_END && byte != GD_SLIP_ESC) return byte;
  s->escaped = byte == GD_SLIP_END ? GD_SLIP_ESC_END : GD_SLIP_ESC_ESC;
  return GD_SLIP_ESC;
}
