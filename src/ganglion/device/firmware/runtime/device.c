/* A device's life: it starts, datagrams come, time passes. Frames come through the generated part. */
#include "device.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rows are packed little-endian: build for a little-endian processor"
#endif

typedef uint32_t __attribute__((may_alias)) gd_word;

/* Rows and frames lie at words: by words it takes a quarter of the instructions, and a frame is copied several times.
 * Once in flash, not at each of its many callers. */
__attribute__((noinline)) void gd_copy(void *to, const void *from, uint32_t n) {
  uint8_t *t = (uint8_t *)to;
  const uint8_t *f = (const uint8_t *)from;
  uint32_t i = 0;
  if ((((uintptr_t)t | (uintptr_t)f) & 3u) == 0) {
    for (; i + 16 <= n; i += 16) {
      gd_word *to_words = (gd_word *)(void *)(t + i);
      const gd_word *words = (const gd_word *)(const void *)(f + i);
      uint32_t first = words[0], second = words[1], third = words[2], fourth = words[3];
      to_words[0] = first;
      to_words[1] = second;
      to_words[2] = third;
      to_words[3] = fourth;
    }
    for (; i + 4 <= n; i += 4) *(gd_word *)(void *)(t + i) = *(const gd_word *)(const void *)(f + i);
  }
  for (; i < n; i++) t[i] = f[i];
}

uint32_t gd_same(const void *a, const void *b, uint32_t n) {
  const uint8_t *x = (const uint8_t *)a, *y = (const uint8_t *)b;
  for (uint32_t i = 0; i < n; i++)
    if (x[i] != y[i]) return 0;
  return 1;
}

int64_t gd_now(gd_device *d) { return d->port.now(d->user); }

/* Xorshift: chance for waits, not for secrets. */
uint32_t gd_chance(gd_device *d) {
  d->chance ^= d->chance << 13;
  d->chance ^= d->chance >> 17;
  d->chance ^= d->chance << 5;
  return d->chance;
}

void gd_transmit(gd_device *d, const gd_peer *to, const uint8_t *datagram, uint32_t n) {
  d->ledger.sent++;
  d->ledger.sent_bytes += n;
  d->port.send(d->user, to, datagram, n);
}

/* After port, user, gateway, origin, boot, present and chance (not 0) were set in memory that was zero. */
void gd_start(gd_device *d, const gd_stream *streams, const gd_text *actuators) {
  d->streams = streams;
  d->actuators = actuators;
  d->next_message_id = (uint16_t)gd_chance(d);
  d->next_token = (uint64_t)gd_chance(d) << 32 | gd_chance(d);
  for (uint32_t s = 0; s < GD_STREAMS; s++) {
    gd_uplink *u = d->uplink + s;
    u->gathering = u->message = -1;
    u->retry_ns = GD_RETRY_NS;
    /* Devices that were switched on together must not report together, each second, for ever. */
    u->gather_ns = (int64_t)(((uint64_t)GD_GATHER_NS * (gd_chance(d) >> 16)) >> 16);
    if (u->gather_ns < GD_GATHER_NS / 100) u->gather_ns = GD_GATHER_NS / 100;
  }
}

static uint32_t gd_is_gateway(const gd_device *d, const gd_peer *from) {
  return from->bytes == d->gateway.bytes && gd_same(from->at, d->gateway.at, from->bytes);
}

static void gd_empty(gd_device *d, const gd_peer *to, uint32_t type, uint32_t message_id) {
  uint8_t bytes[4];
  gd_writer w = {bytes, 0, 4};
  gd_coap_head(&w, type, 0, message_id, 0, 0);
  gd_transmit(d, to, bytes, w.size);
}

/* The stream whose request an acknowledgement or reset speaks of, GD_STREAMS when there is none. */
static uint32_t gd_by_id(const gd_device *d, const gd_peer *from, uint32_t message_id) {
  for (uint32_t s = 0; s < GD_STREAMS; s++)
    if (d->uplink[s].phase == GD_SENT && d->uplink[s].message_id == message_id && gd_is_gateway(d, from)) return s;
  return GD_STREAMS;
}

static uint32_t gd_by_token(const gd_device *d, const gd_peer *from, const gd_coap *m) {
  uint64_t token = 0;
  if (m->token_bytes != 8 || !gd_is_gateway(d, from)) return GD_STREAMS;
  for (uint32_t i = 0; i < 8; i++) token = token << 8 | m->token[i];
  for (uint32_t s = 0; s < GD_STREAMS; s++)
    if ((d->uplink[s].phase == GD_SENT || d->uplink[s].phase == GD_ACCEPTED) && d->uplink[s].token == token) return s;
  return GD_STREAMS;
}

static void gd_empty_received(gd_device *d, const gd_peer *from, const gd_coap *m) {
  uint32_t stream = gd_by_id(d, from, m->message_id);
  if (m->type == 0) gd_empty(d, from, 3, m->message_id); /* a ping, section 4.3 */
  else if (m->type == 1 || stream == GD_STREAMS) d->coap.unmatched++;
  else if (m->type == 3) gd_unanswered(d, stream);
  else d->uplink[stream].phase = GD_ACCEPTED; /* the response comes apart (5.2.2) */
}

static void gd_response(gd_device *d, const gd_peer *from, const gd_coap *m, const uint8_t *at, uint32_t n) {
  uint32_t stream = gd_by_token(d, from, m), fingerprint;
  int64_t now = gd_now(d);
  if (m->type == 3) {
    d->coap.malformed++;
    return;
  }
  if (m->type == 0) { /* a separate response is acknowledged, again when it is repeated */
    fingerprint = gd_fingerprint(at, n);
    if (gd_find_seen(d, from, m->message_id, fingerprint, now)) {
      d->coap.duplicates++;
      gd_empty(d, from, 2, m->message_id);
      return;
    }
    gd_empty(d, from, stream == GD_STREAMS ? 3 : 2, m->message_id);
    if (stream != GD_STREAMS) {
      gd_seen *seen = gd_remember(d, from, m->message_id, fingerprint, now);
      gd_writer w = {seen->reply, 0, GD_REPLY_BYTES};
      gd_coap_head(&w, 2, 0, m->message_id, 0, 0);
      seen->reply_bytes = (uint8_t)w.size;
    }
  }
  /* Section 5.3.2: a piggybacked response must match both message id and token. */
  if (stream == GD_STREAMS || (m->type == 2 && gd_by_id(d, from, m->message_id) != stream)) d->coap.unmatched++;
  else if (gd_coap_critical(m)) gd_unanswered(d, stream);
  else gd_answered(d, stream, m->code);
}

/* 1: it was a CoAP message. `gd_poll` follows. */
uint32_t gd_receive(gd_device *d, const gd_peer *from, const uint8_t *at, uint32_t n) {
  gd_coap m;
  d->ledger.received++;
  d->ledger.received_bytes += n;
  if (!gd_coap_decode(&m, at, n)) {
    d->coap.malformed++;
    /* Section 4.2: a confirmable message with a format error is rejected. */
    if (n >= 4 && (at[0] & 0xf0u) == 0x40u) gd_empty(d, from, 3, (uint32_t)at[2] << 8 | at[3]);
    return 0;
  }
  if (m.code == 0) gd_empty_received(d, from, &m);
  else if (m.code >= 64) gd_response(d, from, &m, at, n);
  else if (m.type >= 2) d->coap.malformed++;
  else gd_request(d, from, &m, at, n);
  return 1;
}
