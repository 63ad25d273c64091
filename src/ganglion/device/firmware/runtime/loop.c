/* A device on a board of its own: see loop.h. */
#include "loop.h"

/* Datagrams that are taken before the next frame is looked for: a flood must not stop the measuring. */
#define GD_RECEIVE_MAX 8

uint32_t gd_firmware_begin(gd_firmware *m, const gd_port *port, void *user, gd_text origin, const gd_peer *gateway,
                           uint32_t present, uint32_t chance) {
  gd_device *d = &m->flow.device;
  uint8_t *zero = (uint8_t *)m;
  for (uint32_t i = 0; i < sizeof *m; i++) zero[i] = 0;
  if (!port->now || !port->send || !port->act || !port->receive || !port->frame || !port->sleep_until || !port->next_boot) return 0;
  if (origin.bytes == 0 || origin.bytes > GD_ORIGIN_BYTES || gateway->bytes > GD_PEER_BYTES) return 0;
  d->port = *port;
  d->user = user;
  d->boot = port->next_boot(user);
  if (d->boot == 0 || d->boot >= UINT64_C(1) << (63 - GD_BOOT_BITS)) return 0;
  d->present = present;
  d->chance = chance | !chance;
  d->origin_bytes = origin.bytes;
  gd_copy(d->origin, origin.text, origin.bytes);
  gd_copy(&d->gateway, gateway, sizeof *gateway);
  gd_flow_start(&m->flow);
  return 1;
}

int64_t gd_firmware_turn(gd_firmware *m) {
  gd_device *d = &m->flow.device;
  uint32_t began = d->port.cycles ? d->port.cycles(d->user) : 0, taken = 0, bytes;
  int64_t time_ns, next_ns;
  gd_peer from;
  d->ledger.wakeups++;
  if (d->port.frame(d->user, m->frame, &time_ns)) gd_flow_frame(&m->flow, m->frame, d->ledger.frames, time_ns);
  while (taken < GD_RECEIVE_MAX && (bytes = d->port.receive(d->user, &from, m->received, sizeof m->received)) > 0) {
    gd_receive(d, &from, m->received, bytes);
    taken++;
  }
  next_ns = gd_poll(d);
  if (d->port.cycles) d->ledger.cycles += (uint32_t)(d->port.cycles(d->user) - began);
  return taken < GD_RECEIVE_MAX ? next_ns : gd_now(d);
}

void gd_firmware_close(gd_firmware *m) { gd_close(&m->flow.device); }

uint32_t gd_firmware_is_done(const gd_firmware *m) { return gd_is_done(&m->flow.device); }

void gd_firmware_run(gd_firmware *m) {
  while (!gd_firmware_is_done(m)) {
    int64_t next_ns = gd_firmware_turn(m);
    if (!gd_firmware_is_done(m)) m->flow.device.port.sleep_until(m->flow.device.user, next_ns);
  }
}
