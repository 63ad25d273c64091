/* A stand-in for tests, see ../../../README.md. */
#ifndef STUB_ZEPHYR_SNTP_H
#define STUB_ZEPHYR_SNTP_H
#include <stdint.h>
struct sntp_time {
  uint64_t seconds;
  uint32_t fraction;
};
int sntp_simple(const char *server, uint32_t timeout, struct sntp_time *ts);
#endif
