/* The CoAP message format (RFC 7252 section 3). */
#include "device.h"

void gd_coap_head(gd_writer *w, uint32_t type, uint32_t code, uint32_t message_id, const uint8_t *token, uint32_t n) {
  gd_put(w, 0x40u | type << 4 | n);
  gd_put(w, code);
  gd_put(w, message_id >> 8 & 255u);
  gd_put(w, message_id & 255u);
  gd_put_bytes(w, token, n);
}

static uint32_t gd_nibble(uint32_t value) { return value < 13 ? value : value < 269 ? 13 : 14; }

static void gd_extended(gd_writer *w, uint32_t value) {
  if (value >= 269) gd_put(w, (value - 269) >> 8 & 255u);
  if (value >= 13) gd_put(w, (value < 269 ? value - 13 : value - 269) & 255u);
}

/* Options go in the order of their numbers; `last` is the number before, 0 at first. */
void gd_coap_option(gd_writer *w, uint32_t *last, uint32_t number, const void *value, uint32_t n) {
  gd_put(w, gd_nibble(number - *last) << 4 | gd_nibble(n));
  gd_extended(w, number - *last);
  gd_extended(w, n);
  gd_put_bytes(w, value, n);
  *last = number;
}

/* The value of an extended delta or length; 0xffffffff when it is reserved or the datagram ends. */
static uint32_t gd_extension(const uint8_t *at, uint32_t n, uint32_t *i, uint32_t nibble) {
  uint32_t value = nibble;
  if (nibble == 15 || (nibble == 13 && *i >= n) || (nibble == 14 && n - *i < 2)) return 0xffffffffu;
  if (nibble == 13) value = 13u + at[*i];
  if (nibble == 14) value = 269u + ((uint32_t)at[*i] << 8 | at[*i + 1]);
  *i += nibble < 13 ? 0 : nibble - 12;
  return value;
}

/* The option at *at (relative to the options); advances. 1: one was read, 0: none is left, 2: it is malformed. */
uint32_t gd_coap_next(const gd_coap *m, uint32_t *at, uint32_t *number, const uint8_t **value, uint32_t *n) {
  uint32_t delta, length, i = *at;
  if (i >= m->options_bytes || m->options[i] == 0xff) return 0;
  delta = m->options[i] >> 4;
  length = m->options[i] & 15u;
  i++;
  delta = gd_extension(m->options, m->options_bytes, &i, delta);
  if (delta == 0xffffffffu) return 2;
  length = gd_extension(m->options, m->options_bytes, &i, length);
  if (length == 0xffffffffu || *number + delta > 0xffffu || length > m->options_bytes - i) return 2;
  *number += delta;
  *value = m->options + i;
  *n = length;
  *at = i + length;
  return 1;
}

/* 0 when the datagram is no CoAP message. */
uint32_t gd_coap_decode(gd_coap *m, const uint8_t *at, uint32_t n) {
  uint32_t i = 0, number = 0, length, more;
  const uint8_t *value;
  if (n < 4 || at[0] >> 6 != 1) return 0;
  m->type = at[0] >> 4 & 3;
  m->token_bytes = at[0] & 15;
  m->code = at[1];
  m->message_id = (uint16_t)(at[2] << 8 | at[3]);
  m->options = m->payload = at + 4;
  m->options_bytes = m->payload_bytes = 0;
  if (m->token_bytes > 8) return 0;
  if (m->code == 0) return n == 4 && m->token_bytes == 0;
  if (m->code >= 192 || (m->code >= 32 && m->code < 64) || n < 4u + m->token_bytes) return 0;
  gd_copy(m->token, at + 4, m->token_bytes);
  m->options = at + 4 + m->token_bytes;
  m->options_bytes = n - 4 - m->token_bytes;
  while ((more = gd_coap_next(m, &i, &number, &value, &length)) == 1) {
  }
  if (more == 2) return 0;
  if (i < m->options_bytes) { /* the payload marker */
    m->payload = m->options + i + 1;
    m->payload_bytes = m->options_bytes - i - 1;
    if (m->payload_bytes == 0) return 0;
    m->options_bytes = i;
  }
  return 1;
}

/* The first critical option that is unknown or too long (sections 5.4.1, 5.4.3), or 0. */
uint32_t gd_coap_critical(const gd_coap *m) {
  uint32_t at = 0, number = 0, n = 0;
  const uint8_t *value;
  while (gd_coap_next(m, &at, &number, &value, &n) == 1) {
    uint32_t text = number == 3 || number == 11 || number == 15, whole = number == 7 || number == 17;
    if ((number & 1) && !(text && n <= 255) && !(whole && n <= 2)) return number;
  }
  return 0;
}

/* FNV-1a: tells a repeat from another message under the same id. */
uint32_t gd_fingerprint(const uint8_t *at, uint32_t n) {
  uint32_t hash = 2166136261u;
  for (uint32_t i = 0; i < n; i++) hash = (hash ^ at[i]) * 16777619u;
  return hash;
}
