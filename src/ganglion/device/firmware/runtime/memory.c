/* What compilers call without being asked, so that nothing of a C library is needed. */
#include "device.h"

#if defined(__GNUC__) && !defined(__clang__)
#define GD_OWN __attribute__((visibility("hidden"), used, optimize("no-tree-loop-distribute-patterns")))
#else
#define GD_OWN __attribute__((visibility("hidden"), used))
#endif

GD_OWN void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  for (size_t i = 0; i < n; i++) ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
  return to;
}

GD_OWN void *memmove(void *to, const void *from, size_t n) {
  uint8_t *t = (uint8_t *)to;
  const uint8_t *f = (const uint8_t *)from;
  if ((uintptr_t)t < (uintptr_t)f)
    for (size_t i = 0; i < n; i++) t[i] = f[i];
  else
    for (size_t i = n; i-- > 0;) t[i] = f[i];
  return to;
}

GD_OWN void *memset(void *to, int byte, size_t n) {
  for (size_t i = 0; i < n; i++) ((uint8_t *)to)[i] = (uint8_t)byte;
  return to;
}

#if defined(__arm__)
GD_OWN void __aeabi_memcpy(void *to, const void *from, size_t n) { memcpy(to, from, n); }
GD_OWN void __aeabi_memcpy4(void *to, const void *from, size_t n) { memcpy(to, from, n); }
GD_OWN void __aeabi_memcpy8(void *to, const void *from, size_t n) { memcpy(to, from, n); }
GD_OWN void __aeabi_memset(void *to, size_t n, int byte) { memset(to, byte, n); }
GD_OWN void __aeabi_memset4(void *to, size_t n, int byte) { memset(to, byte, n); }
GD_OWN void __aeabi_memset8(void *to, size_t n, int byte) { memset(to, byte, n); }
GD_OWN void __aeabi_memclr(void *to, size_t n) { memset(to, 0, n); }
GD_OWN void __aeabi_memclr4(void *to, size_t n) { memset(to, 0, n); }
GD_OWN void __aeabi_memclr8(void *to, size_t n) { memset(to, 0, n); }
#endif
