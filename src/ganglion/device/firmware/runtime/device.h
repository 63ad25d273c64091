/* The device runtime: rows of a flow's device part to its gateway, commands to its actuators (docs/adr/0012).
 *
 * C99, freestanding: no heap, no C library, no variable outside `gd_device`, no recursion; a header for C++ too. The
 * generated part of a flow defines the GD_ sizes below before this is read. Time, datagrams and actuators come through
 * `gd_port`. */
#ifndef GANGLION_DEVICE_H
#define GANGLION_DEVICE_H
#ifdef __cplusplus
#include <stddef.h>
#include <stdint.h>
#else
#include "kernel_runtime.h"
#endif

#if defined(__GNUC__)
#define GD_ALIGNED(n) __attribute__((aligned(n)))
#elif defined(__cplusplus)
#define GD_ALIGNED(n) alignas(n)
#else
#define GD_ALIGNED(n) _Alignas(n)
#endif

#define GD_BOOT_BITS 40
#define GD_NEVER INT64_MAX
#define GD_PEER_BYTES 32
#define GD_ACK_TIMEOUT_NS INT64_C(400000000)
#define GD_RETRANSMIT_MAX 3
#define GD_REQUEST_NS INT64_C(4000000000)
#define GD_RETRY_NS INT64_C(200000000)
#define GD_RETRY_NS_MAX INT64_C(3200000000)
#define GD_GATHER_NS INT64_C(1000000000)
#define GD_EXCHANGE_LIFETIME_NS INT64_C(247000000000)
#define GD_UNDER_WAY_MAX 8
#define GD_SENML_CBOR 112
#define GD_CBOR 60
#define GD_REPLY_BYTES 12
#define GD_ROW_HEAD_BYTES 16

typedef struct {
  const char *text;
  uint32_t bytes;
} gd_text;

/* Where a column's value lies in a row. */
typedef struct {
  gd_text name, unit;
  uint32_t offset, bytes;
} gd_field;

/* A stream that goes to the gateway. A row: seq, time, then its fields; `stride` bytes in all. */
typedef struct {
  gd_text name;
  const gd_field *fields;
  uint32_t fields_n, stride, rows_max, urgent;
} gd_stream;

typedef struct {
  int64_t seq, time_ns;
} gd_row;

typedef struct {
  uint32_t bytes;
  uint8_t at[GD_PEER_BYTES];
} gd_peer;

/* What the board does for the device. `now` is monotonic; `send` may drop; `act` is told when it has obeyed an id before.
 * `now`, `send` and `act` are always called for; who calls the device himself, as the box does, leaves the last four 0. */
typedef struct {
  int64_t (*now)(void *user);
  void (*send)(void *user, const gd_peer *to, const uint8_t *datagram, uint32_t bytes);
  void (*act)(void *user, uint32_t actuator, gd_text verb, gd_text id, int64_t seq, uint32_t repeated);
  /* Rows that the gateway has on its disk, or 0 where nobody asks. */
  void (*acknowledged)(void *user, uint32_t stream, const uint8_t *rows, uint32_t rows_n);
  /* A counter of cycles that runs while the processor does and wraps at 32 bits, or 0 where there is none. */
  uint32_t (*cycles)(void *user);
  /* The bytes of the next datagram that came in, 0 when there is none; what has no room is cut or dropped. */
  uint32_t (*receive)(void *user, gd_peer *from, uint8_t *at, uint32_t room);
  /* 1: the next frame lies at `stored`, complete at `time_ns` (since 1970, UTC); 0: it is not complete yet. */
  uint32_t (*frame)(void *user, uint8_t *stored, int64_t *time_ns);
  /* Returns at this time (as `now`; GD_NEVER: at none), or as soon as there is a frame or a datagram. */
  void (*sleep_until)(void *user, int64_t when_ns);
  /* One more than it gave at the last start, ever; it must be safe in flash before this returns. 0: it cannot be kept. */
  uint64_t (*next_boot)(void *user);
} gd_port;

/* What became of a stream's rows. */
typedef struct {
  uint64_t offered, acknowledged, shed, messages, retries, refused, payload_bytes;
} gd_uplink_counts;

typedef struct {
  uint64_t rows, out, dropped;
} gd_stage_counts;

/* What energy follows from. `instructions` come from an emulator that counts them, `cycles` from the port's counter. */
typedef struct {
  uint64_t frames, wakeups, sent, sent_bytes, received, received_bytes, instructions, cycles;
} gd_ledger;

typedef struct {
  uint64_t retransmitted, expired, duplicates, malformed, unmatched, commands, commands_unknown;
} gd_coap_counts;

typedef struct {
  uint8_t type, code, token_bytes;
  uint16_t message_id;
  uint8_t token[8];
  const uint8_t *options, *payload;
  uint32_t options_bytes, payload_bytes;
} gd_coap;

typedef struct {
  uint8_t *at;
  uint32_t size, room; /* size > room: it did not fit */
} gd_writer;

enum { GD_FREE, GD_GATHERING, GD_SEALED };

/* A message that is gathered, or waits for its turn and its answer. */
typedef struct {
  uint8_t state, stream;
  uint16_t rows;
  uint32_t order;
  int64_t since_ns;
  GD_ALIGNED(8) uint8_t at[GD_SLOT_BYTES];
} gd_message;

enum { GD_IDLE, GD_SENT, GD_ACCEPTED, GD_PAUSING, GD_ENDED };

typedef struct {
  uint8_t phase, attempts_left, is_end;
  uint16_t message_id;
  int16_t gathering, message; /* places in the store, -1 for none */
  uint32_t payload_bytes;
  uint64_t token;
  int64_t wait_ns, deadline_ns, give_up_ns, retry_ns, gather_ns;
  gd_uplink_counts counts;
} gd_uplink;

/* A message seen before and what it was answered with. */
typedef struct {
  gd_peer peer;
  uint16_t message_id;
  uint8_t reply_bytes;
  uint8_t reply[GD_REPLY_BYTES];
  uint32_t fingerprint;
  int64_t expires_ns; /* 0: empty */
} gd_seen;

typedef struct {
  uint32_t bytes;
  char at[GD_COMMAND_ID_BYTES];
} gd_command_id;

/* The latest rows of a stream, oldest at `first`; the memory lies apart. */
typedef struct {
  uint32_t places, stride, first, rows;
  int64_t before_ns, after_ns, since_ns, until_ns;
} gd_ring;

/* C has no arrays of nothing. */
#define GD_SOME(n) ((n) + !(n))

typedef struct {
  gd_message message[GD_MESSAGES];
  gd_uplink uplink[GD_SOME(GD_STREAMS)];
  gd_seen seen[GD_REMEMBERED];
  gd_command_id command[GD_COMMANDS];
  gd_stage_counts stage[GD_SOME(GD_STAGES)];
  gd_ledger ledger;
  gd_coap_counts coap;
  gd_port port;
  void *user;
  const gd_stream *streams;
  const gd_text *actuators;
  gd_peer gateway;
  uint64_t next_token, boot;
  uint32_t present; /* bit per actuator of the flow */
  uint32_t order, chance, seen_next, command_next, origin_bytes;
  uint16_t next_message_id;
  uint8_t closing;
  char origin[GD_ORIGIN_BYTES];
  uint8_t datagram[GD_DATAGRAM_BYTES];
} gd_device;

#ifdef __cplusplus
extern "C" {
#endif

/* cbor.c */
void gd_put(gd_writer *w, uint32_t byte);
void gd_put_bytes(gd_writer *w, const void *bytes, uint32_t n);
void gd_cbor_head(gd_writer *w, uint32_t major, uint64_t count);
void gd_cbor_int(gd_writer *w, int64_t value);
uint32_t gd_is_utf8(const uint8_t *at, uint32_t n);
uint32_t gd_cbor_command(const uint8_t *at, uint32_t n, gd_text *verb, gd_text *id, int64_t *seq);
/* senml.c: the pack's bytes (more than w->room: it did not fit). */
void gd_senml(gd_writer *w, const gd_stream *stream, gd_text origin, const uint8_t *rows, uint32_t n);
/* coap.c */
void gd_coap_head(gd_writer *w, uint32_t type, uint32_t code, uint32_t message_id, const uint8_t *token, uint32_t n);
void gd_coap_option(gd_writer *w, uint32_t *last, uint32_t number, const void *value, uint32_t n);
uint32_t gd_coap_decode(gd_coap *message, const uint8_t *at, uint32_t n);
uint32_t gd_coap_next(const gd_coap *m, uint32_t *at, uint32_t *number, const uint8_t **value, uint32_t *n);
uint32_t gd_coap_critical(const gd_coap *message);
uint32_t gd_fingerprint(const uint8_t *at, uint32_t n);
/* store.c */
uint8_t *gd_room(gd_device *d, uint32_t stream, int64_t now);
int32_t gd_oldest(const gd_device *d, uint32_t stream);
/* uplink.c */
void gd_offer(gd_device *d, uint32_t stream, gd_row row, const uint8_t *fields, uint32_t n);
void gd_answered(gd_device *d, uint32_t stream, uint32_t code);
void gd_unanswered(gd_device *d, uint32_t stream);
/* serving.c */
gd_seen *gd_find_seen(gd_device *d, const gd_peer *from, uint32_t id, uint32_t fingerprint, int64_t now);
gd_seen *gd_remember(gd_device *d, const gd_peer *from, uint32_t id, uint32_t fingerprint, int64_t now);
void gd_request(gd_device *d, const gd_peer *from, const gd_coap *m, const uint8_t *at, uint32_t n);
void gd_ledger_map(const gd_device *d, gd_writer *w);
void gd_act(gd_device *d, uint32_t actuator, gd_text verb, gd_text act, int64_t seq);
/* device.c */
void gd_transmit(gd_device *d, const gd_peer *to, const uint8_t *datagram, uint32_t n);
void gd_start(gd_device *d, const gd_stream *streams, const gd_text *actuators);
int64_t gd_now(gd_device *d);
uint32_t gd_chance(gd_device *d);
void gd_copy(void *to, const void *from, uint32_t n);
uint32_t gd_same(const void *a, const void *b, uint32_t n);

/* around.c */
void gd_ring_start(gd_ring *ring);
const uint8_t *gd_ring_row(gd_ring *ring, uint8_t *memory, gd_row row, const uint8_t *fields, uint32_t n, gd_stage_counts *c);
void gd_ring_trigger(gd_ring *ring, gd_row row);
const uint8_t *gd_ring_take(gd_ring *ring, uint8_t *memory, uint32_t i, gd_stage_counts *c);

/* What a board calls. Each returns, or gives by `gd_poll`, when it has to be called again (monotonic, GD_NEVER). */
uint32_t gd_receive(gd_device *d, const gd_peer *from, const uint8_t *datagram, uint32_t n);
int64_t gd_poll(gd_device *d);
void gd_close(gd_device *d);
uint32_t gd_is_done(const gd_device *d);

#ifdef __cplusplus
}
#endif
#endif
