/* What the device has done since it started, as the CBOR map that GET ledger gives. */
#include "device.h"

#define GD_LEDGER_COUNTS 13

static void gd_count(gd_writer *w, const char *name, uint64_t count) {
  uint32_t n = 0;
  while (name[n]) n++;
  gd_cbor_head(w, 3, n);
  gd_put_bytes(w, name, n);
  gd_cbor_head(w, 0, count);
}

void gd_ledger_map(const gd_device *d, gd_writer *w) {
  const gd_ledger *l = &d->ledger;
  uint64_t offered = 0, acknowledged = 0, shed = 0, refused = 0;
  for (uint32_t s = 0; s < GD_STREAMS; s++) {
    const gd_uplink_counts *c = &d->uplink[s].counts;
    offered += c->offered;
    acknowledged += c->acknowledged;
    shed += c->shed;
    refused += c->refused;
  }
  gd_cbor_head(w, 5, GD_LEDGER_COUNTS);
  gd_count(w, "frames", l->frames);
  gd_count(w, "wakeups", l->wakeups);
  gd_count(w, "sent", l->sent);
  gd_count(w, "sent_bytes", l->sent_bytes);
  gd_count(w, "received", l->received);
  gd_count(w, "received_bytes", l->received_bytes);
  gd_count(w, "instructions", l->instructions);
  gd_count(w, "cycles", l->cycles);
  gd_count(w, "retransmitted", d->coap.retransmitted);
  gd_count(w, "rows_stored", offered - acknowledged - shed - refused);
  gd_count(w, "rows_acknowledged", acknowledged);
  gd_count(w, "rows_shed", shed);
  gd_count(w, "rows_refused", refused);
}
