/* Rows of a stream near triggers: a ring of the latest, each given once. Time goes up within a boot. */
#include "device.h"

void gd_ring_start(gd_ring *ring) { ring->until_ns = INT64_MIN; }

static uint8_t *gd_place(const gd_ring *ring, uint8_t *memory, uint32_t i) {
  uint32_t at = ring->first + i;
  return memory + (at < ring->places ? at : at - ring->places) * ring->stride;
}

/* Keeps a row; gives it back when a trigger was near. The byte behind a row says that it was given. */
const uint8_t *gd_ring_row(gd_ring *ring, uint8_t *memory, gd_row row, const uint8_t *fields, uint32_t n, gd_stage_counts *c) {
  uint32_t wanted = row.time_ns <= ring->until_ns;
  uint8_t *at;
  c->rows++;
  c->out += wanted;
  if (ring->rows == ring->places) {
    gd_row oldest;
    at = gd_place(ring, memory, 0);
    gd_copy(&oldest, at, GD_ROW_HEAD_BYTES);
    c->dropped += !at[ring->stride - 1] && oldest.time_ns >= row.time_ns - ring->before_ns;
    ring->first = ring->first + 1 < ring->places ? ring->first + 1 : 0;
    ring->rows--;
  }
  at = gd_place(ring, memory, ring->rows++);
  gd_copy(at, &row, GD_ROW_HEAD_BYTES);
  gd_copy(at + GD_ROW_HEAD_BYTES, fields, n);
  at[ring->stride - 1] = (uint8_t)wanted;
  return wanted ? at : 0;
}

void gd_ring_trigger(gd_ring *ring, gd_row row) {
  ring->since_ns = row.time_ns - ring->before_ns;
  if (row.time_ns + ring->after_ns > ring->until_ns) ring->until_ns = row.time_ns + ring->after_ns;
}

/* The i-th row kept when it is near the last trigger and was not given yet, else 0. */
const uint8_t *gd_ring_take(gd_ring *ring, uint8_t *memory, uint32_t i, gd_stage_counts *c) {
  uint8_t *at = gd_place(ring, memory, i);
  gd_row row;
  gd_copy(&row, at, GD_ROW_HEAD_BYTES);
  if (at[ring->stride - 1] || row.time_ns < ring->since_ns || row.time_ns > ring->until_ns) return 0;
  at[ring->stride - 1] = 1;
  c->out++;
  return at;
}
