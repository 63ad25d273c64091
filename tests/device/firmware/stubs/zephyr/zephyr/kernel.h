/* A stand-in for tests, see ../../README.md. */
#ifndef STUB_ZEPHYR_KERNEL_H
#define STUB_ZEPHYR_KERNEL_H
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
typedef struct {
  int64_t ticks;
} k_timeout_t;
#define K_SECONDS(s) ((k_timeout_t){(int64_t)(s)*1000})
int64_t k_uptime_ticks(void);
uint64_t k_ticks_to_ns_floor64(uint64_t ticks);
int32_t k_sleep(k_timeout_t timeout);
#endif
