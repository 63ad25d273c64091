/* A Cortex-M from reset: it sleeps, and each time it wakes it looks into the box. */
#include "device.h"

gd_flow board_flow;
gd_box board_box;
static uint64_t board_stack[GD_STACK_BYTES / 8] __attribute__((aligned(8), used));

/* Variables are zero, none has a first value: RAM is cleared and nothing is copied from flash. */
void Reset(void) {
#if defined(__ARM_FP)
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: the floating-point unit on */
  __asm__ volatile("dsb\n isb");
#endif
  for (uint32_t i = 0; i < sizeof board_flow; i++) ((volatile uint8_t *)&board_flow)[i] = 0;
  for (uint32_t i = 0; i < sizeof board_box; i++) ((volatile uint8_t *)&board_box)[i] = 0;
  for (;;) {
    __asm__ volatile("wfi" ::: "memory");
    gd_box_run(&board_flow, &board_box);
  }
}

static void Halt(void) {
  for (;;) __asm__ volatile("wfi" ::: "memory");
}

__attribute__((section(".vectors"), used)) const void *const board_vectors[16] = {
    (uint8_t *)board_stack + GD_STACK_BYTES, (void *)Reset, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, 0,
    0, 0, 0, (void *)Halt, (void *)Halt, 0, (void *)Halt, (void *)Halt};
