/* Requests to the device: PUT a/ACTUATOR, obeyed once per id, answered again when repeated; GET ledger. */
#include "device.h"

static uint32_t gd_is_peer(const gd_peer *a, const gd_peer *b) {
  return a->bytes == b->bytes && gd_same(a->at, b->at, a->bytes);
}

/* What is known of this very message (section 4.5), or 0. */
gd_seen *gd_find_seen(gd_device *d, const gd_peer *from, uint32_t id, uint32_t fingerprint, int64_t now) {
  for (uint32_t i = 0; i < GD_REMEMBERED; i++) {
    gd_seen *s = d->seen + i;
    if (s->expires_ns > now && s->message_id == id && s->fingerprint == fingerprint && gd_is_peer(&s->peer, from)) return s;
  }
  return 0;
}

/* A place for a new message, that of the oldest. */
gd_seen *gd_remember(gd_device *d, const gd_peer *from, uint32_t id, uint32_t fingerprint, int64_t now) {
  gd_seen *s = d->seen + d->seen_next;
  d->seen_next = d->seen_next + 1 < GD_REMEMBERED ? d->seen_next + 1 : 0;
  gd_copy(&s->peer, from, sizeof *from);
  s->message_id = (uint16_t)id;
  s->fingerprint = fingerprint;
  s->expires_ns = now + GD_EXCHANGE_LIFETIME_NS;
  s->reply_bytes = 0;
  return s;
}

/* The actuator does it, unless it has obeyed this id; 0: it is not there. */
static uint32_t gd_obey(gd_device *d, uint32_t actuator, gd_text verb, gd_text id, int64_t seq) {
  uint32_t repeated = 0;
  if (actuator >= GD_ACTUATORS || !(d->present >> actuator & 1u)) {
    d->coap.commands_unknown++;
    return 0;
  }
  for (uint32_t i = 0; i < GD_COMMANDS; i++)
    repeated |= d->command[i].bytes == id.bytes && gd_same(d->command[i].at, id.text, id.bytes);
  if (!repeated) {
    gd_command_id *place = d->command + d->command_next;
    d->command_next = d->command_next + 1 < GD_COMMANDS ? d->command_next + 1 : 0;
    place->bytes = id.bytes;
    gd_copy(place->at, id.text, id.bytes);
  }
  d->coap.commands++;
  d->port.act(d->user, actuator, verb, id, seq, repeated);
  return 1;
}

/* A command of the device's own stages; its id is ACT:ORIGIN:SEQ. */
void gd_act(gd_device *d, uint32_t actuator, gd_text verb, gd_text act, int64_t seq) {
  char id[GD_COMMAND_ID_BYTES];
  gd_writer w = {(uint8_t *)id, 0, sizeof id};
  char digits[20];
  uint32_t n = 0;
  uint64_t left = (uint64_t)seq;
  do { /* by 16 bits at a time: 64-bit division is a library's */
    uint64_t quotient = 0;
    uint32_t rest = 0;
    for (uint32_t k = 4; k-- > 0;) {
      uint32_t part = rest << 16 | (uint32_t)(left >> 16 * k & 0xffffu);
      quotient = quotient << 16 | part / 10u;
      rest = part % 10u;
    }
    digits[n++] = (char)('0' + rest);
    left = quotient;
  } while (left);
  gd_put_bytes(&w, act.text, act.bytes);
  gd_put(&w, ':');
  gd_put_bytes(&w, d->origin, d->origin_bytes);
  gd_put(&w, ':');
  while (n > 0) gd_put(&w, (uint8_t)digits[--n]);
  if (w.size <= w.room) gd_obey(d, actuator, verb, (gd_text){id, w.size}, seq);
}

static uint32_t gd_actuator(const gd_device *d, gd_text name) {
  for (uint32_t i = 0; i < GD_ACTUATORS; i++)
    if (d->actuators[i].bytes == name.bytes && gd_same(d->actuators[i].text, name.text, name.bytes)) return i;
  return GD_ACTUATORS;
}

/* The code of the answer. */
static uint32_t gd_handle(gd_device *d, const gd_coap *m, uint32_t n) {
  uint32_t at = 0, number = 0, bytes = 0, segments = 0, is_a = 0;
  const uint8_t *value;
  gd_text name = {0, 0}, verb, id;
  int64_t seq;
  if (n > GD_DATAGRAM_BYTES) return 0x8d;
  number = gd_coap_critical(m);
  if (number) return number == 35 || number == 39 ? 0xa5 : 0x82;
  while (gd_coap_next(m, &at, &number, &value, &bytes) == 1) {
    if ((number == 11 || number == 15) && !gd_is_utf8(value, bytes)) return 0x80;
    if (number != 11) continue;
    if (segments == 0) is_a = bytes == 1 && value[0] == 'a';
    name = (gd_text){(const char *)value, bytes};
    segments++;
  }
  if (m->code != 3 || segments != 2 || !is_a) {
    d->coap.commands_unknown++;
    return 0x84;
  }
  if (!gd_cbor_command(m->payload, m->payload_bytes, &verb, &id, &seq) || id.bytes > GD_COMMAND_ID_BYTES) return 0x80;
  return gd_obey(d, gd_actuator(d, name), verb, id, seq) ? 0x44 : 0x84;
}

/* The ledger is read, which changes nothing: a repeat is simply answered again (section 4.5). 0: another request. */
static uint32_t gd_ledger_request(gd_device *d, const gd_peer *from, const gd_coap *m) {
  uint32_t at = 0, number = 0, bytes = 0, segments = 0, is_ledger = 0, code = 0x45, last = 0;
  uint32_t confirmable = m->type == 0;
  const uint8_t *value;
  uint8_t format = GD_CBOR;
  gd_writer w = {d->datagram, 0, GD_DATAGRAM_BYTES};
  if (m->code != 1 || gd_coap_critical(m)) return 0;
  while (gd_coap_next(m, &at, &number, &value, &bytes) == 1) {
    if (number == 11) {
      is_ledger = bytes == 6 && gd_same(value, "ledger", 6);
      segments++;
    }
    if (number == 17 && !(bytes == 1 && value[0] == GD_CBOR)) code = 0x86; /* not in the form that is asked for */
  }
  if (segments != 1 || !is_ledger) return 0;
  gd_coap_head(&w, confirmable ? 2 : 1, code, confirmable ? m->message_id : d->next_message_id++, m->token, m->token_bytes);
  if (code == 0x45) {
    gd_coap_option(&w, &last, 12, &format, 1);
    gd_put(&w, 0xff);
    gd_ledger_map(d, &w);
  }
  if (w.size <= w.room) gd_transmit(d, from, d->datagram, w.size); /* the generator saw to it that it fits */
  return 1;
}

void gd_request(gd_device *d, const gd_peer *from, const gd_coap *m, const uint8_t *at, uint32_t n) {
  int64_t now = gd_now(d);
  uint32_t fingerprint = gd_fingerprint(at, n), confirmable = m->type == 0, code;
  gd_seen *seen = gd_find_seen(d, from, m->message_id, fingerprint, now);
  uint8_t reply[GD_REPLY_BYTES];
  gd_writer w = {reply, 0, GD_REPLY_BYTES};
  if (seen) {
    d->coap.duplicates++;
    if (confirmable) gd_transmit(d, from, seen->reply, seen->reply_bytes);
    return;
  }
  if (n <= GD_DATAGRAM_BYTES && gd_ledger_request(d, from, m)) return;
  code = gd_handle(d, m, n);
  gd_coap_head(&w, confirmable ? 2 : 1, code, confirmable ? m->message_id : d->next_message_id++, m->token, m->token_bytes);
  seen = gd_remember(d, from, m->message_id, fingerprint, now);
  seen->reply_bytes = (uint8_t)w.size;
  gd_copy(seen->reply, reply, w.size);
  gd_transmit(d, from, reply, w.size);
}
