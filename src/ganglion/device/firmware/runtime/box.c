/* The board of a device that has no hardware: its host puts time, frames and datagrams into a box in memory, lets the
 * device run, and finds in the box what the device did. The same for a loaded library and an emulated processor. */
#include "device.h"

enum { GD_OP_START = 1, GD_OP_FRAME, GD_OP_RECEIVE, GD_OP_POLL, GD_OP_CLOSE, GD_OP_REPORT };
enum { GD_OUT_DATAGRAM = 1, GD_OUT_COMMAND, GD_OUT_ACKNOWLEDGED, GD_OUT_REPORT };

typedef struct {
  uint32_t op, in_bytes;
  int64_t now_ns, number, time_ns;
  gd_peer peer;
  uint32_t lost; /* records that found no room: the generator's sizes are wrong when it is not 0 */
  int64_t next_ns; /* in: the instructions that were run until now, 0 where nobody counts them */
  uint32_t done, out_bytes;
  uint8_t in[GD_IN_BYTES];
  uint8_t out[GD_OUT_BYTES];
} gd_box;

typedef struct {
  gd_flow *flow;
  gd_box *box;
} gd_board;

/* A record: kind, bytes, its four numbers, content up to the next multiple of eight. */
static uint8_t *gd_record(gd_box *box, uint32_t kind, uint32_t a, uint32_t b, int64_t c, uint32_t bytes) {
  uint32_t whole = 24 + ((bytes + 7) & ~7u), head[4] = {kind, bytes, a, b};
  uint8_t *at = box->out + box->out_bytes;
  if (whole > GD_OUT_BYTES - box->out_bytes) {
    box->lost++;
    return 0;
  }
  gd_copy(at, head, 16);
  gd_copy(at + 16, &c, 8);
  box->out_bytes += whole;
  return at + 24;
}

int64_t board_now(void *user) { return ((gd_board *)user)->box->now_ns; }

void board_send(void *user, const gd_peer *to, const uint8_t *datagram, uint32_t bytes) {
  uint8_t *at = gd_record(((gd_board *)user)->box, GD_OUT_DATAGRAM, to->bytes, 0, 0, GD_PEER_BYTES + bytes);
  if (at) {
    gd_copy(at, to->at, GD_PEER_BYTES);
    gd_copy(at + GD_PEER_BYTES, datagram, bytes);
  }
}

void board_act(void *user, uint32_t actuator, gd_text verb, gd_text id, int64_t seq, uint32_t repeated) {
  uint32_t kind = actuator | repeated << 31;
  uint8_t *at = gd_record(((gd_board *)user)->box, GD_OUT_COMMAND, kind, verb.bytes, seq, verb.bytes + id.bytes);
  if (at) {
    gd_copy(at, verb.text, verb.bytes);
    gd_copy(at + verb.bytes, id.text, id.bytes);
  }
}

void board_acknowledged(void *user, uint32_t stream, const uint8_t *rows, uint32_t rows_n) {
  gd_board *b = (gd_board *)user;
  uint32_t bytes = rows_n * b->flow->device.streams[stream].stride;
  uint8_t *at = gd_record(b->box, GD_OUT_ACKNOWLEDGED, stream, rows_n, 0, bytes);
  if (at) gd_copy(at, rows, bytes);
}

/* in: boot (8), actuators present (4), chance (4), the origin's name. */
static void gd_box_start(gd_flow *f, gd_box *box) {
  gd_device *d = &f->device;
  uint8_t *zero = (uint8_t *)f;
  for (uint32_t i = 0; i < sizeof *f; i++) zero[i] = 0;
  d->port = (gd_port){.now = board_now, .send = board_send, .act = board_act, .acknowledged = board_acknowledged};
  gd_copy(&d->boot, box->in, 8);
  gd_copy(&d->present, box->in + 8, 4);
  gd_copy(&d->chance, box->in + 12, 4);
  d->origin_bytes = box->in_bytes - 16;
  gd_copy(d->origin, box->in + 16, d->origin_bytes);
  gd_copy(&d->gateway, &box->peer, sizeof box->peer);
  gd_flow_start(f);
}

static void gd_box_report(gd_flow *f, gd_box *box) {
  gd_device *d = &f->device;
  uint32_t uplinks = GD_STREAMS * (uint32_t)sizeof(gd_uplink_counts), stages = GD_STAGES * (uint32_t)sizeof(gd_stage_counts);
  uint8_t *at = gd_record(box, GD_OUT_REPORT, 0, 0, 0, uplinks + stages + sizeof d->ledger + sizeof d->coap);
  if (at == 0) return;
  for (uint32_t s = 0; s < GD_STREAMS; s++) gd_copy(at + s * sizeof(gd_uplink_counts), &d->uplink[s].counts, sizeof(gd_uplink_counts));
  gd_copy(at + uplinks, d->stage, stages);
  gd_copy(at + uplinks + stages, &d->ledger, sizeof d->ledger);
  gd_copy(at + uplinks + stages + sizeof d->ledger, &d->coap, sizeof d->coap);
}

const uint32_t gd_flow_bytes = sizeof(gd_flow);
const uint32_t gd_box_bytes = sizeof(gd_box);
const uint32_t gd_in_bytes = GD_IN_BYTES;

void gd_box_run(gd_flow *f, gd_box *box) {
  gd_board board = {f, box};
  f->device.user = &board;
  box->out_bytes = 0;
  if (box->op == GD_OP_START) {
    gd_box_start(f, box);
    f->device.user = &board;
  }
  f->device.ledger.instructions = (uint64_t)box->next_ns;
  if (box->op == GD_OP_REPORT) {
    gd_box_report(f, box);
    return;
  }
  f->device.ledger.wakeups++;
  if (box->op == GD_OP_FRAME) gd_flow_frame(f, box->in, (uint64_t)box->number, box->time_ns);
  if (box->op == GD_OP_RECEIVE) gd_receive(&f->device, &box->peer, box->in, box->in_bytes);
  if (box->op == GD_OP_CLOSE) gd_close(&f->device);
  box->next_ns = gd_poll(&f->device);
  box->done = gd_is_done(&f->device);
}
