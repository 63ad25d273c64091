/* Messages that are not acknowledged yet, a bounded number of them. */
#include "device.h"

static uint32_t gd_is_under_way(const gd_device *d, uint32_t i) {
  const gd_uplink *u = d->uplink + d->message[i].stream;
  return u->phase != GD_IDLE && u->message == (int16_t)i;
}

static uint32_t gd_is_older(const gd_message *a, const gd_message *b) { return (int32_t)(a->order - b->order) < 0; }

/* The oldest message of a stream, -1 when there is none. */
int32_t gd_oldest(const gd_device *d, uint32_t stream) {
  int32_t found = -1;
  for (int32_t i = 0; i < GD_MESSAGES; i++) {
    const gd_message *m = d->message + i;
    if (m->state != GD_FREE && m->stream == stream && (found < 0 || gd_is_older(m, d->message + found))) found = i;
  }
  return found;
}

/* A message that may be given up: not under way (the gateway may have it), `urgent` or not, the oldest; or -1. */
static int32_t gd_victim(const gd_device *d, uint32_t urgent) {
  int32_t found = -1;
  for (int32_t i = 0; i < GD_MESSAGES; i++) {
    const gd_message *m = d->message + i;
    if (m->state == GD_FREE || d->streams[m->stream].urgent != urgent || gd_is_under_way(d, (uint32_t)i)) continue;
    if (found < 0 || gd_is_older(m, d->message + found)) found = i;
  }
  return found;
}

static int32_t gd_free_place(gd_device *d, uint32_t urgent) {
  int32_t found;
  for (int32_t i = 0; i < GD_MESSAGES; i++)
    if (d->message[i].state == GD_FREE) return i;
  found = gd_victim(d, 0);
  if (found < 0 && urgent) found = gd_victim(d, 1);
  if (found >= 0) {
    gd_message *m = d->message + found;
    gd_uplink *u = d->uplink + m->stream;
    u->counts.shed += m->rows;
    if (u->gathering == found) u->gathering = -1;
    m->state = GD_FREE;
  }
  return found;
}

/* Where the next row of a stream goes, 0 when there is no room for it. */
uint8_t *gd_room(gd_device *d, uint32_t stream, int64_t now) {
  const gd_stream *s = d->streams + stream;
  gd_uplink *u = d->uplink + stream;
  gd_message *m;
  uint8_t *at;
  if (u->gathering < 0) {
    int32_t place = gd_free_place(d, s->urgent);
    if (place < 0) return 0;
    m = d->message + place;
    m->state = GD_GATHERING;
    m->stream = (uint8_t)stream;
    m->rows = 0;
    m->order = d->order++;
    m->since_ns = now;
    u->gathering = (int16_t)place;
  }
  m = d->message + u->gathering;
  at = m->at + m->rows * s->stride;
  m->rows++;
  if (m->rows >= s->rows_max) {
    m->state = GD_SEALED;
    u->gathering = -1;
  }
  return at;
}
