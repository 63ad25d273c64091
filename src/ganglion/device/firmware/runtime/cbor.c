/* CBOR (RFC 8949): what is written to a gateway, and the one map that is read from it. */
#include "device.h"

void gd_put(gd_writer *w, uint32_t byte) {
  if (w->size < w->room) w->at[w->size] = (uint8_t)byte;
  w->size++;
}

void gd_put_bytes(gd_writer *w, const void *bytes, uint32_t n) {
  const uint8_t *from = (const uint8_t *)bytes;
  for (uint32_t i = 0; i < n; i++) gd_put(w, from[i]);
}

void gd_cbor_head(gd_writer *w, uint32_t major, uint64_t count) {
  uint32_t width = count < 24 ? 0 : count < 0x100 ? 1 : count < 0x10000 ? 2 : count <= 0xffffffffu ? 4 : 8;
  uint32_t low = (uint32_t)count, high = (uint32_t)(count >> 32);
  if (width == 0) {
    gd_put(w, major << 5 | low);
    return;
  }
  gd_put(w, major << 5 | (width == 1 ? 24u : width == 2 ? 25u : width == 4 ? 26u : 27u));
  for (uint32_t i = width; i-- > 0;) gd_put(w, (i < 4 ? low >> 8 * i : high >> 8 * (i - 4)) & 255u);
}

void gd_cbor_int(gd_writer *w, int64_t value) {
  gd_cbor_head(w, value < 0, value < 0 ? ~(uint64_t)value : (uint64_t)value);
}

/* Well-formed UTF-8: shortest forms, no surrogates, at most U+10FFFF. */
uint32_t gd_is_utf8(const uint8_t *at, uint32_t n) {
  uint32_t i = 0;
  while (i < n) {
    uint32_t first = at[i++], more = first < 0x80 ? 0 : first < 0xc2 ? 9 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    if (first > 0xf4 || more > n - i) return 0;
    for (uint32_t k = 0; k < more; k++) {
      uint32_t low = k == 0 && first == 0xe0 ? 0xa0 : k == 0 && first == 0xf0 ? 0x90 : 0x80;
      uint32_t high = k == 0 && first == 0xed ? 0x9f : k == 0 && first == 0xf4 ? 0x8f : 0xbf;
      if (at[i] < low || at[i] > high) return 0;
      i++;
    }
  }
  return 1;
}

typedef struct {
  const uint8_t *at;
  uint32_t left;
} gd_reader;

typedef struct {
  uint32_t major;
  uint64_t count;
} gd_item;

/* The head of an item of definite length. */
static uint32_t gd_head(gd_reader *r, gd_item *item) {
  uint32_t first, low, width;
  if (r->left == 0) return 0;
  first = *r->at++;
  r->left--;
  item->major = first >> 5;
  low = first & 31u;
  item->count = low;
  if (low < 24) return 1;
  if (low > 27) return 0;
  width = 1u << (low - 24);
  if (r->left < width) return 0;
  item->count = 0;
  for (uint32_t i = 0; i < width; i++) item->count = item->count << 8 | r->at[i];
  r->at += width;
  r->left -= width;
  /* A simple value below 32 has no second byte. */
  return !(item->major == 7 && low == 24 && item->count < 32);
}

/* A text's or byte string's content. */
static uint32_t gd_content(gd_reader *r, const gd_item *item, gd_text *text) {
  if (item->count > r->left) return 0;
  text->text = (const char *)r->at;
  text->bytes = (uint32_t)item->count;
  r->at += text->bytes;
  r->left -= text->bytes;
  return item->major != 3 || gd_is_utf8((const uint8_t *)text->text, text->bytes);
}

static uint32_t gd_is(gd_text text, const char *word, uint32_t n) {
  return text.bytes == n && gd_same(text.text, word, n);
}

/* {verb: text, id: text, seq: 0..2**63-1} and texts, byte strings and numbers beside them; nothing nested. */
uint32_t gd_cbor_command(const uint8_t *at, uint32_t n, gd_text *verb, gd_text *id, int64_t *seq) {
  gd_reader r = {at, n};
  gd_item map, key, value;
  uint32_t found = 0;
  if (!gd_head(&r, &map) || map.major != 5 || map.count > n) return 0;
  for (uint32_t i = 0; i < (uint32_t)map.count; i++) {
    gd_text name = {0, 0}, content = {0, 0};
    uint32_t bit;
    if (!gd_head(&r, &key) || key.major != 3 || !gd_content(&r, &key, &name)) return 0;
    if (!gd_head(&r, &value) || value.major > 3) return 0;
    if (value.major > 1 && !gd_content(&r, &value, &content)) return 0;
    bit = gd_is(name, "verb", 4) ? 1 : gd_is(name, "id", 2) ? 2 : gd_is(name, "seq", 3) ? 4 : 0;
    if (bit && (found & bit || value.major != (bit == 4 ? 0u : 3u))) return 0;
    found |= bit;
    if (bit == 1) *verb = content;
    if (bit == 2) *id = content;
    if (bit == 4 && value.count > (uint64_t)INT64_MAX) return 0;
    if (bit == 4) *seq = (int64_t)value.count;
  }
  return found == 7 && r.left == 0;
}
