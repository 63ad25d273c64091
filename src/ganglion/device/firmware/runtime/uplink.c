/* One confirmable message per stream under way; urgent streams first; kept until the gateway has it. */
#include "device.h"

void gd_offer(gd_device *d, uint32_t stream, gd_row row, const uint8_t *fields, uint32_t n) {
  gd_uplink *u = d->uplink + stream;
  uint8_t *at;
  u->counts.offered++;
  at = gd_room(d, stream, gd_now(d));
  if (at == 0) {
    u->counts.shed++;
    return;
  }
  gd_copy(at, &row, GD_ROW_HEAD_BYTES);
  gd_copy(at + GD_ROW_HEAD_BYTES, fields, n);
}

/* Written anew for each transmission, from rows that do not change: saves a datagram's memory per stream. */
static void gd_write_request(gd_device *d, uint32_t stream, gd_writer *w) {
  const gd_stream *s = d->streams + stream;
  gd_uplink *u = d->uplink + stream;
  gd_text origin = {d->origin, d->origin_bytes};
  uint8_t token[8], format = GD_SENML_CBOR;
  uint32_t last = 0, before;
  for (uint32_t i = 0; i < 8; i++) token[i] = (uint8_t)((i < 4 ? (uint32_t)(u->token >> 32) : (uint32_t)u->token) >> 8 * (3 - i % 4));
  gd_coap_head(w, 0, 2, u->message_id, token, 8);
  gd_coap_option(w, &last, 11, "s", 1);
  gd_coap_option(w, &last, 11, s->name.text, s->name.bytes);
  if (u->is_end) gd_coap_option(w, &last, 11, "end", 3);
  else gd_coap_option(w, &last, 12, &format, 1);
  gd_put(w, 0xff);
  before = w->size;
  if (u->is_end) gd_put_bytes(w, d->origin, d->origin_bytes);
  else gd_senml(w, s, origin, d->message[u->message].at, d->message[u->message].rows);
  u->payload_bytes = w->size - before;
}

static void gd_send_request(gd_device *d, uint32_t stream) {
  gd_writer w = {d->datagram, 0, GD_DATAGRAM_BYTES};
  gd_write_request(d, stream, &w);
  if (w.size <= w.room) gd_transmit(d, &d->gateway, d->datagram, w.size); /* the generator saw to it that it fits */
}

static uint32_t gd_under_way(const gd_device *d) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < GD_STREAMS; s++) n += d->uplink[s].phase == GD_SENT;
  return n;
}

/* An id that none of our messages waits on (section 4.4). */
static uint16_t gd_message_id(gd_device *d) {
  for (;;) {
    uint16_t id = d->next_message_id++;
    uint32_t used = 0;
    for (uint32_t s = 0; s < GD_STREAMS; s++) used |= d->uplink[s].phase == GD_SENT && d->uplink[s].message_id == id;
    if (!used) return id;
  }
}

static void gd_begin(gd_device *d, uint32_t stream, int64_t now) {
  gd_uplink *u = d->uplink + stream;
  u->message_id = gd_message_id(d);
  u->token = d->next_token++;
  u->phase = GD_SENT;
  u->attempts_left = GD_RETRANSMIT_MAX;
  /* Section 4.2: a random first wait, so that devices that lost together do not retry together. */
  u->wait_ns = GD_ACK_TIMEOUT_NS + (int64_t)(((uint64_t)(GD_ACK_TIMEOUT_NS / 2) * (gd_chance(d) >> 16)) >> 16);
  u->deadline_ns = now + u->wait_ns;
  u->give_up_ns = now + GD_REQUEST_NS;
  gd_send_request(d, stream);
}

void gd_unanswered(gd_device *d, uint32_t stream) {
  gd_uplink *u = d->uplink + stream;
  u->counts.retries++;
  u->phase = GD_PAUSING;
  u->deadline_ns = gd_now(d) + u->retry_ns;
  if (!d->streams[stream].urgent && u->retry_ns < GD_RETRY_NS_MAX) u->retry_ns *= 2;
}

void gd_answered(gd_device *d, uint32_t stream, uint32_t code) {
  gd_uplink *u = d->uplink + stream;
  gd_message *m;
  if (code >> 5 != 2 && code >> 5 != 4) {
    gd_unanswered(d, stream);
    return;
  }
  u->retry_ns = GD_RETRY_NS;
  if (u->is_end) {
    u->phase = GD_ENDED;
    return;
  }
  m = d->message + u->message;
  u->counts.messages++;
  u->counts.payload_bytes += u->payload_bytes;
  if (code >> 5 == 4) u->counts.refused += m->rows;
  else {
    u->counts.acknowledged += m->rows;
    if (d->port.acknowledged) d->port.acknowledged(d->user, stream, m->at, m->rows);
  }
  m->state = GD_FREE;
  u->phase = GD_IDLE;
  u->message = -1;
}

/* What is due of an idle stream begins; returns when something will be, GD_NEVER when nothing is held. */
static int64_t gd_begin_due(gd_device *d, uint32_t stream, int64_t now) {
  gd_uplink *u = d->uplink + stream;
  int32_t oldest = gd_oldest(d, stream);
  if (oldest >= 0) {
    gd_message *m = d->message + oldest;
    int64_t due = m->since_ns + u->gather_ns;
    if (m->state == GD_GATHERING && !d->streams[stream].urgent && !d->closing && now < due) return due;
  } else if (!d->closing) return GD_NEVER;
  if (gd_under_way(d) >= GD_UNDER_WAY_MAX) return GD_NEVER; /* the end of another message comes back here */
  u->is_end = oldest < 0;
  u->message = (int16_t)oldest;
  if (oldest >= 0) {
    d->message[oldest].state = GD_SEALED;
    if (u->gathering == oldest) u->gathering = -1;
    u->gather_ns = GD_GATHER_NS;
  }
  gd_begin(d, stream, now);
  return u->deadline_ns;
}

/* One stream's next step; returns when it has to be looked at again. */
static int64_t gd_advance(gd_device *d, uint32_t stream, int64_t now) {
  gd_uplink *u = d->uplink + stream;
  if (u->phase == GD_SENT && now >= u->deadline_ns && now < u->give_up_ns && u->attempts_left > 0) {
    u->attempts_left--;
    u->wait_ns *= 2;
    u->deadline_ns = now + u->wait_ns;
    d->coap.retransmitted++;
    gd_send_request(d, stream);
  }
  if ((u->phase == GD_SENT && (now >= u->deadline_ns || now >= u->give_up_ns)) ||
      (u->phase == GD_ACCEPTED && now >= u->give_up_ns)) {
    d->coap.expired++;
    gd_unanswered(d, stream);
  }
  if (u->phase == GD_PAUSING && now >= u->deadline_ns) {
    if (gd_under_way(d) >= GD_UNDER_WAY_MAX) return GD_NEVER;
    gd_begin(d, stream, now);
  }
  switch (u->phase) {
    case GD_IDLE: return gd_begin_due(d, stream, now);
    case GD_SENT: return u->deadline_ns < u->give_up_ns ? u->deadline_ns : u->give_up_ns;
    case GD_ACCEPTED: return u->give_up_ns;
    case GD_PAUSING: return u->deadline_ns;
    default: return GD_NEVER;
  }
}

int64_t gd_poll(gd_device *d) {
  int64_t next = GD_NEVER, now = gd_now(d);
  for (uint32_t urgent = 2; urgent-- > 0;)
    for (uint32_t s = 0; s < GD_STREAMS; s++)
      if (d->streams[s].urgent == urgent) {
        int64_t then = gd_advance(d, s, now);
        next = then < next ? then : next;
      }
  return next;
}

void gd_close(gd_device *d) { d->closing = 1; }

uint32_t gd_is_done(const gd_device *d) {
  for (uint32_t s = 0; s < GD_STREAMS; s++)
    if (d->uplink[s].phase != GD_ENDED) return 0;
  return 1;
}
