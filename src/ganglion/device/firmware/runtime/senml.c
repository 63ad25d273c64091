/* Rows as a SenML pack in CBOR (RFC 8428), the bytes that connectors/batch_senml.py gives for them. */
#include "device.h"

static gd_row gd_head_of(const uint8_t *rows, uint32_t stride, uint32_t i) {
  gd_row row;
  gd_copy(&row, rows + i * stride, GD_ROW_HEAD_BYTES);
  return row;
}

static int64_t gd_gap(const uint8_t *rows, uint32_t stride, uint32_t i, uint32_t of_time) {
  gd_row a = gd_head_of(rows, stride, i), b = gd_head_of(rows, stride, i + 1);
  return of_time ? (int64_t)((uint64_t)b.time_ns - (uint64_t)a.time_ns) : (int64_t)((uint64_t)b.seq - (uint64_t)a.seq);
}

static void gd_name(gd_writer *w, const char *name, uint32_t n, const char *ending, uint32_t ending_n) {
  gd_put(w, 0);
  gd_cbor_head(w, 3, n + ending_n);
  gd_put_bytes(w, name, n);
  gd_put_bytes(w, ending, ending_n);
}

/* Seconds as a decimal fraction of nanoseconds: tag 4, [-9, nanoseconds]. */
static void gd_seconds(gd_writer *w, int64_t time_ns) {
  gd_cbor_head(w, 6, 4);
  gd_cbor_head(w, 4, 2);
  gd_cbor_int(w, -9);
  gd_cbor_int(w, time_ns);
}

/* 0: every gap is the default; 1: all are equal; 2: they differ and fit 32 bits; 3: they do not. */
static uint32_t gd_gaps_kind(const uint8_t *rows, uint32_t stride, uint32_t n, uint32_t of_time) {
  uint32_t equal = 1, narrow = 1;
  int64_t first;
  if (n < 2) return 0;
  first = gd_gap(rows, stride, 0, of_time);
  for (uint32_t i = 0; i + 1 < n; i++) {
    int64_t gap = gd_gap(rows, stride, i, of_time);
    equal &= gap == first;
    narrow &= gap >= INT32_MIN && gap <= INT32_MAX;
  }
  if (equal) return first != (of_time ? 0 : 1);
  return narrow ? 2 : 3;
}

static void gd_gaps(gd_writer *w, const uint8_t *rows, uint32_t stride, uint32_t n, uint32_t of_time, uint32_t kind) {
  const char *name = of_time ? "Time" : "Seq";
  uint32_t name_n = of_time ? 4 : 3, width = kind == 2 ? 4 : 8;
  if (kind == 0) return;
  if (kind == 1) {
    gd_cbor_head(w, 5, of_time ? 3 : 2);
    gd_name(w, name, name_n, "Step", 4);
    if (of_time) {
      gd_put(w, 1);
      gd_cbor_head(w, 3, 1);
      gd_put(w, 's');
    }
    gd_put(w, 2);
    if (of_time) gd_seconds(w, gd_gap(rows, stride, 0, 1));
    else gd_cbor_int(w, gd_gap(rows, stride, 0, 0));
    return;
  }
  gd_cbor_head(w, 5, 2);
  gd_name(w, name, name_n, "Gaps", 4);
  gd_put(w, 8);
  gd_cbor_head(w, 2, (uint64_t)(n - 1) * width);
  for (uint32_t i = 0; i + 1 < n; i++) {
    int64_t gap = gd_gap(rows, stride, i, of_time);
    gd_put_bytes(w, &gap, width); /* little-endian processors only, see device.c */
  }
}

void gd_senml(gd_writer *w, const gd_stream *stream, gd_text origin, const uint8_t *rows, uint32_t n) {
  static const char urn[] = "urn:dev:ops:";
  gd_row first = gd_head_of(rows, stream->stride, 0);
  uint32_t of_seq = gd_gaps_kind(rows, stream->stride, n, 0), of_time = gd_gaps_kind(rows, stream->stride, n, 1);
  gd_cbor_head(w, 4, 1u + (of_seq != 0) + (of_time != 0) + stream->fields_n);
  gd_cbor_head(w, 5, 4);
  gd_put(w, 0x21);
  gd_cbor_head(w, 3, sizeof urn - 1 + origin.bytes + 1);
  gd_put_bytes(w, urn, sizeof urn - 1);
  gd_put_bytes(w, origin.text, origin.bytes);
  gd_put(w, ':');
  gd_put(w, 0x22);
  gd_seconds(w, first.time_ns);
  gd_name(w, "Seq", 3, "", 0);
  gd_put(w, 2);
  gd_cbor_int(w, first.seq);
  gd_gaps(w, rows, stream->stride, n, 0, of_seq);
  gd_gaps(w, rows, stream->stride, n, 1, of_time);
  for (uint32_t k = 0; k < stream->fields_n; k++) {
    const gd_field *field = stream->fields + k;
    gd_cbor_head(w, 5, field->unit.bytes ? 3 : 2);
    gd_name(w, field->name.text, field->name.bytes, "", 0);
    if (field->unit.bytes) {
      gd_put(w, 1);
      gd_cbor_head(w, 3, field->unit.bytes);
      gd_put_bytes(w, field->unit.text, field->unit.bytes);
    }
    gd_put(w, 8);
    gd_cbor_head(w, 2, (uint64_t)field->bytes * n);
    for (uint32_t i = 0; i < n; i++)
      gd_put_bytes(w, rows + i * stream->stride + GD_ROW_HEAD_BYTES + field->offset, field->bytes);
  }
}
