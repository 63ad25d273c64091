/* A board of the tests: the exported library on a serial line (SLIP with a check), frames from standard input.
 *
 *   serial TTY ORIGIN BOOT < frames */
#define _DEFAULT_SOURCE
#include "plant.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int line, is_over;
static uint64_t boot;
static plant_slip slip;
static uint8_t slip_memory[PLANT_DATAGRAM_BYTES + PLANT_SLIP_CHECK_BYTES];

static int64_t read_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t now(void *user) {
  (void)user;
  return read_clock(CLOCK_MONOTONIC);
}

static void put_on_line(void *user, const plant_peer *to, const uint8_t *datagram, uint32_t bytes) {
  plant_slip_sender sender;
  int32_t byte;
  (void)user;
  (void)to; /* a line has one other end */
  plant_slip_send(&sender, datagram, bytes);
  while ((byte = plant_slip_next(&sender)) >= 0) {
    uint8_t one = (uint8_t)byte;
    while (write(line, &one, 1) != 1) {
    }
  }
}

static uint32_t take_from_line(void *user, plant_peer *from, uint8_t *at, uint32_t room) {
  uint8_t byte;
  (void)user;
  while (read(line, &byte, 1) == 1) {
    uint32_t bytes = plant_slip_receive(&slip, byte);
    if (bytes == 0 || bytes > room) continue;
    memcpy(at, slip.at, bytes);
    from->bytes = 0;
    return bytes;
  }
  return 0;
}

static uint32_t frame(void *user, uint8_t *stored, int64_t *time_ns) {
  struct pollfd input = {0, POLLIN, 0};
  uint32_t have = 0;
  (void)user;
  if (is_over || poll(&input, 1, 0) <= 0) return 0;
  while (have < PLANT_FRAME_BYTES) {
    ssize_t got = read(0, stored + have, PLANT_FRAME_BYTES - have);
    if (got <= 0) {
      is_over = 1;
      return 0;
    }
    have += (uint32_t)got;
  }
  *time_ns = read_clock(CLOCK_REALTIME);
  return 1;
}

static void act(void *user, uint32_t actuator, plant_text verb, plant_text id, int64_t seq, uint32_t repeated) {
  (void)user;
  (void)seq;
  printf("act %u %.*s %.*s %u\n", (unsigned)actuator, (int)verb.bytes, verb.text, (int)id.bytes, id.text, (unsigned)repeated);
}

static void sleep_until(void *user, int64_t when_ns) {
  struct pollfd ready[2] = {{line, POLLIN, 0}, {0, POLLIN, 0}};
  int64_t left_ns = when_ns == PLANT_NEVER ? 1000000000 : when_ns - now(user);
  if (left_ns > 0) poll(ready, is_over ? 1 : 2, (int)(left_ns / 1000000) + 1);
}

static uint64_t next_boot(void *user) {
  (void)user;
  return boot;
}

static uint32_t cycles(void *user) { return (uint32_t)now(user); }

int main(int argc, char **argv) {
  static plant_firmware firmware;
  static const plant_port port = {now, put_on_line, act, 0, cycles, take_from_line, frame, sleep_until, next_boot};
  static const plant_peer gateway = {0, {0}};
  struct termios mode;
  plant_text origin;
  if (argc != 4) return 2;
  line = open(argv[1], O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (line < 0 || tcgetattr(line, &mode)) return 3;
  cfmakeraw(&mode);
  tcsetattr(line, TCSANOW, &mode);
  plant_slip_start(&slip, slip_memory, sizeof slip_memory);
  boot = strtoull(argv[3], 0, 10);
  origin.text = argv[2];
  origin.bytes = (uint32_t)strlen(argv[2]);
  if (!plant_firmware_begin(&firmware, &port, 0, origin, &gateway, 0xffffffffu, 12345)) return 4;
  while (!plant_firmware_is_done(&firmware)) {
    int64_t next_ns = plant_firmware_turn(&firmware);
    if (is_over) plant_firmware_close(&firmware);
    if (!plant_firmware_is_done(&firmware)) sleep_until(0, next_ns);
  }
  printf("frames %u broken %u cycles %u\n", (unsigned)firmware.flow.device.ledger.frames,
         (unsigned)(slip.bad_check + slip.bad_escape + slip.too_long), firmware.flow.device.ledger.cycles > 0);
  return 0;
}
