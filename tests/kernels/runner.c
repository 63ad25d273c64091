/* Runs a kernel without a C library: a job on standard input, its results on standard output.
 * Linked with generated C into a static program, so that an emulator of a foreign Linux can run it. */
#include <stddef.h>
#include <stdint.h>

void gg_kernel_rows(int32_t n, const void *const *in, const int32_t *key, void *table, void *const *out,
                    uint8_t *emit, void *work);
extern const uint32_t gg_kernel_workspace_bytes;

#define ARENA_BYTES (64u << 20)
static uint8_t arena[ARENA_BYTES] __attribute__((aligned(64)));
static size_t used;

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, EXIT = 60 };
static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, EXIT = 93 };
static long call(long number, long a, long b, long c) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
}
#else
enum { READ = 3, WRITE = 4, EXIT = 1 };
static long call(long number, long a, long b, long c) {
  register long r7 __asm__("r7") = number;
  register long r0 __asm__("r0") = a;
  register long r1 __asm__("r1") = b;
  register long r2 __asm__("r2") = c;
  __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
  return r0;
}
#endif

static void *room(size_t bytes) {
  void *at = arena + used;
  used += (bytes + 63) / 64 * 64;
  if (used > ARENA_BYTES) call(EXIT, 3, 0, 0);
  return at;
}

static void *taken(size_t bytes) {
  uint8_t *at = room(bytes + 1);
  for (size_t got = 0; got < bytes;) {
    long part = call(READ, 0, (long)(at + got), (long)(bytes - got));
    if (part <= 0) call(EXIT, 4, 0, 0);
    got += (size_t)part;
  }
  return at;
}

static void given(const uint8_t *at, size_t bytes) {
  for (size_t sent = 0; sent < bytes;) {
    long part = call(WRITE, 1, (long)(at + sent), (long)(bytes - sent));
    if (part <= 0) call(EXIT, 5, 0, 0);
    sent += (size_t)part;
  }
}

#if defined(__x86_64__)
__attribute__((force_align_arg_pointer))
#endif
__attribute__((noreturn, used)) void _start(void) {
  /* rows, inputs, outputs, bytes of a state, then of each input and output. */
  int32_t head[4], *sizes, *key;
  const void *in[16];
  void *out[16];
  uint8_t *table, *emit;
  for (int i = 0; i < 4; i++) head[i] = *(int32_t *)taken(4);
  sizes = taken(4u * (size_t)(head[1] + head[2]));
  for (int i = 0; i < head[1]; i++) in[i] = taken((size_t)head[0] * (size_t)sizes[i]);
  table = taken((size_t)head[0] * (size_t)head[3]);
  for (int i = 0; i < head[2]; i++) out[i] = room((size_t)head[0] * (size_t)sizes[head[1] + i]);
  emit = room((size_t)head[0]);
  key = room((size_t)head[0] * 4);
  for (int i = 0; i < head[0]; i++) key[i] = i;
  gg_kernel_rows(head[0], in, key, table, out, emit, room(gg_kernel_workspace_bytes));
  for (int i = 0; i < head[2]; i++) given(out[i], (size_t)head[0] * (size_t)sizes[head[1] + i]);
  given(emit, (size_t)head[0]);
  given(table, (size_t)head[0] * (size_t)head[3]);
  call(EXIT, 0, 0, 0);
  for (;;) { }
}
