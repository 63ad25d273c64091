/* A whole device on a POSIX system: frames from standard input, datagrams by UDP, starts counted in a file.
 *
 *   node ORIGIN GATEWAY_ADDRESS GATEWAY_PORT BOOT_FILE < frames
 *
 * Each frame is taken as soon as it is there; at the end of input everything is sent, and the counts are printed. */
#define _POSIX_C_SOURCE 200809L
#include "@prefix@.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
  int socket, is_over;
  const char *boot_file;
  size_t have; /* bytes of the frame that is coming in */
  uint8_t frame[@PREFIX@_FRAME_BYTES];
} node;

static int64_t read_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t node_now(void *user) {
  (void)user;
  return read_clock(CLOCK_MONOTONIC);
}

static void node_send(void *user, const @prefix@_peer *to, const uint8_t *datagram, uint32_t bytes) {
  struct sockaddr_in address;
  memcpy(&address, to->at, sizeof address);
  /* What is not sent now is sent again in its time. */
  if (sendto(((node *)user)->socket, datagram, bytes, 0, (struct sockaddr *)&address, sizeof address) < 0) perror("sendto");
}

static void node_act(void *user, uint32_t actuator, @prefix@_text verb, @prefix@_text id, int64_t seq, uint32_t repeated) {
  (void)user;
  printf("act %u %.*s %.*s %lld%s\n", (unsigned)actuator, (int)verb.bytes, verb.text, (int)id.bytes, id.text, (long long)seq,
         repeated ? " repeated" : "");
  fflush(stdout);
}

/* Only what makes an address equal: the rest of the structure may differ between calls. */
static void make_peer(@prefix@_peer *peer, const struct sockaddr_in *from) {
  struct sockaddr_in address;
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr = from->sin_addr;
  address.sin_port = from->sin_port;
  memcpy(peer->at, &address, sizeof address);
  peer->bytes = sizeof address;
}

static uint32_t node_receive(void *user, @prefix@_peer *from, uint8_t *at, uint32_t room) {
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  ssize_t n = recvfrom(((node *)user)->socket, at, room, MSG_DONTWAIT, (struct sockaddr *)&address, &size);
  if (n <= 0) return 0;
  make_peer(from, &address);
  return (uint32_t)n;
}

static uint32_t node_frame(void *user, uint8_t *stored, int64_t *time_ns) {
  node *n = (node *)user;
  struct pollfd input = {0, POLLIN, 0};
  while (!n->is_over && n->have < sizeof n->frame && poll(&input, 1, 0) > 0) {
    ssize_t got = read(0, n->frame + n->have, sizeof n->frame - n->have);
    if (got <= 0) n->is_over = 1;
    else n->have += (size_t)got;
  }
  if (n->have < sizeof n->frame) return 0;
  memcpy(stored, n->frame, sizeof n->frame);
  n->have = 0;
  *time_ns = read_clock(CLOCK_REALTIME);
  return 1;
}

static void node_sleep_until(void *user, int64_t when_ns) {
  node *n = (node *)user;
  struct pollfd ready[2] = {{n->socket, POLLIN, 0}, {0, POLLIN, 0}};
  int64_t left_ns = when_ns == @PREFIX@_NEVER ? -1 : when_ns - node_now(user), left_ms = left_ns / 1000000 + 1;
  if (when_ns != @PREFIX@_NEVER && left_ns <= 0) return;
  poll(ready, n->is_over ? 1 : 2, when_ns == @PREFIX@_NEVER ? -1 : left_ms < 60000 ? (int)left_ms : 60000);
}

static uint64_t node_next_boot(void *user) {
  const char *name = ((node *)user)->boot_file;
  char draft[512];
  unsigned long long boot = 0;
  FILE *file = fopen(name, "r");
  if (file) {
    if (fscanf(file, "%llu", &boot) != 1) boot = 0;
    fclose(file);
    if (boot == 0) return 0; /* a count that cannot be read must not begin anew */
  }
  if (snprintf(draft, sizeof draft, "%s.new", name) >= (int)sizeof draft) return 0;
  file = fopen(draft, "w");
  if (!file) return 0;
  if (fprintf(file, "%llu\n", boot + 1) < 0 || fflush(file) || fsync(fileno(file))) {
    fclose(file);
    return 0;
  }
  if (fclose(file) || rename(draft, name)) return 0;
  return boot + 1;
}

static uint32_t draw(void) {
  uint32_t bits = (uint32_t)read_clock(CLOCK_MONOTONIC);
  FILE *file = fopen("/dev/urandom", "rb");
  if (file) {
    if (fread(&bits, sizeof bits, 1, file) != 1) bits ^= (uint32_t)getpid();
    fclose(file);
  }
  return bits;
}

int main(int argc, char **argv) {
  static @prefix@_firmware firmware;
  static node n;
  struct sockaddr_in gateway;
  @prefix@_peer peer;
  @prefix@_port port;
  @prefix@_text origin;
  if (argc != 5) {
    fprintf(stderr, "usage: node ORIGIN GATEWAY_ADDRESS GATEWAY_PORT BOOT_FILE < frames\n");
    return 2;
  }
  memset(&gateway, 0, sizeof gateway);
  memset(&peer, 0, sizeof peer);
  memset(&port, 0, sizeof port);
  gateway.sin_family = AF_INET;
  gateway.sin_port = htons((uint16_t)atoi(argv[3]));
  if (inet_pton(AF_INET, argv[2], &gateway.sin_addr) != 1) {
    fprintf(stderr, "%s is not an IPv4 address\n", argv[2]);
    return 2;
  }
  n.boot_file = argv[4];
  n.socket = socket(AF_INET, SOCK_DGRAM, 0);
  if (n.socket < 0) {
    perror("socket");
    return 1;
  }
  make_peer(&peer, &gateway);
  port.now = node_now;
  port.send = node_send;
  port.act = node_act;
  port.receive = node_receive;
  port.frame = node_frame;
  port.sleep_until = node_sleep_until;
  port.next_boot = node_next_boot;
  origin.text = argv[1];
  origin.bytes = (uint32_t)strlen(argv[1]);
  if (!@prefix@_firmware_begin(&firmware, &port, &n, origin, &peer, 0xffffffffu, draw())) {
    fprintf(stderr, "not started: the origin's name is too long, or the starts cannot be counted in %s\n", argv[4]);
    return 1;
  }
  while (!@prefix@_firmware_is_done(&firmware)) {
    int64_t next_ns = @prefix@_firmware_turn(&firmware);
    if (n.is_over && !firmware.flow.device.closing) {
      @prefix@_firmware_close(&firmware);
      continue;
    }
    if (!@prefix@_firmware_is_done(&firmware)) node_sleep_until(&n, next_ns);
  }
  printf("frames %llu sent %llu bytes %llu wakeups %llu\n", (unsigned long long)firmware.flow.device.ledger.frames,
         (unsigned long long)firmware.flow.device.ledger.sent, (unsigned long long)firmware.flow.device.ledger.sent_bytes,
         (unsigned long long)firmware.flow.device.ledger.wakeups);
  return 0;
}
